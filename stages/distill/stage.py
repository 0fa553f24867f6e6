"""distill: an image student, trained purely against cached teacher embeddings.

Takes:  an artifact of encode-teacher, and the pictures that its pair index names.
Does:   trains a backbone and a projection head so that a picture lands where its caption lies; loads no teacher.
Gives:  student.safetensors and student.json, checkpoints/epoch_N.safetensors, rejected.parquet, logs/metrics.jsonl.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.draft import Draft
from pipeline.options import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage
from stages.distill.loss_spec import format_losses, parse_losses
from stages.image_set import IDENTITIES, identify_images


@dataclass(frozen=True)
class DistillInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(
        None, help="Artifact of encode-teacher, by fingerprint or path. Default: the newest.", metavar="REF"
    )
    image_root: Path | None = option(None, help="Folder that relative image paths start from. Default: the manifest's.")
    image_identity: str = option(
        "content",
        help="What makes a picture the same: its bytes (read once, remembered), or its path alone.",
        choices=IDENTITIES,
    )


@dataclass(frozen=True)
class DistillParams:
    """What changes the output."""

    student: str = option(
        "resnet18", help="Backbone: any classification model of torchvision, by name.", metavar="NAME"
    )
    image_size: int = option(224, help="Side of the student's square input, in pixels.", check=POSITIVE)
    projection_layers: int = option(
        1, help="Linear layers between backbone and embedding. 0: none.", check=NOT_NEGATIVE
    )
    projection_dim: int = option(0, help="Width of the student's embedding. 0: the teacher's.", check=NOT_NEGATIVE)
    loss: tuple[str, ...] = option(
        ("simreg=1",), help="Objective and its weight; repeat it for a weighted sum.", metavar="NAME=WEIGHT"
    )
    epochs: int = option(10, help="Passes over the pairs.", check=POSITIVE)
    batch_size: int = option(128, help="Pairs in a step.", check=Check("be 2 or more", lambda size: size >= 2))
    lr: float = option(5e-4, help="Peak learning rate of AdamW.", check=POSITIVE)
    weight_decay: float = option(0.05, help="Decay of AdamW; gains and biases have none.", check=NOT_NEGATIVE)
    warmup_steps: int = option(
        200, help="Steps over which the learning rate rises; a cosine follows, down to 0.", check=NOT_NEGATIVE
    )
    max_grad_norm: float = option(
        10.0, help="Longer gradients are scaled down to this norm. 0: never.", check=NOT_NEGATIVE
    )
    crop_min_scale: float = option(
        0.9,
        help="Least share of a picture's area that a random crop keeps.",
        check=Check("be above 0 and at most 1", lambda scale: 0 < scale <= 1),
    )
    precision: str = option(
        "auto",
        help="Of the matrix products; auto: bf16 where the device has it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    save_every_epochs: int = option(1, help="Keep the weights after every so many epochs.", check=POSITIVE)
    seed: int = option(0, help="Of the first weights, the order and the crops.", check=NOT_NEGATIVE)

    def __post_init__(self) -> None:
        """Write the losses one way: ``simreg``, ``simreg=1`` and ``simreg=1.0`` ask for the same training."""
        object.__setattr__(self, "loss", format_losses(parse_losses(self.loss)))


@dataclass(frozen=True)
class DistillRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where the student trains: auto, cpu, cuda, ...")
    workers: int = option(-1, help="Processes that read pictures. -1: one less than the cores, at most 8.")
    targets_placement: str = option(
        "auto",
        help="Where the teacher's embeddings are kept while training.",
        choices=("auto", "device", "ram", "mapped"),
    )
    log_every_steps: int = option(50, help="Steps between lines of metrics.", check=POSITIVE)
    save_every_minutes: float = option(
        10.0, help="Minutes between saved states within an epoch: what a kill loses at most.", check=POSITIVE
    )
    max_bad_fraction: float = option(
        0.01, help="Unreadable pictures beyond this share of the pairs stop the stage.", check=FRACTION
    )


def distill(
    params: DistillParams, inputs: Mapping[str, Input], out: Draft, runtime: DistillRuntime, context: Context
) -> Result:
    """Train the student to the end of its schedule and write it down."""
    from stages.distill.run import train_student

    return train_student(
        params, runtime, embeddings=inputs["embeddings"].value, images=inputs["images"].value, draft=out
    )


def identify(inputs: DistillInputs, params: DistillParams, context: Context) -> Mapping[str, Input]:
    """Find the cached embeddings, and hash the pictures that their pair index names."""
    from data_schemas.pair_index import PAIRS_NAME, read_pairs

    artifact = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings")
    artifact.require_whole((PAIRS_NAME,), read=True)
    root = inputs.image_root or Path(artifact.record.inputs["manifest"].location).parent
    paths = read_pairs(artifact.path)["image"].to_pylist()
    images = identify_images(root, paths, identity=inputs.image_identity, file_digests=context.file_digests)
    embeddings = Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=artifact)
    return {"embeddings": embeddings, "images": images}


STAGE = Stage(
    name="distill",
    version=1,
    summary="Train an image student against cached teacher embeddings.",
    params=DistillParams,
    inputs=DistillInputs,
    runtime=DistillRuntime,
    identify=identify,
    run=distill,
    keep=True,
)
