"""Write what a training leaves beside its weights: the student's description, rejected pairs, and counts."""

from collections import Counter
from typing import TYPE_CHECKING

from data_schemas.images.student_checkpoint import Preprocessing, StudentConfig, TeacherRecord
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.teacher.encoding_options import EncodingOptions
from stages.distill.data.training_pairs import TrainingPairs
from stages.distill.loss_spec import parse_losses
from stages.distill.training.state import TrainingProgress

if TYPE_CHECKING:
    from stages.distill.options import DistillParams


def student_config(
    params: "DistillParams",
    preprocessing: Preprocessing,
    embeddings: Artifact,
    *,
    teacher_dim: int,
    embedding_dim: int,
) -> StudentConfig:
    """Describe the student: its architecture, the preprocessing of its images, and what it was trained on."""
    return StudentConfig(
        backbone=params.student,
        embedding_dim=embedding_dim,
        projection_layers=params.projection_layers,
        preprocessing=preprocessing,
        teacher=TeacherRecord(
            identity=embeddings.record.inputs["teacher"].digest,
            dim=teacher_dim,
            recipe=EncodingOptions.of(embeddings.record.params).as_dict(),
        ),
        losses=parse_losses(params.loss),
        pooling=params.pooling,
    )


def write_rejected_pairs(draft: Draft, pairs: TrainingPairs, progress: TrainingProgress) -> None:
    """Write the pairs that had no image, with the reasons."""
    reasons = _reasons(pairs, progress)
    rows = pairs.manifest_rows
    rejections = [
        Rejection(row=int(rows[pair]), reason=reasons[pair], value=pairs.images.paths[pair]) for pair in sorted(reasons)
    ]
    write_rejected(draft.path, rejections)


def training_counts(params: "DistillParams", pairs: TrainingPairs, progress: TrainingProgress) -> dict[str, object]:
    """Count what was trained on and what was left out, for the artifact's record."""
    reasons = _reasons(pairs, progress)
    return {
        "pairs": pairs.num,
        "training_examples": pairs.examples.num - len(progress.rejected),
        "validation_pairs": len(pairs.held_out),
        "rejected_images": len(reasons),
        "rejected_reasons": dict(Counter(reasons.values())),
        "zero_captions_left_out": pairs.num_zero,
        "epochs": params.epochs,
        "steps": progress.step,
    }


def _reasons(pairs: TrainingPairs, progress: TrainingProgress) -> dict[int, str]:
    """Say why a pair, by its number, had no image; pairs of one image share its fate."""
    images = pairs.images
    unreadable = {images.paths[pairs.examples.pairs[example]]: reason for example, reason in progress.rejected.items()}
    sharing = enumerate(images.paths) if unreadable else ()
    found = {pair: unreadable[path] for pair, path in sharing if path in unreadable}
    return {**images.missing, **found}
