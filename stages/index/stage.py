"""index: build an index of an embedded set for search by faiss.

Takes:  an artifact of embed or encode-teacher.
Does:   scales its rows to unit length and puts them into a flat index, or into lists if there are very many.
Gives:  index.faiss, which faiss.read_index reads, and index.json with the recall.
"""

from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.embeddings.searchable import find_searchable
from stages.index.options import IndexInputs, IndexParams, IndexRuntime, IndexSources


def index(params: IndexParams, sources: IndexSources, out: Draft, runtime: IndexRuntime, context: Context) -> Result:
    """Write the index."""
    from stages.index.run import write_index

    return write_index(params, sources.rows.value, out)


def identify(inputs: IndexInputs, params: IndexParams, context: Context) -> IndexSources:
    """Find the artifact to index."""
    found = find_searchable(inputs.rows, store=context.store)
    return IndexSources(rows=Input(digest=found.record.digest, location=str(found.path.resolve()), value=found))


STAGE = Stage(
    name="index",
    version=1,
    summary="Index embedded images or captions for search, with faiss.",
    params=IndexParams,
    inputs=IndexInputs,
    runtime=IndexRuntime,
    identify=identify,
    run=index,
)
