"""Time the table of targets: gathering rows against numpy and zarr, making it against hashing and copying its bytes."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from benchmarks.measure import Comparison, Limit, compare_time
from benchmarks.settings import Settings
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray
from data_schemas.files import FileEntry, list_files
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.distributed import Ranks
from stages.distill.data.targets import Targets, load_targets

CPU = torch.device("cpu")
BATCH = 1024
_CALLS = 100  # gathers timed as one


def compare(settings: Settings) -> list[Comparison]:
    """Compare at 400,000 captions of MiniLM, 307 MB."""
    return compare_targets(num_captions=400_000, dim=384, num_pairs=settings.num_pairs)


def compare_targets(*, num_captions: int, dim: int, num_pairs: int) -> list[Comparison]:
    """Compare the time of gathering a batch's rows, and of making the table, after a check that all give the same.

    Args:
        num_captions: Rows of the table.
        dim: Width of the table, which is float16.
        num_pairs: Timed pairs of calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact = _make_artifact(Path(folder) / "embeddings", num_captions, dim)
        draft_path = Path(folder) / "draft"
        draft_path.mkdir()

        def load() -> Targets:
            draft = Draft(draft_path, resumed=False)
            return load_targets(artifact, placement="ram", device=CPU, draft=draft, ranks=Ranks())

        return [
            *_compare_gathers(artifact, load(), num_pairs=num_pairs),
            _compare_start(artifact, load, num_pairs=num_pairs),
        ]


def _compare_gathers(artifact: Artifact, targets: Targets, *, num_pairs: int) -> list[Comparison]:
    embeddings = EmbeddingArray.open(artifact.path)
    table = embeddings.read(0, embeddings.rows)
    array = zarr.open_array(artifact.path / ARRAY_NAME, mode="r")
    batches = torch.from_numpy(np.random.default_rng(0).integers(0, len(table), (_CALLS, BATCH)))
    rows = batches.numpy()
    np.testing.assert_array_equal(targets.take(batches[0]).numpy(), table[rows[0]])
    np.testing.assert_array_equal(targets.gather(batches[0]).numpy(), table[rows[0]].astype(np.float32))
    subject = f"{BATCH:,} rows of {len(table):,} x {embeddings.dim}, float16"

    def many(gather: Callable[[int], object]) -> Callable[[], None]:
        def call() -> None:
            for number in range(_CALLS):
                gather(number)

        return call

    return [
        compare_time(
            f"{_CALLS} times {subject}, as they are",
            baseline_name="np.take",
            baseline=many(lambda number: np.take(table, rows[number], axis=0)),
            ours=many(lambda number: targets.take(batches[number])),
            num_pairs=num_pairs,
            bar=0.8,
        ),
        compare_time(
            f"{_CALLS} times {subject}, as float32",
            baseline_name="np.take and astype",
            baseline=many(lambda number: np.take(table, rows[number], axis=0).astype(np.float32)),
            ours=many(lambda number: targets.gather(batches[number])),
            num_pairs=num_pairs,
            bar=0.8,
        ),
        compare_time(
            f"once {subject}",
            baseline_name="zarr's orthogonal indexing",
            baseline=lambda: array.oindex[np.sort(rows[0])],
            ours=lambda: targets.take(batches[0]),
            num_pairs=min(num_pairs, 3),
        ),
    ]


def _compare_start(artifact: Artifact, load: Callable[[], Targets], *, num_pairs: int) -> Comparison:
    paths = [artifact.path / shard.path for shard in EmbeddingArray.open(artifact.path).shards()]
    size = sum(path.stat().st_size for path in paths)

    def hash_then_read() -> None:
        """Prove every file first, then have zarr read them all."""
        artifact.require_whole((ARRAY_NAME,), read=True)
        embeddings = EmbeddingArray.open(artifact.path)
        table = np.empty((embeddings.rows, embeddings.dim), embeddings.dtype)
        for shard in embeddings.shards():
            table[shard.start : shard.stop] = embeddings.read(shard.start, shard.stop)

    def hash_alone() -> None:
        for path in paths:
            hashlib.sha256(path.read_bytes()).hexdigest()

    return compare_time(
        f"a proven table in RAM out of shards of {size / 1e6:.0f} MB",
        baseline_name="hashing, then zarr",
        baseline=hash_then_read,
        ours=load,
        num_pairs=num_pairs,
        limit=Limit("reading and hashing the bytes in one thread", hash_alone),
    )


def _make_artifact(root: Path, num_captions: int, dim: int) -> Artifact:
    made = EmbeddingArray.create(root, rows=num_captions, dim=dim, dtype="float16", shard_rows=8192)
    numbers = np.random.default_rng(0)
    for shard in made.shards():
        made.write(shard, numbers.standard_normal((shard.stop - shard.start, dim), np.float32).astype(np.float16))
    files = tuple(FileEntry.of(root, path) for path in list_files(root))
    record = ArtifactRecord("encode-teacher", 1, "0" * 32, "0" * 64, {}, {}, files, {}, {}, (), "", {})
    return Artifact(root, record)
