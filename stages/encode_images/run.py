"""Put distinct images through a frozen backbone, shard by shard."""

import shutil
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from data_schemas.embedding_array import FEATURE_KIND, FEATURES_NAME, EmbeddingArray
from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.images.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.pair_index import write_rejected
from pipeline.log import log
from pipeline.peers import fail_together
from pipeline.stage import Context, Input, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.backbones.frozen import BackboneParams, make_backbone
from stages.components.compute.device import choose_devices, describe_work
from stages.components.compute.distributed import ranks_of
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.image_rows import ImageRows, RowLayout, begin_array
from stages.components.embeddings.reused_rows import ReusedRows, find_known_rows
from stages.components.loading.view_images import ViewImages
from stages.encode_images.row_names import find_sources, name_rows, read_row_names
from stages.encode_images.sharing import FrozenBackbone, write_shared
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
    peers = context.peers
    artifact = _backbone(params, sources, context)
    with fail_together(peers):
        devices = choose_devices(runtime.device)
        precision = choose_precision(params.precision, devices[0])
        backbone = FrozenBackbone(artifact.path, BackboneConfig.read(artifact.path), artifact.record.digest, precision)
        images = sources.paths.value
        distinct = Distinct.of(images.images, images.digests(context.file_digests))
        begun = None
        if peers.is_first:
            log.info("encode-images: on %s", describe_work(*devices, precision=precision))
            begun = _begin(params, distinct, backbone, draft=draft, context=context)
    array, known = peers.broadcast(begun)
    rows = ImageRows(
        distinct,
        draft,
        array,
        layout=_layout(params, backbone.config),
        reading=runtime,
        opened=ViewImages(distinct.images, backbone.config.preprocessing, augmentation=params.augmentation),
        seeds=partial(seed_rows, distinct, views=params.views, seed=params.seed) if params.views > 1 else None,
        known=known,
    )
    nearness = write_shared(rows, backbone, devices=devices, ranks=ranks_of(peers))
    if not peers.is_first:
        return Result(counts={})
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
        metrics=nearness,
        uses=(backbone.digest,),
        environment={"device": devices[0].type, "precision": precision},
    )


def _backbone(params: "EncodeImagesParams", sources: "EncodeImagesSources", context: Context) -> Artifact:
    """Return the backbone that a student has, or make the one that was named; every byte of it is checked."""
    assert sources.backbone is not None
    found, kept = sources.backbone, sources.backbone.value
    if not isinstance(kept, Artifact):
        wanted = BackboneParams(params.backbone, params.image_size, params.pooling)
        return make_backbone(wanted, Input(found.digest, found.location, found.parts, value=kept), context)
    context.use(kept.record.digest)
    with fail_together(context.peers):
        kept.require_whole(read=True)
    return kept


def _describe(config: FeaturesConfig, draft: Draft) -> None:
    """Write what computes the features; shards of a killed run that computed them otherwise are taken away."""
    config.write(draft.path)
    if draft.was_adopted(CONFIG_NAME) and not draft.is_whole(CONFIG_NAME):
        shutil.rmtree(draft.path / FEATURES_NAME, ignore_errors=True)
    draft.adopt(CONFIG_NAME)


def _begin(
    params: "EncodeImagesParams", distinct: Distinct, backbone: FrozenBackbone, *, draft: Draft, context: Context
) -> tuple[EmbeddingArray, ReusedRows | None]:
    """Make the draft's array, and find the rows that earlier artifacts hold."""
    config = FeaturesConfig(backbone.config, backbone.digest, backbone.precision, params.views, params.augmentation)
    _describe(config, draft)
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
    return begin_array(draft, distinct, _layout(params, backbone.config)), known


def _layout(params: "EncodeImagesParams", config: BackboneConfig) -> RowLayout:
    return RowLayout(
        kind=FEATURE_KIND,
        dim=config.feature_dim,
        dtype=params.feature_dtype,
        shard_rows=params.shard_rows,
        model="backbone",
        flag="--feature-dtype",
        views=params.views,
    )
