"""Captions and features as they are joined: by paths, of known captions, one pair an image, without views."""

from pathlib import Path

import numpy as np
import pytest
import torch
from features import make_features
from workbench import Cli, make_manifest

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from pipeline.store.store import Artifact, Store
from stages.report import corpus
from stages.report.corpus import CaptionCorpus, ImageCorpus, Standardisation
from stages.report.measures.images import count_images, find_near

IMAGES = ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "d.jpg", "e.jpg"]
CAPTIONS = ["red", "blue", "green circle", "unheard", "red", "blue"]
PATHS = ["e.jpg", "d.jpg", "c.jpg", "b.jpg", "a.jpg"]


@pytest.fixture
def embeddings(run_cli: Cli, tmp_path: Path, word_vectors: Path) -> Artifact:
    manifest = make_manifest(tmp_path / "pairs.tsv", IMAGES, CAPTIONS)
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    return Store(run_cli.store).artifacts("encode-teacher")[0]


def read(embeddings: Artifact, values: np.ndarray, **options: object) -> ImageCorpus:
    features = make_features(Store(embeddings.path.parents[1]), PATHS, values, **options)  # type: ignore[arg-type]
    return ImageCorpus.read(features, embeddings, CaptionCorpus.read(embeddings), max_bad_fraction=0.2)


def test_captions__are_known_ones_as_unit_rows(embeddings: Artifact) -> None:
    captions = CaptionCorpus.read(embeddings)
    assert captions.texts.to_pylist() == ["red", "blue", "green circle", "unheard"]
    assert captions.places.tolist() == [0, 1, 2, -1]
    assert captions.pair_places.tolist() == [0, 1, 2, -1, 0, 1]
    assert captions.num_images == 5
    stored = EmbeddingArray.open(embeddings.path).read(0, 3).astype(np.float32)
    np.testing.assert_allclose(captions.vectors, stored / np.linalg.norm(stored, axis=1, keepdims=True), atol=1e-6)
    assert [captions.text(place) for place in range(3)] == ["red", "blue", "green circle"]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("block_numbers", [1 << 24, 5])
def test_images__have_a_pair_each_and_their_plain_features(
    embeddings: Artifact, views: int, block_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_BLOCK_NUMBERS", block_numbers)
    plain = np.arange(10, dtype=np.float32).reshape(5, 2)
    augmented = np.tile(np.arange(views, dtype=np.float32) * 100, 5)[:, None]
    images = read(embeddings, np.repeat(plain, views, axis=0) + augmented, views=views)
    assert images.pairs.tolist() == [0, 1, 4, 5]  # the third shares its image, and the teacher knows not the fourth
    assert images.captions.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(images.take(np.array([0, 3])), plain[[4, 0]])
    np.testing.assert_array_equal(torch.cat(list(images.blocks())), plain[[4, 3, 1, 0]])
    assert images.dim == 2


def test_images__without_features_are_counted(embeddings: Artifact) -> None:
    images = read(embeddings, np.eye(5, 3, dtype=np.float32), rejected=[Rejection(1, "damaged", "d.jpg")])
    assert images.pairs.tolist() == [0, 1, 5]
    counts = count_images(images)
    assert counts == {"num_images": 4, "num_distinct": 4, "num_equal": None, "pairs_without": 1, "num_compared": 3}


def test_images__must_be_two_or_more(embeddings: Artifact) -> None:
    store = Store(embeddings.path.parents[1])
    features = make_features(store, ["c.jpg"], np.ones((1, 2), np.float32))
    with pytest.raises(ProtoRKDError, match="--features must hold two images or more whose captions"):
        ImageCorpus.read(features, embeddings, CaptionCorpus.read(embeddings), max_bad_fraction=1)


def test_standardisation__is_that_of_numpy_and_leaves_out_what_does_not_vary() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 3 + 1000
    rows[:, 1] = 7
    standardise = Standardisation.over(torch.from_numpy(rows))
    found = standardise(torch.from_numpy(rows)).numpy()
    wanted = rows.astype(np.float64)
    expected = (wanted[:, [0, 2]] - wanted[:, [0, 2]].mean(axis=0)) / wanted[:, [0, 2]].std(axis=0)
    np.testing.assert_allclose(found[:, [0, 2]], expected, atol=1e-3)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(standardise.unit(torch.from_numpy(rows)).norm(dim=1), 1, atol=1e-6)


def test_near__is_the_nearest_other_image(embeddings: Artifact) -> None:
    values = np.array([[0, 1], [5, 5], [0, 0], [1, 0], [0, 1.1]], np.float32)  # the first and the last are alike
    images = read(embeddings, values)
    standardise = Standardisation.over(images.take(np.arange(4)))
    found = find_near(images, np.array([0, 2]), standardise, device=torch.device("cpu"))
    unit = standardise.unit(images.take(np.arange(4))).numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    assert found.nearest.tolist() == cosines[[0, 2]].argmax(axis=1).tolist()
    np.testing.assert_allclose(found.cosines, cosines[[0, 2]].max(axis=1), atol=1e-6)
    assert found.nearest[0] == 3
