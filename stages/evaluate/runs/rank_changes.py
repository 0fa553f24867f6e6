"""Captions whose own image two students rank most differently, with thumbnails of the images."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.per_query_results import RANK, QueryResults
from pipeline.log import log
from pipeline.options.declaration import from_json
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import MEMO_NAME, Artifact, Store
from stages.components.images.image_set import ImageSet
from stages.components.images.packed_image_set import Pack
from stages.components.report.thumbnails import stand_in, thumbnail_or_stand_in
from stages.evaluate.compare.find_evaluation import Evaluation
from stages.evaluate.compare.paired_comparison import DIRECTIONS, shared_outcomes
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.sets.evaluation_sets import read_retrieval_set

NUM_SHOWN = 6


@dataclass(frozen=True)
class RankChange:
    """A caption, and where two students rank the image that it describes, from 1.

    Args:
        caption: The caption.
        path: Path of the image, as its set writes it.
        image: Data URI of its thumbnail; "" where no image of the set can be found.
        first: Rank by student A.
        second: Rank by student B.
    """

    caption: str
    path: str
    image: str
    first: int
    second: int


@dataclass(frozen=True)
class RankChanges:
    """Captions that two students answer most differently.

    Args:
        set_name: Set that they are of.
        won: Captions whose image B ranks better than A, the largest change first.
        lost: Captions whose image A ranks better than B, the largest change first.
    """

    set_name: str
    won: tuple[RankChange, ...]
    lost: tuple[RankChange, ...]


def find_rank_changes(first: Evaluation, second: Evaluation, *, set_name: str, store: Store) -> RankChanges | None:
    """Find the captions of a set whose image two students rank most differently; None where there is no such set.

    A change is measured by the ratio of the ranks: from 1 to 50 is more than from 500 to 900. An image comes once.

    Args:
        first: Evaluation of student A.
        second: Evaluation of student B.
        set_name: Set of images and captions.
        store: Store that packs of the images are looked for in.
    """
    try:
        pairs = shared_outcomes(*(_captions_of(each, set_name) for each in (first, second)))
    except ProtoRKDError as error:
        log.warning("Ranks on %s are not compared: %s", set_name, error)
        return None
    [(ours, theirs)] = pairs
    ratios = [math.log(b / a) for a, b in zip(ours.measures[RANK], theirs.measures[RANK], strict=True)]
    order = sorted(range(len(ratios)), key=ratios.__getitem__)  # stable: in the order of images where equal
    won = _one_an_image([row for row in order if ratios[row] < 0], ours)
    lost = _one_an_image([row for row in reversed(order) if ratios[row] > 0], ours)
    images = find_images(first.artifact, set_name, store)
    return RankChanges(set_name, _shown(won, ours, theirs, images), _shown(lost, ours, theirs, images))


def find_images(evaluation: Artifact, set_name: str, store: Store) -> ImageSet | None:
    """Open the images of a retrieval set as an evaluation named it; None, and a line, where they are not there.

    Nothing is hashed: of an image that has changed since, the page shows what is there now.
    """
    record = evaluation.record
    if record.request is None:
        return None
    digests = FileDigests(store.root / MEMO_NAME, remembers=False)
    try:
        asked_in = Path(record.request.folder)
        with contextlib.chdir(asked_in if asked_in.is_dir() else asked_in.anchor):  # whole paths may still lead there
            inputs = from_json(EvaluateInputs, record.request.inputs)
            packs = [Pack.open(store.resolve(name, stage="pack", flag="--packed")) for name in inputs.packed]
            for argument in inputs.retrieval:
                found = read_retrieval_set(
                    argument,
                    form=from_json(EvaluateParams, record.params),
                    file_digests=digests,
                    image_root=inputs.image_root,
                    image_identity="path",
                    allow_outside=inputs.allow_outside,
                    packs=packs,
                )
                if found.name == set_name:
                    return found.images.value
    except (ProtoRKDError, OSError) as error:
        log.warning("images of %s are not shown: %s", set_name, error)
    return None


def _captions_of(evaluation: Evaluation, set_name: str) -> list[QueryResults]:
    name = f"{set_name}/{DIRECTIONS[0]}"
    return [outcomes for outcomes in evaluation.outcomes if outcomes.name == name]


def _one_an_image(rows: Sequence[int], outcomes: QueryResults) -> list[int]:
    firsts: dict[str, int] = {}
    for row in rows:
        if len(firsts) == NUM_SHOWN:
            break
        firsts.setdefault(outcomes.images[row], row)
    return list(firsts.values())


def _shown(
    rows: Sequence[int], first: QueryResults, second: QueryResults, images: ImageSet | None
) -> tuple[RankChange, ...]:
    numbers = {} if images is None else {path: number for number, path in enumerate(images.paths)}
    return tuple(
        RankChange(
            caption=first.queries[row] if first.queries else "",
            path=first.images[row],
            image="" if images is None else _thumbnail(images, numbers.get(first.images[row])),
            first=math.ceil(first.measures[RANK][row]),
            second=math.ceil(second.measures[RANK][row]),
        )
        for row in rows
    )


def _thumbnail(images: ImageSet, number: int | None) -> str:
    return stand_in() if number is None else thumbnail_or_stand_in(images, number)
