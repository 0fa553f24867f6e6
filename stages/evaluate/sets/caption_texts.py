"""The texts that sets need embedded: captions, prompts, and the pairs of sts."""

from collections.abc import Iterable, Iterator

from stages.evaluate.sets.evaluation_sets import ClassSet, RequestedSet, RetrievalSet, STSSet
from stages.evaluate.sets.prompts import class_prompts
from stages.evaluate.task_names import NEED_TEACHER


def texts_to_embed(sets: Iterable[RequestedSet]) -> tuple[str, ...]:
    """List the distinct texts that tasks on sets embed, in order of first appearance.

    Raises:
        ProtoRKDError: a template has no place for a class name.
    """
    return tuple(dict.fromkeys(text for each in sets if NEED_TEACHER & set(each.tasks) for text in _texts_of(each)))


def _texts_of(requested: RequestedSet) -> Iterator[str]:
    match requested.evaluation_set:
        case RetrievalSet(captions=captions):
            yield from captions
        case ClassSet(class_names=names):
            yield from class_prompts(names, requested.templates)
        case STSSet(pairs=pairs):
            yield from pairs.first
            yield from pairs.second
