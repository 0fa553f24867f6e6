import json

import numpy as np
import pytest
import torch
from task_sets import class_set, embeddings, labels_of, of_captions, retrieval_set

from stages.evaluate.metrics.geometry import geometry_metrics
from stages.evaluate.metrics.neighbour_overlap import neighbourhood_metrics
from stages.evaluate.tasks.space_tasks import clustering, geometry, neighbourhoods
from stages.evaluate.tasks.task_result import TaskResult


def check_intervals(measured: TaskResult, *, names: set[str], num_pictures: int) -> None:
    metrics, intervals = measured.entry["metrics"], measured.entry["intervals"]
    assert intervals.keys() == names
    assert list(intervals) == [name for name in metrics if name in names]
    for name, interval in intervals.items():
        assert interval["low"] <= metrics[name] <= interval["high"], name
        assert interval["num_pictures"] == num_pictures
    json.dumps(measured.entry, allow_nan=False)


@pytest.mark.parametrize("task", [geometry, neighbourhoods])
def test_captioned_space__has_intervals_and_sizes(task: object) -> None:
    pairs, images, captions = retrieval_set()
    measured = task(pairs, embeddings(images, unread=(3,)), of_captions(pairs, captions), seed=0)
    check_intervals(measured, names=set(measured.entry["metrics"]), num_pictures=59)
    assert (measured.entry["num_images"], measured.entry["num_captions"], measured.entry["rejected"]) == (59, 177, 1)
    assert all(name.startswith(f"pairs/{task.__name__}/") for name in measured.flat())
    assert measured.outcomes == ()
    assert task(pairs, embeddings(images, unread=(3,)), of_captions(pairs, captions), seed=0).entry == measured.entry


def test_geometry__is_that_of_the_readable_images() -> None:
    pairs, images, captions = retrieval_set()
    measured = geometry(pairs, embeddings(images, unread=(59,)), of_captions(pairs, captions), seed=0)
    kept = [row for row, image in enumerate(pairs.caption_image) if image != 59]
    expected = geometry_metrics(
        image_embeddings=images[:59],
        caption_embeddings=captions[kept],
        caption_image=torch.tensor(pairs.caption_image)[kept],
    )
    num_rows = {name: expected.pop(f"uniformity_num_rows/{name}") for name in ("images", "captions")}
    assert measured.entry["metrics"] == pytest.approx(expected)
    assert {name: measured.entry[f"num_uniformity_{name}"] for name in num_rows} == num_rows
    assert measured.entry["chance"] == {}


def test_geometry__has_intervals_that_cover_those_of_many_images() -> None:
    found, images, captions = retrieval_set(3000, captions=1, noise=0.7)
    truth = geometry(found, embeddings(images), of_captions(found, captions), seed=0).entry["metrics"]
    covered: dict[str, list[bool]] = {}
    generator = np.random.default_rng(0)
    for _ in range(60):
        drawn = generator.choice(3000, size=200, replace=False)
        part, _, _ = retrieval_set(200, captions=1)
        entry = geometry(part, embeddings(images[drawn]), of_captions(part, captions[drawn]), seed=0).entry
        for name in ("alignment", "self_similarity/images", "uniformity/captions", "feature_std/captions"):
            interval = entry["intervals"][name]
            covered.setdefault(name, []).append(interval["low"] <= truth[name] <= interval["high"])
    assert all(np.mean(each) >= 0.85 for each in covered.values()), covered


def test_geometry__has_no_interval_of_a_single_image() -> None:
    found, images, captions = retrieval_set(1)
    entry = geometry(found, embeddings(images), of_captions(found, captions), seed=0).entry
    assert entry["intervals"] == {}
    assert "uniformity/images" not in entry["metrics"]


def test_neighbourhoods__are_those_of_the_set_with_its_chance() -> None:
    pairs, images, captions = retrieval_set()
    entry = neighbourhoods(pairs, embeddings(images), of_captions(pairs, captions), seed=0, k=4).entry
    expected = neighbourhood_metrics(
        image_embeddings=images,
        caption_embeddings=captions,
        caption_image=torch.tensor(pairs.caption_image),
        k=4,
    )
    assert entry["metrics"] == pytest.approx(expected)
    assert entry["chance"] == pytest.approx({"neighbour_overlap@4": 400 / 59, "similarity_spearman": 0.0, "cka": 0.0})
    assert entry["k"] == 4


def test_neighbourhoods__have_no_interval_of_what_a_part_of_the_set_is_too_small_for() -> None:
    found, images, captions = retrieval_set(11)
    entry = neighbourhoods(found, embeddings(images), of_captions(found, captions), seed=0).entry
    assert "neighbour_overlap@10" in entry["metrics"]
    assert entry["intervals"].keys() == {"similarity_spearman", "cka"}


def test_neighbourhoods__have_intervals_as_wide_as_sets_differ() -> None:
    _, images, captions = retrieval_set(6000, captions=1, noise=0.7)
    overlaps, widths = [], []
    for part in range(30):
        rows = slice(200 * part, 200 * part + 200)
        one, _, _ = retrieval_set(200, captions=1)
        entry = neighbourhoods(one, embeddings(images[rows]), of_captions(one, captions[rows]), seed=0).entry
        overlaps.append(entry["metrics"]["neighbour_overlap@10"])
        interval = entry["intervals"]["neighbour_overlap@10"]
        widths.append((interval["high"] - interval["low"]) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(overlaps), rel=0.35)


def test_clustering__agrees_with_scikit_learn_on_the_readable_images() -> None:
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    from stages.evaluate.metrics.clustering import find_clusters

    kinds, rows = class_set()
    measured = clustering(kinds, embeddings(rows["test"], unread=(2,)), seed=0)
    kept = [row for row in range(50) if row != 2]
    unit = torch.nn.functional.normalize(rows["test"][kept], dim=1)
    labels = labels_of(kinds, "test")[kept].numpy()
    clusters = find_clusters(rows["test"][kept], num_clusters=7, seed=0).numpy()
    metrics = measured.entry["metrics"]
    assert metrics["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert metrics["silhouette/classes"] == pytest.approx(silhouette_score(unit, labels), abs=1e-5)
    check_intervals(measured, names=set(metrics), num_pictures=49)
    assert (measured.entry["num_clusters"], measured.entry["num_classes"], measured.entry["rejected"]) == (7, 7, 1)
    assert measured.entry["chance"] == {"ari": 0.0, "ami": 0.0}
    assert "kinds/clustering/ari" in measured.flat()
    assert clustering(kinds, embeddings(rows["test"], unread=(2,)), seed=0).entry == measured.entry


def test_clustering__takes_as_many_clusters_as_classes_that_have_images() -> None:
    found, rows = class_set(7)
    present = labels_of(found, "test") < 3
    unread = tuple((~present).nonzero().flatten().tolist())
    assert clustering(found, embeddings(rows["test"], unread=unread), seed=0).entry["num_clusters"] == 3


def test_clustering__knows_a_set_of_one_class() -> None:
    found, rows = class_set(1)
    entry = clustering(found, embeddings(rows["test"]), seed=0).entry
    assert entry["metrics"] == {"ari": 1.0, "ami": 1.0}
    assert entry["intervals"]["ari"] == {"low": 1.0, "high": 1.0, "num_pictures": 50}
