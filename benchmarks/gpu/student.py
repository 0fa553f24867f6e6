"""Time a step of the student alone, the lower bound of a training's step."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import attempted, peak_memory, pipelined
from stages.components.compute.precision import autocast, choose_precision
from stages.components.student.student import build_student
from stages.distill.build import speed_up
from stages.distill.objectives import build_objective
from stages.distill.options import DistillParams
from stages.distill.training.optimizer import AdamWSettings, build_optimizer

PEAK_TFLOPS = (
    ("H100 PCIe", 756), ("H100 NVL", 835), ("H200 NVL", 835), ("H100", 989), ("H200", 989), ("B200", 2250),
    ("A100", 312), ("L40S", 362),
)  # fmt: skip
"""Dense bf16 by the datasheets: the first name that is part of the GPU's."""

_DIM = 384
_COUNTED_SIZE = 224  # of the images that torchvision counts operations for
_IMAGES_TIMED = 5000
_FEWEST_STEPS = 4


def bare(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time bare steps by batch size, with and without cuDNN's search for algorithms, and without channels last."""
    student, rates = setup.sizes.student, {}
    for batch_size in setup.sizes.batches:
        for tries in (False, True):
            torch.backends.cudnn.benchmark = tries
            figures = attempted(_timed, setup, student, batch_size)
            rates[batch_size, tries] = figures.get("images_per_s", 0.0)
            yield {f"{batch_size}{' cudnn.benchmark' if tries else ''}": figures}
    yield {"best": _speed(setup, student, max(rates.values()))}
    torch.backends.cudnn.benchmark = False
    batch_size = setup.sizes.batch_size
    contiguous = attempted(_timed, setup, student, batch_size, layout=torch.contiguous_format)
    yield {f"{batch_size} contiguous": contiguous}
    name, batch_size = setup.sizes.transformer
    yield {f"{name} {batch_size}": attempted(_timed, setup, name, batch_size)}


def compiled(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time a bare step that torch.compile has compiled."""
    student, batch_size = setup.sizes.student, setup.sizes.batch_size
    step = bare_step(setup, student, batch_size, compile_=True)
    start = time.monotonic()
    step()
    yield {"first_step_s": time.monotonic() - start}
    yield {f"{batch_size}": attempted(_figures, setup, student, batch_size, step)}


def bare_step(
    setup: Setup,
    student: str,
    batch_size: int,
    *,
    layout: torch.memory_format = torch.channels_last,
    compile_: bool = False,
) -> Callable[[], None]:
    """Make a function that does forward, infonce, backward, clipping and AdamW, on images that lie on the device."""
    torch.manual_seed(0)
    device, size, params = setup.device, setup.sizes.image_size, DistillParams()
    model = build_student(student, embedding_dim=_DIM, image_size=size).to(device).to(memory_format=layout)
    speed_up(model, compile_=compile_, checkpoint_gradients=False)
    objective = build_objective("infonce", dim=_DIM).to(device)
    optimizer = build_optimizer(model, objective, AdamWSettings(lr=params.lr, weight_decay=params.weight_decay))
    parameters = [*model.parameters(), *objective.parameters()]
    in_precision = autocast(choose_precision("auto", device), device)
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    images = torch.randn(batch_size, 3, size, size, device=device).to(kind).contiguous(memory_format=layout)
    targets, rows = torch.randn(batch_size, _DIM, device=device), torch.arange(batch_size, device=device)

    def step() -> None:
        with in_precision():
            embeddings: Tensor = model(images)
        objective(student=embeddings.float(), teacher=targets, rows=rows).backward()
        nn.utils.clip_grad_norm_(parameters, params.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def mfu(setup: Setup, student: str, images_per_s: float) -> float | None:
    """Compute the share of the GPU's peak that a training's products reach; None where the peak is not known.

    A product's multiply and add are two operations, and backward takes twice what forward does: 3 x 2 x 4.09e9 an image
    for resnet50 at 224 pixels, by torchvision's count of multiply-adds.
    """
    if setup.device.type != "cuda":
        return None
    peak = peak_tflops(torch.cuda.get_device_name(setup.device))
    return None if peak is None else images_per_s * operations(student, setup.sizes.image_size) / (peak * 1e12)


def peak_tflops(gpu: str) -> float | None:
    """Look up the dense bf16 peak of a GPU by torch's name for it; None for one that is not in the table."""
    return next((tflops for name, tflops in PEAK_TFLOPS if name in gpu), None)


def operations(student: str, image_size: int) -> float:
    """Count the multiplies and adds of forward and backward of an image."""
    multiply_adds: float = get_model_weights(student).DEFAULT.meta["_ops"] * 1e9
    return 3 * 2 * multiply_adds * (image_size / _COUNTED_SIZE) ** 2


def _timed(setup: Setup, student: str, batch_size: int, **options: Any) -> dict[str, Any]:
    return _figures(setup, student, batch_size, bare_step(setup, student, batch_size, **options))


def _figures(setup: Setup, student: str, batch_size: int, step: Callable[[], None]) -> dict[str, Any]:
    times = 2 if setup.is_tiny else max(_FEWEST_STEPS, _IMAGES_TIMED // batch_size)
    seconds = pipelined(step, times=times, warm=2 if setup.is_tiny else 6)
    return {"ms": 1000 * seconds, **_speed(setup, student, batch_size / seconds), **peak_memory()}


def _speed(setup: Setup, student: str, images_per_s: float) -> dict[str, Any]:
    share = mfu(setup, student, images_per_s)
    return {"images_per_s": images_per_s, **({} if share is None else {"mfu": share})}
