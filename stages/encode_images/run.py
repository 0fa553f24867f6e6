"""Put distinct images through a frozen backbone, shard by shard."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.backbone_checkpoint import BackboneConfig
from data_schemas.embedding_array import FEATURE_KIND, FEATURES_NAME
from data_schemas.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.pair_index import write_rejected
from pipeline.log import log
from pipeline.stage import Context, Input, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.backbones.frozen import BackboneParams, load_backbone, make_backbone
from stages.components.compute.device import choose_device, describe_work, send
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.image_rows import Compute, ImageRows, RowLayout
from stages.components.embeddings.nearness import nearness, tell_nearness
from stages.components.embeddings.reused_rows import find_known_rows
from stages.components.loading.batch import Batch, collate
from stages.components.loading.view_images import View, ViewImages
from stages.components.student.embedder import ImageEmbedder
from stages.components.student.student import Student
from stages.encode_images.row_names import find_sources, name_rows, read_row_names
from stages.encode_images.view_seeds import seed_rows

if TYPE_CHECKING:
    from stages.encode_images.options import EncodeImagesParams, EncodeImagesRuntime, EncodeImagesSources


def compute_features(
    params: "EncodeImagesParams",
    runtime: "EncodeImagesRuntime",
    *,
    sources: "EncodeImagesSources",
    draft: Draft,
    context: Context,
) -> Result:
    """Compute the features of images, each once, into a draft; shards that are already complete are kept.

    Reads:  earlier artifacts of the same backbone, precision and dtype, unless the run is forced.
    Writes: features of shape (distinct images x views, feature_dim), and the row of each image.

    Raises:
        ProtoRKDError: too many images cannot be read, a feature cannot be stored, or the disk is full.
    """
    artifact = _backbone(params, sources, context)
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    log.info("encode-images: on %s", describe_work(device, precision=precision))
    backbone = _Backbone(artifact, BackboneConfig.read(artifact.path), device=device, precision=precision)
    digest = artifact.record.digest
    _describe(FeaturesConfig(backbone.config, digest, precision, params.views, params.augmentation), draft)
    images = sources.paths.value
    distinct = Distinct.of(images.images, images.digests(context.file_digests))
    rows = _open_rows(params, runtime, distinct, backbone, draft=draft, context=context)
    rows.write_missing(
        partial(backbone.load, rows.opened), pin_memory=device.type == "cuda", measured=lambda: backbone.nearness
    )
    rejections = rows.rejections()
    write_rejected(draft.path, rejections)
    distinct.write(draft.path, without={entry.row for entry in rejections})
    return Result(
        counts={
            "images": len(distinct.rows) - len(rejections),
            "distinct_images": len(distinct.firsts) - len(rows.reasons),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "encoded_rows": rows.num_computed,
            "reused_rows": rows.num_reused,
            "resumed_rows": rows.num_resumed,
        },
        metrics=backbone.nearness or rows.measured,
        uses=(digest,),
        environment={"device": device.type, "precision": precision},
    )


def _backbone(params: "EncodeImagesParams", sources: "EncodeImagesSources", context: Context) -> Artifact:
    """Return the backbone that a student has, or make the one that was named; every byte of it is checked."""
    assert sources.backbone is not None
    found, kept = sources.backbone, sources.backbone.value
    if not isinstance(kept, Artifact):
        wanted = BackboneParams(params.backbone, params.image_size, params.pooling)
        return make_backbone(wanted, Input(found.digest, found.location, found.parts, value=kept), context)
    context.use(kept.record.digest)
    kept.require_whole(read=True)
    return kept


def _describe(config: FeaturesConfig, draft: Draft) -> None:
    """Write what computes the features; shards of a killed run that computed them otherwise are taken away."""
    config.write(draft.path)
    if draft.was_adopted(CONFIG_NAME) and not draft.is_whole(CONFIG_NAME):
        shutil.rmtree(draft.path / FEATURES_NAME, ignore_errors=True)
    draft.adopt(CONFIG_NAME)


def _open_rows(
    params: "EncodeImagesParams",
    runtime: "EncodeImagesRuntime",
    distinct: Distinct,
    backbone: "_Backbone",
    *,
    draft: Draft,
    context: Context,
) -> ImageRows:
    """Open the draft's rows, with those that earlier artifacts hold."""
    known = None
    if not context.force:
        known = find_known_rows(
            name_rows(distinct.keys, views=params.views, augmentation=params.augmentation, seed=params.seed),
            draft,
            sources=find_sources(context.store, backbone.digest, params, precision=backbone.precision),
            context=context,
            read_keys=read_row_names,
            kind=FEATURE_KIND,
        )
    layout = RowLayout(
        kind=FEATURE_KIND,
        dim=backbone.config.feature_dim,
        dtype=params.feature_dtype,
        shard_rows=params.shard_rows,
        model="backbone",
        flag="--feature-dtype",
        views=params.views,
    )
    return ImageRows(
        distinct,
        draft,
        layout=layout,
        reading=runtime,
        opened=ViewImages(distinct.images, backbone.config.preprocessing, augmentation=params.augmentation),
        seeds=partial(seed_rows, distinct, views=params.views, seed=params.seed) if params.views > 1 else None,
        known=known,
    )


class _Backbone:
    """A frozen backbone, loaded when it has something to compute.

    Args:
        artifact: Artifact of the backbone.
        config: Its configuration.
        device: Device of the backbone.
        precision: Precision of its matrix products.
    """

    def __init__(self, artifact: Artifact, config: BackboneConfig, *, device: torch.device, precision: str) -> None:
        self.config, self.precision = config, precision
        self.digest = artifact.record.digest
        self._folder, self._device = artifact.path, device
        self.nearness: dict[str, float] = {}
        """Cosine of the features to those in fp32, on a sample; empty where they are in fp32, or none was computed."""

    def load(self, opened: ViewImages, sample: Sequence[View]) -> Compute:
        """Load the backbone; in fewer bits than fp32 it is compared with fp32 on a sample of the views."""
        network, _ = load_backbone(self._folder, device=self._device)
        embedder = self._embedder(network, self.precision)
        if self.precision != "fp32":
            exact = self._embedder(network, "fp32")
            self._compare(embedder, exact, collate([opened[view] for view in sample]))
        return partial(_features, embedder)

    def _embedder(self, network: nn.Module, precision: str) -> ImageEmbedder:
        dim = self.config.feature_dim
        alone = Student(backbone=network, head=nn.Identity(), feature_dim=dim, embedding_dim=dim).eval()
        return ImageEmbedder(alone, self.config.preprocessing, device=self._device, precision=precision)

    def _compare(self, embedder: ImageEmbedder, exact: ImageEmbedder, sample: Batch) -> None:
        if len(sample.images):
            features = (_on_cpu(each, sample.images, self._device) for each in (embedder, exact))
            self.nearness = nearness(*features, noun="image")
            tell_nearness(self.nearness, model="backbone", precision=self.precision, noun="image")


def _features(embedder: ImageEmbedder, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the features of each batch, (read, feature_dim), float32."""
    for batch, features, _ in embedder.over(batches):
        yield batch, features


def _on_cpu(embedder: ImageEmbedder, images: Tensor, device: torch.device) -> NDArray[np.float32]:
    features, _ = embedder(send(images, device))
    numbers: NDArray[np.float32] = features.cpu().numpy()
    return numbers
