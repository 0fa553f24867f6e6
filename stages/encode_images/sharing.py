"""Share the shards that are missing among processes: those of torchrun, or one for each of several devices.

Each takes every n-th shard, writes it and notes it in the draft's journal, so that a killed run goes on from what any
of them had done. A shard's bytes do not depend on who writes it.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.embedding_array import Shard
from data_schemas.errors import ProtoRKDError
from data_schemas.images.backbone_checkpoint import BackboneConfig
from pipeline.peers import fail_together
from pipeline.progress import progress
from stages.components.backbones.frozen import load_backbone
from stages.components.backbones.module_family import PREFIX
from stages.components.compute.device import choose_device, send
from stages.components.compute.device_processes import DeviceProcesses, count
from stages.components.compute.distributed import Ranks
from stages.components.compute.hang_watch import HangWatch
from stages.components.embeddings.image_rows import Compute, ImageRows
from stages.components.embeddings.nearness import nearness, tell_nearness
from stages.components.loading.batch import Batch, collate
from stages.components.student.embedder import ImageEmbedder
from stages.components.student.student import Student


@dataclass(frozen=True)
class FrozenBackbone:
    """A frozen backbone that each process loads for itself.

    Args:
        folder: Folder of its artifact.
        config: Its configuration.
        digest: Digest of its artifact.
        precision: Precision of its matrix products.
    """

    folder: Path
    config: BackboneConfig
    digest: str
    precision: str

    def load(self, device: torch.device) -> Callable[[str], ImageEmbedder]:
        """Load the network onto a device, and return a function that makes an embedder in a precision."""
        network, _ = load_backbone(self.folder, device=device)
        dim = self.config.feature_dim
        alone = Student(backbone=network, head=nn.Identity(), feature_dim=dim, embedding_dim=dim).eval()
        return lambda precision: ImageEmbedder(alone, self.config.preprocessing, device=device, precision=precision)


@dataclass(frozen=True)
class _Part:
    """What one process does.

    Args:
        shards: Shards that it writes.
        sampled: Shards of which a sample is compared with fp32; empty in all processes but one.
    """

    shards: Sequence[Shard]
    sampled: Sequence[Shard]


@dataclass(frozen=True)
class _Done:
    """What one process came to.

    Args:
        reasons: Why distinct images could not be read, by their row.
        nearness: Cosine of the features to those in fp32, on a sample; empty where they are in fp32, or none was drawn.
    """

    reasons: dict[int, str]
    nearness: dict[str, float]


def write_shared(
    rows: ImageRows, backbone: FrozenBackbone, *, devices: Sequence[torch.device], ranks: Ranks
) -> dict[str, float]:
    """Write every shard that is not complete yet, by all processes.

    Args:
        rows: Rows of the draft.
        backbone: Backbone that computes them.
        devices: Devices of this process; with several, each has a process of its own.
        ranks: Processes that torchrun started.

    Returns:
        Cosine of the features to those in fp32, in the first process.

    Raises:
        ProtoRKDError: too many images cannot be read, a feature cannot be stored, a process has ended, or the disk is
            full; in all processes, but that only the first tells of too many in all of them together.
    """
    with fail_together(ranks):
        missing = rows.find_missing() if ranks.is_first else []
    missing = ranks.broadcast(missing)
    with fail_together(ranks), _shown(rows, missing[:: ranks.size], is_first=ranks.is_first) as advance:
        if len(devices) > 1 and rows.num_computed:
            own = _by_processes(rows, backbone, _split(missing, len(devices)), devices=devices, advance=advance)
        else:
            part = _split(missing, ranks.size)[ranks.rank]
            own = [_write_part(rows, backbone, part, device=devices[0], is_one_of_many=ranks.size > 1, advance=advance)]
    done = [each for of_rank in ranks.gather_objects(own) for each in of_rank]
    if not ranks.is_first:
        return {}
    rows.note({row: reason for each in done for row, reason in each.reasons.items()})
    cosines: dict[str, float] = next((each.nearness for each in done if each.nearness), {})
    if cosines:
        tell_nearness(cosines, model="backbone", precision=backbone.precision, noun="image")
    return cosines


def _split(missing: Sequence[Shard], num: int) -> list[_Part]:
    """Give each process its part; the first, which has work if one of them has, measures on a sample of all."""
    return [_Part(missing[place::num], () if place else missing) for place in range(num)]


def _by_processes(
    rows: ImageRows,
    backbone: FrozenBackbone,
    parts: Sequence[_Part],
    *,
    devices: Sequence[torch.device],
    advance: Callable[[int], None],
) -> list[_Done]:
    if backbone.config.name.startswith(PREFIX):
        raise ProtoRKDError(
            f"--device must name one device for {backbone.config.name}, which other processes do not know; got "
            f"{len(devices)}. Start the script that gives it with torchrun to share the work."
        )
    names = [str(device) for device in devices]
    pool = DeviceProcesses(names, choose_device, num_threads=torch.get_num_threads(), work="embed images")
    with pool as processes:
        return processes.results(
            [processes.ask(_in_process, rows, backbone, part) for part in parts if part.shards], advance=advance
        )


def _in_process(device: torch.device, rows: ImageRows, backbone: FrozenBackbone, part: _Part) -> _Done:
    return _write_part(rows, backbone, part, device=device, is_one_of_many=True, advance=count)


def _write_part(
    rows: ImageRows,
    backbone: FrozenBackbone,
    part: _Part,
    *,
    device: torch.device,
    is_one_of_many: bool,
    advance: Callable[[int], None],
) -> _Done:
    """Write the shards of a part in this process."""
    cosines: dict[str, float] = {}
    with HangWatch(is_on=is_one_of_many) as watch:

        def load() -> Compute:
            embedder_in = backbone.load(device)
            embedder = embedder_in(backbone.precision)
            if backbone.precision != "fp32" and part.sampled:
                sample = collate(rows.draw_sample(part.sampled))
                cosines.update(_compare(embedder, embedder_in("fp32"), sample, device=device))
            return lambda batches: _features(embedder, watch.over(batches))

        rows.write(part.shards, load, pin_memory=device.type == "cuda", advance=advance)
    return _Done(rows.reasons, cosines)


def _features(embedder: ImageEmbedder, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the features of each batch, (read, feature_dim), float32."""
    for batch, features, _ in embedder.over(batches):
        yield batch, features


def _compare(embedder: ImageEmbedder, exact: ImageEmbedder, sample: Batch, *, device: torch.device) -> dict[str, float]:
    """Measure how near features come to those in fp32."""
    if not len(sample.images):
        return {}
    return nearness(*(_on_cpu(each, sample.images, device) for each in (embedder, exact)), noun="image")


def _on_cpu(embedder: ImageEmbedder, images: Tensor, device: torch.device) -> NDArray[np.float32]:
    features, _ = embedder(send(images, device))
    numbers: NDArray[np.float32] = features.cpu().numpy()
    return numbers


def _shown(
    rows: ImageRows, missing: Sequence[Shard], *, is_first: bool
) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Show in the first process how far it is, or how far its devices are."""
    if not is_first:
        return contextlib.nullcontext(_ignore)
    total = rows.num_resumed + sum(shard.stop - shard.start for shard in missing)
    return progress("embedding images", total=total, unit="images", done=rows.num_resumed)


def _ignore(_units: int) -> None:
    """Show nothing: the first process speaks for all."""
