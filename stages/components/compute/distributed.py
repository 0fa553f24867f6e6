"""The processes that train one student together: torch.distributed, joined through torchrun's environment variables.

A single process has the same interface, so that callers never ask whether there are others.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from data_schemas.errors import ProtoRKDError
from pipeline.peers import Peers
from stages.components.compute.stopped_processes import StoppedProcessWatch, own_address

# The first process may hash a million images, or wait for another run, before it broadcasts.
_PATIENCE = timedelta(days=7)
# Within a step no process is that late, unless `within` allows it: one that hangs is detected.
STEP_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
        group: Process group for tensors within a step, where a hung process is soon noticed; None for a single process.
        patient_group: Process group for broadcasts and small objects, which may be waited for for days.
        watch: Watch that ends a process of the run that is stopped; None for a single process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    patient_group: Any = None
    watch: StoppedProcessWatch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather_rows(self, rows: Tensor, *, counts: Sequence[int] | None = None) -> Tensor:
        """Put the rows of all ranks one after the other, as `gather_together` does."""
        [gathered] = self.gather_together([rows], counts=counts)
        return gathered

    def gather_together(self, tensors: Sequence[Tensor], *, counts: Sequence[int] | None = None) -> list[Tensor]:
        """Put the rows of all ranks one after the other, of several tensors in one exchange.

        If every rank computes its loss from the gathered rows, and gradients are averaged over the ranks as
        DistributedDataParallel does, the student gets the gradient of one process with the whole batch: the gradient of
        a rank's own rows is multiplied by the number of ranks, by which that average divides. Parameters of the loss
        itself have that gradient on every rank without averaging.

        Args:
            tensors: Tensors of this rank, all with the same number of rows; other ranks may have more or fewer.
            counts: Number of rows of each rank, where known; None exchanges them first.

        Shapes:
            tensors: (own, ...), any dtypes, on the training device.
            returns: (sum of own, ...), the same dtypes; gradients reach the own rows alone.
        """
        if self.size == 1:
            return list(tensors)
        if counts is None:
            counts = [number for [number] in self.exchange([len(tensors[0])])]
        most = max(counts)
        if not most:
            return list(tensors)
        own = torch.cat([_as_bytes(tensor, rows=most) for tensor in tensors])
        parts = own.new_empty(self.size * len(own))
        distributed.all_gather_into_tensor(parts, own, group=self.group)
        fields = torch.split(parts.view(self.size, -1), [most * _row_bytes(tensor) for tensor in tensors], dim=1)
        return [self._join(field, tensor, counts) for field, tensor in zip(fields, tensors, strict=True)]

    def _join(self, field: Tensor, own: Tensor, counts: Sequence[int]) -> Tensor:
        """Turn the bytes of all ranks, (ranks, bytes), uint8, into rows again."""
        size = _row_bytes(own)
        sent = torch.cat([part[: count * size] for part, count in zip(field, counts, strict=True)])
        rows = sent.view(own.dtype).view(sum(counts), *own.shape[1:])
        if not own.requires_grad:
            return rows
        start = sum(counts[: self.rank])
        return torch.cat([rows[:start], _GradientTimes.apply(own, self.size), rows[start + len(own) :]])

    def sum(self, values: Tensor) -> Tensor:
        """Add up all ranks' values; their gradients are added up over the ranks likewise.

        Shapes:
            values: any, float, on the training device; equal on all ranks.
            returns: the same.
        """
        return values if self.size == 1 else _Sum.apply(values, self.group)

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return every rank's numbers, in rank order; each rank passes equally many. The device is not used.

        A single process gets its own numbers back, without a tensor.
        """
        if self.size == 1:
            return [list(numbers)]
        own = torch.tensor(numbers)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own, group=self.group)
        return [part.tolist() for part in parts]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order; values are pickled and should be small."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with peer_errors():
            distributed.all_gather_object(values, value, group=self.patient_group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the first rank's value on all ranks, which may wait for days; it is pickled and should be small."""
        if self.size == 1:
            return value
        box = [value]
        with peer_errors():
            distributed.broadcast_object_list(box, src=0, group=self.patient_group)
        return box[0]

    def average_gradients(self, module: nn.Module) -> None:
        """Average a module's gradients over the ranks, where DistributedDataParallel does not."""
        if self.size == 1:
            return
        for parameter in module.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad, group=self.group)
                parameter.grad /= self.size

    def share_state(self, modules: Iterable[nn.Module]) -> None:
        """Copy the first rank's state dicts, weights and buffers, to all ranks."""
        if self.size == 1:
            return
        for tensor in [tensor for module in modules for tensor in module.state_dict().values()]:
            whole = tensor.contiguous()  # the tensor itself, unless it is channels last
            distributed.broadcast(whole, src=0, group=self.group)
            tensor.copy_(whole)

    def within(self, minutes: float) -> "Ranks":
        """Return the same ranks, of which none waits longer than this for another within a step; all ranks call it."""
        timeout = timedelta(minutes=minutes)
        if self.size == 1 or timeout == STEP_TIMEOUT:
            return self
        return replace(self, group=distributed.new_group(backend=_backend(), timeout=timeout))

    def leave(self) -> None:
        """Close the process groups after a success; after a failure, this process ends and the others notice that."""
        if self.watch is not None:
            self.watch.close()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def join_ranks() -> Ranks:
    """Connect to the processes that the launcher started with this one.

    Raises:
        ProtoRKDError: they cannot be reached.
    """
    try:
        distributed.init_process_group("gloo", timeout=STEP_TIMEOUT)
        backend = _backend()
        if backend != "gloo":
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            if local_rank < torch.cuda.device_count():  # else `choose_device` refuses it
                torch.cuda.set_device(local_rank)
        group = distributed.new_group(backend=backend, timeout=STEP_TIMEOUT)
        patient_group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ProtoRKDError(
            f"The processes of a run must reach one another; {error}. Start them with torchrun, and check "
            "MASTER_ADDR and MASTER_PORT."
        ) from error
    ranks = Ranks(
        rank=distributed.get_rank(), size=distributed.get_world_size(), group=group, patient_group=patient_group
    )
    return replace(ranks, watch=StoppedProcessWatch(ranks.gather_objects(own_address())))


def _backend() -> str:
    """Name the backends of a step's tensors; with a GPU, ``--device cpu`` still works."""
    return "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() and torch.cuda.is_available() else "gloo"


@contextmanager
def peer_errors() -> Iterator[None]:
    """Turn the error of a broken connection into one that says that another process ended.

    Raises:
        ProtoRKDError: another process ended, or hung for longer than a step may take.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise ProtoRKDError(
            f"Another process of this run has ended, or does not answer; its own message says why ({error}). Mend that "
            "and run the same command again: it goes on from the last saved state."
        ) from error


def ranks_of(peers: Peers) -> Ranks:
    """Return the ranks that the runner connected for a stage, or this process alone."""
    return peers if isinstance(peers, Ranks) else Ranks()


def _row_bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:]) * tensor.element_size()


def _as_bytes(tensor: Tensor, *, rows: int) -> Tensor:
    """Return the bytes of a tensor, row by row, padded to ``rows`` rows: (bytes,), uint8."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return nn.functional.pad(flat, (0, rows * _row_bytes(tensor) - len(flat)))


class _GradientTimes(torch.autograd.Function):
    """The identity, with its gradient multiplied by a factor."""

    @staticmethod
    def forward(context: Any, rows: Tensor, factor: int) -> Tensor:
        """Return the rows."""
        context.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Multiply the gradient."""
        return gradient * context.factor, None


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is summed over the ranks, too."""

    @staticmethod
    def forward(context: Any, values: Tensor, group: Any) -> Tensor:
        """Add up the values."""
        context.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Add up the gradients."""
        total = gradient.clone()
        distributed.all_reduce(total, group=context.group)
        return total, None
