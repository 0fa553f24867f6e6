"""index: build an index of an embedded set for search by faiss.

Takes:  an artifact of embed or encode-teacher.
Does:   scales its rows to unit length and puts them into a flat index, or into lists if there are very many.
Gives:  index.faiss, which faiss.read_index reads, and index.json with the recall.
"""

from pathlib import Path

from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.calibration.calibration import identify_calibration
from stages.components.embeddings.searchable import EMBED, find_searchable, row_calibration
from stages.components.student.checkpoints import find_weights
from stages.index.options import IndexInputs, IndexParams, IndexRuntime, IndexSources


def index(params: IndexParams, sources: IndexSources, out: Draft, runtime: IndexRuntime, context: Context) -> Result:
    """Write the index."""
    from stages.index.run import write_index

    return write_index(params, sources, out, context)


def identify(inputs: IndexInputs, params: IndexParams, context: Context) -> IndexSources:
    """Find the artifact to index, and with --calibrate the student of its images."""
    found = find_searchable(inputs.rows, store=context.store)
    rows = Input(digest=found.record.digest, location=str(found.path.resolve()), value=found)
    if params.calibrate == NONE:
        return IndexSources(rows)
    if found.record.stage != EMBED or row_calibration(found) != NONE:
        raise ProtoRKDError(
            f"--calibrate must go with images that embed left raw; got {found.name}, which has captions, or is "
            "calibrated already. Leave it out, or name another artifact by --in."
        )
    student = found.record.inputs["student"]
    weights = find_weights(student.digest, location=Path(student.location), store=context.store)
    return IndexSources(rows, identify_calibration(weights, params.calibrate))


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
