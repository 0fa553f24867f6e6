"""Find the rows that are nearest to a query: by a faiss index, or by comparison with every row."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_schemas.calibration import QUERY_BANK, QueryBank
from data_schemas.errors import ProtoRKDError
from data_schemas.search_index import INDEX_NAME, IndexConfig
from pipeline.log import log
from pipeline.remote.errors import RemoteError
from pipeline.runner import make_artifact
from pipeline.stage import Context
from pipeline.store.file_digests import may_write
from pipeline.store.store import Artifact
from stages.components.calibration.extended_vectors import extend_images
from stages.components.compute.faiss_library import find_faiss, import_faiss
from stages.components.embeddings.searchable import Rows, read_rows

_MAX_SCORES = 1 << 24  # computed at a time: 64 MB


class Finder(Protocol):
    """A search for the rows with the greatest inner product with a query: the cosine, unless rows are calibrated."""

    def find(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the ``k`` nearest rows of each query, best first, or all if there are fewer.

        Shapes:
            queries: (queries, dim), of unit length, extended where rows are.
            returns: scores (queries, k), float32, and rows of the artifact's array (queries, k), int64.
        """

    @property
    def description(self) -> str:
        """Method of search, for people."""


class ExactFinder:
    """An exact finder, which compares with every row in NumPy; equally near rows come in row order.

    Args:
        rows: Rows to search.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def find(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest rows, as `Finder` says."""
        num = len(self._rows.numbers)
        block = max(1, _MAX_SCORES // max(1, num))
        found = [self._find(queries[start : start + block], min(k, num)) for start in range(0, len(queries), block)]
        scores, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, self._rows.numbers[places]

    @property
    def description(self) -> str:
        """Method of search, for people."""
        return f"every one of {len(self._rows.numbers):,} rows compared, without faiss"

    def _find(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores = queries @ self._rows.values.T
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        places = np.take_along_axis(best, order, axis=1)
        return np.take_along_axis(scores, places, axis=1), places


class FaissFinder:
    """A finder that uses an artifact of index, whose digests are checked first.

    Args:
        artifact: Artifact of index.

    Raises:
        ProtoRKDError: a file is missing or altered.
        ImportError: faiss is not installed, or not whole.
    """

    def __init__(self, artifact: Artifact) -> None:
        faiss = import_faiss()
        artifact.require_whole(read=True)
        self._config = IndexConfig.read(artifact.path)
        self._index = faiss.read_index(str(artifact.path / INDEX_NAME))

    def find(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest rows, as `Finder` says; if the probed lists hold too few, the rest is row -1."""
        scores, rows = self._index.search(np.ascontiguousarray(queries), min(k, self._config.rows))
        return scores, rows

    @property
    def description(self) -> str:
        """Method of search, for people."""
        config = self._config
        if not config.lists:
            return f"every one of {config.rows:,} rows compared, by faiss"
        lists = f"{config.probes} of {config.lists:,} lists of {config.rows:,} rows"
        return f"{lists}, which find {config.recall:.1%} of the nearest ten"


def open_finder(artifact: Artifact, *, context: Context, bank: QueryBank | None = None) -> Finder:
    """Find or build the index of an artifact; without faiss, or a place to keep the index, compare with every row.

    Args:
        artifact: Artifact of embed or encode-teacher.
        context: Holds the store.
        bank: Query bank that is written into rows of images; None where they are searched as they are.

    Raises:
        ProtoRKDError: the artifact is damaged, or has only zero vectors.
    """
    if find_faiss() is None:  # checked here, because the stage would raise an error
        return ExactFinder(_read(artifact, bank))
    params = {} if bank is None else {"calibrate": QUERY_BANK}
    try:
        index = make_artifact("index", params=params, inputs={"rows": str(artifact.path)}, runtime={}, context=context)
    except ProtoRKDError as error:
        if may_write(context.store.root / "index") and not isinstance(error, RemoteError):
            raise
        log.info("search: no index can be kept, so rows are compared in memory: %s", error)
        return ExactFinder(_read(artifact, bank))
    return FaissFinder(index)


def _read(artifact: Artifact, bank: QueryBank | None) -> Rows:
    rows = read_rows(artifact)
    return rows if bank is None else Rows(extend_images(rows.values, bank), rows.numbers, QUERY_BANK)
