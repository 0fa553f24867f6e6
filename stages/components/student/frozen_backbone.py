"""Find the frozen backbone of a student, whose weights lie once in the store and not among its own."""

from collections.abc import Iterator
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import CONFIG_NAME, StudentConfig
from pipeline.store.store import Artifact, Store

BACKBONE_STAGE = "backbone"


def find_frozen_backbone(config: StudentConfig, weights: Path, *, store: Store | None = None) -> Artifact:
    """Find the artifact of a student's frozen backbone, as `locate_frozen_backbone`, and check every byte of it.

    Raises:
        ProtoRKDError: the backbone is gone or damaged.
    """
    artifact = locate_frozen_backbone(config, weights, store=store)
    artifact.require_whole(read=True)
    return artifact


def locate_frozen_backbone(config: StudentConfig, weights: Path, *, store: Store | None = None) -> Artifact:
    """Find the artifact of a student's frozen backbone, whose bytes are not read.

    Args:
        config: Configuration of the student, with the digest of a backbone.
        weights: File of the student's own weights; the store that it lies in is searched as well.
        store: Store that is searched first.

    Raises:
        ProtoRKDError: the student has no frozen backbone, or it is gone.
    """
    if not config.backbone_digest:
        raise ProtoRKDError(_no_backbone(config, weights))
    for each in _stores(weights, store):
        for artifact in each.artifacts(BACKBONE_STAGE):
            if artifact.record.digest == config.backbone_digest:
                return each.fetch(artifact)
    raise ProtoRKDError(f"{weights} must have its backbone beside it; {describe_missing(config)}")


def lacking_backbone(artifact: Artifact, *, store: Store) -> dict[str, str]:
    """Say what a student lacks beside its own files, for ``verify``: its frozen backbone, or nothing.

    Args:
        artifact: Artifact of distill, as its record says.
        store: Store of the artifact.
    """
    try:
        config = StudentConfig.read(artifact.path)
    except ProtoRKDError as error:
        return {CONFIG_NAME: str(error)}
    wanted = config.backbone_digest
    if not wanted or any(each.record.digest == wanted for each in store.artifacts(BACKBONE_STAGE)):
        return {}
    return {CONFIG_NAME: describe_missing(config)}


def describe_missing(config: StudentConfig) -> str:
    """Say which backbone is gone, and which command makes it again."""
    again = f"encode-images --backbone {config.backbone} --image-size {config.preprocessing.image_size}"
    if config.pooling != "native":
        again += f" --pooling {config.pooling}"
    return (
        f"{config.backbone}, digest {config.backbone_digest[:12]}, is in no artifact of {BACKBONE_STAGE} any more. "
        f"Run {again} with the weights that it had, on any images: that keeps it again."
    )


def _no_backbone(config: StudentConfig, weights: Path) -> str:
    if config.head is None:
        return f"{weights} must have a frozen backbone; it was trained whole. Name a student of distill --features."
    return (
        f"{weights} must have a backbone to embed images; its features came from another tool, so the student "
        "takes vectors of that tool alone (evaluate --image-vectors). Distill on features of encode-images, which "
        "keeps the backbone, for a student that takes images."
    )


def _stores(weights: Path, store: Store | None) -> Iterator[Store]:
    if store is not None:
        yield store
    yield from (Store(folder) for folder in weights.absolute().parents if (folder / BACKBONE_STAGE).is_dir())
