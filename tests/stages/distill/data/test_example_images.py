"""Order and crops are functions of the seed, the epoch and the example; nothing else moves them."""

import itertools
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import Pairs

from data_schemas.errors import ProtoRKDError
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import TrainCrop
from stages.components.loading.batch import Batch, collate
from stages.distill.data.batch_order import BatchRequests, Request, episodes, epoch_order
from stages.distill.data.example_images import ExampleImages, load_batches

EXAMPLES = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144], dtype=np.int64)

TRANSFORMS = (TrainCrop(image_size=16, min_scale=0.3), Augment(AUGMENTATIONS["light"]))


def requests_of(num_examples: int, batch_size: int, **words: int) -> BatchRequests:
    return BatchRequests(EXAMPLES[:num_examples], batch_size=batch_size, **{"epochs": 2, "seed": 0} | words)


def joined(parts: Iterable[list[Request]]) -> list[Request]:
    return list(itertools.chain.from_iterable(parts))


def dataset_of(pairs: Pairs, *, seed: int = 0) -> ExampleImages:
    images = ImageSet(root=pairs.root, paths=pairs.images)
    return ExampleImages(images, np.arange(len(pairs.images)), *TRANSFORMS, seed=seed)


def test_epoch_order__is_pinned_by_seed_and_epoch() -> None:
    # numpy promises the same stream for the same seed; were it to change, resumed runs would mix two orders
    assert epoch_order(8, seed=0, epoch=0).tolist() == np.random.default_rng([0, 0]).permutation(8).tolist()
    assert epoch_order(100, seed=1, epoch=2).tolist() == epoch_order(100, seed=1, epoch=2).tolist()
    orders = {tuple(epoch_order(100, seed=seed, epoch=epoch)) for seed, epoch in itertools.product(range(3), repeat=2)}
    assert len(orders) == 9


@pytest.mark.parametrize(("num_examples", "size"), [(10, 1), (10, 3), (10, 5), (10, 7), (10, 9), (10, 10), (97, 60)])
def test_episodes__show_every_example_before_any_comes_again(num_examples: int, size: int) -> None:
    drawn = list(itertools.islice(episodes(num_examples, size, seed=0), 4 * num_examples))
    assert all(len(set(episode.tolist())) == size == len(episode) for episode in drawn)
    stream = np.concatenate(drawn)
    for start in range(0, len(stream) - num_examples + 1, num_examples):
        assert sorted(stream[start : start + num_examples]) == list(range(num_examples))


def test_episodes__of_the_whole_are_the_orders_of_the_epochs() -> None:
    for epoch, episode in enumerate(itertools.islice(episodes(50, 50, seed=3), 4)):
        assert episode.tolist() == epoch_order(50, seed=3, epoch=epoch).tolist()


def test_episodes__differ_by_seed() -> None:
    first, second = (next(episodes(50, 20, seed=seed)).tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("start_step", range(9))
def test_requests__go_on_exactly_within_episodes(start_step: int) -> None:
    words = {"epochs": 4, "episode_size": 7}  # of 9: the second and third episode each have the end of an order
    requests = list(requests_of(9, 3, **words))
    assert len(requests) == 8
    assert list(requests_of(9, 3, **words).from_step(start_step)) == requests[start_step:]
    for epoch in range(4):
        taken = [example for batch in requests for at, example in batch if at == epoch]
        assert len(set(taken)) == len(taken) == 7


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("num_examples", [24, 37, 47, 48, 60])
def test_requests__of_all_ranks_and_micro_batches_make_up_the_batch(
    num_examples: int, accumulate: int, num_ranks: int
) -> None:
    def requests(**words: int) -> list[list[Request]]:
        made = BatchRequests(np.arange(num_examples), batch_size=12, epochs=2, seed=1, **words)
        batches = list(made)
        assert len(made) == len(batches) == 2 * made.steps_per_epoch * made.micro_batches_per_step
        return batches

    words = {"num_ranks": num_ranks, "accumulate": accumulate}
    parts = [requests(rank=rank, **words) for rank in range(num_ranks)]
    assert len({len(of_rank) for of_rank in parts}) == 1
    micro_batches = [joined(of_ranks) for of_ranks in zip(*parts, strict=True)]
    for of_ranks, micro_batch in zip(zip(*parts, strict=True), micro_batches, strict=True):
        sizes = [len(part) for part in of_ranks]
        assert min(sizes) >= 2
        assert max(sizes) - min(sizes) <= 1
        assert len({epoch for epoch, _ in micro_batch}) == 1
    steps = [joined(micro_batches[at : at + accumulate]) for at in range(0, len(micro_batches), accumulate)]
    alone = requests()
    assert joined(steps) == joined(alone)
    remainder = num_examples % 12
    if remainder == 0 or remainder >= 2 * num_ranks * accumulate:
        assert steps == alone
    else:  # what is left is too little for all, and joins the step before
        assert [len(step) for step in steps[: len(steps) // 2]] == [12] * (num_examples // 12 - 1) + [12 + remainder]


@pytest.mark.parametrize(
    ("num_examples", "words", "expected"),
    [
        (9, {}, {4}),  # 4 and 5
        (8, {"batch_size": 3}, {3}),  # 3, 3 and 2
        (7, {"batch_size": 9}, {7}),  # a step is an epoch
        (9, {"batch_size": 5, "accumulate": 2}, {2, 3}),
        (9, {"batch_size": 9, "num_ranks": 2, "rank": 0}, {5}),
        (9, {"batch_size": 9, "num_ranks": 2, "rank": 1}, {4}),
    ],
)
def test_requests__know_the_sizes_of_all_steps_but_an_epochs_last(
    num_examples: int, words: dict[str, int], expected: set[int]
) -> None:
    requests = requests_of(num_examples, **{"batch_size": 4} | words)
    assert requests.usual_sizes == requests.from_step(1).usual_sizes == expected
    seen = [len(batch) for batch in requests]
    assert set(seen[: -requests.micro_batches_per_step]) <= expected | set(seen[-requests.micro_batches_per_step :])


@pytest.mark.parametrize("start_step", range(5))
def test_requests__count_steps_and_not_micro_batches(start_step: int) -> None:
    rest = requests_of(9, 5, accumulate=2).from_step(start_step)
    assert rest.steps_per_epoch == 2
    assert list(rest) == list(requests_of(9, 5, accumulate=2))[2 * start_step :]
    assert len(rest) == 2 * (4 - start_step)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch_size": 3, "num_ranks": 2}, "--batch-size must be 4 or more, .*; got 3"),
        ({"batch_size": 7, "num_ranks": 2, "accumulate": 2}, "--batch-size must be 8 or more, .*--accumulate-steps"),
        ({"batch_size": 4, "episode_size": 10}, "--episode-size must be at most the number of examples, 9; got 10"),
        ({"batch_size": 8, "episode_size": 3, "num_ranks": 2}, "must have 4 examples or more, .* got --episode-size 3"),
        ({"batch_size": 16, "num_ranks": 5}, "must have 10 examples or more, .* got 9"),
    ],
)
def test_requests__refuse_parts_of_fewer_than_two(words: dict[str, int], message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        requests_of(9, **words)


def test_requests__take_every_example_once_an_epoch() -> None:
    requests = list(requests_of(9, 4, epochs=3))
    for epoch in range(3):
        taken = [example for batch in requests for at, example in batch if at == epoch]
        assert sorted(taken) == EXAMPLES.tolist()
    assert requests[:2] != [[(0, example) for _, example in batch] for batch in requests[2:4]]


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (7, 4, [4, 3]), (6, 4, [4, 2]), (5, 4, [5]), (3, 2, [3]), (2, 4, [2])],
)
def test_requests__let_a_single_example_that_is_left_join_the_last_batch(
    num_examples: int, batch_size: int, sizes: list[int]
) -> None:
    requests = requests_of(num_examples, batch_size)
    assert [len(batch) for batch in requests] == sizes * 2
    assert requests.steps_per_epoch == len(sizes)
    assert len(requests) == len(sizes) * 2


@pytest.mark.parametrize("start_step", range(7))
def test_requests__go_on_exactly_where_they_were_left(start_step: int) -> None:
    rest = requests_of(7, 3, epochs=3).from_step(start_step)
    assert list(rest) == list(requests_of(7, 3, epochs=3))[start_step:]
    assert len(rest) == 6 - start_step


def test_dataset__shows_an_example_the_image_of_its_pair(pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(3, 40)
    images = ImageSet(root=pairs.root, paths=pairs.images)
    dataset = ExampleImages(images, np.array([2, 0]), *TRANSFORMS, seed=0)
    by_pair = ExampleImages(images, np.arange(3), *TRANSFORMS, seed=0)
    for example, pair in enumerate([2, 0]):
        number, image = dataset[(5, example)]
        assert number == example
        assert isinstance(image, torch.Tensor)
        assert torch.equal(image, torch.as_tensor(by_pair[(5, pair)][1]))
        assert dataset.path_of(example) == pairs.images[pair]


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


def test_batches__are_the_same_from_this_process_and_from_others(pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(6, 40)
    requests = BatchRequests(np.arange(6), batch_size=4, epochs=3, seed=0)
    here, there = (
        list(load_batches(dataset_of(pairs), requests, workers=workers, pin_memory=False)) for workers in (0, 2)
    )
    assert len(here) == len(there) == 6
    for batch, other in zip(here, there, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.rows, other.rows)
        assert batch.images.shape == (len(batch.rows), 3, 16, 16)


def test_batches__are_augmented_where_they_are_read_or_come_with_seeds(
    pairs_folder: Callable[[int, int], Pairs],
) -> None:
    pairs = pairs_folder(6, 40)
    images = ImageSet(root=pairs.root, paths=pairs.images)
    crop, augment = TRANSFORMS
    plain = ExampleImages(images, np.arange(6), crop, None, seed=0)
    requests = BatchRequests(np.arange(6), batch_size=4, epochs=1, seed=0)
    for batch, other in zip(requests, BatchRequests(np.arange(6), batch_size=6, epochs=1, seed=0), strict=False):
        items, cropped, larger = dataset_of(pairs).__getitems__(batch), plain.__getitems__(batch), other
        assert len(items.seeds) == 0
        assert torch.equal(items.images, augment(cropped.images.clone(), cropped.seeds))
        whole = dataset_of(pairs).__getitems__(larger)
        place = whole.rows.tolist().index(int(items.rows[0]))
        assert torch.equal(whole.images[place], items.images[0])  # whatever is beside it


def test_batches__are_read_without_a_pause_between_epochs(pairs_folder: Callable[[int, int], Pairs]) -> None:
    requests = BatchRequests(np.arange(4), batch_size=2, epochs=50, seed=0)
    batches = iter(load_batches(dataset_of(pairs_folder(4, 20)), requests, workers=1, pin_memory=False))
    next(batches)
    [reader] = batches.gi_yieldfrom.gi_frame.f_locals["batches"]._workers  # type: ignore[attr-defined]
    for _ in range(1, len(requests) - 1):
        next(batches)
        assert reader.is_alive()
    assert len(list(batches)) == 1


def test_batches__hand_readers_little_of_many_pairs(tmp_path: Path) -> None:
    num = 20_000
    images = ImageSet(root=tmp_path, paths=[f"folder/{index:06}.jpg" for index in range(num)])
    dataset = ExampleImages(images, np.arange(num), *TRANSFORMS, seed=0).shared()
    pickled = ForkingPickler.dumps(dataset)
    assert len(pickled) < num
    assert [dataset.path_of(index) for index in (0, num - 1)] == [images.paths[0], images.paths[-1]]


def test_batches__leave_the_global_random_numbers_where_they_stand(pairs_folder: Callable[[int, int], Pairs]) -> None:
    requests = BatchRequests(np.arange(2), batch_size=2, epochs=1, seed=0)
    batches = load_batches(dataset_of(pairs_folder(2, 20)), requests, workers=0, pin_memory=False)
    state = torch.get_rng_state()
    list(batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches__tell_images_that_cannot_be_read_from_the_others(
    pairs_folder: Callable[[int, int], Pairs],
) -> None:
    pairs = pairs_folder(4, 20)
    (pairs.root / pairs.images[1]).unlink()
    (pairs.root / pairs.images[2]).write_bytes(b"no image")
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


def test_dataset__names_an_image_as_its_manifest_does(tmp_path: Path) -> None:
    images = ImageSet(root=tmp_path, paths=["a/b.jpg"])
    assert ExampleImages(images, np.arange(1), *TRANSFORMS, seed=0).path_of(0) == "a/b.jpg"
