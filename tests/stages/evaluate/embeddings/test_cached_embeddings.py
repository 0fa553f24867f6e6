"""Features and embeddings of a set's images: those that the student gives, by one process or by two that meet."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.torch
import torch
from workbench import Pairs, on_ranks

from data_schemas import files
from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from data_schemas.images.student_checkpoint import Preprocessing, StudentConfig, TeacherRecord
from data_schemas.vector_sources.part import VectorColumns
from pipeline.peers import Peers
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context, Distributed, Input, Result, Stage
from pipeline.store.store import Store
from stages.components.compute.distributed import Ranks
from stages.components.images.lazy_image import open_lazily
from stages.components.images.opening import identify_images
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.inputs.vectors import identify_vectors
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.student import build_student
from stages.components.student.weights import load_student, save_weights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import identify_teacher
from stages.evaluate.embeddings import image_pass as image_features
from stages.evaluate.embeddings.cached_embeddings import (
    FeatureRuntime,
    ImageEmbeddings,
    embed_captions,
    embed_images,
    identify_pass,
)

RUNTIME = FeatureRuntime(device="cpu", workers=0, batch_size=3, batch_tokens=0)
NUM, BROKEN, MISSING = 11, 2, 8


@pytest.fixture
def image_pairs(pairs_folder: Callable[[int, int], Pairs]) -> Pairs:
    """Eleven images, of which the third is broken and the ninth is missing."""
    pairs = pairs_folder(NUM, 40)
    (pairs.root / pairs.images[BROKEN]).write_bytes(b"no image")
    (pairs.root / pairs.images[MISSING]).unlink()
    return pairs


@pytest.fixture
def context(store: Path) -> Context:
    return context_of(Store(store))


def draw_student(folder: Path, *, projection_layers: int = 1, seed: int = 0) -> StudentWeights:
    """Return an untrained student in a folder, as a distillation would leave it."""
    torch.manual_seed(seed)
    width = 512 if projection_layers == 0 else 16
    student = build_student("resnet18", embedding_dim=width, image_size=32, projection_layers=projection_layers)
    weights = folder / "student.safetensors"
    save_weights(student, weights)
    config = StudentConfig(
        backbone="resnet18",
        embedding_dim=width,
        projection_layers=projection_layers,
        preprocessing=Preprocessing(image_size=32),
        teacher=TeacherRecord(identity="", dim=width, recipe={}),
        losses={"simreg": 1.0},
    )
    return StudentWeights(
        config=config, weights=weights, sha256=hash_file(weights), name="last", epoch=None, fingerprint=folder.name
    )


@pytest.fixture
def student(tmp_path: Path) -> StudentWeights:
    return draw_student(tmp_path / "student")


def set_of(pairs: Pairs, context: Context, *, start: int = 0, stop: int = NUM) -> Input:
    paths = pairs.images[start:stop]
    return identify_images(pairs.root, paths, identity="content", file_digests=context.file_digests)


def embed(student: StudentWeights, images: Input, context: Context) -> ImageEmbeddings:
    return embed_images(identify_pass(student, None), images, precision="fp32", runtime=RUNTIME, context=context)


def as_arrays(found: ImageEmbeddings) -> dict[str, Any]:
    tensors = {"embeddings": found.embeddings, "features": found.features, "rows": found.rows}
    return {name: tensor.numpy() for name, tensor in tensors.items()} | {"rejections": found.rejections}


@pytest.mark.parametrize("projection_layers", [0, 1, 2])
def test_embed_images__gives_what_the_student_and_its_backbone_give(
    projection_layers: int, image_pairs: Pairs, context: Context, tmp_path: Path
) -> None:
    student = draw_student(tmp_path / "student", projection_layers=projection_layers)
    found = embed(student, set_of(image_pairs, context), context)
    rows = [row for row in range(NUM) if row not in (BROKEN, MISSING)]
    assert found.rows.tolist() == rows
    assert found.features.shape == (len(rows), 512)
    assert found.embeddings.shape == (len(rows), student.config.embedding_dim)
    assert found.features.dtype == found.embeddings.dtype == torch.float32
    transform = EvalTransform(student.config.preprocessing)
    batch = torch.stack([transform(open_lazily(image_pairs.root / image_pairs.images[row])) for row in rows])
    model = load_student(student.config, student.weights, device=torch.device("cpu"))
    images = Normalize(student.config.preprocessing, torch.device("cpu"))(batch)
    with torch.inference_mode():
        torch.testing.assert_close(found.embeddings, model(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.features, model.features(images), rtol=1e-4, atol=1e-5)
    assert len(found.features.unique(dim=0)) == len(rows)


def test_embed_images__stores_features_that_are_the_embeddings_once(
    image_pairs: Pairs, context: Context, tmp_path: Path
) -> None:
    embed(draw_student(tmp_path / "student", projection_layers=0), set_of(image_pairs, context), context)
    [file] = context.store.root.glob("image-embeddings/*/image_embeddings.safetensors")
    assert safetensors.torch.load_file(file).keys() == {"embeddings", "rows"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is in memory")
def test_embed_images__reads_no_features_before_they_are_looked_at(
    image_pairs: Pairs, student: StudentWeights, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def many(*_: Any, out: Path, **__: Any) -> dict[int, str]:
        tensors = {"embeddings": torch.ones(9, 16), "features": torch.ones(1 << 20, 16), "rows": torch.arange(9)}
        safetensors.torch.save_file(tensors, out)
        return {}

    monkeypatch.setattr(image_features, "student_embeddings", many)
    found = embed(student, set_of(image_pairs, context), context)
    assert found.embeddings.sum() == 9 * 16
    before = _resident_kb("image_embeddings.safetensors")
    assert float(found.features.sum()) == 1 << 24
    assert before < 10_000 < 60_000 < _resident_kb("image_embeddings.safetensors")


def _resident_kb(name: str) -> int:
    """Return how much of a mapped file is in this process's memory."""
    sizes, is_wanted = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            is_wanted = bool(rest) and rest[-1].endswith(name)
        elif key == "Rss:" and is_wanted:
            sizes.append(int(rest[0]))
    assert sizes
    return sum(sizes)


def test_embed_images__says_why_an_image_is_left_out(
    image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    found = embed(student, set_of(image_pairs, context), context)
    assert [entry.row for entry in found.rejections] == [BROKEN, MISSING]
    assert [entry.value for entry in found.rejections] == [image_pairs.images[BROKEN], image_pairs.images[MISSING]]
    assert found.rejections[1].reason == "missing file"


def test_embed_images__embeds_equal_weights_once_whatever_they_are_called(
    image_pairs: Pairs, student: StudentWeights, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = set_of(image_pairs, context)
    first = embed(student, images, context)
    epoch = tmp_path / "student" / "checkpoints" / "epoch_2.safetensors"
    epoch.parent.mkdir()
    shutil.copy(student.weights, epoch)
    before = _facts(context.store.root)
    monkeypatch.setattr(image_features, "student_embeddings", None)
    again = embed(dataclasses.replace(student, name="epoch_2", weights=epoch), images, context)
    assert again.digest == first.digest
    assert _facts(context.store.root) == before


def _facts(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.*") if "sqlite" not in path.name}


def test_embed_images__refuses_embeddings_that_are_damaged(
    image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    embed(student, set_of(image_pairs, context), context)
    [file] = context.store.root.glob("image-embeddings/*/image_embeddings.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        embed(student, set_of(image_pairs, context), context)


def test_embed_images__follows_weights_whose_draft_became_an_artifact(
    image_pairs: Pairs, context: Context, tmp_path: Path
) -> None:
    student = draw_student(tmp_path / ".draft-0123")
    (tmp_path / ".draft-0123").rename(tmp_path / "0123")
    assert len(embed(student, set_of(image_pairs, context), context).rows) == NUM - 2


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"others")], ids=["gone", "others"])
def test_embed_images__refuses_weights_that_are_no_longer_those_that_were_found(
    damage: Callable[[Path], object], image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    damage(student.weights)
    with pytest.raises(ProtoRKDError, match=r"student\.safetensors must hold the weights that were found there"):
        embed(student, set_of(image_pairs, context), context)
    assert not list(context.store.leftovers())


def test_embed_images__says_that_weights_are_of_another_student(
    image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    other = dataclasses.replace(student, config=dataclasses.replace(student.config, projection_layers=2))
    with pytest.raises(ProtoRKDError, match="must hold the weights of a resnet18 student"):
        embed(other, set_of(image_pairs, context), context)


def test_embed_images__refuses_a_set_without_a_readable_image_and_leaves_nothing(
    image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    with pytest.raises(ProtoRKDError, match="A set must have readable images; got none of 1 below"):
        embed(student, set_of(image_pairs, context, start=BROKEN, stop=BROKEN + 1), context)
    assert not list(context.store.leftovers())


def test_embed_images__says_what_to_do_when_the_disk_is_full(
    image_pairs: Pairs, student: StudentWeights, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ProtoRKDError, match=r"image_embeddings\.safetensors must be writable; .* Free some space"):
        embed(student, set_of(image_pairs, context), context)


def outer_stage(ranks: Peers, work: Callable[[Context], Any]) -> Any:
    """Do something inside a stage that all ranks run, as evaluation does; what each comes to."""
    found = []

    def run(*args: Any) -> Result:
        found.append(work(args[-1]))
        return Result(counts={})

    @dataclasses.dataclass(frozen=True)
    class Nothing:
        pass

    together = Distributed(lambda: ranks, fails_together=True)
    stage = Stage("outer", 1, "", Nothing, Nothing, Nothing, lambda *_: Nothing(), run, distributed=together)
    store = Store(Path(os.environ["TEST_STORE"]))
    run_stage(stage, params=Nothing(), inputs=Nothing(), runtime=Nothing(), context=context_of(store))
    return found[0]


@pytest.fixture
def shared_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_STORE", str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.mark.parametrize(("num_ranks", "stop"), [(2, NUM), (3, NUM), (2, 1)])
def test_embed_images__of_several_processes_gives_the_rows_of_one(
    num_ranks: int, stop: int, image_pairs: Pairs, student: StudentWeights, context: Context, shared_store: Path
) -> None:
    def work(ranks: Ranks) -> Any:
        own, embed_own = [], image_features._embed

        def noted(*args: Any, **options: Any) -> Any:
            own.extend(args[2])
            return embed_own(*args, **options)

        def inside(context: Context) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(image_features, "_embed", noted)
                return own, as_arrays(embed(student, set_of(image_pairs, context, stop=stop), context))

        return outer_stage(ranks, inside)

    alone = as_arrays(embed(student, set_of(image_pairs, context, stop=stop), context))
    shares = []
    for own, together in on_ranks(num_ranks, work):
        shares.append(own)
        assert together["rows"].tolist() == alone["rows"].tolist()
        assert together["rejections"] == alone["rejections"]
        for name in ("embeddings", "features"):
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, atol=1e-5)
    assert [place for own in shares for place in own] == list(range(stop))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert not list(Store(shared_store).leftovers())
    [artifact] = Store(shared_store).artifacts("image-embeddings")
    assert not artifact.record.problems(artifact.path, read=True)
    assert {file.path for file in artifact.record.files} == {"image_embeddings.safetensors", "rejected.parquet"}


def test_embed_images__takes_vectors_in_one_of_several_processes(
    image_pairs: Pairs, context: Context, shared_store: Path, tmp_path: Path
) -> None:
    images = set_of(image_pairs, context)
    with_vector = [path for number, path in enumerate(images.value.paths) if number != 2]
    values = np.random.default_rng(0).normal(size=(len(with_vector), 3)).astype(np.float32)
    pq.write_table(pa.table({"filepath": with_vector, "vector": list(values)}), tmp_path / "vectors.parquet")

    def work(ranks: Ranks) -> Any:
        def inside(context: Context) -> Any:
            vectors = identify_vectors(tmp_path / "vectors.parquet", VectorColumns(), file_digests=context.file_digests)
            return embed_images(vectors, images, precision="auto", runtime=RUNTIME, context=context)

        return outer_stage(ranks, inside)

    for together in on_ranks(2, work):
        np.testing.assert_array_equal(together.embeddings.numpy(), values)
        assert together.rows.tolist() == [row for row in range(len(images.value.paths)) if row != 2]
        assert [(each.row, each.reason) for each in together.rejections] == [(2, "no vector has its key")]
        assert together.precision == ""
    assert not list(Store(shared_store).leftovers())


def test_embed_images__fails_in_all_processes_alike_and_the_next_set_is_embedded(
    image_pairs: Pairs, student: StudentWeights, shared_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = image_pairs.root / "unreadable"
    unreadable.mkdir()
    for number in range(4):
        (unreadable / f"{number}.jpg").write_bytes(b"no image")

    def work(ranks: Ranks) -> Any:
        def inside(context: Context) -> Any:
            texts = []
            paths = [f"unreadable/{number}.jpg" for number in range(4)]
            broken = identify_images(image_pairs.root, paths, identity="content", file_digests=context.file_digests)
            with pytest.raises(ProtoRKDError) as caught:
                embed(student, broken, context)
            texts.append(str(caught.value))
            with pytest.MonkeyPatch.context() as patch:
                if not ranks.is_first:
                    patch.setattr(image_features.ImageEmbedder, "load", _broken_worker)
                with pytest.raises(ProtoRKDError) as caught:
                    embed(student, set_of(image_pairs, context), context)
            texts.append(str(caught.value))
            return texts, len(embed(student, set_of(image_pairs, context), context).rows)

        return outer_stage(ranks, inside)

    first, second = on_ranks(2, work)
    assert first == second
    (none_readable, worker), num_rows = first
    assert "got none of 4" in none_readable
    assert worker == "a worker of the second process died"
    assert num_rows == NUM - 2
    assert not list(Store(shared_store).leftovers())


def _broken_worker(*_: object, **__: object) -> None:
    raise ProtoRKDError("a worker of the second process died")


def test_embed_images__refuses_parts_that_lie_in_different_folders(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="must be one folder for all processes"):
        image_features._read_blocks(tmp_path, range(4, 8), 3)


def test_embed_images__goes_on_from_the_blocks_that_stand(
    image_pairs: Pairs, student: StudentWeights, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = as_arrays(embed(student, set_of(image_pairs, context), context_of(Store(tmp_path / "whole"))))
    monkeypatch.setattr(image_features, "_BLOCK_IMAGES", 4)  # batches of 3 make blocks of 3
    block_of, calls = image_features._block_of, []

    def killed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return block_of(*args)

    monkeypatch.setattr(image_features, "_block_of", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(student, set_of(image_pairs, context), context)
    [_, second, _] = blocks = sorted(context.store.root.glob("image-embeddings/.draft-*/state/pictures-*"))
    assert [block.name for block in blocks] == [f"pictures-{3 * i}-{3 * i + 3}.safetensors" for i in range(3)]
    content = bytearray(second.read_bytes())
    content[-1] ^= 1  # noticed, and embedded again
    second.write_bytes(content)
    found = as_arrays(embed(student, set_of(image_pairs, context), context))
    assert len(calls) == 4 + 2
    for name in ("embeddings", "features", "rows"):
        np.testing.assert_array_equal(found[name], whole[name])
    assert found["rejections"] == whole["rejections"]
    assert not list(context.store.leftovers())


def test_embed_images__in_bf16_gives_nearly_the_same(
    image_pairs: Pairs, student: StudentWeights, context: Context
) -> None:
    images = set_of(image_pairs, context)
    exact = embed(student, images, context)
    rounded = embed_images(identify_pass(student, None), images, precision="bf16", runtime=RUNTIME, context=context)
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")
    assert rounded.digest != exact.digest
    assert rounded.embeddings.dtype == rounded.features.dtype == torch.float32
    for name in ("embeddings", "features"):
        one, other = getattr(exact, name), getattr(rounded, name)
        assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999
        assert not torch.equal(one, other)


def test_embed_images__is_read_again_only_where_an_earlier_run_made_it(
    image_pairs: Pairs, student: StudentWeights, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    hash_file_before = files.hash_file

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return hash_file_before(path)

    monkeypatch.setattr(files, "hash_file", noted)
    for _ in range(2):
        embed(student, set_of(image_pairs, context), context)
    assert hashed.count("image_embeddings.safetensors") == 2  # when it was committed, and when it was found


def test_embed_captions__gives_all_processes_what_the_first_embedded(word_vectors: Path, shared_store: Path) -> None:
    def work(ranks: Ranks) -> Any:
        def inside(context: Context) -> Any:
            rows, digest = embed_captions(
                ("red circle", "blue square", "red circle"),
                teacher=identify_teacher(str(word_vectors), file_digests=context.file_digests),
                recipe=EncodingOptions(),
                runtime=RUNTIME,
                context=context,
            )
            return rows.numpy().tolist(), digest

        return outer_stage(ranks, inside)

    first, second = on_ranks(2, work)
    assert first == second
    rows, _ = first
    assert rows[0] == rows[2] != rows[1]
