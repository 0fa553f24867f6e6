"""Order and crops are functions of the seed, the epoch and the pair; nothing else moves them."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import Pairs

from stages.distill.data import BatchRequests, PairImages, epoch_order, load_batches
from stages.image_batches import Batch, collate
from stages.image_set import ImageSet
from stages.transforms import TrainTransform

PAIRS = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144], dtype=np.int64)


def requests_of(num_pairs: int, batch_size: int, **words: int) -> BatchRequests:
    return BatchRequests(PAIRS[:num_pairs], batch_size=batch_size, **{"epochs": 2, "seed": 0} | words)


def dataset_of(pairs: Pairs, *, seed: int = 0) -> PairImages:
    images = ImageSet(root=pairs.root, paths=pairs.images)
    return PairImages(images, TrainTransform(image_size=16, crop_min_scale=0.3), seed=seed)


def test_epoch_order__is_pinned_by_seed_and_epoch() -> None:
    # numpy promises the same stream for the same seed; were it to change, resumed runs would mix two orders
    assert epoch_order(8, seed=0, epoch=0).tolist() == np.random.default_rng([0, 0]).permutation(8).tolist()
    assert epoch_order(100, seed=1, epoch=2).tolist() == epoch_order(100, seed=1, epoch=2).tolist()
    orders = {tuple(epoch_order(100, seed=seed, epoch=epoch)) for seed, epoch in itertools.product(range(3), repeat=2)}
    assert len(orders) == 9


def test_requests__take_every_pair_once_an_epoch() -> None:
    requests = list(requests_of(9, 4, epochs=3))
    for epoch in range(3):
        taken = [pair for batch in requests for at, pair in batch if at == epoch]
        assert sorted(taken) == PAIRS.tolist()
    assert requests[:2] != [[(0, pair) for _, pair in batch] for batch in requests[2:4]]


@pytest.mark.parametrize(
    ("num_pairs", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (7, 4, [4, 3]), (6, 4, [4, 2]), (5, 4, [5]), (3, 2, [3]), (2, 4, [2])],
)
def test_requests__let_a_single_pair_that_is_left_join_the_last_batch(
    num_pairs: int, batch_size: int, sizes: list[int]
) -> None:
    requests = requests_of(num_pairs, batch_size)
    assert [len(batch) for batch in requests] == sizes * 2
    assert requests.steps_per_epoch == len(sizes)
    assert len(requests) == len(sizes) * 2


@pytest.mark.parametrize("start_step", range(7))
def test_requests__go_on_exactly_where_they_were_left(start_step: int) -> None:
    rest = requests_of(7, 3, epochs=3, start_step=start_step)
    assert list(rest) == list(requests_of(7, 3, epochs=3))[start_step:]
    assert len(rest) == 6 - start_step


def test_dataset__crops_by_seed_epoch_and_pair_alone(pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(2, 40)
    dataset = dataset_of(pairs)
    _, image = dataset[(0, 1)]
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    _, again = dataset[(0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(image, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.uint8)
    assert torch.equal(image, again)
    for other in (dataset[(1, 1)], dataset_of(pairs, seed=1)[(0, 1)]):
        assert isinstance(other[1], torch.Tensor)
        assert not torch.equal(image, other[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_batches__are_the_same_from_this_process_and_from_another(pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(6, 40)
    requests = BatchRequests(np.arange(6), batch_size=4, epochs=1, seed=0)
    here, there = (
        list(load_batches(dataset_of(pairs), requests, workers=workers, pin_memory=False)) for workers in (0, 1)
    )
    assert len(here) == len(there) == 2
    for batch, other in zip(here, there, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.rows, other.rows)
        assert batch.images.shape == (len(batch.rows), 3, 16, 16)


def test_batches__leave_the_global_random_numbers_where_they_stand(pairs_folder: Callable[[int, int], Pairs]) -> None:
    requests = BatchRequests(np.arange(2), batch_size=2, epochs=1, seed=0)
    batches = load_batches(dataset_of(pairs_folder(2, 20)), requests, workers=0, pin_memory=False)
    state = torch.get_rng_state()
    list(batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches__tell_pictures_that_cannot_be_read_from_the_others(
    pairs_folder: Callable[[int, int], Pairs],
) -> None:
    pairs = pairs_folder(4, 20)
    (pairs.root / pairs.images[1]).unlink()
    (pairs.root / pairs.images[2]).write_bytes(b"no picture")
    requests = BatchRequests(np.arange(4), batch_size=4, epochs=1, seed=0)
    [batch] = load_batches(dataset_of(pairs), requests, workers=0, pin_memory=False)
    assert sorted(batch.rows.tolist()) == [0, 3]
    assert len(batch.images) == 2
    assert batch.rejected[1] == "missing file"
    assert batch.rejected[2].startswith("not a readable image")


def test_collate__takes_a_batch_of_which_nothing_could_be_read() -> None:
    batch = collate([(4, "missing file"), (2, "missing file")])
    assert isinstance(batch, Batch)
    assert len(batch.rows) == len(batch.images) == 0
    assert batch.rejected == {4: "missing file", 2: "missing file"}


def test_dataset__names_a_picture_as_its_manifest_does(tmp_path: Path) -> None:
    images = ImageSet(root=tmp_path, paths=["a/b.jpg"])
    assert PairImages(images, TrainTransform(image_size=8, crop_min_scale=1.0), seed=0).path_of(0) == "a/b.jpg"
