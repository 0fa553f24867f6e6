"""Answer queries: a set, a finder of its rows, and the models that embed queries."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.images.decoding import ImageRejected
from stages.components.images.lazy_image import LazyImage, open_lazily
from stages.search.finder import Finder, open_finder
from stages.search.queries import Queries
from stages.search.searched import Hit, SearchedSet

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
    """A set that answers queries.

    Args:
        searched: Set that is searched.
        finder: Finder of the set's rows.
        queries: Embeds queries into the set's space.
    """

    searched: SearchedSet
    finder: Finder
    queries: Queries

    def ask_text(self, text: str, *, top: int) -> SearchResult:
        """Find what is nearest to words.

        Raises:
            ProtoRKDError: as `Queries.texts`.
        """
        with self.queries.one_at_a_time:
            self.queries.load_teacher([text])
        start = time.perf_counter()
        return self._asked("text", text, self.queries.texts([text]), top, start)

    def ask_image(self, image: LazyImage, *, name: str, top: int) -> SearchResult:
        """Find what is nearest to an image.

        Raises:
            ProtoRKDError: as `Queries.image`.
            ImageRejected: it is damaged.
        """
        with self.queries.one_at_a_time:
            self.queries.load_student()
        start = time.perf_counter()
        return self._asked("picture", name, self.queries.image(image, name=name), top, start)

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
        [scores], [rows] = self.finder.find(vectors, top)
        return SearchResult(kind, name, vectors[0], self.searched.hits(scores, rows), time.perf_counter() - start)


def open_search(artifact: Artifact, options: "SearchOptions", context: Context) -> Search:
    """Open a set, and find or build its index.

    Raises:
        ProtoRKDError: the artifact is damaged, or has only zero vectors.
    """
    queries = Queries(
        artifact,
        student=options.student,
        teacher=options.teacher,
        trust_code=options.trust_remote_code,
        query_prompt_name=options.query_prompt_name,
        device=options.device,
        context=context,
    )
    searched = SearchedSet(
        artifact, image_root=options.image_root, store=context.store, file_digests=context.file_digests
    )
    return Search(searched, open_finder(artifact, context=context), queries)
