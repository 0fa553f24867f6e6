from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from page_samples import (
    COLOURS,
    DIM,
    colour_rows,
    embed,
    some_class_set,
    some_prototypes,
    some_retrieval_set,
    some_scores,
)

from data_schemas.errors import ProtoRKDError
from data_schemas.prototypes import Prototypes
from stages.components.images.image_set import ImageSet
from stages.components.report.thumbnails import stand_in, thumbnail
from stages.evaluate.overlap.near_duplicates import OverlapPair
from stages.evaluate.page.galleries import class_gallery, overlap_examples, prototype_sheets, retrieval_gallery
from stages.evaluate.page.gallery import CaptionQuery, Gallery
from stages.evaluate.sets.evaluation_sets import RetrievalSet

NUM = 24


@pytest.fixture
def pairs(tmp_path: Path) -> RetrievalSet:
    return some_retrieval_set(tmp_path, num=NUM)


def show(found: RetrievalSet, images: torch.Tensor, captions: torch.Tensor, **more: list[int]) -> Gallery:
    return retrieval_gallery(found, embed(images, **more), captions, map_method="pca", seed=0)


def twice(rows: torch.Tensor) -> torch.Tensor:
    """Return one row for each of the two captions of an image."""
    return rows.repeat_interleave(2, dim=0)


def own_paths(queries: tuple[CaptionQuery, ...]) -> list[str]:
    return [query.true_image.path for query in queries]


def test_retrieval_gallery__parts_hits_from_misses(pairs: RetrievalSet) -> None:
    images = torch.eye(NUM)
    captions = twice(images).clone()
    captions[6] = -images[3]  # its own image comes last
    captions[8] = images[0] + 0.5 * images[4]  # second
    gallery = show(pairs, images, captions)
    assert own_paths(gallery.caption_misses) == ["3.png", "4.png"]  # the worst first
    assert [query.rank for query in gallery.caption_misses] == [NUM, 2]
    assert [query.rank for query in gallery.caption_hits] == [1, 1, 1, 1]
    assert [query.found[0].path for query in gallery.caption_hits] == own_paths(gallery.caption_hits)
    assert all(query.found[0].is_true for query in gallery.caption_hits)
    assert own_paths(gallery.caption_queries) == ["3.png", "9.png", "15.png", "21.png"]  # evenly spread


def test_retrieval_gallery__shows_one_miss_an_image(pairs: RetrievalSet) -> None:
    images = torch.eye(NUM)
    captions = twice(images).clone()
    captions[6:8] = -images[3]
    assert own_paths(show(pairs, images, captions).caption_misses) == ["3.png"]


def test_retrieval_gallery__counts_ties_as_the_figures_do(pairs: RetrievalSet) -> None:
    gallery = show(pairs, torch.ones(NUM, DIM), torch.ones(2 * NUM, DIM))
    assert gallery.caption_hits == ()
    assert {query.rank for query in gallery.caption_misses} == {13}  # (1 + 24) / 2, rounded up
    assert {query.rank for query in gallery.image_queries} == {17}  # 1 + 46 wrong / (2 right + 1), rounded up


def test_retrieval_gallery__of_a_perfect_student_has_no_misses(pairs: RetrievalSet) -> None:
    assert show(pairs, torch.eye(NUM), twice(torch.eye(NUM))).caption_misses == ()


def test_retrieval_gallery__shows_the_nearest_both_ways(pairs: RetrievalSet) -> None:
    images, captions = colour_rows(NUM), colour_rows(2 * NUM, seed=1)
    gallery = show(pairs, images, captions)
    cosines = torch.nn.functional.normalize(captions, dim=1) @ torch.nn.functional.normalize(images, dim=1).T
    for query in gallery.caption_queries:
        row = pairs.captions.index(query.caption)
        best = cosines[row].sort(descending=True)
        assert [found.path for found in query.found] == [f"{image}.png" for image in best.indices[:6].tolist()]
        assert [found.similarity for found in query.found] == pytest.approx(best.values[:6].tolist(), abs=1e-6)
        assert query.true_image.similarity == pytest.approx(float(cosines[row, row // 2]), abs=1e-6)
        assert query.rank == 1 + int((cosines[row] > cosines[row, row // 2]).sum())
    for asked in gallery.image_queries:
        image = int(asked.path.removesuffix(".png"))
        best = cosines[:, image].argsort(descending=True)
        assert [found.caption for found in asked.found] == [pairs.captions[caption] for caption in best[:5].tolist()]
        assert [found.is_true for found in asked.found] == [caption // 2 == image for caption in best[:5].tolist()]
        assert asked.caption == pairs.captions[2 * image]


def test_retrieval_gallery__leaves_captions_of_unreadable_images_out(pairs: RetrievalSet) -> None:
    gallery = show(pairs, torch.eye(NUM), twice(torch.eye(NUM)), readable=[1, 5, 6, 20])
    shown = {query.caption for query in gallery.caption_queries}
    assert shown == {pairs.captions[caption] for caption in (3, 11, 13, 41)}
    assert {query.path for query in gallery.image_queries} == {"1.png", "5.png", "6.png", "20.png"}
    assert {query.rank for query in (*gallery.caption_queries, *gallery.image_queries)} == {1}


def test_retrieval_gallery__puts_a_grey_square_for_an_image_that_vanished(pairs: RetrievalSet, tmp_path: Path) -> None:
    (tmp_path / "3.png").unlink()
    (tmp_path / "9.png").write_bytes(b"no longer an image")
    gallery = show(pairs, torch.eye(NUM), twice(torch.eye(NUM)))
    images = [query.true_image.image for query in gallery.caption_queries]
    assert images[:2] == [stand_in()] * 2
    assert images[2] == thumbnail(tmp_path / "15.png", size=160)


def test_retrieval_gallery__maps_images_by_cluster(pairs: RetrievalSet) -> None:
    gallery = show(pairs, colour_rows(NUM, noise=0.05), twice(colour_rows(NUM)))
    assert gallery.embedding_map is not None
    assert (gallery.embedding_map.method, gallery.embedding_map.grouping) == ("pca", "cluster")
    legend = gallery.embedding_map.drawn.legend
    assert sorted(entry.num_dots for entry in legend) == [6, 6, 6, 6]
    assert {entry.name.split()[1] for entry in legend} == set(COLOURS)  # each called after one of its images


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize(("num", "is_drawn"), [(3, False), (4, True)])
def test_retrieval_gallery__maps_no_fewer_than_four_images(
    tmp_path: Path, method: str, num: int, is_drawn: bool
) -> None:
    found = some_retrieval_set(tmp_path, num=num)
    rows = torch.eye(DIM)[:num]
    gallery = retrieval_gallery(found, embed(rows), twice(rows), map_method=method, seed=0)
    assert (gallery.embedding_map is not None) == is_drawn


def test_retrieval_gallery__refuses_an_unknown_map(pairs: RetrievalSet) -> None:
    with pytest.raises(ProtoRKDError, match="must be one of pca, tsne"):
        retrieval_gallery(pairs, embed(torch.eye(NUM)), twice(torch.eye(NUM)), map_method="umap", seed=0)


def test_class_gallery__says_what_the_worst_classes_are_taken_for(tmp_path: Path) -> None:
    found = some_class_set(tmp_path)
    gallery = class_gallery(found, embed(colour_rows(40)), some_scores(), map_method="pca", seed=0)
    assert [(each.class_name, each.top1, each.num_images) for each in gallery.class_accuracies] == [
        ("crimson", 100.0, 10),
        ("seagreen", 0.0, 10),
        ("royalblue", 100.0, 10),
        ("goldenrod", 50.0, 10),
    ]
    seagreen, goldenrod = gallery.confusions  # the perfect ones are left out
    assert (seagreen.accuracy.class_name, goldenrod.accuracy.class_name) == ("seagreen", "goldenrod")
    assert [(taken.class_name, taken.share) for taken in seagreen.taken_for] == [("crimson", 100.0)]
    assert {(taken.class_name, taken.share) for taken in goldenrod.taken_for} == {
        ("royalblue", 50.0),
        ("goldenrod", 50.0),
    }
    assert [(example.path, example.predicted_class) for example in goldenrod.examples] == [
        (f"{number}.png", "royalblue") for number in (3, 11, 27, 35)
    ]
    assert goldenrod.examples[0].image == thumbnail(tmp_path / "3.png", size=160)
    assert [example.path for example in gallery.class_examples[:2]] == ["1.png", "5.png"]


def test_class_gallery__shows_the_eight_worst_classes_with_images(tmp_path: Path) -> None:
    found = replace(some_class_set(tmp_path), class_names=tuple(f"class {number}" for number in range(12)))
    assert found.test is not None
    labels = tuple(number % 10 for number in range(40))  # the last two classes have no image
    found = replace(found, test=replace(found.test, folder=replace(found.test.folder, labels=labels)))
    scores = torch.eye(12)[(torch.arange(40) + (torch.arange(40) >= 10)) % 10]  # of each class the first is right
    scores[0::10] = torch.eye(12)[11]  # and of class 0 none
    gallery = class_gallery(found, embed(colour_rows(40)), scores, map_method="pca", seed=0)
    assert len(gallery.class_accuracies) == 10
    assert [confusion.accuracy.class_name for confusion in gallery.confusions] == [f"class {n}" for n in range(8)]
    assert gallery.confusions[0].taken_for[0].class_name == "class 11"


def test_class_gallery__without_scores_shows_the_map_alone(tmp_path: Path) -> None:
    found = some_class_set(tmp_path)
    gallery = class_gallery(found, embed(colour_rows(40)), None, map_method="pca", seed=0)
    assert replace(gallery, embedding_map=None) == Gallery("discs")
    assert gallery.embedding_map is not None
    assert gallery.embedding_map.grouping == "class"
    assert [entry[0] for entry in gallery.embedding_map.drawn.legend] == list(COLOURS)


def test_class_gallery__goes_by_the_readable_images(tmp_path: Path) -> None:
    readable = [1, 2, 3, 5, 9]
    scores = some_scores()[readable]
    test = embed(colour_rows(40), readable=readable)
    gallery = class_gallery(some_class_set(tmp_path), test, scores, map_method="pca", seed=0)
    assert [example.true_class for example in gallery.class_examples] == [COLOURS[row % 4] for row in readable]
    assert [each.num_images for each in gallery.class_accuracies] == [3, 1, 1]


def test_class_gallery__needs_test_images(tmp_path: Path) -> None:
    found = replace(some_class_set(tmp_path), test=None)
    with pytest.raises(ValueError, match="discs must have test images"):
        class_gallery(found, embed(colour_rows(40)), None, map_method="pca", seed=0)


def test_prototype_sheets__show_the_images_nearest_to_a_centroid(pairs: RetrievalSet) -> None:
    prototypes, captions = some_prototypes()
    rows = colour_rows(NUM)
    sheets = prototype_sheets(prototypes, captions, pairs, embed(rows))
    assert [sheet.group for sheet in sheets] == ["largest"] * 4  # four in all, and none is shown twice
    unit = torch.nn.functional.normalize(rows, dim=1)
    for sheet in sheets:
        cosines = unit @ torch.from_numpy(prototypes.centroids[sheet.prototype])
        best = cosines.argsort(descending=True)[:6].tolist()
        assert [image.path for image in sheet.images] == [f"{number}.png" for number in best]
        assert [image.similarity for image in sheet.images] == pytest.approx(cosines[best].tolist(), abs=1e-6)
        assert sheet.images[0].caption == pairs.captions[2 * best[0]]
        members = np.flatnonzero(prototypes.assignment == sheet.prototype)
        nearest = sorted(members, key=lambda row: -prototypes.cosines[row])[:3]
        assert [caption for caption, _ in sheet.captions] == [f"caption {row}" for row in nearest]
        assert sheet.size == len(members)
        assert sheet.mean_cosine == pytest.approx(prototypes.cosines[members].mean())


def test_prototype_sheets__choose_the_largest_smallest_and_tightest(pairs: RetrievalSet) -> None:
    sizes = np.arange(1, 21)
    assignment = np.repeat(np.arange(20), sizes).astype(np.int32)
    cosines = np.where(assignment % 2, 0.9, 0.5).astype(np.float32)
    centroids = np.tile(np.eye(DIM, dtype=np.float32), (3, 1))[:20]
    captions = pa.array([f"caption {row}" for row in range(len(assignment))], pa.large_string())
    prototypes = Prototypes(centroids=centroids, assignment=assignment, cosines=cosines)
    sheets = prototype_sheets(prototypes, captions, pairs, embed(colour_rows(NUM)))
    chosen = {group: [sheet.prototype for sheet in sheets if sheet.group == group] for group in ("largest", "smallest")}
    assert chosen == {"largest": [19, 18, 17, 16], "smallest": [0, 1, 2, 3]}
    assert [sheet.prototype for sheet in sheets if sheet.group == "tightest"] == [11, 13, 15, 10]
    assert len(sheets) == 12


def test_prototype_sheets__refuse_images_of_another_width(pairs: RetrievalSet) -> None:
    prototypes, captions = some_prototypes()
    with pytest.raises(ValueError, match="must have 8 dimensions; got 24"):
        prototype_sheets(prototypes, captions, pairs, embed(torch.eye(NUM)))


def test_overlap_examples__show_an_image_once_and_at_most_six(tmp_path: Path) -> None:
    some_retrieval_set(tmp_path)
    images = ImageSet(root=tmp_path, paths=[f"{number}.png" for number in range(NUM)])
    copies = [OverlapPair(f"{number}.png", f"{place}.png", False, 2) for number in range(12) for place in (20, 21)]
    examples = overlap_examples(copies, images, images)
    assert [example.evaluation_path for example in examples] == [f"{number}.png" for number in (1, 3, 5, 7, 9, 11)]
    assert {example.training_path for example in examples} == {"20.png"}
    assert examples[0].evaluation_image == thumbnail(tmp_path / "1.png", size=160)
    assert examples[0].training_image == thumbnail(tmp_path / "20.png", size=160)
    assert (examples[0].exact, examples[0].distance) == (False, 2)


def test_overlap_examples__show_the_nearest_copy_alone(tmp_path: Path) -> None:
    images = ImageSet(root=tmp_path, paths=[f"{number}.png" for number in range(NUM)])
    copies = [OverlapPair(f"{number}.png", f"{place}.png", False, 2) for number in range(2) for place in (5, 7)]
    shown = [(each.evaluation_path, each.training_path) for each in overlap_examples(copies, images, images)]
    assert shown == [("0.png", "5.png"), ("1.png", "5.png")]


def test_overlap_examples__stand_images_that_vanished(tmp_path: Path) -> None:
    images = ImageSet(root=tmp_path, paths=["a.png", "b.png"])
    [example] = overlap_examples([OverlapPair("a.png", "b.png", exact=True, distance=0)], images, images)
    assert example.evaluation_image == example.training_image == stand_in()
    assert overlap_examples([], images, images) == ()
