"""Batches in slabs are what they were, and none is written over before it has been put elsewhere."""

import pytest
import torch
from torch.utils.data import Dataset

from stages.components.loading.batch import Batch
from stages.components.loading.image_loader import ImageLoader
from stages.distill.data import buffer_pool as shared_slabs
from stages.distill.data.buffer_pool import BufferPool


def batch_of(number: int, *, num_pixels: int = 0) -> Batch:
    """Crops, or pixels of whole images, that tell which batch they are."""
    rows = torch.arange(2)
    if num_pixels:
        pixels = torch.full((2 * num_pixels, 3), number, dtype=torch.uint8)
        return Batch(images=pixels, rows=rows, rejected={}, sizes=torch.tensor([[1, num_pixels]] * 2))
    images = torch.full((2, 5, 5, 3), number, dtype=torch.uint8).permute(0, 3, 1, 2)
    return Batch(images=images, rows=rows, rejected={7: "missing file"})


@pytest.fixture
def slabs(monkeypatch: pytest.MonkeyPatch) -> BufferPool:
    """Return slabs as they are in a process that reads."""
    monkeypatch.setattr(shared_slabs, "get_worker_info", object)
    return BufferPool()


def test_slabs__leave_batches_of_this_process_where_they_are() -> None:
    batch = batch_of(3)
    assert BufferPool()(batch) is batch


@pytest.mark.parametrize("num_pixels", [0, 9])
def test_slabs__change_nothing_but_the_place(num_pixels: int, slabs: BufferPool) -> None:
    for number in range(3):
        batch = batch_of(number, num_pixels=num_pixels)
        moved = slabs(batch)
        assert torch.equal(moved.images, batch.images)
        assert moved.images.stride() == batch.images.stride()
        assert moved.images.is_shared()
        assert (moved.rows is batch.rows, moved.sizes is batch.sizes, moved.rejected) == (True, True, batch.rejected)


def test_slabs__are_used_again_when_their_batch_was_pinned(slabs: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    first, second = slabs(batch_of(1)), slabs(batch_of(2))
    pinned = first.pin_memory()
    third = slabs(batch_of(3))
    assert third.images.data_ptr() == first.images.data_ptr() != second.images.data_ptr()
    assert [int(batch.images.unique()) for batch in (pinned, second, third)] == [1, 2, 3]
    fourth = slabs(batch_of(4))
    assert fourth.images.data_ptr() not in (second.images.data_ptr(), third.images.data_ptr())


def test_slabs__grow_with_what_comes(slabs: BufferPool) -> None:
    for number, num_pixels in enumerate((10, 12, 100, 90, 110)):
        moved = slabs(batch_of(number, num_pixels=num_pixels))
        assert torch.equal(moved.images, batch_of(number, num_pixels=num_pixels).images)
        moved.is_taken.fill_(False)
    assert len(slabs._slabs) == 1


def test_slabs__take_a_batch_of_which_nothing_could_be_read(slabs: BufferPool) -> None:
    batch = Batch(images=torch.empty(0, 3, 0, 0).byte(), rows=torch.empty(0).long(), rejected={1: "missing file"})
    assert slabs(batch) is batch


class _Numbered(Dataset[Batch]):
    def __getitems__(self, numbers: list[int]) -> Batch:
        return batch_of(numbers[0], num_pixels=1 + numbers[0] % 7)


@pytest.mark.parametrize("keep", [True, False])
def test_slabs__bring_batches_whole_from_other_processes(keep: bool) -> None:
    loader = ImageLoader(
        _Numbered(),
        workers=1,
        pin_memory=False,
        batches=[[number] for number in range(30)],
        batch_bytes=42,
        collate_fn=BufferPool(),
    )
    kept = []
    for number, batch in enumerate(loader):
        assert torch.equal(batch.images, batch_of(number, num_pixels=1 + number % 7).images)
        if keep:
            kept.append(batch)
        else:
            batch.is_taken.fill_(False)
    assert [int(batch.images.unique()) for batch in kept] == list(range(30 if keep else 0))
