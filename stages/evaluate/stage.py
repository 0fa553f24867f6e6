"""evaluate: what a student learned, in figures and in pictures.

Takes:  an artifact of distill, the teacher that it was distilled from, and sets of pictures.
Does:   image-text retrieval on manifests, zero-shot classification and nearest neighbours on image folders.
Gives:  report.json (metrics, sizes, chance) and report.html (what captions find, and what pictures find).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_schemas.evaluation_report import PAGE_NAME
from pipeline.draft import Draft
from pipeline.options import FRACTION, NOT_NEGATIVE, POSITIVE, option
from pipeline.stage import Context, Input, Result, Stage
from stages.evaluate.prompts import TEMPLATES
from stages.manifest_format import ManifestFormat


@dataclass(frozen=True)
class EvaluateInputs:
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None, help="Artifact of distill, by fingerprint or path. Default: the newest.", metavar="REF"
    )
    teacher: str | None = option(
        None, help="The student's teacher. Default: where encode-teacher found it.", metavar="NAME_OR_PATH"
    )
    retrieval: tuple[str, ...] = option(
        (),
        help="Pictures and captions to retrieve on, both ways; repeatable; NAME=PATH names the set. A manifest, COCO's "
        "captions, Karpathy's JSON, or the files of Flickr8k and Flickr30k; PATH#SPLIT takes another split than test.",
        metavar="PATH",
    )
    image_root: Path | None = option(
        None, help="Folder with the pictures of --retrieval. Default: where each format has them.", metavar="FOLDER"
    )
    zero_shot: tuple[str, ...] = option(
        (), help="Folder of class folders to classify by prompts; repeatable.", metavar="FOLDER"
    )
    knn: tuple[str, ...] = option(
        (), help="Folder with train/ and test/ to classify by nearest neighbours; repeatable.", metavar="FOLDER"
    )


@dataclass(frozen=True)
class EvaluateParams(ManifestFormat):
    """What changes the output."""

    template: tuple[str, ...] = option(TEMPLATES, help="Prompt with {} for the class name; repeat it for an ensemble.")
    knn_k: int = option(20, help="Nearest neighbours that vote.", check=POSITIVE)
    knn_temperature: float = option(0.07, help="The lower, the more the nearest of them decide.", check=POSITIVE)


@dataclass(frozen=True)
class EvaluateRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where student and teacher run: auto, cpu, cuda, ...")
    workers: int = option(-1, help="Processes that read pictures. -1: one less than the cores, at most 8.")
    batch_size: int = option(256, help="Pictures embedded at a time.", check=POSITIVE)
    batch_tokens: int = option(
        0,
        help="Tokens in one batch of the teacher, padding included. 0: 1,024 on a CPU, 16,384 on a GPU.",
        check=NOT_NEGATIVE,
    )
    max_bad_fraction: float = option(
        0.01, help="Rejected rows and pictures beyond this share of a set stop the stage.", check=FRACTION
    )


def evaluate(
    params: EvaluateParams, inputs: Mapping[str, Input], out: Draft, runtime: EvaluateRuntime, context: Context
) -> Result:
    """Measure the student on every set, and write the report and the page."""
    from stages.evaluate.run import measure

    return measure(params, inputs, out, runtime, context)


def identify(inputs: EvaluateInputs, params: EvaluateParams, context: Context) -> Mapping[str, Input]:
    """Find student and teacher, refuse a teacher that is not the student's, and hash every set."""
    from stages.evaluate.inputs import find_inputs

    return find_inputs(inputs, params, context)


STAGE = Stage(
    name="evaluate",
    version=1,
    summary="Measure a student: retrieval, zero-shot classification, nearest neighbours.",
    params=EvaluateParams,
    inputs=EvaluateInputs,
    runtime=EvaluateRuntime,
    identify=identify,
    run=evaluate,
    keep=True,
    page=PAGE_NAME,
)
