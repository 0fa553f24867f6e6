"""Build an index: a flat one, which is exact, or one with lists, whose recall is measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic_by
from data_schemas.search_index import FLAT, INDEX_NAME, LISTS, IndexConfig
from pipeline.log import log
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from stages.components.calibration.calibration import CalibrationRuntime, make_calibration
from stages.components.calibration.extended_vectors import extend_images
from stages.components.compute.faiss_library import import_faiss
from stages.components.embeddings.searchable import Rows, read_rows

if TYPE_CHECKING:
    from stages.index.options import IndexParams, IndexSources

_K = 10
_SAMPLE = 1000
_LISTS_PER_ROOT = 4  # of the number of rows, as faiss advises
_ROWS_PER_LIST = 39  # at least so many are needed by faiss's k-means
_AT_ONCE = 65_536


def write_index(params: "IndexParams", sources: "IndexSources", draft: Draft, context: Context) -> Result:
    """Write an index of an artifact's rows to a draft.

    Raises:
        ProtoRKDError: faiss is not installed, there is nothing to find, or the disk is full.
    """
    try:
        faiss = import_faiss()
    except ImportError as error:
        raise ProtoRKDError(
            f"index must have faiss; {error}. Install faiss-gpu or faiss-cpu, one of them alone; search does without, "
            "and compares with every row."
        ) from error
    artifact = sources.rows.value
    uses: tuple[str, ...] = ()
    rows = read_rows(artifact)
    if sources.calibration is not None:
        bank, digest = make_calibration(sources.calibration.value, CalibrationRuntime(), context)
        rows, uses = Rows(extend_images(rows.values, bank), rows.numbers, params.calibrate), (digest,)
    if not len(rows.numbers):
        raise ProtoRKDError(f"{artifact.name} must have rows other than zeros to be searched; it has none.")
    num, dim = rows.values.shape
    if num <= params.max_exact_rows:
        index = faiss.IndexIDMap(faiss.IndexFlatIP(dim))
        index.add_with_ids(rows.values, rows.numbers)
        config = IndexConfig(FLAT, num, dim, lists=0, probes=0, recall=1.0)
    else:
        index, config = _lists(rows, recall=params.recall, seed=params.seed)
        log.info("index: %d of %d lists find %.3f of the nearest ten", config.probes, config.lists, config.recall)

    def write(partial: Path) -> None:
        try:
            faiss.write_index(index, str(partial))
        except RuntimeError as error:
            raise OSError(f"faiss cannot write it: {error}") from error

    write_atomic_by(draft.path / INDEX_NAME, write)
    config.write(draft.path)
    return Result(
        counts={"rows": num, "dim": dim, "lists": config.lists, "probes": config.probes},
        metrics={"recall@10": 100 * config.recall},
        uses=uses,
    )


def _lists(rows: Rows, *, recall: float, seed: int) -> tuple[Any, IndexConfig]:
    """Divide the rows into lists by k-means, and choose the fewest probes that reach the wanted recall."""
    faiss = import_faiss()
    values, numbers = rows.values, rows.numbers
    num, dim = values.shape
    num_lists = max(1, min(int(_LISTS_PER_ROOT * num**0.5), num // _ROWS_PER_LIST))
    index: Any = faiss.index_factory(dim, f"IVF{num_lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed + 1
    index.cp.spherical = True
    index.train(values)
    for start in range(0, num, _AT_ONCE):
        index.add_with_ids(values[start : start + _AT_ONCE], numbers[start : start + _AT_ONCE])
    sample = values[np.linspace(0, num - 1, min(_SAMPLE, num)).astype(np.int64)]
    if rows.calibration != NONE:
        sample[:, -1] = 1  # as queries of words end
    exact = faiss.knn(sample, values, min(_K, num), metric=faiss.METRIC_INNER_PRODUCT)[1]
    truth = numbers[exact]
    index.nprobe = 1
    while True:
        answers = index.search(sample, truth.shape[1])[1]
        measured = (
            float(np.mean([len(np.intersect1d(*pair)) for pair in zip(answers, truth, strict=True)])) / truth.shape[1]
        )
        if measured >= recall or index.nprobe >= num_lists:
            return index, IndexConfig(LISTS, num, dim, lists=num_lists, probes=index.nprobe, recall=measured)
        index.nprobe = min(2 * index.nprobe, num_lists)
