"""Names in shared memory read as the list that they were made of."""

import pytest

from stages.components.compute.shared_memory import SharedStrings, share_names


def test_shared_names__are_those_that_they_were_made_of() -> None:
    names = ["a.jpg", "", "\u00fc/\u96ea.png", "b" * 1000]
    shared = SharedStrings(names)
    assert list(shared) == names
    assert (len(shared), shared[-1], shared[1:3]) == (4, names[-1], names[1:3])
    assert shared.index("a.jpg") == 0
    with pytest.raises(IndexError):
        shared[4]


def test_shared_names__may_be_none() -> None:
    assert list(SharedStrings([])) == []
    assert list(SharedStrings([""])) == [""]


def test_share_names__leaves_few_as_they_are() -> None:
    few, many = ["a"] * 10, [str(number) for number in range(2000)]
    assert share_names(few) is few
    shared = share_names(many)
    assert isinstance(shared, SharedStrings)
    assert share_names(shared) is shared
    assert list(shared) == many
