"""Retrieval on held-out pairs: the right numbers on any number of ranks, and a student that is left as it was."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.compute.distributed import Ranks
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.metrics.retrieval import retrieval_metrics
from stages.distill.data.held_out import MAX_IMAGES, HeldOutImages
from stages.distill.data.targets import Targets
from stages.distill.training.validation import HeldOutReader, Validation

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(image_size=8)
DIM = 4
# Nine images, the first and the third with two captions each, and one caption twice.
NAMES = (*(f"{index}.png" for index in range(9)), "0.png", "2.png", "2.png")
CAPTION_ROWS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10])


class Meeting:
    """Where ranks that are threads of this process put what they exchange."""

    def __init__(self, size: int) -> None:
        self.parts: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)


class ThreadRanks(Ranks):
    """Ranks whose exchange is a list that they share."""

    meeting: Meeting

    def gather_objects(self, value: Any) -> list[Any]:
        self.meeting.parts[self.rank] = value
        self.meeting.barrier.wait()
        parts = list(self.meeting.parts)
        self.meeting.barrier.wait()
        return parts

    def gather_rows(self, rows: Tensor) -> Tensor:
        return torch.cat(self.gather_objects(rows))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    for name in dict.fromkeys(NAMES):
        pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    return ImageSet(root=tmp_path, paths=NAMES)


@pytest.fixture
def targets() -> Targets:
    return Targets(torch.randn(11, DIM, generator=torch.Generator().manual_seed(1)).half(), CPU)


@pytest.fixture
def make(images: ImageSet, targets: Targets) -> Callable[..., Validation]:
    def make(pairs: Tensor | None = None, max_images: int = MAX_IMAGES, **words: Any) -> Validation:
        pairs = torch.arange(len(NAMES)) if pairs is None else pairs
        held_out = HeldOutImages.of(images, pairs, caption_rows=CAPTION_ROWS, max_images=max_images)
        options: dict[str, Any] = {
            "targets": targets,
            "read": HeldOutReader(
                held_out.images, EvalTransform(PREPROCESSING), batch_size=2, workers=words.pop("workers", 0)
            ),
            "prepare": Normalize(PREPROCESSING, CPU),
            "in_precision": contextlib.nullcontext,
            "ranks": Ranks(),
        }
        return Validation(held_out, **(options | words))

    return make


def make_student() -> nn.Module:
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, DIM)
    )
    student(torch.randn(16, 3, 8, 8))  # moves the running statistics
    return student


@torch.no_grad()
def expected(
    student: nn.Module, images: ImageSet, targets: Targets, captions: dict[int, list[int]]
) -> dict[str, float]:
    """Retrieval by one pass over the named images, with the captions given for each."""
    student.eval()
    transform, normalize = EvalTransform(PREPROCESSING), Normalize(PREPROCESSING, CPU)
    transformed = [transform(open_lazily(images.root / f"{index}.png")) for index in captions]
    measures = retrieval_metrics(
        image_embeddings=student(normalize(torch.stack(transformed))),
        caption_embeddings=targets.gather(torch.tensor([row for rows in captions.values() for row in rows])),
        caption_image=torch.tensor([place for place, rows in enumerate(captions.values()) for _ in rows]),
    )
    return {f"validation/{name}": value for name, value in measures.items()}


CAPTIONS = {0: [0, 9], 1: [1], 2: [2, 10], **{index: [index] for index in range(3, 9)}}


def test_validation__is_retrieval_in_eval_mode(
    make: Callable[..., Validation], images: ImageSet, targets: Targets
) -> None:
    measures = make()(make_student())
    wanted = expected(make_student(), images, targets, CAPTIONS)
    assert measures == pytest.approx(wanted | {"validation/images": 9, "validation/unreadable_images": 0})
    assert {f"validation/text_to_image/recall@{k}" for k in (1, 5, 10)} <= measures.keys()
    assert 0 < measures["validation/mean_recall"] < 100


def test_validation__looks_at_the_held_out_pairs_alone(
    make: Callable[..., Validation], images: ImageSet, targets: Targets
) -> None:
    measures = make(pairs=torch.tensor([9, 3, 4, 5]))(make_student())
    wanted = expected(make_student(), images, targets, {0: [9], 3: [3], 4: [4], 5: [5]})
    assert wanted.items() <= measures.items()
    assert measures["validation/images"] == 4


def test_validation__leaves_student_and_random_numbers_as_they_were(make: Callable[..., Validation]) -> None:
    student = make_student().train()
    student[1].eval()  # frozen
    modes = [part.training for part in student.modules()]
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    validation = make()
    before = torch.get_rng_state()
    validation(student)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in student.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())
    assert torch.is_grad_enabled()


def test_validation__leaves_out_and_counts_what_cannot_be_read(
    make: Callable[..., Validation], images: ImageSet, targets: Targets, caplog: Any, quiet_log: None
) -> None:
    caplog.set_level("INFO", logger="protorkd")
    (images.root / "2.png").write_bytes(b"no image")
    (images.root / "5.png").unlink()
    validation = make()
    measures = validation(make_student())
    assert validation(make_student()) == measures
    captions = {index: rows for index, rows in CAPTIONS.items() if index not in (2, 5)}
    wanted = expected(make_student(), images, targets, captions)
    assert measures == pytest.approx(wanted | {"validation/images": 7, "validation/unreadable_images": 2})
    [line] = [message for message in caplog.messages if "left out" in message]
    assert line.startswith(f"distill: 2 of 9 validation images are left out, first {images.root / '2.png'}: ")


def test_validation__needs_two_images_that_can_be_read(make: Callable[..., Validation], images: ImageSet) -> None:
    for index in range(1, 9):
        (images.root / f"{index}.png").unlink()
    with pytest.raises(ProtoRKDError, match=r"must have 2 readable images or more; got 1 of 9, first .*1\.png: "):
        make()(make_student())


def test_validation__needs_two_images(make: Callable[..., Validation]) -> None:
    with pytest.raises(ProtoRKDError, match="Validation must have 2 images or more; got 1"):
        make(pairs=torch.tensor([0, 9]))


def test_validation__draws_the_same_images_where_there_are_more(
    make: Callable[..., Validation], images: ImageSet
) -> None:
    first, second = make(max_images=4), make(max_images=4)
    measures = first(make_student())
    assert measures == second(make_student())
    assert measures["validation/images"] == 4


@pytest.mark.parametrize("size", [2, 5, 12])
def test_validation__is_the_same_on_any_number_of_ranks(
    size: int, make: Callable[..., Validation], images: ImageSet
) -> None:
    (images.root / "3.png").unlink()
    wanted = make()(make_student())
    students = [make_student() for _ in range(size)]
    meeting = Meeting(size)
    validations = []
    for rank in range(size):
        ranks = ThreadRanks(rank=rank, size=size)
        object.__setattr__(ranks, "meeting", meeting)
        validations.append(make(ranks=ranks))
    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(lambda validation, student: validation(student), validations, students))
    assert all(result == pytest.approx(wanted) for result in results)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_validation__reads_by_workers_after_computing_with_threads(
    make: Callable[..., Validation], two_threads: None
) -> None:
    torch.randn(256, 256) @ torch.randn(256, 256)
    student = make_student()
    wanted = make()(student)
    validation = make(workers=2)
    before = torch.get_rng_state()
    assert [validation(student) for _ in range(2)] == [wanted, wanted]
    assert torch.equal(torch.get_rng_state(), before)
