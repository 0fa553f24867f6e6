"""index: the rows of an embedded set in the order in which faiss finds them.

Takes:  an artifact of embed or encode-teacher.
Does:   scales its rows to unit length and puts them into a flat index, or into lists where there are very many.
Gives:  index.faiss, which faiss.read_index reads, and index.json with the recall.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.draft import Draft
from pipeline.options import FRACTION, NOT_NEGATIVE, option
from pipeline.stage import Context, Input, Result, Stage
from stages.searchable import find_searchable


@dataclass(frozen=True)
class IndexInputs:
    """Where the inputs lie; hashed by content."""

    rows: str | None = option(
        None,
        flag="in",
        help="Artifact of embed or encode-teacher, by fingerprint or path. Default: the newest of embed, or else of "
        "encode-teacher.",
        metavar="REF",
        artifact="embed",
    )


@dataclass(frozen=True)
class IndexParams:
    """What changes the output."""

    max_exact_rows: int = option(
        400_000,
        help="Up to so many rows a query is compared with each. More are divided into lists, the nearest of which are "
        "looked into.",
        check=NOT_NEGATIVE,
    )
    recall: float = option(
        0.95, help="Share of the ten nearest rows that lists must find, over a sample of rows.", check=FRACTION
    )
    seed: int = option(0, help="Of the lists.", check=NOT_NEGATIVE)


@dataclass(frozen=True)
class IndexRuntime:
    """What changes only how fast or where it runs; not hashed."""


def index(
    params: IndexParams, inputs: Mapping[str, Input], out: Draft, runtime: IndexRuntime, context: Context
) -> Result:
    """Write the index."""
    from stages.index.run import write_index

    return write_index(params, inputs["rows"].value, out)


def identify(inputs: IndexInputs, params: IndexParams, context: Context) -> Mapping[str, Input]:
    """Find what is searched."""
    found = find_searchable(inputs.rows, store=context.store)
    return {"rows": Input(digest=found.record.digest, location=str(found.path.resolve()), value=found)}


STAGE = Stage(
    name="index",
    version=1,
    summary="Index embedded pictures or captions for search, with faiss.",
    params=IndexParams,
    inputs=IndexInputs,
    runtime=IndexRuntime,
    identify=identify,
    run=index,
)
