"""Answer queries: a set, a finder of its rows, and the models that embed queries."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.calibration.extended_vectors import IMAGE, TEXT
from stages.components.embeddings.searchable import EMBED, read_row
from stages.components.images.decoding import ImageRejected
from stages.components.images.lazy_image import LazyImage, open_lazily
from stages.search.queries import Queries
from stages.search.scored_set import ScoredSet, open_sets
from stages.search.searched import Hit, JointSet, SearchedSet

if TYPE_CHECKING:
    from stages.search.options import SearchOptions


@dataclass(frozen=True)
class SearchResult:
    """A query and its results.

    Args:
        kind: Kind of the query: ``text`` or ``picture``.
        name: Words of the query, or the image's path.
        hits: Nearest rows, best first.
        seconds: Duration of embedding and finding, without loading models.

    Shapes:
        vector: (dim,), float32, of unit length.
    """

    kind: str
    name: str
    vector: NDArray[np.float32]
    hits: list[Hit]
    seconds: float


@dataclass(frozen=True)
class Search:
    """Sets that answer queries, as one.

    Args:
        searched: Sets that are searched, with names and images of their rows.
        sets: The same sets, with finders of their rows.
        queries: Embeds queries into the space of the sets.
    """

    searched: JointSet
    sets: Sequence[ScoredSet]
    queries: Queries

    @property
    def is_calibrated(self) -> bool:
        """Whether scores are other than cosines."""
        return any(each.in_rows != NONE or each.mixed is not None for each in self.sets)

    def nearest(self, row: int, *, top: int) -> list[Hit]:
        """Find what is nearest to a row of the sets, without the row itself.

        Raises:
            ProtoRKDError: its bytes have changed, or it is the zero vector.
        """
        place, own = self.searched.locate(row)
        kind = IMAGE if self.searched.is_image(row) else TEXT
        scores, rows = self._find(read_row(self.sets[place].artifact, own), kind, top + 1)
        keep = np.flatnonzero(rows != row)[:top]
        return self.searched.hits(scores[keep].tolist(), rows[keep].tolist())

    def ask_text(self, text: str, *, top: int) -> SearchResult:
        """Find what is nearest to words.

        Raises:
            ProtoRKDError: as `Queries.texts`.
        """
        with self.queries.one_at_a_time:
            self.queries.load_teacher([text])
        start = time.perf_counter()
        return self._asked(TEXT, text, self.queries.texts([text]), top, start)

    def ask_image(self, image: LazyImage, *, name: str, top: int) -> SearchResult:
        """Find what is nearest to an image.

        Raises:
            ProtoRKDError: as `Queries.image`.
            ImageRejected: it is damaged.
        """
        with self.queries.one_at_a_time:
            self.queries.load_student()
        start = time.perf_counter()
        return self._asked(IMAGE, name, self.queries.image(image, name=name), top, start)

    def ask_file(self, path: Path, *, top: int) -> SearchResult:
        """Find what is nearest to an image file.

        Raises:
            ProtoRKDError: it cannot be read, or as `Queries.image`.
        """
        try:
            return self.ask_image(open_lazily(path), name=str(path), top=top)
        except ImageRejected as error:
            raise ProtoRKDError(f"--picture must name an image; got {path}: {error.reason}.") from error

    def _asked(self, kind: str, name: str, vectors: NDArray[np.float32], top: int, start: float) -> SearchResult:
        scores, rows = self._find(vectors, kind, top)
        return SearchResult(
            kind, name, vectors[0], self.searched.hits(scores.tolist(), rows.tolist()), time.perf_counter() - start
        )

    def _find(self, vectors: NDArray[np.float32], kind: str, top: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the best rows of all sets: scores and rows, best first."""
        found = [each.find(vectors, kind=kind, k=top) for each in self.sets]
        scores = np.concatenate([scores for scores, _ in found])
        starts = self.searched.starts
        rows = np.concatenate([start + rows for start, (_, rows) in zip(starts, found, strict=True)])
        order = np.argsort(-scores, kind="stable")[:top]
        return scores[order], rows[order]


def open_search(artifacts: Sequence[Artifact], options: "SearchOptions", context: Context) -> Search:
    """Open sets, and find or build the index of each.

    Args:
        artifacts: Artifacts of embed or encode-teacher.
        options: Options of the command.
        context: Holds the store.

    Raises:
        ProtoRKDError: an artifact is damaged or has only zero vectors, or the sets do not go together.
    """
    if len({each.path.resolve() for each in artifacts}) < len(artifacts):
        raise ProtoRKDError("--in must name each artifact once; got one twice. Leave it out.")
    queries = Queries(
        next((each for each in artifacts if each.record.stage == EMBED), artifacts[0]),
        student=options.student,
        teacher=options.teacher,
        trust_code=options.trust_remote_code,
        query_prompt_name=options.query_prompt_name,
        device=options.device,
        context=context,
    )
    sets = open_sets(artifacts, queries, calibrate=options.calibrate, device=options.device, context=context)
    searched = JointSet(
        [
            SearchedSet(each, image_root=options.image_root, store=context.store, file_digests=context.file_digests)
            for each in artifacts
        ]
    )
    return Search(searched, sets, queries)
