"""Steps of two real processes: the bits of a slow second implementation, in few exchanges."""

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from workbench import SMALL, Cli, Pairs, on_ranks

from stages.components.compute.distributed import Ranks
from stages.distill.objectives import WeightedObjectives, build_objective
from stages.distill.training.loop import Training
from stages.distill.training.model import TrainedModel
from stages.distill.training.profiler import NoClock
from stages.distill.training.step import TrainingStep
from stages.distill.training.validation import Validation

# Each rank normalises its own part of a batch; objectives with weights and with a queue; gradients cut to a length.
WORDS = (
    *("distill", *SMALL, "--precision", "fp32", "--student", "shufflenet_v2_x0_5", "--epochs", 2, "--lr", 1e-3),
    *("--loss", "dino=1", "--loss-option", "dino.num-prototypes=8"),
    *("--loss", "compress-1q=1", "--loss-option", "compress-1q.queue-size=16"),
    *("--validation-fraction", 0.2, "--ema-decay", 0.9, "--accumulate-steps", 2, "--max-grad-norm", 1),
)
Digests = tuple[str, ...]


def take_all_turns_together() -> None:
    """Return the slow second implementation: all is exchanged at every step, and each tensor by itself."""
    init, update = TrainingStep.__init__, TrainingStep.update

    def init_with_buffers(step: Any, *args: Any, **words: Any) -> None:
        init(step, *args, **words)
        step._student_on_ranks.broadcast_buffers = True

    def update_by_means(step: Any, lr: float) -> Tensor:
        step._ranks.average_gradients(step._objectives)
        return update(step, lr)

    TrainingStep.__init__, TrainingStep.update = init_with_buffers, update_by_means  # type: ignore[method-assign]
    Ranks.gather_together = gather_one_by_one  # type: ignore[method-assign]
    Ranks.share_state = share_buffers  # type: ignore[method-assign]


def gather_one_by_one(ranks: Ranks, tensors: Sequence[Tensor], *, counts: Sequence[int] | None = None) -> list[Tensor]:
    counts = counts or [number for [number] in ranks.exchange([len(tensors[0])])]
    gathered = []
    for tensor in tensors:
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded, group=ranks.group)
        rows = [part[:count] for part, count in zip(parts, counts, strict=True)]
        if tensor.requires_grad:
            rows[ranks.rank] = tensor.view_as(tensor)
            rows[ranks.rank].register_hook(lambda gradient: ranks.size * gradient)
        gathered.append(torch.cat(rows))
    return gathered


def share_buffers(ranks: Ranks, modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for buffer in module.buffers():
            buffer.copy_(ranks.broadcast(buffer))


def digest(module: nn.Module) -> str:
    tensors = [tensor.numpy().tobytes() for tensor in module.state_dict().values()]
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def train(ranks: Ranks, store: Path, *, before: Callable[[], None]) -> tuple[list[Digests], list[dict[str, float]]]:
    """Run the command as one of several processes: what it held when states were saved, and what validation found."""
    import stages.components.compute.distributed

    stages.components.compute.distributed.join_ranks = lambda: ranks
    states: list[Digests] = []
    measures: list[dict[str, float]] = []
    save, validate = Training._save, Validation.__call__

    def look_and_save(training: Training, kept: str | None) -> None:
        states.append(tuple(map(digest, training._model.modules.values())))
        save(training, kept)

    def note(validation: Validation, student: nn.Module) -> dict[str, float]:
        measures.append(validate(validation, student))
        return measures[-1]

    Training._save, Validation.__call__ = look_and_save, note  # type: ignore[method-assign]
    before()
    result = Cli(store).run(*WORDS)
    assert result.exit_code == 0, result.output
    return states, measures


def test_steps__of_two_ranks_are_those_that_exchange_all_every_time(
    encoded: Pairs, store: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(store, tmp_path / "other")
    first, second = on_ranks(2, lambda ranks: train(ranks, store, before=lambda: None))
    slow, _ = on_ranks(2, lambda ranks: train(ranks, other, before=take_all_turns_together))
    assert first == slow
    assert second == first
    assert len(first[0]) == len(first[1]) == 2


def exchanges(ranks: Ranks, *, before: Callable[[], None]) -> Counter[str]:
    """Return what two ranks exchange in a step of two micro-batches, by torch's names; those of its C++ among them."""
    before()
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))
    objectives = WeightedObjectives({"dino": (1.0, build_objective("dino", dim=6, num_prototypes=4))})
    model = TrainedModel(
        student=student,
        objectives=objectives,
        optimizer=torch.optim.SGD([*student.parameters(), *objectives.parameters()], lr=0.1),
        loss_scaler=torch.amp.GradScaler("cpu", enabled=False),
        ema=None,
    )
    step = TrainingStep(
        model,
        ranks=ranks,
        prepare=lambda images, seeds, sizes: images,
        in_precision=contextlib.nullcontext,
        max_grad_norm=1.0,
        clock=NoClock(),
    )
    numbers = torch.arange(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for last in (False, True):
            with step.micro_batch(last=last):
                embeddings = step.forward(torch.randn(3, 3, 4, 4), seeds=torch.empty(0), sizes=torch.empty(0))
                teacher = torch.randn(3, 6)
                loss, _ = step.loss(
                    embeddings, teacher=teacher, beside={"rows": numbers, "labels": numbers}, counts=[3, 3]
                )
                step.backward(loss, share=0.5)
        step.update(0.1)
    return Counter(event.name for event in profile.events() if event.name.startswith("gloo:"))


def test_steps__exchange_a_batch_once_and_the_students_gradients() -> None:
    quick, _ = on_ranks(2, lambda ranks: exchanges(ranks, before=lambda: None))
    assert quick == {"gloo:all_gather": 2, "gloo:all_reduce": 1}
    slow, _ = on_ranks(2, lambda ranks: exchanges(ranks, before=take_all_turns_together))
    assert slow == {"gloo:all_gather": 8, "gloo:broadcast": 2, "gloo:all_reduce": 2}
