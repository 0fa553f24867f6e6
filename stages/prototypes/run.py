"""Run the prototypes stage: rows, k-means, assignment, report, page."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.artifact_record import PAGE_NAME
from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray, Shard
from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from data_schemas.pair_index import CAPTIONS_NAME, read_captions
from data_schemas.prototypes import UNASSIGNED, Prototypes, write_report
from pipeline.log import log
from pipeline.stage import Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.background import prefetch
from stages.components.compute.device import choose_device, describe_work
from stages.components.compute.precision import choose_precision
from stages.components.metrics.unit_rows import TEACHER_REMEDY, unit_rows
from stages.prototypes.kmeans import assign, fit_prototypes
from stages.prototypes.report import build_report, render_page

if TYPE_CHECKING:
    from stages.prototypes.options import PrototypesParams, PrototypesRuntime


def make_prototypes(
    params: "PrototypesParams", runtime: "PrototypesRuntime", *, embeddings: Artifact, draft: Draft
) -> Result:
    """Cluster an artifact of embeddings into a draft; captions with the zero vector are left out.

    Raises:
        ProtoRKDError: the embeddings are damaged, or there are fewer captions than prototypes.
    """
    device = choose_device(runtime.device)
    precision = choose_precision("auto", device)
    log.info("prototypes: on %s", describe_work(device, precision=precision))
    embeddings.require_whole((ARRAY_NAME, CAPTIONS_NAME), read=True)
    table = EmbeddingArray.open(embeddings.path)
    known = known_captions(table)
    if num_zero := table.rows - len(known):
        log.info("prototypes: %d captions are left out, for the teacher knows no word of them", num_zero)
    check_enough(params.num_prototypes, num_captions=len(known), num_zero=num_zero)
    fitted = _draw(known, params.captions_per_prototype * params.num_prototypes, seed=params.seed)
    rows = _unit_table(table, fitted)
    fit = fit_prototypes(
        rows,
        num_prototypes=params.num_prototypes,
        iterations=params.iterations,
        restarts=params.restarts,
        seed=params.seed,
        device=device,
        precision=precision,
    )
    # A GPU takes all rows at once if they are loaded; a CPU goes by shards, on whose sizes its last bits depend.
    is_at_hand = device.type == "cuda" and fitted is known
    parts = [(known, rows)] if is_at_hand else _unit_shards(table, known)
    prototypes = _assign_all(table.rows, parts, fit.centroids, device=device)
    prototypes.write(draft.path)
    report = build_report(
        prototypes,
        captions=read_captions(embeddings.path),
        embeddings_digest=embeddings.record.digest,
        num_fitted=len(fitted),
        mean_cosines=fit.mean_cosines,
    )
    write_report(draft.path, report)
    write_atomic(draft.path / PAGE_NAME, render_page(report).encode())
    counts = {
        "captions": table.rows,
        "zero_captions": num_zero,
        "fitted_captions": len(fitted),
        "prototypes": params.num_prototypes,
        "empty_prototypes": report["num_empty"],
        "smallest_size": report["smallest_size"],
        "median_size": report["median_size"],
        "largest_size": report["largest_size"],
        "iterations": len(fit.mean_cosines),
    }
    metrics = {"mean_cosine": report["mean_cosine"]}
    return Result(counts=counts, metrics=metrics, environment={"device": device.type})


def known_captions(embeddings: EmbeddingArray) -> NDArray[np.int64]:
    """Find the captions that the teacher knows: the rows that are not zero, in order.

    Raises:
        ProtoRKDError: a row holds NaN or infinity, or a shard is damaged.
    """
    known = []
    for shard, values in _read_ahead(embeddings):
        known.append(shard.start + np.flatnonzero(values.any(axis=1)))
    return np.concatenate([np.empty(0, np.int64), *known])


def check_enough(num_prototypes: int, *, num_captions: int, num_zero: int) -> None:
    """Refuse more prototypes than captions that the teacher knows.

    Raises:
        ProtoRKDError: there are more.
    """
    if not num_captions:
        raise ProtoRKDError(
            f"The teacher must know some of the captions; got {num_zero} zero vectors and nothing else. "
            "Encode the captions with another teacher."
        )
    if num_prototypes > num_captions:
        beside = f", beside {num_zero} of which the teacher knows no word" if num_zero else ""
        raise ProtoRKDError(
            f"--num-prototypes must be at most {num_captions}, the number of distinct captions{beside}; "
            f"got {num_prototypes}. Ask for fewer, or encode more captions."
        )


def _draw(known: NDArray[np.int64], num: int, *, seed: int) -> NDArray[np.int64]:
    """Draw ``num`` of the rows, in order; 0, or more than there are, takes all rows."""
    if num == 0 or num >= len(known):
        return known
    return np.sort(np.random.default_rng(seed).choice(known, size=num, replace=False, shuffle=False))


def _unit_table(embeddings: EmbeddingArray, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    table = np.empty((len(rows), embeddings.dim), np.float32)
    filled = 0
    for shard_rows, values in _unit_shards(embeddings, rows):
        table[filled : filled + len(shard_rows)] = values
        filled += len(shard_rows)
    return table


def _assign_all(
    num_captions: int,
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    centroids: NDArray[np.float32],
    *,
    device: torch.device,
) -> Prototypes:
    assignment = np.full(num_captions, UNASSIGNED, np.int32)
    cosines = np.zeros(num_captions, np.float32)
    for rows, values in parts:
        assignment[rows], cosines[rows] = assign(values, centroids, device=device)
    return Prototypes(centroids=centroids, assignment=assignment, cosines=cosines)


def _unit_shards(
    embeddings: EmbeddingArray, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the sorted ``rows`` shard by shard, with their unit vectors in float32."""
    for shard, stored in _read_ahead(embeddings):
        inside = rows[slice(*np.searchsorted(rows, (shard.start, shard.stop)))]
        if len(inside):
            values = torch.from_numpy(stored[inside - shard.start])
            yield inside, unit_rows(values, name="Caption embeddings", remedy=TEACHER_REMEDY).numpy()


def _read_ahead(embeddings: EmbeddingArray) -> Iterator[tuple[Shard, NDArray[Any]]]:
    """Yield every shard and its rows; a thread reads the next shard meanwhile."""
    read = prefetch(lambda shard: embeddings.read(shard.start, shard.stop), embeddings.shards())
    return zip(embeddings.shards(), read, strict=True)
