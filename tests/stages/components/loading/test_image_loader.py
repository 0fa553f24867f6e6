"""Processes that read images: what is said where one of them dies, and who may end them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from workbench import Pairs

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from pipeline.signals import stop_requests
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform
from stages.components.loading import image_loader
from stages.components.loading.batch import Batch, EvalImages
from stages.components.loading.image_loader import ImageLoader, NoBatchError, ReaderDiedError, batches_of

PATIENCE_S = 60.0  # most of it for the server's imports on a busy machine
TRANSFORM = EvalTransform(Preprocessing(image_size=16))


@pytest.fixture
def looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often whether readers live, and not every five seconds."""
    monkeypatch.setattr(image_loader, "LOOK_S", 0.2)


class BrokenImages(EvalImages):
    """Images of which one does something to the process that reads it."""

    def __init__(self, *args: Any, blow: Callable[[], object], at: int) -> None:
        super().__init__(*args)
        self._blow, self._at = blow, at

    def __getitem__(self, number: int) -> tuple[int, Tensor | str]:
        found = super().__getitem__(number)
        if number == self._at:
            self._blow()
        return found


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfaulting() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # torch's own handler writes to stderr first
    os.kill(os.getpid(), signal.SIGSEGV)


def exiting() -> None:
    os._exit(3)


def refusing() -> None:
    raise ProtoRKDError("the image's shard must be whole; it is not.")


def out_of_memory() -> None:
    raise MemoryError("of an image")


def loader_of(pairs: Pairs, batches: list[list[int]]) -> ImageLoader:
    images = EvalImages(ImageSet(root=pairs.root, paths=pairs.images), TRANSFORM)
    return ImageLoader(images, workers=1, pin_memory=False, batches=batches, batch_bytes=4 * images.image_bytes)


def readers_of(batches: Iterator[Batch]) -> list[Any]:
    found: list[Any] = batches.gi_yieldfrom.gi_frame.f_locals["batches"]._workers  # type: ignore[attr-defined]
    return found


def read_all(pairs: Pairs, blow: Callable[[], object], *, at: int, workers: int) -> list[Batch]:
    images = ImageSet(root=pairs.root, paths=pairs.images)
    broken = BrokenImages(images, TRANSFORM, blow=blow, at=at)
    batches = batches_of(range(len(pairs.images)), 4)
    return list(
        ImageLoader(broken, workers=workers, pin_memory=False, batches=batches, batch_bytes=4 * broken.image_bytes)
    )


@pytest.mark.usefixtures("looked_after")
@pytest.mark.parametrize(
    ("blow", "at", "workers"), [(killed, 5, 1), (segfaulting, 5, 1), (exiting, 5, 1), (killed, 14, 2)]
)
def test_batches__name_the_image_at_which_a_reader_dies(
    blow: Callable[[], object], at: int, workers: int, pairs_folder: Callable[[int, int], Pairs]
) -> None:
    with pytest.raises(ReaderDiedError) as caught:
        read_all(pairs_folder(16, 20), blow, at=at, workers=workers)
    message = str(caught.value)
    assert message.startswith("The processes that read images must stay alive; ")
    assert f"Last opened there: images/{at:03}.jpg; where that comes again, the image is to blame." in message
    assert "with fewer --workers if memory or /dev/shm ran out" in message


@pytest.mark.usefixtures("looked_after")
def test_batches__say_what_to_do_where_an_idle_reader_is_killed(pairs_folder: Callable[[int, int], Pairs]) -> None:
    batches = iter(loader_of(pairs_folder(4, 20), [[0, 1], [2, 3]] * 500))
    next(batches)
    for reader in readers_of(batches):
        reader.kill()
    with pytest.raises(ReaderDiedError, match=r"must stay alive.*Last opened there: images/00\d.jpg.*fewer --workers"):
        list(batches)


def full() -> None:
    raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")


def lost_batches(*_: Any, **__: Any) -> None:
    """Wait without an end, as a queue does that has lost a batch."""
    time.sleep(60)


@pytest.mark.usefixtures("looked_after")
def test_batches__say_so_where_shared_memory_is_full(
    pairs_folder: Callable[[int, int], Pairs],
) -> None:
    with pytest.raises(ProtoRKDError, match=r"^/dev/shm must have room .*it is full.*--shm-size 2g.*fewer --workers"):
        read_all(pairs_folder(8, 20), full, at=5, workers=1)


@pytest.mark.usefixtures("looked_after")
def test_batches__are_not_waited_for_for_ever(
    pairs_folder: Callable[[int, int], Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_loader, "_MOST_IDLE_LOOKS", 15)
    began = time.monotonic()
    with pytest.raises(ProtoRKDError, match=r"must open one within .* Last opened: images/00[0-9].jpg.*ulimit -n"):
        read_all(pairs_folder(8, 20), lost_batches, at=5, workers=1)
    assert time.monotonic() - began < PATIENCE_S


@pytest.mark.usefixtures("looked_after")
def test_batches__that_do_not_come_leave_room_for_a_stop(pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(8, 20)
    began = time.monotonic()
    with stop_requests() as stop:
        stop.set()
        with pytest.raises(NoBatchError, match="Asked to stop, and did, while no batch of images came"):
            read_all(pairs, lost_batches, at=5, workers=1)
    assert time.monotonic() - began < PATIENCE_S


@pytest.mark.usefixtures("looked_after")
def test_batches__that_come_late_come_whole(pairs_folder: Callable[[int, int], Pairs]) -> None:
    batches = read_all(pairs_folder(8, 20), partial(time.sleep, 1.0), at=5, workers=1)
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_batches__are_in_shared_memory_before_they_are_handed_over(pairs_folder: Callable[[int, int], Pairs]) -> None:
    [first, _] = loader_of(pairs_folder(4, 20), [[0, 1], [2, 3]])
    assert all(tensor.is_shared() for tensor in (first.images, first.rows))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches__hand_on_what_a_reader_raises(workers: int, pairs_folder: Callable[[int, int], Pairs]) -> None:
    pairs = pairs_folder(4, 20)
    with pytest.raises(ProtoRKDError, match=r"^the image's shard must be whole; it is not\.$"):
        read_all(pairs, refusing, at=1, workers=workers)
    with pytest.raises(MemoryError, match="of an image"):
        read_all(pairs, out_of_memory, at=1, workers=workers)


@pytest.mark.parametrize(("most_batches", "num_readers"), [(100, 2), (2, 2), (1, 1), (0, 0)])
def test_batches__come_whole_and_in_order_however_few_may_wait(
    most_batches: int,
    num_readers: int,
    pairs_folder: Callable[[int, int], Pairs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = pairs_folder(18, 20)
    images = EvalImages(ImageSet(root=pairs.root, paths=pairs.images), TRANSFORM)
    batch_bytes = 4 * images.image_bytes
    free = max(2.0 * most_batches, 3.0 if most_batches else 0.0) * batch_bytes
    monkeypatch.setattr("stages.components.loading.num_workers._shared_memory", lambda: (0.0, free))
    batches = batches_of(range(18), 4)
    loader = ImageLoader(images, workers=2, pin_memory=False, batches=batches, batch_bytes=batch_bytes)
    assert loader._batches.num_workers == num_readers
    found = list(loader)
    assert [batch.rows.tolist() for batch in found] == batches
    expected = torch.stack([image for _, image in map(images.__getitem__, range(18)) if isinstance(image, Tensor)])
    assert torch.equal(torch.cat([batch.images for batch in found]), expected)


def test_readers__leave_the_group_of_the_command(pairs_folder: Callable[[int, int], Pairs]) -> None:
    batches = iter(loader_of(pairs_folder(4, 20), [[0, 1], [2, 3]]))
    next(batches)
    [reader] = readers_of(batches)
    assert reader.pid is not None
    assert os.getpgid(reader.pid) != os.getpgid(0)
    assert os.getsid(reader.pid) == os.getsid(0)
