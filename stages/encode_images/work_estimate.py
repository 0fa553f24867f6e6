"""Estimate the work of encode-images: rows without known features, and the bytes of all features."""

from typing import TYPE_CHECKING

from data_schemas.embedding_array import stored_bytes
from data_schemas.images.backbone_checkpoint import BackboneConfig
from pipeline.fingerprint import fingerprint
from pipeline.stage import Context, Work
from pipeline.store.store import Artifact
from stages.components.backbones.frozen import BACKBONE, BackboneParams
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.reused_rows import count_unknown_rows
from stages.encode_images.row_names import find_sources, name_rows, read_row_names

if TYPE_CHECKING:
    from stages.encode_images.options import EncodeImagesParams, EncodeImagesSources

_LIKE = ("backbone", "image_size", "precision")


def feature_work(params: "EncodeImagesParams", sources: "EncodeImagesSources", context: Context) -> Work:
    """Count images, and rows that a backbone which the store knows has not computed yet."""
    images = sources.paths.value
    distinct = Distinct.of(images.images, images.digests(context.file_digests))
    num_rows = len(distinct.firsts) * params.views
    counts = {"images": len(distinct.rows), "distinct_images": len(distinct.firsts)}
    if sources.vectors is not None:
        return Work(counts=counts)
    backbone = _find_backbone(params, sources, context)
    if backbone is None:
        return Work(counts | {"encoded_rows": num_rows}, paced_by="encoded_rows", like=_LIKE)
    size = stored_bytes(num_rows, BackboneConfig.read(backbone.path).feature_dim, params.feature_dtype)
    names = name_rows(distinct.keys, views=params.views, augmentation=params.augmentation, seed=params.seed)
    precision = None if params.precision == "auto" else params.precision
    digest = backbone.record.digest
    known = [] if context.force else find_sources(context.store, digest, params, precision=precision)
    counts["encoded_rows"] = count_unknown_rows(names, sources=known, store=context.store, read_keys=read_row_names)
    return Work(counts, paced_by="encoded_rows", like=_LIKE, size=size)


def _find_backbone(params: "EncodeImagesParams", sources: "EncodeImagesSources", context: Context) -> Artifact | None:
    """Find the backbone's artifact if an earlier run made it."""
    assert sources.backbone is not None
    if isinstance(sources.backbone.value, Artifact):
        return sources.backbone.value
    wanted = BackboneParams(params.backbone, params.image_size, params.pooling)
    named = fingerprint(BACKBONE.name, BACKBONE.version, wanted, {"weights": sources.backbone.digest})
    found = context.store.find(BACKBONE.name, named)
    return None if found is None else context.store.fetch(found)
