"""What the distill stage does, put together: pairs, targets, student, objectives, training, files."""

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_index import read_pairs, write_rejected
from data_schemas.student_checkpoint import WEIGHTS_NAME, Preprocessing, StudentConfig, TeacherRecord
from data_schemas.teacher_embeddings import ARRAY_NAME, TeacherEmbeddings
from pipeline.draft import Draft
from pipeline.log import log
from pipeline.stage import Result
from pipeline.store import Artifact
from stages.device import choose_device
from stages.distill.data import PairImages
from stages.distill.loss_spec import parse_losses
from stages.distill.objectives import WeightedObjectives, build_objective
from stages.distill.optimizer import parameter_groups
from stages.distill.precision import choose_precision
from stages.distill.targets import load_targets
from stages.distill.training import Conduct, Schedule, train
from stages.image_set import ImageSet
from stages.recipe import Recipe
from stages.student import Student, build_student
from stages.trained_student import save_weights
from stages.transforms import Normalize, TrainTransform
from stages.workers import num_workers

if TYPE_CHECKING:
    from stages.distill.stage import DistillParams, DistillRuntime


def train_student(
    params: "DistillParams", runtime: "DistillRuntime", *, embeddings: Artifact, images: ImageSet, draft: Draft
) -> Result:
    """Train a student against an artifact of embeddings, into a draft.

    Raises:
        ProtoRKDError: the embeddings are damaged, the student or an objective is unknown, too many pictures cannot be
            read, or the loss is no longer finite.
    """
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    losses = parse_losses(params.loss)
    embeddings.require_whole((ARRAY_NAME,), read=True)
    targets = load_targets(
        TeacherEmbeddings.open(embeddings.path),
        placement=runtime.targets_placement,
        device=device,
        scratch=draft.state / "targets.bin",
    )
    config = StudentConfig(
        backbone=params.student,
        embedding_dim=params.projection_dim or targets.dim,
        projection_layers=params.projection_layers,
        preprocessing=Preprocessing(image_size=params.image_size),
        teacher=TeacherRecord(
            identity=embeddings.record.inputs["teacher"].digest,
            dim=targets.dim,
            recipe=Recipe.of(embeddings.record.params).as_dict(),
        ),
        losses=losses,
    )
    student, objectives, optimizer = _build(params, config, device)
    table = read_pairs(embeddings.path)
    caption_rows = torch.from_numpy(table["caption_row"].to_numpy().copy())
    is_zero = targets.is_zero()[caption_rows]
    chosen = _choose_pairs(images, is_zero, max_missing=int(runtime.max_bad_fraction * table.num_rows))
    done = train(
        student,
        objectives,
        optimizer,
        dataset=PairImages(
            images,
            TrainTransform(image_size=params.image_size, crop_min_scale=params.crop_min_scale),
            seed=params.seed,
        ),
        pairs=chosen,
        caption_rows=caption_rows,
        targets=targets,
        normalize=Normalize(config.preprocessing, device),
        schedule=Schedule(
            epochs=params.epochs,
            batch_size=params.batch_size,
            lr=params.lr,
            warmup_steps=params.warmup_steps,
            max_grad_norm=params.max_grad_norm,
            save_every_epochs=params.save_every_epochs,
            seed=params.seed,
        ),
        conduct=Conduct(
            device=device,
            precision=precision,
            workers=num_workers(runtime.workers),
            log_every_steps=runtime.log_every_steps,
            save_every_minutes=runtime.save_every_minutes,
            max_rejected=int(runtime.max_bad_fraction * table.num_rows) - len(images.missing),
        ),
        draft=draft,
    )
    save_weights(student, draft.path / WEIGHTS_NAME)
    config.write(draft.path)
    reasons = dict.fromkeys(images.missing, "missing file") | done.rejected
    rows = table["manifest_row"].to_pylist()
    rejections = [Rejection(row=rows[pair], reason=reasons[pair], value=images.paths[pair]) for pair in sorted(reasons)]
    write_rejected(draft.path, rejections)
    counts = {
        "pairs": table.num_rows,
        "trained_pairs": len(chosen) - len(done.rejected),
        "rejected_images": len(rejections),
        "rejected_reasons": dict(Counter(rejection.reason for rejection in rejections)),
        "zero_captions_left_out": int(is_zero.sum()),
        "epochs": params.epochs,
        "steps": done.step,
    }
    return Result(counts=counts, environment={"device": _describe(device), "precision": precision})


def _build(
    params: "DistillParams", config: StudentConfig, device: torch.device
) -> tuple[Student, WeightedObjectives, torch.optim.Optimizer]:
    torch.manual_seed(params.seed)
    student = build_student(
        config.backbone,
        embedding_dim=config.embedding_dim,
        image_size=config.preprocessing.image_size,
        projection_layers=config.projection_layers,
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objectives = WeightedObjectives(
        {name: (weight, build_objective(name, dim=config.teacher.dim)) for name, weight in config.losses.items()}
    ).to(device)
    groups = parameter_groups(student, params.weight_decay) + parameter_groups(objectives, 0.0)
    kept = [group for group in groups if group["params"]]
    return student, objectives, torch.optim.AdamW(kept, lr=params.lr, fused=device.type in ("cpu", "cuda"))


def _choose_pairs(images: ImageSet, is_zero: Tensor, *, max_missing: int) -> Tensor:
    """Pairs with a picture and with a caption that the teacher knows: (training pairs,), int64."""
    if len(images.missing) > max_missing:
        first = images.full_path(min(images.missing))
        raise ProtoRKDError(
            f"At most {max_missing} pictures may be missing (--max-bad-fraction); got {len(images.missing)} of "
            f"{len(images.paths)}, first {first}. Pass --image-root, mend the paths, or raise --max-bad-fraction."
        )
    usable = ~is_zero
    usable[list(images.missing)] = False
    if images.missing:
        log.info("distill: %d pictures are missing; their pairs are left out", len(images.missing))
    if is_zero.any():
        log.info("distill: %d pairs are left out, for the teacher knows no word of their captions", int(is_zero.sum()))
    chosen = usable.nonzero().flatten()
    if len(chosen) < 2:
        raise ProtoRKDError(f"Training must have 2 usable pairs or more; got {len(chosen)}. Look at the manifest.")
    return chosen


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
