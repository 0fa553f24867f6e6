"""Options of evaluate: parameters that are hashed, locations of the inputs, and how it runs."""

from dataclasses import dataclass
from pathlib import Path

from data_schemas.calibration import MIXED, QUERY_BANK
from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from stages.components.images.image_set import IDENTITIES
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.inputs.vectors import VectorOptions, vectors_option
from stages.components.teacher.identity import trust_option
from stages.components.teacher.prompts import query_prompt_option
from stages.evaluate.task_names import TASK_GROUPS


@dataclass(frozen=True)
class EvaluateInputs:
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None,
        help="Artifact of distill, by fingerprint or path; with --watch, a distill that runs. Default: the newest.",
        metavar="REF",
        artifact="distill",
    )
    teacher: str | None = option(
        None, help="The student's teacher. Default: where encode-teacher found it.", metavar="NAME_OR_PATH"
    )
    caption_vectors: Path | None = vectors_option(
        of="captions and prompts",
        keys="the text as the command prompts writes it",
        purpose="The teacher is not loaded then.",
    )
    image_vectors: Path | None = vectors_option(
        of="images",
        keys="the image's path as the set writes it, or the SHA-256 of its file",
        purpose="For a student whose features came from encode-images --vectors, by the same tool.",
    )
    trust_remote_code: bool = trust_option()
    query_prompt_name: str | None = query_prompt_option()
    retrieval: tuple[str, ...] = option(
        (),
        help="Images and captions to retrieve on, both ways; repeatable; NAME=PATH names the set. Whatever "
        "encode-teacher takes, COCO's folder, Karpathy's JSON, the files of Flickr8k and Flickr30k; PATH#SPLIT takes "
        "another split than test.",
        metavar="PATH",
    )
    image_root: Path | None = option(
        None, help="Folder with the images of --retrieval. Default: where each format has them.", metavar="FOLDER"
    )
    allow_outside: bool = option(False, help="Let image paths lead out of their folder: the manifest is trusted.")
    zero_shot: tuple[str, ...] = option(
        (), help="Folder of class folders to classify by prompts; repeatable.", metavar="FOLDER"
    )
    knn: tuple[str, ...] = option(
        (), help="Folder with train/ and test/ to classify by nearest neighbours; repeatable.", metavar="FOLDER"
    )
    linear_probe: tuple[str, ...] = option(
        (), help="Folder with train/ and test/ to classify by a linear layer; repeatable.", metavar="FOLDER"
    )
    class_names: tuple[str, ...] = option(
        (),
        help="Names of classes whose folders are called by codes: SET=FILE for one set, FILE for those of --zero-shot, "
        "--knn and --linear-probe; repeatable. Default: classnames.txt or words.txt beside the folders, ImageNet's "
        "names for WordNet ids.",
        metavar="FILE",
    )
    eval_data_dir: Path | None = option(
        None,
        help="Folder of the sets that are known by name, as their authors or torchvision lay them out, and of any "
        "folders of class folders; every task that a set allows is done.",
        metavar="FOLDER",
    )
    dataset: tuple[str, ...] = option(
        (), help="Set of --eval-data-dir to measure; repeatable. Default: all that are there.", metavar="NAME"
    )
    download: bool = option(False, help="Fetch the sets of --dataset into --eval-data-dir, through torchvision.")
    sts: tuple[str, ...] = option(
        (), help="Scored pairs of captions, such as STS-B, to measure the teacher on; repeatable.", metavar="FILE"
    )
    packed: tuple[str, ...] = option(
        (),
        help="Artifact of pack, by fingerprint or path, that the images of every set are read from that it has all "
        "images of; repeatable. Default: their files.",
        metavar="REF",
        artifact="pack",
    )
    image_identity: str = option(
        "content",
        help="What makes an image the same: its bytes (read once, remembered), or its path alone.",
        choices=IDENTITIES,
    )


@dataclass(frozen=True)
class EvaluateParams(VectorOptions, ManifestFormat):
    """What changes the output."""

    checkpoints: str = option(
        "last", help="Which weights of the student: last, all, or epochs such as 2,4.", metavar="WHICH"
    )
    task: tuple[str, ...] = option((), help="Do this task alone; repeatable. Default: all.", choices=tuple(TASK_GROUPS))
    template: tuple[str, ...] = option(
        (), help="Prompt with {} for the class name; repeat it for an ensemble. Default: the set's own."
    )
    prompts: str = option(
        "own",
        help="Whose prompts serve where no --template is given: this project's, or OpenCLIP's where it is installed.",
        choices=("own", "open-clip"),
    )
    imagenet_names: str = option(
        "auto",
        help="Whose names ImageNet's classes have; auto: OpenCLIP's where it is installed, else torchvision's.",
        choices=("auto", "open-clip", "torchvision"),
    )
    knn_k: int = option(20, help="Nearest neighbours that vote.", check=POSITIVE)
    knn_temperature: float = option(
        0.07, help="Temperature of the vote; the lower, the more the nearest neighbours decide.", check=POSITIVE
    )
    probe_solver: str = option(
        "torch",
        help="Fits the linear probe: torch on the device, or scikit-learn on the CPU.",
        choices=("torch", "sklearn"),
    )
    probe_iterations: int = option(1000, help="Steps after which a fit of the linear probe ends.", check=POSITIVE)
    precision: str = option(
        "auto",
        help="Number format of the student's matrix products on images; auto: bf16 where the device has it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    overlap: bool = option(True, help="Look for the sets' images among those that the student was distilled from.")
    map: str = option("pca", help="How the map of the embeddings is laid out.", choices=("pca", "tsne"))
    calibrate: tuple[str, ...] = option(
        (),
        help="Also measure retrieval with calibrated vectors; repeatable. query-bank: images that are near to every "
        "caption of the training stand back. mixed: images and captions in one index, raw and standardised.",
        choices=(QUERY_BANK, MIXED),
        later=True,
    )
    num_resamples: int = option(
        1000,
        help="Bootstrap resamples for each 95 % interval.",
        check=Check("be 100 or more", lambda number: number >= 100),
    )
    seed: int = option(
        0, help="Seed of the resamples, of samples, and of the probe's validation split.", check=NOT_NEGATIVE
    )


@dataclass(frozen=True)
class EvaluateRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where student and teacher run: auto, cpu, cuda, ...")
    workers: int = option(
        -1,
        help="Processes that read images; fewer where batches are large. -1: one less than the cores, at most 8; "
        "under torchrun each process has its share of the cores.",
    )
    batch_size: int = option(256, help="Images embedded at a time.", check=POSITIVE)
    batch_tokens: int = option(
        0,
        help="Tokens in one batch of the teacher, padding included. 0: 1,024 on a CPU, at most 65,536 on a GPU.",
        check=NOT_NEGATIVE,
    )
    max_bad_fraction: float = option(
        0.01, help="A set with more rejected rows and images than this share fails.", check=FRACTION
    )
    watch: bool = option(
        False, help="Measure each checkpoint of a distill that runs as soon as it is whole, and all when it is done."
    )
