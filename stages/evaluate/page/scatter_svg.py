"""A map of a space: embeddings as dots in the plane, each in the colour of its group."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.metrics.embedding_space import draw_rows
from stages.components.metrics.ranking import TIE_TOLERANCE
from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores, unit_rows

# Each stands out both from white and from near-black paper; a test checks it.
COLOURS = (
    "#2f7fc1",
    "#d2552a",
    "#1c9a72",
    "#b45fb0",
    "#b07d10",
    "#6b73d6",
    "#d6497e",
    "#7a8f2c",
    "#2a97a8",
    "#9a6a4f",
)
OTHER_COLOUR = "#7b7f8a"

_MIN_TSNE_POINTS = 4
_SIDE, _MARGIN, _DOT = 480, 14, 5

Points = NDArray[np.float64]


class Projection(NamedTuple):
    """Positions of rows on a map.

    Shapes:
        points: (points, 2), float64, on the scale of the method.
        rows: (points,), int64, ascending, the rows that are shown.
    """

    points: Points
    rows: Tensor


class LegendEntry(NamedTuple):
    """What a colour of a map stands for: the name of a group, as written, and its number of dots."""

    name: str
    colour: str
    num_dots: int


class DrawnMap(NamedTuple):
    """A map, ready for an HTML page.

    Args:
        svg: One element, to stand in the page as it is: nothing in it runs or loads, and all names in it are escaped.
        legend: Colours of the map, in the order of the groups; the page writes them beside it, where they can be read
            at any width.
    """

    svg: str
    legend: tuple[LegendEntry, ...]


@exact_scores()
def project(embeddings: Tensor, *, method: str = "pca", max_points: int = 2_000, seed: int = 0) -> Projection:
    """Lay unit rows out in the plane.

    Args:
        embeddings: Embeddings, one row per point.
        method: Layout: ``pca``, the two directions in which the rows differ most; or ``tsne`` (van der Maaten and
            Hinton, Visualizing Data using t-SNE, 2008), in which near rows stay near and far distances say nothing.
        max_points: Largest number of points; of more rows a sample of this size is laid out.
        seed: Seed of the sample; t-SNE needs no other, since it starts from PCA.

    Raises:
        ProtoRKDError: the method is unknown, t-SNE has fewer than four points, or an embedding is NaN or infinite.

    Shapes:
        embeddings: (rows, dim), float, any scale.
    """
    if method not in METHODS:
        raise ProtoRKDError(f"The method of a map must be one of {', '.join(METHODS)}; got {method!r}.")
    unit = unit_rows(embeddings, name="Embeddings on a map", remedy=STUDENT_REMEDY).cpu()
    rows = draw_rows(len(unit), limit=max_points, seed=seed)
    return Projection(points=METHODS[method](unit[rows].double()), rows=rows)


def _pca(rows: Tensor) -> Points:
    centred = rows - rows.mean(dim=0)
    left, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    # A direction may point either way: its largest entry is made positive.
    largest = directions.abs().argmax(dim=1, keepdim=True)
    coordinates = left * scales * directions.gather(1, largest).sign().T
    points = torch.zeros(len(rows), 2, dtype=torch.float64)
    points[:, : coordinates.shape[1]] = coordinates[:, :2]
    return points.numpy()


def _tsne(rows: Tensor) -> Points:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(rows) < _MIN_TSNE_POINTS:
        raise ProtoRKDError(
            f"A map by tsne must have at least {_MIN_TSNE_POINTS} points; got {len(rows)}. Take pca or more images."
        )
    start = _pca(rows)
    start *= 1e-4 / max(float(start[:, 0].std()), TIE_TOLERANCE)  # the size that t-SNE is meant to start from
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init=start, random_state=0)
    with threadpool_limits(limits=1):  # threads sum in any order, and t-SNE magnifies the difference
        points: Points = tsne.fit_transform(rows.numpy()).astype(np.float64)
    return points


METHODS = {"pca": _pca, "tsne": _tsne}


def draw_map(points: Points, *, groups: Sequence[int], group_names: Sequence[str], title: str) -> DrawnMap:
    """Draw dots, and say what their colours mean.

    The ten largest groups have a colour each; all others share grey.

    Args:
        points: Positions of the dots, from `project`; both axes have one scale.
        groups: Group of each dot, an index into group_names.
        group_names: Names of the groups; any text, it is escaped.
        title: Title, read out in the map's place.

    Raises:
        ValueError: the groups do not fit the points or the names, or a point is not finite.

    Shapes:
        points: (points, 2), float.
    """
    members = np.asarray(groups, dtype=np.int64)
    if points.shape != (len(members), 2) or len(members) == 0:
        raise ValueError(f"points must have shape ({len(members)}, 2) and not be empty; got {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite; got NaN or infinity.")
    if members.min() < 0 or members.max() >= len(group_names):
        raise ValueError(f"groups must lie from 0 to {len(group_names) - 1}; got {members.min()} to {members.max()}.")
    dots = _place(points)
    layers = _layers(members, group_names)
    body = "".join(_dots(dots[is_in], colour=colour, name=name) for name, colour, is_in in reversed(layers))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE} {_SIDE}" role="img"'
        f' aria-label="{escape(title)}">{body}</svg>'
    )
    return DrawnMap(svg, tuple(LegendEntry(name, colour, int(is_in.sum())) for name, colour, is_in in layers))


def _layers(members: NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, str, NDArray[Any]]]:
    """Return name, colour and dots of each entry of the legend, in the order of the groups."""
    sizes = np.bincount(members, minlength=len(names))
    present = np.flatnonzero(sizes)
    shown = np.sort(present[np.argsort(-sizes[present], kind="stable")][: len(COLOURS)])
    layers = [(names[group], colour, members == group) for group, colour in zip(shown, COLOURS, strict=False)]
    if num_others := len(present) - len(shown):
        layers.append((f"{num_others:,} other{'s' * (num_others > 1)}", OTHER_COLOUR, ~np.isin(members, shown)))
    return layers


def _place(points: Points) -> Points:
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    scale = (_SIDE - 2 * _MARGIN) / extent if extent > 1e-5 else 0.0  # equal rows differ by rounding
    placed: Points = _SIDE / 2 + (points - (low + high) / 2) * scale * np.array([1, -1])
    return placed


def _dots(dots: Points, *, colour: str, name: str) -> str:
    # A line of no length with round ends is a dot, in a third of the characters of a circle.
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots)
    return (
        f'<path stroke="{colour}" stroke-width="{_DOT}" stroke-linecap="round" d="{path}">'
        f"<title>{escape(name)}</title></path>"
    )
