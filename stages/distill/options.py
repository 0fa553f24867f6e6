"""Options of distill: parameters that are hashed, locations of the inputs, and how it runs."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.options.declaration import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Input
from pipeline.store.store import Artifact
from stages.components.backbones.family import POOLINGS, BackboneSource
from stages.components.images.image_set import IDENTITIES, ImageSet
from stages.components.student.checkpoints import StudentWeights
from stages.distill.completion import objective_names, student_names
from stages.distill.fine_tuning import UNFREEZE
from stages.distill.loss_spec import (
    format_loss_options,
    format_losses,
    parse_loss_options,
    parse_losses,
    reads_prototypes,
)
from stages.distill.presets import PRESETS


@dataclass(frozen=True)
class DistillInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(
        None,
        help="Artifact of encode-teacher, by fingerprint or path. Default: the newest.",
        metavar="REF",
        artifact="encode-teacher",
    )
    image_root: Path | None = option(None, help="Folder that relative image paths start from. Default: the manifest's.")
    allow_outside: bool = option(False, help="Let image paths lead out of their folder: the manifest is trusted.")
    image_identity: str = option(
        "content",
        help="What makes an image the same: its bytes (read once, remembered), or its path alone.",
        choices=IDENTITIES,
    )
    packed: str | None = option(
        None,
        help="Artifact of pack that the images are read from, by fingerprint or path; the originals need not be "
        "there. Default: their files.",
        metavar="REF",
        artifact="pack",
    )
    init_from: Path | None = option(
        None,
        help="Weights that the backbone starts from: MoCo, SimCLR, SwAV, SEED, the layout of torchvision, timm or the "
        "hub, or a student of ours, told apart by their keys.",
        metavar="FILE",
    )
    prototypes: str | None = option(
        None,
        help="Artifact of prototypes for --balance and the objectives that relate to them; others do not read it. "
        "Default: made as their options ask.",
        metavar="REF",
        artifact="prototypes",
        is_read=lambda params: params.reads_prototypes,
    )
    features: str | None = option(
        None,
        help="Artifact of encode-images, by fingerprint or path, or newest: a head is trained on the features of a "
        "frozen backbone, and no image is opened; auto has encode-images make them, from --student and its weights. "
        "Default: a student is trained on images.",
        metavar="REF",
        artifact="encode-images",
        is_read=lambda params: not (params.unfreeze or params.lora),
        later=True,
    )
    from_student: str | None = option(
        None,
        help="Student that training goes on from, by fingerprint or path, of an epoch as REF@epoch_3: its backbone, "
        "head, preprocessing and pooling are taken whole, and trained on images. Default: a new student.",
        metavar="REF",
        artifact="distill",
        is_read=lambda params: bool(params.unfreeze or params.lora) and not params.pretrained,
        later=True,
    )


@dataclass(frozen=True)
class DistillSources:
    """What the inputs name, identified by content.

    Args:
        embeddings: Artifact of encode-teacher.
        images: Images that its pairs name.
        init_from: File of the backbone's first weights; None without one.
        prototypes: Artifact of prototypes; None where none was named or is read.
        architecture: Files that the student's backbone is built from; None where its name says all.
        pretrained: Files of the published weights that it starts from; None without ``--pretrained``.
        features: Artifact of encode-images in whose place the images are not read; None where they are.
        from_student: Student that training goes on from; None where it begins with a new one.
    """

    embeddings: Input[Artifact]
    images: Input[ImageSet] | None
    init_from: Input[Path] | None
    prototypes: Input[Artifact] | None
    architecture: Input[BackboneSource] | None = None
    pretrained: Input[BackboneSource] | None = None
    features: Input[Artifact] | None = None
    from_student: Input[StudentWeights] | None = None


@dataclass(frozen=True)
class DistillParams:
    """What changes the output."""

    student: str = option(
        "resnet18",
        help="Backbone: a classification model of torchvision, resnet50w2/w4/w5, timm:NAME, hf:OWNER/NAME[@REVISION], "
        "open-clip:NAME, hf:FOLDER or timm:FOLDER; protorkd list students lists them.",
        metavar="NAME",
        complete=student_names,
    )
    pretrained: str = option(
        "",
        help="Published weights that the backbone starts from: torchvision, timm, hf, open-clip:TAG. Default: random.",
        metavar="NAME",
    )
    pooling: str = option(
        "native",
        help="Pooling of a transformer's tokens, of timm and of the hub: its own, the class token, the mean over "
        "patches, or the last two side by side.",
        choices=POOLINGS,
        later=True,
    )
    freeze_backbone: bool = option(False, help="Train the projection head alone.")
    image_size: int = option(224, help="Side of the student's square input, in pixels.", check=POSITIVE)
    projection_layers: int = option(
        1, help="Linear layers between backbone and embedding. 0: none.", check=NOT_NEGATIVE
    )
    projection_dim: int = option(0, help="Width of the student's embedding. 0: the teacher's.", check=NOT_NEGATIVE)
    loss: tuple[str, ...] = option(
        ("infonce=1",),
        help="Objective and its weight; repeat it for a weighted sum.",
        metavar="NAME=WEIGHT",
        complete=objective_names,
    )
    loss_option: tuple[str, ...] = option(
        (), help="Option of an objective, such as seed.queue-size=65536; repeatable.", metavar="NAME.OPTION=VALUE"
    )
    target_smoothing: float = option(
        0.0,
        help="Share of a target that is the mean of the captions like it, over the whole corpus. 0: none.",
        check=FRACTION,
    )
    smoothing_temperature: float = option(
        0.1, help="Temperature of --target-smoothing; the lower, the more the nearest captions count.", check=POSITIVE
    )
    smoothing_landmarks: int = option(
        16384, help="Captions of the corpus that --target-smoothing looks at, drawn once.", check=POSITIVE
    )
    epochs: int = option(10, help="Passes over the examples, or over as many as --episode-size says.", check=POSITIVE)
    episode_size: int = option(
        0,
        help="Examples in an epoch, drawn from the whole so that each is seen before any is seen again. 0: the whole.",
        check=NOT_NEGATIVE,
    )
    captions_per_image: str = option(
        "each",
        help="Of an image with several captions: each is an example of its own; or the image is one example, with a "
        "caption drawn every epoch (sample), their mean, or the first.",
        choices=("each", "sample", "mean", "first"),
    )
    batch_size: int = option(
        128,
        help="Examples in a step, over all processes and micro-batches.",
        check=Check("be 2 or more", lambda size: size >= 2),
    )
    accumulate_steps: int = option(
        1,
        help="Micro-batches that a step is cut into, for want of memory; objectives see one micro-batch at a time.",
        check=POSITIVE,
    )
    lr: float = option(5e-4, help="Peak learning rate of AdamW.", check=POSITIVE)
    weight_decay: float = option(0.05, help="Decay of AdamW; gains and biases have none.", check=NOT_NEGATIVE)
    beta1: float = option(0.9, help="Decay of AdamW's mean of gradients.", check=BELOW_ONE)
    beta2: float = option(
        0.0, help="Decay of AdamW's mean of squares. 0: 0.98 for transformers, 0.999 for others.", check=BELOW_ONE
    )
    eps: float = option(0.0, help="Epsilon of AdamW. 0: 1e-6 for transformers, 1e-8 for others.", check=NOT_NEGATIVE)
    warmup_steps: int = option(
        200, help="Steps over which the learning rate rises; a cosine follows, down to 0.", check=NOT_NEGATIVE
    )
    max_grad_norm: float = option(
        10.0, help="Longer gradients are scaled down to this norm. 0: never.", check=NOT_NEGATIVE
    )
    ema_decay: float = option(
        0.0,
        help="Keep a running mean of the weights with this decay, and make that the student. 0: none.",
        check=BELOW_ONE,
    )
    augmentation: str = option(
        "crop",
        help="What training does to images. crop: a random resized crop of 0.9 to 1.0 of the area; light: crops from "
        "0.5, flips, colour; none: as in evaluation.",
        choices=("crop", "light", "none"),
    )
    crop_min_scale: float = option(
        0.0,
        help="Least share of an image's area that a random crop keeps. 0: the augmentation's own.",
        check=FRACTION,
    )
    validation_fraction: float = option(
        0.0,
        help="Share of the images that is held out, on which retrieval is measured after every epoch. 0: none.",
        check=BELOW_ONE,
    )
    precision: str = option(
        "auto",
        help="Number format of the matrix products; auto: bf16 where the device has it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    sync_batchnorm: bool = option(
        False, help="Normalise over the batch of all processes, so that their number changes nothing."
    )
    save_every_epochs: int = option(1, help="Keep the weights after every so many epochs.", check=POSITIVE)
    seed: int = option(
        0, help="Seed of the first weights, the order, the crops and the held-out images.", check=NOT_NEGATIVE
    )
    head: str = option(
        "linear",
        help="Head on --features. mlp: linear, batch norm, GELU, dropout, linear; gated: the product of two "
        "projections, one through ReLU6; residual: a linear layer on the features plus an MLP of them.",
        choices=("linear", "mlp", "gated", "residual"),
        later=True,
    )
    head_width: int = option(
        0, help="Width of the head's hidden layer. 0: that of the features.", check=NOT_NEGATIVE, later=True
    )
    head_dropout: float = option(
        0.0, help="Share of the head's hidden units that training drops.", check=BELOW_ONE, later=True
    )
    feature_noise: float = option(
        0.0,
        help="Gaussian noise that training adds to features, in units of each feature's standard deviation over the "
        "corpus. 0: none; with --from-student as much as its head was trained with.",
        check=NOT_NEGATIVE,
        later=True,
    )
    feature_mixup: float = option(
        0.0,
        help="Mix each pair's features and target with another pair's of the batch, by shares drawn from "
        "Beta(alpha, alpha) with this alpha. 0: never.",
        check=NOT_NEGATIVE,
        later=True,
    )
    unfreeze: str = option(
        "",
        help="Part of the backbone that trains: all, or last:N for its last N blocks with what lies behind them; the "
        "rest stays as it is. Default: all; --from-student must say.",
        metavar="PART",
        check=UNFREEZE,
        later=True,
    )
    lora: int = option(
        0,
        help="Rank of adapters on the linear layers of the backbone's blocks, which train in place of its weights and "
        "are merged into them at the end. 0: none.",
        metavar="RANK",
        check=NOT_NEGATIVE,
        later=True,
    )
    backbone_lr_scale: float = option(
        0.0,
        help="Factor on the learning rate of the backbone's parameters. 0: 0.1 with --from-student, unless adapters "
        "train, else 1.",
        check=NOT_NEGATIVE,
        later=True,
    )
    freeze_batchnorm: str = option(
        "auto",
        help="Part whose batch normalisation keeps to the statistics that it has, while its gains train on. auto: the "
        "backbone's with --from-student, else none.",
        choices=("auto", "none", "backbone", "all"),
        later=True,
    )
    balance: float = option(
        0.0,
        help="Draw examples with a probability of the size of their caption's cluster to the power of minus this: 1 "
        "draws from every cluster alike, and from small ones often. 0: each example once an epoch.",
        check=NOT_NEGATIVE,
        later=True,
    )
    balance_prototypes: int = option(
        1024,
        help="Clusters of --balance: prototypes of the captions, in place of those that --prototypes names.",
        check=Check("be 2 or more", lambda number: number >= 2),
        later=True,
    )
    neighbour_batches: float = option(
        0.0,
        help="Share of each batch that is filled with the nearest captions of the others in it, as far as they are "
        "still to come in the epoch. 0: none.",
        check=BELOW_ONE,
        later=True,
    )

    @property
    def reads_prototypes(self) -> bool:
        """Whether the training relates to prototypes of the cached captions, or draws by them."""
        return self.balance > 0 or reads_prototypes(self.loss)

    def __post_init__(self) -> None:
        """Write the losses one way: ``simreg``, ``simreg=1`` and ``simreg=1.0`` ask for the same training."""
        losses = parse_losses(self.loss)
        options = format_loss_options(parse_loss_options(self.loss_option, losses))
        object.__setattr__(self, "loss", format_losses(losses))
        object.__setattr__(self, "loss_option", options)


@dataclass(frozen=True)
class DistillRuntime:
    """What changes only how fast or where it runs; not hashed."""

    preset: str = option(
        "",
        help="Set of defaults that did best with a kind of training; what you give counts for more, and --show-config "
        "prints what comes out. Default: frozen with --features, finetune where part of --from-student trains, else "
        "plain.",
        choices=("", *PRESETS.sets),
        metavar="NAME",
    )
    device: str = option("auto", help="Where the student trains: auto, cpu, cuda, ...")
    workers: int = option(
        -1,
        help="Processes that read images; fewer where batches are large. -1: one less than the cores, at most 8; "
        "under torchrun each process has its share of the cores.",
    )
    targets_placement: str = option(
        "auto",
        help="Where the teacher's embeddings, and features, are kept while training.",
        choices=("auto", "device", "ram", "mapped"),
    )
    compile: bool = option(False, help="Compile the student with torch.compile: slow to begin, faster on a GPU.")
    checkpoint_gradients: bool = option(
        False, help="Recompute the backbone's blocks in the backward pass: less memory, a third more time."
    )
    deterministic: bool = option(
        False,
        help="On a GPU, take deterministic operations alone, so that a training that was killed and gone on with ends "
        "as one that was not; slower. A CPU does so anyway.",
    )
    profile: bool = option(False, help="Write where the time of steps goes to logs/profile.json, and a trace of a few.")
    log_every_steps: int = option(50, help="Steps between lines of metrics.", check=POSITIVE)
    report_to: tuple[str, ...] = option(
        (), help="Also send metrics to this tracker; repeatable.", choices=("tensorboard", "wandb", "mlflow")
    )
    save_every_minutes: float = option(
        10.0, help="Minutes between saved states within an epoch: what a kill loses at most.", check=POSITIVE
    )
    step_timeout_minutes: float = option(
        10.0,
        help="Minutes that the processes of torchrun wait for one another within a step, such as for one that saves; "
        "then the one that is waited for hangs, and all end.",
        check=POSITIVE,
    )
    max_bad_fraction: float = option(
        0.01, help="Unreadable images beyond this share of the pairs stop the stage.", check=FRACTION
    )
