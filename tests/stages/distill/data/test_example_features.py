"""Features reach the head by example, view and epoch; statistics, noise and mixing are what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from features import make_features
from workbench import Cli, Pairs

from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.feature_images import FeatureImages, check_matched, find_features
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.example_features import ExampleFeatures, HeldOutFeatures, all_rows
from stages.distill.data.feature_noise import FeatureMixup, FeatureNoise
from stages.distill.data.feature_statistics import FeatureStatistics
from stages.distill.data.targets import EmbeddingTable

CPU = torch.device("cpu")
NONE = torch.empty(0, dtype=torch.int64)


def table_of(values: "np.ndarray[tuple[int, ...], np.dtype[np.floating]]") -> EmbeddingTable:
    return EmbeddingTable(torch.from_numpy(values), CPU)


def images_of(rows: list[int]) -> FeatureImages:
    paths = [f"{row}.jpg" for row in rows]
    return FeatureImages(root=Path("features"), paths=paths, rows=np.array(rows))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_statistics__are_those_of_the_rows_in_float64(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.distill.data.feature_statistics._ROWS", 7)
    values = (1000 + np.random.default_rng(0).normal(size=(50, 6))).astype(dtype)
    values[:, 2], values[:, 3] = 0.1, 0
    rows = np.arange(3, 48)
    found = FeatureStatistics.over(table_of(values), rows)
    wanted = values[rows].astype(np.float64)
    np.testing.assert_allclose(found.mean, wanted.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std[[0, 1, 4, 5]], wanted.std(axis=0)[[0, 1, 4, 5]], rtol=1e-6)
    assert found.std[[2, 3]].tolist() == [0, 0]
    assert found.mean.dtype == found.std.dtype == torch.float32


def test_statistics__take_rounding_for_no_deviation() -> None:
    values = np.full((9, 1), 5, np.float32)
    values[4] = np.nextafter(np.float32(5), np.float32(6))
    assert FeatureStatistics.over(table_of(values), np.arange(9)).std.tolist() == [0]


def test_source__gives_the_rows_of_the_requested_examples() -> None:
    values = np.arange(30, dtype=np.float16).reshape(10, 3)
    images = images_of([4, 0, 9, 2, 7])
    source = ExampleFeatures(table_of(values), images, np.array([0, 2, 3, 4]), views=1, mixup=None, seed=0)
    requests = BatchRequests(np.arange(4), batch_size=2, epochs=2, seed=1)
    seen = 0
    for batch, request in zip(source.batches(requests, workers=0, pin_memory=False), requests, strict=True):
        examples = [example for _, example in request]
        assert batch.rows.tolist() == examples
        rows = images.rows[np.array([0, 2, 3, 4])[examples]]
        assert batch.images.tolist() == values[rows].tolist()
        assert batch.images.dtype == torch.float32
        seen += len(examples)
    assert seen == 8
    assert source.path_of(1) == "9.jpg"


def test_source__draws_every_view_and_each_anew_in_an_epoch() -> None:
    images = images_of(list(range(200)))
    table = table_of(np.zeros((600, 1), np.float16))
    pairs = np.arange(200)
    source = ExampleFeatures(table, images, pairs, views=3, mixup=None, seed=0)
    drawn = np.stack([source.rows(np.arange(200), epoch) for epoch in range(4)])
    assert (drawn // 3 == pairs).all()
    assert np.bincount((drawn % 3).reshape(-1)).min() > 200  # of 267 expected
    assert not (drawn[0] == drawn[1]).all()
    assert (source.rows(np.array([5, 3]), 2) == drawn[2, [5, 3]]).all()  # whatever the batch
    assert all_rows(images, np.array([7, 1, 7]), views=2).tolist() == [2, 3, 14, 15]


def test_held_out_features__are_the_plain_views() -> None:
    values = np.arange(12, dtype=np.float32).reshape(12, 1)
    read = HeldOutFeatures(table_of(values), images_of([5, 0, 3]), views=2, batch_size=2)
    batches = list(read(range(3), pin_memory=False))
    assert [batch.images.flatten().tolist() for batch in batches] == [[10, 0], [6]]
    assert [batch.rows.tolist() for batch in batches] == [[0, 1], [2]]


def test_noise__is_in_units_of_each_feature() -> None:
    noise = FeatureNoise(torch.tensor([0.0, 0.5, 2.0]))
    torch.manual_seed(0)
    added = noise(torch.full((4000, 3), 7.0), NONE, NONE) - 7
    assert (added[:, 0] == 0).all()
    assert added.std(dim=0)[1:].tolist() == pytest.approx([0.5, 2.0], rel=0.05)
    assert added.mean(dim=0).abs().max() < 0.1
    before = torch.get_rng_state()
    features = torch.ones(2, 3)
    assert FeatureNoise(torch.zeros(3))(features, NONE, NONE) is features
    assert torch.equal(before, torch.get_rng_state())


def test_mixup__mixes_features_and_targets_by_the_same_shares() -> None:
    mixup = FeatureMixup(0.8, seed=3)
    examples = torch.tensor([9, 4, 7, 1, 0, 2])
    weights = mixup(torch.eye(6), examples, epoch=2)  # row: the share of each pair in the mixed one
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert (weights.diagonal() >= 0.5).all()
    assert (weights.diagonal() < 1).any()
    values = torch.randn(6, 4)
    torch.testing.assert_close(mixup(values, examples, epoch=2), weights @ values)
    assert torch.equal(mixup(torch.eye(6), examples, epoch=2), weights)
    assert not torch.equal(mixup(torch.eye(6), examples, epoch=3), weights)
    assert not torch.equal(mixup(torch.eye(6), examples.flip(0), epoch=2), weights)


@pytest.fixture
def embeddings(encoded: Pairs, store: Path) -> Artifact:
    return Store(store).resolve(None, stage="encode-teacher", flag="--embeddings")


def test_find_features__joins_by_path_whatever_the_order(encoded: Pairs, embeddings: Artifact, store: Path) -> None:
    paths = [*reversed(encoded.images), "another.jpg"]
    features = make_features(store, paths, np.zeros((25, 2), np.float16))
    images = find_features(features, embeddings)
    assert list(images.paths) == list(encoded.images)
    assert images.rows.tolist() == list(range(23, -1, -1))
    assert not images.missing
    chosen = images.select([3, 5])
    assert (list(chosen.paths), chosen.rows.tolist()) == ([encoded.images[3], encoded.images[5]], [20, 18])
    check_matched(images, features=features, embeddings=embeddings, most_missing=0)


def test_find_features__refuses_too_few(encoded: Pairs, embeddings: Artifact, store: Path) -> None:
    features = make_features(store, encoded.images[:20], np.zeros((20, 2), np.float16))
    images = find_features(features, embeddings)
    assert images.missing == dict.fromkeys(range(20, 24), "no features of it")
    assert images.rows.tolist() == [*range(20), -1, -1, -1, -1]
    check_matched(images, features=features, embeddings=embeddings, most_missing=4)
    with pytest.raises(ProtoRKDError, match=r"of 24 pairs 4 have no features, and at most 3 may") as caught:
        check_matched(images, features=features, embeddings=embeddings, most_missing=3)
    assert features.record.digest[:12] in str(caught.value)
    assert embeddings.record.digest[:12] in str(caught.value)


def test_find_features__names_a_file_that_is_damaged(
    encoded: Pairs, embeddings: Artifact, store: Path, run_cli: Cli
) -> None:
    features = make_features(store, encoded.images, np.zeros((24, 2), np.float16))
    (features.path / "images.parquet").write_bytes(b"no table")
    message = run_cli.fails("distill", "--features", features.path, "--device", "cpu")
    assert "images.parquet" in message
