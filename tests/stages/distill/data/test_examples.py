"""Which captions belong to an example, and which images are held out."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.data.examples import CAPTIONS_PER_IMAGE, Examples, split_validation

# Caption rows go with images so: b has 10 and 12, a has 11, 13 and 10, c has 14.
IMAGES = ["b", "a", "b", "a", "c", "a"]
CAPTION_ROWS = [10, 11, 12, 13, 14, 10]
ALL = np.arange(6)


def table_of(images: list[str], caption_rows: list[int]) -> pa.Table:
    columns = {"manifest_row": range(2, len(images) + 2), "image": images, "caption_row": caption_rows}
    return pa.table({name: pa.chunked_array([list(column)[:2], list(column)[2:]]) for name, column in columns.items()})


TABLE = table_of(IMAGES, CAPTION_ROWS)


def rows_of(examples: Examples, epoch: int = 0) -> list[int]:
    rows: list[int] = examples.caption_rows(torch.arange(examples.num), epoch).tolist()
    return rows


def captions_of(examples: Examples) -> list[list[int]]:
    rows, counts = examples.captions(torch.arange(examples.num))
    return [part.tolist() for part in rows.split(counts.tolist())]


def gather_from(table: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: table[rows]


def test_examples__are_all_pairs_by_default() -> None:
    examples = Examples.of(TABLE, ALL)
    assert examples.num == 6
    assert examples.pairs.tolist() == ALL.tolist()
    assert rows_of(examples) == rows_of(examples, epoch=1) == CAPTION_ROWS
    assert rows_of(Examples.of(TABLE, np.array([1, 4, 5]))) == [11, 14, 10]


@pytest.mark.parametrize("captions_per_image", ["sample", "mean", "first"])
def test_examples__are_one_an_image_with_its_first_usable_pair(captions_per_image: str) -> None:
    examples = Examples.of(TABLE, np.array([1, 2, 3, 5]), captions_per_image=captions_per_image)
    assert sorted(examples.pairs.tolist()) == [1, 2]
    assert examples.pairs.dtype == np.int64
    found = dict(zip(examples.pairs.tolist(), captions_of(examples), strict=True))
    assert found == {1: [11], 2: [12]} if captions_per_image == "first" else {1: [11, 13, 10], 2: [12]}


def test_examples__come_in_the_order_of_their_images() -> None:
    examples = Examples.of(TABLE, ALL, captions_per_image="first")
    assert examples.pairs.tolist() == [0, 1, 4]
    assert rows_of(examples) == [10, 11, 14]


def test_examples__match_a_slow_grouping() -> None:
    generator = np.random.default_rng(0)
    images = [f"{number}.jpg" for number in generator.integers(0, 40, size=300)]
    table = table_of(images, generator.integers(0, 200, size=300).tolist())
    usable = np.flatnonzero(generator.random(300) < 0.7)
    groups: dict[str, list[int]] = {}
    for pair in usable:
        groups.setdefault(images[pair], []).append(int(table["caption_row"][int(pair)].as_py()))
    examples = Examples.of(table, usable, captions_per_image="mean")
    assert captions_of(examples) == list(groups.values())
    assert [images[pair] for pair in examples.pairs] == list(groups)


def test_sample__draws_a_caption_by_seed_epoch_and_pair_alone() -> None:
    table = table_of(["a"] * 4 + ["b"] * 4, list(range(8)))
    examples, other = (Examples.of(table, np.arange(8), captions_per_image="sample", seed=seed) for seed in (0, 1))
    drawn = [rows_of(examples, epoch) for epoch in range(60)]
    assert all(row in range(4) and other in range(4, 8) for row, other in drawn)
    assert {row for rows in drawn for row in rows} == set(range(8))
    assert len({(row, other - 4) for row, other in drawn}) > 8  # images draw on their own
    assert drawn == [rows_of(examples, epoch) for epoch in range(60)]
    assert drawn != [rows_of(other, epoch) for epoch in range(60)]
    alone = Examples.of(table, np.arange(4, 8), captions_per_image="sample")
    assert [rows_of(alone, epoch) for epoch in range(60)] == [[row] for _, row in drawn]


def test_sample__draws_evenly() -> None:
    num = 3000
    table = table_of([str(image) for image in range(num) for _ in range(3)], list(range(3)) * num)
    examples = Examples.of(table, np.arange(3 * num), captions_per_image="sample")
    counts = np.bincount(np.concatenate([rows_of(examples, epoch) for epoch in range(3)]))
    np.testing.assert_allclose(counts / (3 * num), 1 / 3, atol=0.02)


def test_sample__is_pinned() -> None:
    # the draws must not change from one version to the next, or resumed runs would mix two
    examples = Examples.of(table_of(["a"] * 100, list(range(100))), np.arange(100), captions_per_image="sample")
    assert [rows_of(examples, epoch) for epoch in range(4)] == [[34], [90], [54], [76]]


def test_mean__is_that_of_unit_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(15, 4, generator=generator) * torch.arange(1, 16)[:, None]
    examples = Examples.of(TABLE, ALL, captions_per_image="mean")
    ids = torch.tensor([1, 2, 1, 0])
    expected = [
        sum(table[row] / table[row].norm() for row in rows) / len(rows)
        for rows in ([11, 13, 10], [14], [11, 13, 10], [10, 12])
    ]
    targets = examples.targets(ids, 0, gather_from(table))
    assert targets.shape == (4, 4)
    torch.testing.assert_close(targets, torch.stack([torch.as_tensor(row) for row in expected]))
    assert examples.caption_rows(ids, 7).tolist() == [11, 14, 11, 10]


@pytest.mark.parametrize("captions_per_image", ["each", "sample", "first"])
def test_targets__are_the_embeddings_of_the_caption_rows(captions_per_image: str) -> None:
    table = torch.arange(30.0).view(15, 2)
    examples = Examples.of(TABLE, ALL, captions_per_image=captions_per_image, seed=5)
    ids = torch.tensor([2, 0])
    for epoch in range(5):
        targets = examples.targets(ids, epoch, gather_from(table))
        assert torch.equal(targets, table[examples.caption_rows(ids, epoch)])


def test_captions__are_none_for_no_examples() -> None:
    rows, counts = Examples.of(TABLE, ALL, captions_per_image="mean").captions(torch.empty(0, dtype=torch.int64))
    assert (len(rows), len(counts)) == (0, 0)


def test_labels__are_those_of_the_pair() -> None:
    labels = np.array([3, -1, 2, 1, 0, 1])
    assert Examples.of(TABLE, ALL, labels=labels).labels(torch.tensor([5, 1, 0])).tolist() == [1, -1, 3]
    by_image = Examples.of(TABLE, np.array([2, 3, 4]), captions_per_image="sample", labels=labels)
    found = dict(zip(by_image.pairs.tolist(), by_image.labels(torch.arange(3)).tolist(), strict=True))
    assert found == {2: 2, 3: 1, 4: 0}
    assert Examples.of(TABLE, ALL).labels(torch.arange(6)).tolist() == [-1] * 6


def test_examples__refuse_an_unknown_way() -> None:
    with pytest.raises(ProtoRKDError, match=r"--captions-per-image must be one of each, .*; got 'all'"):
        Examples.of(TABLE, ALL, captions_per_image="all")
    assert CAPTIONS_PER_IMAGE == ("each", "sample", "mean", "first")


MANY = table_of([f"images/{number % 500}.jpg" for number in range(1500)], list(range(1500)))


def split_of(table: pa.Table = MANY, fraction: float = 0.2, seed: int = 0) -> tuple[set[str], set[str]]:
    paths = np.array(table["image"].to_pylist())
    training, held_out = split_validation(table, np.arange(len(paths)), fraction=fraction, seed=seed)
    assert sorted([*training, *held_out]) == list(range(len(paths)))
    assert (np.diff(training) > 0).all()
    assert (np.diff(held_out) > 0).all()
    return set(paths[training]), set(paths[held_out])


def test_split__keeps_all_pairs_of_an_image_on_one_side() -> None:
    training, held_out = split_of()
    assert not training & held_out
    assert len(training) + len(held_out) == 500
    assert 70 < len(held_out) < 130


def test_split__depends_on_seed_and_path_alone() -> None:
    _, held_out = split_of()
    assert split_of(MANY.take(np.random.default_rng(0).permutation(1500)))[1] == held_out
    assert split_of(MANY.slice(0, 100))[1] <= held_out
    assert split_of(fraction=0.4)[1] > held_out  # a larger share holds out more, not others
    assert split_of(seed=1)[1] != held_out


def test_split__leaves_pairs_out_that_are_not_given() -> None:
    training, held_out = split_validation(MANY, np.arange(0, 1500, 7), fraction=0.3, seed=0)
    assert sorted([*training, *held_out]) == list(range(0, 1500, 7))


def test_split__of_nothing_is_the_whole() -> None:
    training, held_out = split_validation(TABLE, ALL, fraction=0.0, seed=0)
    assert training.tolist() == ALL.tolist()
    assert len(held_out) == 0


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_split__refuses_a_share_that_leaves_a_side_empty(fraction: float) -> None:
    with pytest.raises(ProtoRKDError, match=r"--validation-fraction must leave 2 images .* of 3\. "):
        split_validation(TABLE, ALL, fraction=fraction, seed=0)
