"""Limit the size of a page: galleries of many sets show fewer examples each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from stages.components.report.even_sample import choose_queries
from stages.evaluate.page.gallery import Gallery

MAX_IMAGE_CHARS = 3_200_000

_DATA_URI = "data:image/"
_SPREAD = ("caption_hits", "caption_queries", "image_queries", "class_examples")
_WORST_FIRST = ("caption_misses", "confusions")

Item = TypeVar("Item")


def images_in(shown: object) -> Iterator[str]:
    """Find all data URIs of images in galleries, sheets and the like."""
    if isinstance(shown, str):
        if shown.startswith(_DATA_URI):
            yield shown
    elif is_dataclass(shown):
        for field in fields(shown):
            yield from images_in(getattr(shown, field.name))
    elif isinstance(shown, (Mapping, Sequence)):
        for item in shown.values() if isinstance(shown, Mapping) else shown:
            yield from images_in(item)


def image_chars(shown: object) -> int:
    """Count the characters of all data URIs of images in galleries, sheets and the like."""
    return sum(map(len, images_in(shown)))


def thin_out(galleries: Sequence[Gallery], *, max_chars: int) -> tuple[Gallery, ...]:
    """Keep the same share of the examples of every set, so that all together are not much longer than a limit.

    At least one example of a kind stays. Those that are spread over a set stay spread; of the worst, the worst stay.

    Args:
        galleries: Galleries of all sets.
        max_chars: Characters that the data URIs in them may have together.
    """
    share = min(1.0, max_chars / max(1, image_chars(galleries)))
    return tuple(replace(gallery, **_thinned(gallery, share)) for gallery in galleries)


def _thinned(gallery: Gallery, share: float) -> dict[str, Any]:
    spread = {name: _spread(getattr(gallery, name), share) for name in _SPREAD}
    worst = {name: _first(getattr(gallery, name), share) for name in _WORST_FIRST}
    return spread | worst


def _num(items: Sequence[Item], share: float) -> int:
    return max(1, int(share * len(items)))


def _spread(items: Sequence[Item], share: float) -> tuple[Item, ...]:
    return tuple(items[place] for place in choose_queries(_num(items, share), len(items)))


def _first(items: Sequence[Item], share: float) -> tuple[Item, ...]:
    return tuple(items[: _num(items, share)])
