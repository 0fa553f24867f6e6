"""Run the teacher's network on one device: batches are launched one after the other, and waited for once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.compute.device import send
from stages.components.teacher.batching import Batch

Embeddings = NDArray[np.float32]
Wait = Callable[[], Embeddings]


class TeacherNetwork:
    """A teacher's network that embeds batches on a device.

    Args:
        network: Module on the device that adds ``sentence_embedding`` to a batch's features.
        device: Device of the network.
        dim: Number of dimensions to keep, from the first on.
    """

    def __init__(self, network: nn.Module, device: torch.device, *, dim: int) -> None:
        self._network = network
        self._device = device
        self._dim = dim

    @torch.inference_mode()
    def start(self, batches: Sequence[Batch], *, advance: Callable[[int], None]) -> Wait:
        """Launch batches, the longest captions first; on return a CPU has finished, while a GPU still works.

        Nothing here reads from a GPU, so that more can be launched while it works: the embeddings stay there, and are
        copied back at once. (Transformers itself waits once for each batch, to see whether it has padding.)

        Args:
            batches: Batches of captions.
            advance: Called with the number of captions of each batch that is launched.

        Returns:
            A function that waits for the embeddings and returns them, in the order of the captions, from any thread.

        Raises:
            ProtoRKDError: a batch does not fit into the device's memory.
        """
        if not batches:
            return lambda: np.zeros((0, self._dim), dtype=np.float32)
        rows, parts = [], []
        for batch, features in self._sent_ahead(reversed(batches)):
            parts.append(self._embed(features))
            rows.append(batch.rows)
            advance(len(batch.rows))
        is_cuda = self._device.type == "cuda"
        fetched = torch.cat(parts).to("cpu", non_blocking=is_cuda)  # torch pins the target by itself
        done = torch.cuda.Event(blocking=True) if is_cuda else None  # type: ignore[no-untyped-call]
        if done is not None:
            done.record(torch.cuda.current_stream(self._device))

        def wait() -> Embeddings:
            if done is not None:
                done.synchronize()
            embeddings = np.empty(tuple(fetched.shape), dtype=np.float32)
            embeddings[np.concatenate(rows)] = fetched.numpy()
            return embeddings

        return wait

    def _embed(self, features: dict[str, Any]) -> Tensor:
        try:
            embedded: Tensor | None = self._network(features).get("sentence_embedding")
        except torch.OutOfMemoryError as error:
            raise ProtoRKDError(
                f"--batch-tokens must leave room in the memory of {self._device}; got a batch that fills it: {error} "
                "Give fewer, such as --batch-tokens 8192."
            ) from error
        if embedded is None or embedded.ndim != 2:
            raise ProtoRKDError(
                "--teacher must give one embedding for each caption; got a model that gives one for each token, or "
                "scores (ColBERT, a cross-encoder). Pass a sentence-embedding model."
            )
        return embedded[:, : self._dim].float()

    def _sent_ahead(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield batches with their features on the device; a GPU copies them while it computes the batch before."""
        # The network adds to the dict that it gets; the batch's own stays as it is.
        if self._device.type != "cuda":
            yield from ((batch, _send(batch.features, self._device)) for batch in batches)
            return
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        for batch in batches:
            with torch.cuda.stream(aside):
                features = _send(batch.features, self._device)
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(aside)
            for value in features.values():
                if isinstance(value, Tensor):
                    value.record_stream(current)  # its memory is not reused before the network is done
            yield batch, features


def _send(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: send(value, device) if isinstance(value, Tensor) else value for name, value in features.items()}
