"""The state that an interrupted training goes on from: one file of safetensors with JSON in its header, no pickle."""

import copy
import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from pipeline.log import log
from stages.components.compute.tensor_file import write_tensors

_HEADER = "protorkd"


@dataclass
class TrainingProgress:
    """How far training has come.

    Args:
        step: Optimizer steps taken, over all epochs.
        rejected: Reason why an example, by its number, had no image.
        checkpoints: Paths of the weights that were kept, relative to the artifact's folder.
        loss_scale: State of the gradient scaler; empty but under fp16.
        steps_per_epoch: Steps in an epoch, by which `step` was counted; 0 before the first state.
    """

    step: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    loss_scale: dict[str, float] = field(default_factory=dict)
    steps_per_epoch: int = 0

    def count_by(self, steps_per_epoch: int) -> None:
        """Convert the step where an epoch has more or fewer steps than before.

        The number of processes decides whether an epoch's last examples are enough for a step of their own; where they
        now join the step before, that step's examples are seen twice in that epoch.
        """
        epoch, step_in_epoch = divmod(self.step, self.steps_per_epoch or steps_per_epoch)
        self.step = epoch * steps_per_epoch + min(step_in_epoch, steps_per_epoch - 1)
        self.steps_per_epoch = steps_per_epoch


@dataclass(frozen=True)
class TrainingState:
    """A state in memory of its own: to be written while training goes on, or read and not yet put back.

    Args:
        progress: How far training has come.
        tensors: Tensors of modules and optimizer by name, on the CPU.
        arrived: Event by which the tensors are there; None where they are.
    """

    progress: TrainingProgress
    tensors: Mapping[str, Tensor]
    arrived: torch.cuda.Event | None = None

    @classmethod
    def of(
        cls, progress: TrainingProgress, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
    ) -> "TrainingState":
        """Copy a training's state without waiting for the device; random numbers are a function of seed and step.

        Args:
            progress: How far training has come.
            modules: Modules by name.
            optimizer: Optimizer, whose state follows the order of its parameters.
        """
        live = _named_tensors(modules, optimizer)
        tensors = {name: _copied(tensor.detach()) for name, tensor in live.items()}
        gpu = next((tensor.device for tensor in live.values() if tensor.is_cuda), None)
        return cls(copy.deepcopy(progress), tensors, None if gpu is None else _after_all_so_far(gpu))

    def write(self, path: Path) -> None:
        """Write it as one whole file.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written; what stood there before still stands.
        """
        header = {_HEADER: json.dumps(dataclasses.asdict(self.progress))}
        write_tensors(self.below(""), path, metadata=header)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Select the tensors whose names have a prefix, by the rest of their names; waits until they are there."""
        if self.arrived is not None:
            with torch.cuda.device(self.arrived.device):  # a thread that names none takes up the first GPU as well
                self.arrived.synchronize()
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def restore(self, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimizer back.

        Args:
            modules: Modules by the names that they were saved under; changed in place.
            optimizer: Optimizer over the same parameters; changed in place.
        """
        for name, module in modules.items():
            state_dict = OrderedDict(self.below(f"{name}/"))
            # The file has no versions of modules, without which torchvision's mnasnet refuses it, also within EMA.
            state_dict._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
            module.load_state_dict(state_dict)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in self.below("optimizer/").items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], tensor)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named_tensors(modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def _copied(tensor: Tensor) -> Tensor:
    """Copy to contiguous memory of the CPU; a GPU writes to pinned memory by itself, in the order of its work."""
    memory = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return memory.copy_(tensor, non_blocking=tensor.is_cuda)


def _after_all_so_far(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # waiting for it takes no core
    event.record(torch.cuda.current_stream(device))
    return event


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Give a moment its parameter's memory format: fused optimizers walk through both by address."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def load_training_state(path: Path) -> TrainingState | None:
    """Read what `TrainingState.write` wrote, or None when nothing whole is there."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        rejected = {int(pair): reason for pair, reason in values.pop("rejected").items()}
        return TrainingState(TrainingProgress(rejected=rejected, **values), tensors)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        log.info("distill: starting over, the saved state cannot be read: %s", error)
        return None
