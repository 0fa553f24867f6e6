"""Open the sets of a search, each with a finder of its rows and what makes its scores comparable with the others'."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_schemas.calibration import MIXED, NONE, QUERY_BANK, MixedScores, QueryBank, ScoreMap
from data_schemas.embedding_array import CAPTION_KIND, IMAGE_KIND, EmbeddingArray
from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.calibration.extended_vectors import TEXT, extend_queries, nearness_to_bank, plain_images
from stages.components.embeddings.searchable import EMBED, read_rows, row_calibration
from stages.search.finder import Finder, open_finder

if TYPE_CHECKING:
    from stages.search.queries import Queries

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredSet:
    """A set that is searched, and how its scores compare with those of other sets.

    Args:
        artifact: Artifact of embed or encode-teacher.
        finder: Finder of its rows.
        in_rows: Calibration that the finder's rows hold: ``none``, ``query-bank`` or ``mixed``.
        bank: Query bank that was written into the finder's rows; None where they are as the artifact has them.
        mixed: Levels by which scores of images are mapped; None where they are not.
    """

    artifact: Artifact
    finder: Finder
    in_rows: str = NONE
    bank: QueryBank | None = None
    mixed: MixedScores | None = None

    def find(self, vectors: Vectors, *, kind: str, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the nearest rows of one query, best first, and fewer than ``k`` where there are no more.

        Args:
            vectors: The query, of unit length.
            kind: Kind of the query: ``text`` or ``picture``.
            k: Number of rows.

        Shapes:
            vectors: (1, dim).
            returns: scores (found,), float32, and rows of the artifact's array (found,), int64.
        """
        asked = vectors if self.in_rows == NONE else extend_queries(vectors, kind=kind)
        [scores], [rows] = self.finder.find(asked, k)
        found = rows >= 0  # an index adds rows below 0 for missing ones
        scores, rows = scores[found], rows[found]
        if self.mixed is not None and self.in_rows == MIXED:
            if kind == TEXT:
                return scores, rows
            scores = scores / np.float32(self.mixed.map_images(TEXT).slope)  # rows are scaled by it
        scored = self.map_scores(kind)
        return (scored.slope * scores + scored.offset).astype(np.float32), rows

    def map_scores(self, kind: str) -> ScoreMap:
        """Return the map of cosines with a kind of queries onto the scores of all sets."""
        return ScoreMap() if self.mixed is None else self.mixed.map_images(kind)

    def plain_rows(self) -> tuple[Vectors, NDArray[np.int64], Vectors]:
        """Read the rows without calibration, and what a query bank adds to their scores with words.

        Shapes:
            returns: rows (found, dim), float32, of unit length; their numbers (found,), int64; (found,), float32.
        """
        rows = read_rows(self.artifact)
        values, added = rows.values, np.zeros(len(rows.values), np.float32)
        if rows.calibration != NONE:
            values = plain_images(rows.values, rows.calibration)
            added = rows.values[:, -1] if rows.calibration == QUERY_BANK else added
        elif self.bank is not None:
            added = -nearness_to_bank(values, self.bank)
        return values, rows.numbers, added


def open_sets(
    artifacts: Sequence[Artifact], queries: "Queries", *, calibrate: str, device: str, context: Context
) -> list[ScoredSet]:
    """Open the finder of each set, and make the calibration that is asked for.

    Args:
        artifacts: Artifacts of embed or encode-teacher, in one space.
        queries: Models that embed queries into it.
        calibrate: ``none``, ``query-bank`` or ``mixed``.
        device: Device of the student, where a calibration has to embed images.
        context: Holds the store.

    Raises:
        ProtoRKDError: the sets are of several students or teachers, a calibration does not fit one of them, or what it
            is computed from is gone.
    """
    _check_one_space(artifacts, queries)
    held = [row_calibration(artifact) for artifact in artifacts]
    for artifact, own in zip(artifacts, held, strict=True):
        _check_calibration(artifact, own, calibrate, is_joint=len(artifacts) > 1)
    made = None
    if calibrate != NONE:
        source = identify_calibration(queries.student, calibrate).value
        made, _ = make_calibration(source, CalibrationRuntime(device), context)
    return [_open(artifact, own, made, context) for artifact, own in zip(artifacts, held, strict=True)]


def _open(artifact: Artifact, own: str, made: QueryBank | MixedScores | None, context: Context) -> ScoredSet:
    is_images = artifact.record.stage == EMBED
    mixed = made if isinstance(made, MixedScores) and is_images else None
    if own != NONE:
        return ScoredSet(artifact, open_finder(artifact, context=context), own, mixed=mixed)
    bank = made if isinstance(made, QueryBank) else None
    finder = open_finder(artifact, context=context, bank=bank)
    return ScoredSet(artifact, finder, QUERY_BANK if bank is not None else NONE, bank, mixed)


def _check_one_space(artifacts: Sequence[Artifact], queries: "Queries") -> None:
    """Refuse sets whose vectors cannot be compared with one another."""
    if len(artifacts) == 1:
        return
    students = {each.record.inputs["student"].digest: each for each in artifacts if each.record.stage == EMBED}
    if len(students) > 1:
        names = ", ".join(each.name for each in students.values())
        raise ProtoRKDError(f"--in must name images that one student embedded; got {names}. Embed all by one student.")
    dim = queries.dim
    for artifact in artifacts:
        is_images = artifact.record.stage == EMBED
        found = EmbeddingArray.open(artifact.path, kind=IMAGE_KIND if is_images else CAPTION_KIND).dim
        found -= row_calibration(artifact) != NONE
        of_teacher = is_images or artifact.record.inputs["teacher"].digest == queries.teacher_identity
        if found != dim or not of_teacher:
            raise ProtoRKDError(
                f"--in must name sets in one space, of the teacher {queries.teacher_identity[:12]} and {dim} wide; got "
                f"{artifact.name}, which is of another, or {found} wide. Leave it out, or encode it anew."
            )


def _check_calibration(artifact: Artifact, own: str, calibrate: str, *, is_joint: bool) -> None:
    """Refuse a calibration that does not fit what an artifact holds."""
    if calibrate == QUERY_BANK and artifact.record.stage != EMBED:
        raise ProtoRKDError(
            f"--calibrate {QUERY_BANK} must have images alone; got {artifact.name}, which has captions. Leave them "
            f"out, or pass --calibrate {MIXED} to search both."
        )
    if own not in (NONE, calibrate) and (is_joint or calibrate != NONE):
        raise ProtoRKDError(
            f"--calibrate must be {own} for {artifact.name}, whose rows embed has calibrated so; got {calibrate}. Pass "
            f"--calibrate {own}, or name an artifact of raw rows."
        )
