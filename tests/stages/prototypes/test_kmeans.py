from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import stages.components.compute.device_table
import stages.prototypes.device_rows
import stages.prototypes.kmeans
import stages.prototypes.rows
from stages.prototypes.kmeans import Fit, assign, fit_prototypes

CPU = torch.device("cpu")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def text_like_rows(num: int = 3000, dim: int = 32) -> np.ndarray:
    """Directions with a common mean, few leading dimensions, and topics of very different sizes."""
    numbers = np.random.default_rng(0)
    scales = 1 / np.sqrt(np.arange(1, dim + 1))
    topics = numbers.normal(size=(200, dim)) * scales
    chosen = np.minimum(numbers.zipf(1.4, size=num), 200) - 1
    return unit(topics[chosen] + 0.6 * scales * numbers.normal(size=(num, dim)) + 0.3)


def fit(rows: np.ndarray, num_prototypes: int, **options: Any) -> Fit:
    chosen = {
        "iterations": 20,
        "restarts": 1,
        "seed": 0,
        "device": CPU,
        "precision": "fp32",
        **options,
    }
    return fit_prototypes(rows, num_prototypes=num_prototypes, **chosen)


def mean_cosine(rows: np.ndarray, clusters: Fit) -> float:
    return float((rows @ clusters.centroids.T).max(axis=1).mean())


def test_fit__gives_float32_centroids_of_unit_length() -> None:
    centroids = fit(text_like_rows(), 40).centroids
    assert (centroids.shape, centroids.dtype) == ((40, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("num_prototypes", [10, 100, 400])
def test_fit__is_at_least_about_as_good_as_that_of_faiss(num_prototypes: int) -> None:
    faiss = pytest.importorskip("faiss")
    rows = text_like_rows()
    theirs = faiss.Kmeans(32, num_prototypes, niter=20, seed=0, spherical=True, max_points_per_centroid=len(rows))
    theirs.train(rows)
    assert mean_cosine(rows, fit(rows, num_prototypes)) > 0.99 * float((rows @ theirs.centroids.T).max(axis=1).mean())


def test_fit__recovers_planted_clusters() -> None:
    numbers = np.random.default_rng(1)
    centres = unit(numbers.normal(size=(12, 24)))
    labels = np.repeat(np.arange(12), [20, 20, 25, 25, 30, 30, 40, 50, 60, 80, 100, 120])
    rows = unit(centres[labels] + 0.01 * numbers.normal(size=(600, 24)))
    found = fit(rows, 12, restarts=3)
    nearest, _ = assign(rows, found.centroids, device=CPU)
    assert len({*zip(labels.tolist(), nearest.tolist(), strict=True)}) == 12  # one prototype a label, and back
    assert (centres @ found.centroids.T).max(axis=1).min() > 0.999


def test_fit__follows_the_formula() -> None:
    """Means of the nearest rows by loops, each looked at once more as far ahead as it has just moved."""
    rows = text_like_rows(300, 8)
    means = draw_start(rows, 6).astype(np.float64)
    centroids = means
    for _ in range(5):
        nearest = (rows @ centroids.T).argmax(axis=1)
        before, means = means, np.stack([rows[nearest == number].sum(axis=0, dtype=np.float64) for number in range(6)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        centroids = 2 * means - before
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    np.testing.assert_allclose(fit(rows, 6, iterations=5).centroids, means, atol=1e-5)


def draw_start(rows: np.ndarray, num_prototypes: int) -> np.ndarray:
    taken = stages.prototypes.rows.HostRows.of(torch.from_numpy(rows), CPU, torch.float32)
    return stages.prototypes.kmeans._start(taken, num_prototypes, torch.Generator().manual_seed(0)).numpy()


def test_fit__gets_better_by_iterating() -> None:
    rows = text_like_rows()
    fits = [fit(rows, 40, iterations=number) for number in (1, 3, 20)]
    cosines = [mean_cosine(rows, each) for each in fits]
    assert cosines == sorted(cosines)
    assert cosines[-1] > cosines[0] + 0.01
    assert fits[-1].mean_cosines[-1] == pytest.approx(cosines[-1], abs=2e-3)
    assert len(fits[-1].mean_cosines) <= 20


def test_fit__reaches_in_ten_iterations_what_scikit_learn_does_in_twenty() -> None:
    rows = text_like_rows()
    ours = [mean_cosine(rows, fit(rows, 100, iterations=10, seed=seed)) for seed in range(3)]
    theirs = []
    for seed in range(3):
        centres = KMeans(100, n_init=1, max_iter=20, random_state=seed).fit(rows).cluster_centers_
        theirs.append(float((rows @ unit(centres).T).max(axis=1).mean()))
    assert np.mean(ours) > np.mean(theirs) - 1e-3


@pytest.mark.parametrize("common", [0, 10])
def test_fit__is_as_good_in_bf16_also_where_all_rows_point_one_way(common: float) -> None:
    rows = text_like_rows()
    rows = unit(rows + common * rows.mean(axis=0))
    exact, rounded = (mean_cosine(rows, fit(rows, 40, precision=precision)) for precision in ("fp32", "bf16"))
    spread = 1 - mean_cosine(rows, fit(rows, 1))  # of all rows around their mean
    assert abs(exact - rounded) < 0.01 * spread


def test_fit__holds_still_once_nothing_moves() -> None:
    rows = text_like_rows(200, 8)
    many = fit(rows, 4, iterations=500)
    assert len(many.mean_cosines) < 500
    nearest, _ = assign(rows, many.centroids, device=CPU)
    means = unit(np.stack([rows[nearest == number].sum(axis=0) for number in range(4)]))
    np.testing.assert_allclose(many.centroids, means, atol=1e-6)


def test_fit__gives_the_same_bytes_for_the_same_seed_and_others_for_another() -> None:
    rows = text_like_rows()
    first, again, other = (fit(rows, 40, seed=seed, restarts=2).centroids for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_fit__keeps_the_best_of_its_restarts() -> None:
    rows = text_like_rows(600, 16)

    def reached(seed: int, restarts: int) -> float:
        return fit(rows, 12, iterations=5, seed=seed, restarts=restarts).mean_cosines[-1]

    one, many = (np.array([reached(seed, restarts) for seed in range(4)]) for restarts in (1, 6))
    assert (many >= one).all()
    assert many.mean() > one.mean()


def test_fit__does_not_depend_on_the_size_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = text_like_rows(500, 16)
    whole = fit(rows, 20)
    monkeypatch.setattr(stages.prototypes.rows, "_MAX_SCORES", 20 * 7)
    np.testing.assert_allclose(fit(rows, 20).centroids, whole.centroids, atol=1e-5)


def test_fit__fits_on_all_rows() -> None:
    rows = text_like_rows(2000, 8)
    expected = unit(rows.sum(axis=0, dtype=np.float64, keepdims=True))
    np.testing.assert_allclose(fit(rows, 1).centroids, expected, atol=1e-5)


def test_fit__gives_each_row_its_own_prototype_where_there_are_as_many() -> None:
    rows = text_like_rows(20, 8)
    found = fit(rows, 20)
    assert sorted(assign(rows, found.centroids, device=CPU)[0].tolist()) == list(range(20))
    assert found.mean_cosines[-1] == pytest.approx(1)


def test_fit__bears_rows_of_equal_direction() -> None:
    rows = np.repeat(unit(np.random.default_rng(0).normal(size=(5, 8))), 20, axis=0)
    centroids = fit(rows, 16).centroids  # more than there are directions
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert assign(rows, centroids, device=CPU)[1].min() > 0.999


def test_fit__gives_a_direction_to_rows_that_cancel_out() -> None:
    rows = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(fit(rows, 1).centroids, axis=1), 1, atol=1e-6)


def test_update__gives_empty_prototypes_half_of_the_largest_cluster() -> None:
    rows = torch.from_numpy(text_like_rows(100, 8))
    nearest = torch.zeros(100, dtype=torch.int64)
    nearest[:20] = 1
    before = torch.from_numpy(text_like_rows(4, 8))
    sums = torch.zeros(4, 8).index_add_(0, nearest, rows)
    centroids, is_split = stages.prototypes.kmeans._update(sums, nearest.bincount(minlength=4), before)
    assert is_split.tolist() == [True, False, True, True]
    assigned, _ = assign(rows.numpy(), centroids.numpy(), device=CPU)
    means = unit(np.stack([rows[20:].sum(dim=0).numpy(), rows[:20].sum(dim=0).numpy()]))
    np.testing.assert_allclose(centroids.numpy()[1], means[1], atol=1e-6)  # the small cluster is left alone
    np.testing.assert_allclose(centroids.numpy()[[0, 2, 3]], means[[0, 0, 0]], atol=3e-3)
    assert len({0, 2, 3} & set(assigned[20:].tolist())) > 1


def test_assign__finds_the_largest_cosine() -> None:
    rows, centroids = text_like_rows(50, 8), text_like_rows(9, 8)
    nearest, cosines = assign(rows, centroids, device=CPU)
    assert (nearest.dtype, cosines.dtype) == (np.int32, np.float32)
    scores = rows.astype(np.float64) @ centroids.astype(np.float64).T
    np.testing.assert_array_equal(nearest, scores.argmax(axis=1))
    np.testing.assert_allclose(cosines, scores.max(axis=1), atol=1e-6)


@pytest.mark.gpu
def test_fit__is_as_good_and_the_same_every_time_on_a_gpu() -> None:
    rows, device = text_like_rows(), torch.device("cuda")
    first, again = (fit(rows, 40, device=device) for _ in range(2))
    assert mean_cosine(rows, first) == pytest.approx(mean_cosine(rows, fit(rows, 40)), rel=0.01)
    np.testing.assert_allclose(first.centroids, again.centroids, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fit__on_a_gpu_is_that_of_the_cpu_but_for_rounding_and_the_same_streamed(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.components.compute.device_table, "_BLOCK_NUMBERS", 32 * 500)
    rows, device = text_like_rows(), torch.device("cuda")
    expected = fit(rows, 40, precision=precision)
    resident, again = (fit(rows, 40, precision=precision, device=device) for _ in range(2))
    for module in (stages.prototypes.kmeans, stages.prototypes.device_rows):
        monkeypatch.setattr(module, "has_room", lambda num_bytes, device: False)
    streamed = fit(rows, 40, precision=precision, device=device)
    assert resident.centroids.tobytes() == again.centroids.tobytes() == streamed.centroids.tobytes()
    assert resident.mean_cosines == streamed.mean_cosines
    assert mean_cosine(rows, resident) == pytest.approx(mean_cosine(rows, expected), abs=2e-3)
    cosines = [assign(rows, resident.centroids, device=each)[1] for each in (device, CPU)]
    np.testing.assert_allclose(*cosines, atol=1e-5)


def test_fit__on_a_gpu_takes_the_device_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: which of the two ways is chosen, and that a table without room is streamed."""
    placed = []

    def place(host: torch.Tensor, device: torch.device, *, is_resident: bool) -> Any:
        placed.append((device.type, is_resident))
        return original(host, CPU, is_resident=is_resident)

    original = stages.components.compute.device_table.DeviceTable.of
    monkeypatch.setattr(stages.components.compute.device_table.DeviceTable, "of", place)
    rows, gpu = text_like_rows(200, 8), torch.device("cuda")
    expected = fit(rows, 4)
    for free in (1 << 40, 1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 40))
        found = fit(rows, 4, device=gpu)
        np.testing.assert_allclose(found.centroids, expected.centroids, atol=2e-6)
    assign(rows, found.centroids, device=gpu)
    fit(rows, 4, device=torch.device("cpu"))
    assert [each for each in placed if each[0] == "cuda"] == [("cuda", True), ("cuda", False), ("cuda", False)]
