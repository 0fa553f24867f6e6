"""Options of encode-teacher: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, Check, option
from pipeline.stage import Input
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.inputs.vectors import VectorOptions, VectorSource, vectors_option
from stages.components.teacher.encoding_options import PRECISIONS, EncodingOptions
from stages.components.teacher.identity import TeacherSource, trust_option

if TYPE_CHECKING:
    from data_schemas.pair_sources.kinds import PairSource


@dataclass(frozen=True)
class EncodeInputs:
    """Where the inputs lie; hashed by content."""

    manifest: Path = option(
        help="Image-caption pairs: TSV, CSV, JSON lines, COCO's captions, parquet, a webdataset tar; a folder or a "
        "pattern of such shards; a folder of img2dataset; or a dataset saved to disk. Image paths are relative to its "
        "folder.",
        metavar="PATH",
    )
    teacher: str | None = option(
        None,
        help="Model of sentence-transformers, by name or NAME@REVISION or folder, or a file of GloVe word vectors. "
        "Required, unless there are --vectors.",
        metavar="NAME_OR_PATH",
    )
    vectors: Path | None = vectors_option(
        of="captions", keys="the caption as --manifest writes it, or manifest_row as pairs.parquet counts it"
    )
    teacher_name: str = option("", help="What embedded --vectors, for people: it is written down, and nothing else.")
    trust_remote_code: bool = trust_option()
    prompt_name: str | None = option(
        None,
        help="Prompt that the teacher registers under this name, put before every caption: the same as --prompt with "
        "its text.",
        metavar="NAME",
    )


@dataclass(frozen=True)
class EncodeSources:
    """What the inputs lead to, identified by content."""

    manifest: "Input[PairSource]"
    teacher: Input[TeacherSource | VectorSource]


@dataclass(frozen=True)
class EncodeParams(VectorOptions, EncodingOptions, ManifestFormat):
    """What changes the output."""

    teacher_precision: str = option(
        "auto",
        help="Number format of the teacher. bf16 is at least twice as quick where the processor has it, and "
        "how far its embeddings are from fp32's is measured and recorded; fp16 is for GPUs alone. auto: that of what "
        "the store holds of this teacher; of a new one bf16 on a GPU that has it, else fp32.",
        choices=("auto", *PRECISIONS),
    )
    label_column: str = option(
        "",
        help="Column of labels, kept in the pair index for the objectives that use them. A field may be empty. "
        "Default: none.",
        metavar="NAME",
    )
    limit: int = option(0, help="Take the first so many pairs. 0: all.", check=NOT_NEGATIVE)
    shard_rows: int = option(
        8192,
        help="Captions in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )


@dataclass(frozen=True)
class EncodeRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option(
        "auto",
        help="Where the teacher runs: auto, cpu, cuda, ... Several (cuda:0,cuda:1) share the work, a process each.",
    )
    batch_tokens: int = option(
        0,
        help="Tokens in one batch of the teacher, padding included. 0: 1,024 on a CPU, at most 65,536 on a GPU.",
        check=NOT_NEGATIVE,
    )
    max_bad_fraction: float = option(
        0.01, help="Rejected rows beyond this share of the manifest stop the stage.", check=FRACTION
    )
