"""What an interrupted training goes on from, in one whole file: safetensors with JSON in its header, never a pickle."""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data_schemas.files import write_atomic
from pipeline.log import log

_HEADER = "protorkd"


@dataclass
class TrainingProgress:
    """How far training has come.

    Args:
        step: optimizer steps taken, over all epochs.
        rejected: why an example, by its number, had no picture.
        checkpoints: weights that were kept, relative to the artifact's folder.
        loss_scale: state of the gradient scaler; empty but under fp16.
        steps_per_epoch: that `step` was counted by; 0 before the first state.
    """

    step: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    loss_scale: dict[str, float] = field(default_factory=dict)
    steps_per_epoch: int = 0

    def count_by(self, steps_per_epoch: int) -> None:
        """Keep the place where an epoch has more or fewer steps than before.

        With the number of processes it changes whether the last examples of an epoch are enough for a step of their
        own; those of a step that now takes them in are seen twice in that epoch.
        """
        epoch, step_in_epoch = divmod(self.step, self.steps_per_epoch or steps_per_epoch)
        self.step = epoch * steps_per_epoch + min(step_in_epoch, steps_per_epoch - 1)
        self.steps_per_epoch = steps_per_epoch


@dataclass(frozen=True)
class TrainingState:
    """A saved state, read but not yet put back."""

    progress: TrainingProgress
    tensors: Mapping[str, Tensor]

    def restore(self, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimizer back.

        Args:
            modules: by the names that they were saved under; changed in place.
            optimizer: over the same parameters; changed in place.
        """
        for name, module in modules.items():
            state_dict = OrderedDict(self._below(name))
            # The file has no versions of modules, without which torchvision's mnasnet refuses it, also within EMA.
            state_dict._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
            module.load_state_dict(state_dict)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in self._below("optimizer").items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], tensor)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _below(self, name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Give a moment its parameter's memory format: fused optimizers walk through both by address."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def save_training_state(
    path: Path, progress: TrainingProgress, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Write progress, weights and optimizer as one whole file; random numbers are a function of seed and step.

    Args:
        path: the file.
        progress: how far.
        modules: by name.
        optimizer: its state follows the order of its parameters.
    """
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {_HEADER: json.dumps(dataclasses.asdict(progress))}
    write_atomic(path, safetensors.torch.save(whole, metadata=header))


def load_training_state(path: Path) -> TrainingState | None:
    """Read what `save_training_state` wrote, or None when nothing whole is there."""
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
