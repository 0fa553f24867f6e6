"""neighbours: the nearest other captions of every cached caption, a stage that others ask for an artifact of.

Takes:  an artifact of encode-teacher.
Does:   compares every caption with every other, block by block, shard by shard.
Gives:  neighbours/N.parquet (rows and cosines of each caption's nearest others).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_schemas.embedding_array import ARRAY_NAME
from pipeline.options.declaration import POSITIVE, check_options, option
from pipeline.progress import progress
from pipeline.runner import run_within
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact

if TYPE_CHECKING:
    from data_schemas.neighbours import Neighbours
    from stages.components.embeddings.neighbours.search import NearestRows
    from stages.components.embeddings.searchable import Rows

_SHARD_ROWS = 1 << 16


@dataclass(frozen=True)
class NeighboursInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(None, help="Artifact of encode-teacher.", artifact="encode-teacher")


@dataclass(frozen=True)
class NeighboursSources:
    """What the inputs lead to, identified by content."""

    embeddings: Input[Artifact]


@dataclass(frozen=True)
class NeighboursParams:
    """What changes the output."""

    num_neighbours: int = option(32, help="Neighbours of each caption.", check=POSITIVE)


@dataclass(frozen=True)
class NeighboursRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where captions are compared: auto, cpu, cuda, ...")


def make_neighbours(embeddings: Artifact, *, num_neighbours: int, device: str, context: Context) -> Artifact:
    """Make the artifact of captions' neighbours, or find it made; `Neighbours.read` reads its folder.

    Args:
        embeddings: Artifact of encode-teacher.
        num_neighbours: Neighbours of each caption.
        device: Where captions are compared: auto, cpu, cuda, ...
        context: Context of the stage that asks.

    Raises:
        ProtoRKDError: the embeddings are damaged, the device is not there, or no neighbour is asked for.
    """
    params = NeighboursParams(num_neighbours)
    check_options(params)
    artifact = run_within(
        NEIGHBOURS,
        params=params,
        inputs=NeighboursInputs(str(embeddings.path)),
        runtime=NeighboursRuntime(device),
        context=context,
    ).artifact
    artifact.require_whole(read=True)
    return artifact


def _identify(inputs: NeighboursInputs, _params: NeighboursParams, context: Context) -> NeighboursSources:
    artifact = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings")
    location = str(artifact.path.resolve())
    return NeighboursSources(Input(digest=artifact.record.digest, location=location, value=artifact))


def _run(
    params: NeighboursParams, sources: NeighboursSources, out: Draft, runtime: NeighboursRuntime, _context: Context
) -> Result:
    import torch

    from data_schemas.embedding_array import EmbeddingArray
    from data_schemas.neighbours import shard_ranges
    from stages.components.compute.device import choose_device
    from stages.components.embeddings.neighbours.search import NearestRows
    from stages.components.embeddings.searchable import read_rows

    embeddings = sources.embeddings.value
    embeddings.require_whole((f"{ARRAY_NAME}/zarr.json",), read=True)
    device = choose_device(runtime.device)
    num_captions = EmbeddingArray.open(embeddings.path).rows
    known = read_rows(embeddings)
    nearest = NearestRows(torch.from_numpy(known.values), device)
    with progress("finding neighbours", total=num_captions, unit="captions") as advance:
        for path, start, stop in shard_ranges(num_captions, shard_rows=_SHARD_ROWS):
            if not out.is_whole(path):
                found = _search_shard(nearest, known, start, stop, num_neighbours=params.num_neighbours)
                found.write(out.path / path, start=start, num_captions=num_captions)
                out.adopt(path)
            advance(stop - start)
    counts = {"captions": num_captions, "zero_captions": num_captions - len(known.numbers)}
    return Result(counts=counts, environment={"device": device.type})


def _search_shard(nearest: "NearestRows", known: "Rows", start: int, stop: int, *, num_neighbours: int) -> "Neighbours":
    """Find the neighbours of captions ``start`` to ``stop``; those with the zero vector have none."""
    import numpy as np

    from data_schemas.neighbours import NO_NEIGHBOUR, Neighbours

    first, last = (int(place) for place in np.searchsorted(known.numbers, (start, stop)))
    found = nearest.of(first, last, num_neighbours=num_neighbours)
    rows = np.full((stop - start, num_neighbours), NO_NEIGHBOUR, np.int64)
    cosines = np.zeros((stop - start, num_neighbours), np.float32)
    places = known.numbers[first:last] - start
    is_there = found.rows != NO_NEIGHBOUR
    rows[places] = np.where(is_there, known.numbers[found.rows], NO_NEIGHBOUR)
    cosines[places] = found.cosines
    return Neighbours(rows=rows, cosines=cosines)


NEIGHBOURS = Stage(
    name="neighbours",
    version=1,
    summary="Find the nearest other captions of every cached caption.",
    params=NeighboursParams,
    inputs=NeighboursInputs,
    runtime=NeighboursRuntime,
    identify=_identify,
    run=_run,
)
