"""The device's way, on the CPU: what it finds and adds up is what the CPU's way does, but for rounding."""

from typing import Any

import numpy as np
import pytest
import torch
from host_reads import Reads

from stages.components.compute import device_table
from stages.components.compute.device_table import DeviceTable
from stages.components.metrics.unit_rows import exact_scores
from stages.prototypes import device_rows
from stages.prototypes.device_rows import DeviceRows, cluster_sums
from stages.prototypes.kmeans import Fit, _fit_best
from stages.prototypes.rows import HostRows

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def text_like_rows(num: int = 2000, dim: int = 32) -> torch.Tensor:
    """Directions with a common mean, few leading dimensions, and topics of very different sizes."""
    numbers = np.random.default_rng(0)
    scales = 1 / np.sqrt(np.arange(1, dim + 1))
    topics = numbers.normal(size=(200, dim)) * scales
    rows = topics[np.minimum(numbers.zipf(1.4, size=num), 200) - 1] + 0.6 * scales * numbers.normal(size=(num, dim))
    return torch.nn.functional.normalize(torch.from_numpy(rows + 0.3).float(), dim=1)


def device_rows_of(rows: torch.Tensor, dtype: torch.dtype, *, is_resident: bool = True) -> DeviceRows:
    return DeviceRows.of(DeviceTable.of(rows, CPU, is_resident=is_resident), dtype)


@pytest.fixture(params=[7, 300, 5000], ids="blocks of {} rows".format)
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(device_table, "_BLOCK_NUMBERS", 32 * request.param)
    return int(request.param)


@pytest.mark.parametrize("num_clusters", [1, 5, 400])
def test_cluster_sums__are_those_of_index_add(num_clusters: int) -> None:
    rows = text_like_rows(500)
    nearest = (torch.rand(500, generator=torch.Generator().manual_seed(0)) ** 2 * num_clusters).long()
    sums, sizes = cluster_sums(rows, nearest, num_clusters)
    expected = torch.zeros(num_clusters, 32, dtype=torch.float64).index_add_(0, nearest, rows.double())
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-12)
    assert torch.equal(sizes, nearest.bincount(minlength=num_clusters))


@every_dtype
def test_sums__are_the_same_whatever_the_blocks(dtype: torch.dtype, block_rows: int) -> None:
    rows = text_like_rows()
    centroids = rows[::50]
    with exact_scores():
        sums, sizes = device_rows_of(rows, dtype).sums(centroids)
        _, nearest = device_rows_of(rows, dtype).nearest(centroids)
    expected = torch.zeros(40, 32, dtype=torch.float64).index_add_(0, nearest, rows.double())
    assert torch.equal(sums, expected.float())
    assert torch.equal(sizes, nearest.bincount(minlength=40))


@every_dtype
def test_nearest__is_the_same_resident_and_streamed(dtype: torch.dtype, block_rows: int) -> None:
    rows = text_like_rows()
    resident, streamed = (device_rows_of(rows, dtype, is_resident=is_resident) for is_resident in (True, False))
    assert streamed.table.resident is None
    with exact_scores():
        for one, other in zip(resident.nearest(rows[:60]), streamed.nearest(rows[:60]), strict=True):
            assert torch.equal(one, other)
        for one, other in zip(resident.sums(rows[:60]), streamed.sums(rows[:60]), strict=True):
            assert torch.equal(one, other)


def test_nearest__is_what_the_cpu_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "MAX_GPU_SCORES", 60 * 100)  # several blocks of scores in one of rows
    rows = text_like_rows()
    with exact_scores():
        cosines, nearest = device_rows_of(rows, torch.float32).nearest(rows[:60])
        expected_cosines, expected = HostRows.of(rows, CPU, torch.float32).nearest(rows[:60])
    assert torch.equal(nearest, expected)
    torch.testing.assert_close(cosines, expected_cosines, rtol=0, atol=1e-6)
    assert (nearest.dtype, cosines.dtype, cosines.shape) == (torch.int64, torch.float32, (2000,))


@pytest.mark.parametrize("common", [0, 10])
def test_nearest__in_bf16_tells_rows_apart_that_point_one_way(common: float) -> None:
    rows = text_like_rows()
    rows = torch.nn.functional.normalize(rows + common * rows.mean(dim=0), dim=1)
    with exact_scores():
        cosines, _ = device_rows_of(rows, torch.bfloat16).nearest(rows[:60])
    exact = (rows @ rows[:60].T).amax(dim=1)
    spread = float((1 - rows @ torch.nn.functional.normalize(rows.mean(dim=0), dim=0)).mean())
    assert float((cosines - exact).abs().mean()) < 0.01 * spread


def fit(rows: Any, num_prototypes: int) -> Fit:
    return _fit_best(rows, num_prototypes, iterations=8, restarts=2, seed=0)


@every_dtype
@pytest.mark.parametrize("is_resident", [True, False])
@pytest.mark.parametrize("num_prototypes", [1, 12, 300])
def test_fit__is_that_of_the_cpu_but_for_rounding(num_prototypes: int, is_resident: bool, dtype: torch.dtype) -> None:
    rows = text_like_rows()
    expected = fit(HostRows.of(rows, CPU, dtype), num_prototypes)
    found = fit(device_rows_of(rows, dtype, is_resident=is_resident), num_prototypes)
    assert found.mean_cosines == pytest.approx(expected.mean_cosines, abs=1e-6)
    np.testing.assert_allclose(found.centroids, expected.centroids, rtol=0, atol=2e-6)


def test_fit__fills_empty_prototypes_as_the_cpu_does() -> None:
    rows = text_like_rows(5, 32).repeat_interleave(20, dim=0)  # fewer directions than prototypes
    expected, found = (fit(make(rows), 16) for make in (host_rows, lambda rows: device_rows_of(rows, torch.float32)))
    np.testing.assert_allclose(found.centroids, expected.centroids, rtol=0, atol=2e-6)


def host_rows(rows: torch.Tensor) -> HostRows:
    return HostRows.of(rows, CPU, torch.float32)


@every_dtype
def test_passes__read_no_number_back(dtype: torch.dtype, block_rows: int) -> None:
    rows = device_rows_of(text_like_rows(), dtype)
    centroids = text_like_rows()[:60]
    reads = Reads()
    with exact_scores(), reads:
        rows.sums(centroids)
        rows.nearest(centroids)
    assert not reads.found


@pytest.mark.gpu
@every_dtype
def test_passes__do_not_wait_for_a_gpu_and_add_up_what_the_cpu_does(dtype: torch.dtype, block_rows: int) -> None:
    rows, gpu = text_like_rows(), torch.device("cuda")
    there = DeviceRows.of(DeviceTable.of(rows, gpu, is_resident=True), dtype)
    centroids = rows[:60].to(gpu)
    there.sums(centroids)  # libraries wait when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        with exact_scores():
            sums, sizes = there.sums(centroids)
            _, nearest = there.nearest(centroids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = torch.zeros(60, 32, dtype=torch.float64).index_add_(0, nearest.cpu(), rows.double())
    assert torch.equal(sums.cpu(), expected.float())
    assert torch.equal(sizes.cpu(), nearest.cpu().bincount(minlength=60))
