from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.evaluate.page.scatter_svg import COLOURS, OTHER_COLOUR, DrawnMap, LegendEntry, draw_map, project


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def some_rows(num_rows: int = 30) -> torch.Tensor:
    return torch.randn(num_rows, 6, generator=torch.Generator().manual_seed(num_rows))


def a_map(groups: list[int], names: list[str], *, title: str = "Images") -> DrawnMap:
    points = np.random.default_rng(0).normal(size=(len(groups), 2))
    return draw_map(points, groups=groups, group_names=names, title=title)


def texts(drawn: DrawnMap, tag: str) -> list[str]:
    svg = ElementTree.fromstring(drawn.svg)
    return [element.text or "" for element in svg.iter(f"{{http://www.w3.org/2000/svg}}{tag}")]


def test_project__by_pca_agrees_with_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    rows = torch.nn.functional.normalize(some_rows().double(), dim=1).numpy()
    found = project(some_rows())
    assert found.points.shape == (30, 2)
    np.testing.assert_allclose(np.abs(found.points), np.abs(PCA(2).fit_transform(rows)), atol=1e-6)


def test_project__by_tsne_keeps_clusters_together_and_is_deterministic() -> None:
    labels = np.arange(60) % 3
    rows = 5 * torch.eye(6)[torch.from_numpy(labels)] + some_rows(60)
    points = project(rows, method="tsne").points
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(60, np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(points, project(rows, method="tsne").points)


def test_project__lays_out_a_seeded_sample_of_many_rows() -> None:
    first, again, other = (project(some_rows(), max_points=8, seed=seed) for seed in (0, 0, 1))
    assert first.points.shape == (8, 2)
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    np.testing.assert_array_equal(first.points, again.points)


@pytest.mark.parametrize("rows", [torch.ones(1, 3), torch.ones(5, 1), torch.ones(5, 3), torch.zeros(2, 3)])
def test_project__by_pca_stands_rows_without_two_directions(rows: torch.Tensor) -> None:
    np.testing.assert_allclose(project(rows).points, np.zeros((len(rows), 2)), atol=1e-6)


def test_project__by_tsne_stands_a_collapsed_student() -> None:
    assert np.isfinite(project(torch.ones(12, 3), method="tsne").points).all()


def test_project__refuses_what_it_cannot_do() -> None:
    with pytest.raises(ProtoRKDError, match="must be one of pca, tsne; got 'umap'"):
        project(some_rows(), method="umap")
    with pytest.raises(ProtoRKDError, match="at least 4 points; got 3"):
        project(some_rows(3), method="tsne")
    with pytest.raises(ProtoRKDError, match="Embeddings on a map must be finite"):
        project(some_rows() / 0)


def test_draw_map__holds_every_dot_within_its_frame() -> None:
    points = np.random.default_rng(0).normal(size=(500, 2)) * [100, 1]
    groups = [row % 2 for row in range(500)]
    svg = draw_map(points, groups=groups, group_names=["a", "b"], title="Images").svg
    drawn = [
        tuple(float(value) for value in dot.removesuffix("h0").split())
        for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
        for dot in path.attrib["d"].split("M")[1:]
    ]
    assert len(drawn) == 500
    x, y = np.array(drawn).T
    assert x.min() == pytest.approx(14, abs=0.1)
    assert x.max() == pytest.approx(466, abs=0.1)
    assert np.ptp(y) == pytest.approx(452 * np.ptp(points[:, 1]) / np.ptp(points[:, 0]), abs=0.2)  # one scale
    assert svg == draw_map(points, groups=groups, group_names=["a", "b"], title="Images").svg


def test_draw_map__points_upwards() -> None:
    points = np.array([[0.0, 0.0], [0.0, 1.0]])
    svg = draw_map(points, groups=[0, 1], group_names=["low", "high"], title="Images").svg
    assert '"M240.0 466.0h0"><title>low' in svg
    assert '"M240.0 14.0h0"><title>high' in svg


def test_draw_map__puts_a_collapsed_space_in_the_middle() -> None:
    points = np.ones((3, 2)) + 1e-8 * np.arange(6).reshape(3, 2)
    svg = draw_map(points, groups=[0, 0, 0], group_names=["a"], title="Images").svg
    assert svg.count("M240.0 240.0h0") == 3


def test_draw_map__escapes_names_and_title() -> None:
    evil = '</title><script>alert("&\'1")</script>'
    drawn = a_map([0, 0], [evil], title=f'"><script>{evil}')
    assert texts(drawn, "script") == []
    assert ElementTree.fromstring(drawn.svg).attrib["aria-label"] == f'"><script>{evil}'
    assert texts(drawn, "title") == [evil]
    assert drawn.legend == (LegendEntry(evil, COLOURS[0], 2),)  # as it was given: the page escapes it


def test_draw_map__gives_the_largest_groups_a_colour() -> None:
    sizes = [3, 1, 3, 3, 3, 3, 1, 3, 3, 3, 3, 3]
    drawn = a_map([group for group, size in enumerate(sizes) for _ in range(size)], [f"class {n}" for n in range(12)])
    names, colours, num_dots = zip(*drawn.legend, strict=True)
    assert names == (*(f"class {n}" for n in range(12) if n not in (1, 6)), "2 others")
    assert colours == (*COLOURS, OTHER_COLOUR)
    assert num_dots == (*[3] * 10, 2)
    assert texts(drawn, "title") == list(reversed(names))  # the first are drawn last, on top


def test_draw_map__leaves_groups_without_dots_out() -> None:
    assert [entry.name for entry in a_map([0, 2, 2], ["a", "b", "c"]).legend] == ["a", "c"]


@pytest.mark.parametrize("colour", [*COLOURS, OTHER_COLOUR])
@pytest.mark.parametrize("paper", ["#ffffff", "#faf9f7", "#14171b", "#1c2026"])
def test_colours__stand_out_from_light_and_dark_paper(colour: str, paper: str) -> None:
    low, high = sorted((luminance(colour), luminance(paper)))
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11


@pytest.mark.parametrize(
    ("points", "groups", "complaint"),
    [
        (np.zeros((2, 2)), [0], r"shape \(1, 2\)"),
        (np.zeros((0, 2)), [], "not be empty"),
        (np.full((1, 2), np.nan), [0], "finite"),
        (np.zeros((2, 2)), [0, 1], "from 0 to 0; got 0 to 1"),
    ],
)
def test_draw_map__refuses_what_does_not_fit(points: np.ndarray, groups: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        draw_map(points, groups=groups, group_names=["a"], title="Images")
