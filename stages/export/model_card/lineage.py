"""Gather the origin of an exported model from the records of its artifacts, without paths or hosts."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.store.store import Artifact, Store
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.encoding_options import EncodingOptions

Lineage = dict[str, Any]
"""``teacher``, ``student``, ``training`` and ``captions``, as `trace` says."""

# Counts that may differ between runs with equal results.
_OF_A_RUN = ("encoded_captions", "reused_captions", "resumed_captions")


def trace(student: StudentWeights, *, teacher_location: str | None, base_model: str, store: Store) -> Lineage:
    """Describe what a student was made from.

    Args:
        student: Student, with its artifact.
        teacher_location: Path of its teacher, or name on the hub with a commit; None if it is not known.
        base_model: Name of the teacher on the hub as the user gave it, or "".
        store: Store with the artifact of its captions, if that still exists.

    Returns:
        ``teacher``: ``name``, ``hub`` and ``revision`` ("" where there are none), ``identity``, ``dim``, ``recipe``.
        ``student``: ``fingerprint``, ``digest``, ``checkpoint``, ``epoch``, ``sha256`` of the weights, ``backbone``,
        ``embedding_dim``, ``projection_layers``, ``pooling``, ``architecture``, ``head`` (None where it is projection
        layers), ``backbone_digest`` ("" where the backbone's weights are its own), ``preprocessing``, ``losses``.
        ``training``: ``params``, ``counts`` and ``environment`` of the distillation, and ``inputs``: digests by name.
        ``captions``: ``fingerprint``, ``digest``, ``params``, ``counts`` and ``manifest`` (a digest), or empty.
    """
    assert student.artifact is not None
    record, config = student.artifact.record, student.config
    hub, revision = _hub_name(teacher_location)
    encoded = _captions(record.inputs["embeddings"].digest, store)
    preprocessing = config.preprocessing
    return {
        "teacher": {
            "name": base_model or _name(teacher_location) or config.teacher.identity[:12],
            "hub": base_model or hub,
            "revision": revision if base_model in ("", hub) else "",
            "identity": config.teacher.identity,
            "dim": config.teacher.dim,
            "recipe": EncodingOptions.of(config.teacher.recipe).as_dict(),
        },
        "student": {
            "fingerprint": record.fingerprint,
            "digest": record.digest,
            "checkpoint": student.name,
            "epoch": student.epoch,
            "sha256": student.sha256,
            "backbone": config.backbone,
            "embedding_dim": config.embedding_dim,
            "projection_layers": config.projection_layers,
            "pooling": config.pooling,
            "architecture": config.architecture,
            "head": None if config.head is None else asdict(config.head),
            "backbone_digest": config.backbone_digest,
            "preprocessing": {
                **asdict(preprocessing),
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
                "resize_size": preprocessing.resize_size or preprocessing.image_size,
            },
            "losses": dict(config.losses),
        },
        "training": {
            "params": record.params,
            "counts": record.counts,
            "environment": record.environment,
            "inputs": {name: entry.digest for name, entry in sorted(record.inputs.items())},
        },
        "captions": {}
        if encoded is None
        else {
            "fingerprint": encoded.record.fingerprint,
            "digest": encoded.record.digest,
            "params": encoded.record.params,
            "counts": {name: value for name, value in encoded.record.counts.items() if name not in _OF_A_RUN},
            "manifest": encoded.record.inputs["manifest"].digest,
        },
    }


def _captions(digest: str, store: Store) -> Artifact | None:
    known = [artifact for artifact in store.artifacts("encode-teacher") if artifact.record.digest == digest]
    return known[-1] if known else None


def _hub_name(location: str | None) -> tuple[str, str]:
    """Return a teacher's name on the hub and its commit; empty for a local path, which nobody else can open."""
    if location is None or Path(location).is_absolute():
        return "", ""
    name, _, revision = location.partition("@")
    return name, revision


def _name(location: str | None) -> str:
    """Return a teacher's name on the hub, or only the last part of its path, because the rest is private."""
    return _hub_name(location)[0] or Path(location or "").name
