"""The pairs that a page shows: the extremes, each image once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from features import make_features
from workbench import Cli, make_manifest

from pipeline.store.store import Store
from stages.report.corpus import CaptionCorpus, ImageCorpus, Standardisation
from stages.report.examples import differing_captions, differing_images, extreme_pairs
from stages.report.measures.images import NearImages

CAPTIONS = ["red", "blue", "green", "red circle", "blue circle", "green circle"]
FEATURES = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, 0.1], [0, 1], [0, -1]], np.float32)


@pytest.fixture
def joined(run_cli: Cli, tmp_path: Path, word_vectors: Path) -> tuple[ImageCorpus, CaptionCorpus]:
    images = [f"{number}.jpg" for number in range(6)]
    run_cli(
        "encode-teacher", "--manifest", make_manifest(tmp_path / "p.tsv", images, CAPTIONS), "--teacher", word_vectors
    )
    store = Store(run_cli.store)
    [embeddings] = store.artifacts("encode-teacher")
    features, captions = make_features(store, images, FEATURES), CaptionCorpus.read(embeddings)
    return ImageCorpus.read(features, embeddings, captions, max_bad_fraction=0), captions


def test_extremes__are_the_farthest_and_the_nearest(joined: Any) -> None:
    cosines, numbers = torch.tensor([0.5, -0.2, 0.9, 0.1]), np.array([5, 1, 0, 2])
    found = extreme_pairs(cosines, numbers, *joined)
    assert [(entry["pair"], entry["cosine"]) for entry in found["farthest"]] == [
        (1, pytest.approx(-0.2)),
        (2, pytest.approx(0.1)),
    ]
    assert [entry["pair"] for entry in found["nearest"]] == [0, 5]
    assert found["nearest"][1] == {"pair": 5, "image": "5.jpg", "caption": "green circle", "cosine": 0.5}


def test_differing_images__come_with_near_duplicate_captions(joined: Any) -> None:
    near = {
        "pairs": np.array([[0, 1], [0, 2], [1, 3], [4, 5]]),
        "cosines": np.array([0.99, 0.98, 0.97, 0.96], np.float32),
    }
    standardise = Standardisation.over(joined[0].take(np.arange(6)))
    found = differing_images(near, *joined, standardise)
    unit = standardise.unit(torch.from_numpy(FEATURES)).numpy()
    likeness = {pair: float(unit[pair[0]] @ unit[pair[1]]) for pair in ((0, 2), (1, 3), (4, 5), (0, 1))}
    shown = [tuple(each["pair"] for each in entry["pairs"]) for entry in found]
    assert set(shown) == {(0, 2), (1, 3), (4, 5)}  # (0, 1) would show two of the images again
    assert shown == sorted(shown, key=likeness.__getitem__)
    for entry, pair in zip(found, shown, strict=True):
        assert entry["image_cosine"] == pytest.approx(likeness[pair], abs=1e-6)
    assert found[shown.index((0, 2))]["caption_cosine"] == pytest.approx(0.98)
    assert (
        differing_images(
            {"pairs": np.empty((0, 2), np.int64), "cosines": np.empty(0, np.float32)}, *joined, standardise
        )
        == []
    )


def test_differing_captions__come_with_nearly_equal_images(joined: Any) -> None:
    near = NearImages(np.array([0, 1, 2, 4]), np.array([1, 0, 3, 5]), np.array([0.99, 0.99, 0.97, 0.2], np.float32))
    found = differing_captions(near, *joined, cosine=0.95)
    shown = [tuple(each["pair"] for each in entry["pairs"]) for entry in found]
    assert sorted(map(sorted, shown)) == [[0, 1], [2, 3]]
    vectors = joined[1].vectors
    expected = [float(vectors[one] @ vectors[two]) for one, two in shown]
    assert [entry["caption_cosine"] for entry in found] == pytest.approx(expected, abs=1e-6)
    assert expected == sorted(expected)
