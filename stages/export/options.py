"""Options of export: what is hashed, where inputs lie and what is found there, and how it runs."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.options.declaration import Check, option
from pipeline.sources import hashed_as
from pipeline.stage import Input
from stages.components.calibration.calibration import CalibrationSource
from stages.components.calibration.option import calibrate_option
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.identity import TeacherSource, trust_option
from stages.components.teacher.prompts import query_prompt_option

if TYPE_CHECKING:
    from stages.export.model_card.figures import ChosenEvaluation
    from stages.export.model_card.lineage import Lineage

FORMATS = SENTENCE_TRANSFORMERS, ONNX, TORCH = "sentence-transformers", "onnx", "torch"


_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


_LICENSE = re.compile(r"[A-Za-z0-9.+-]*", re.ASCII)


_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*", re.ASCII)


@dataclass(frozen=True)
class ExportInputs:
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None,
        help="Artifact of distill, by fingerprint or path; REF@epoch_3 for the weights after an epoch. Default: the "
        "newest.",
        metavar="REF",
        artifact="distill",
    )
    teacher: str | None = option(
        None, help="The student's teacher. Default: where encode-teacher found it.", metavar="NAME_OR_PATH"
    )
    trust_remote_code: bool = trust_option()
    query_prompt_name: str | None = query_prompt_option()
    evaluation: str | None = option(
        None,
        help="Artifact of evaluate whose figures the model card shows; none leaves them out. Default: the newest of "
        "this student, if there is one.",
        metavar="REF",
        artifact="evaluate",
    )


@dataclass(frozen=True)
class ExportSources:
    """What the inputs lead to, identified by content; the teacher only where its files are needed.

    ``calibration`` is what embeddings are extended by; None where they are raw.
    """

    student: Input[StudentWeights]
    weights: Input[None]
    teacher: Input[TeacherSource] | None
    query_prompt: Input[str] | None = field(metadata=hashed_as("query prompt"))
    evaluation: "Input[ChosenEvaluation] | None"
    lineage: "Input[Lineage]"
    code: Input[None]
    calibration: Input[CalibrationSource] | None = None


@dataclass(frozen=True)
class ExportParams:
    """What changes the output."""

    format: tuple[str, ...] = option(
        (SENTENCE_TRANSFORMERS,),
        help="What to write; repeatable. sentence-transformers: captions and images, for "
        "SentenceTransformer(folder); onnx: the images' side for onnxruntime; torch: the student's weights alone.",
        choices=FORMATS,
    )
    calibrate: str = calibrate_option(
        "One more number an embedding, for scores by inner product: query-bank takes off how near an image is to every "
        "caption; mixed puts images on the scale of captions. encode_query ends in 1, other captions in 0."
    )
    license: str = option(
        "",
        help="Licence of the exported model, as an SPDX id such as apache-2.0. Default: none is stated.",
        check=Check("be an SPDX id", lambda name: bool(_LICENSE.fullmatch(name))),
        metavar="ID",
    )
    model_name: str = option(
        "",
        help="Name of the model on its card; OWNER/NAME also in its examples. Default: from student and teacher.",
        check=Check("be NAME or OWNER/NAME", lambda name: not name or bool(_NAME.fullmatch(name))),
        metavar="NAME",
    )
    base_model: str = option(
        "",
        help="Name of the teacher on the hub, for the card. Default: that by which it was fetched from there.",
        check=Check("be OWNER/NAME", lambda name: not name or bool(_NAME.fullmatch(name))),
        metavar="OWNER/NAME",
    )
    language: tuple[str, ...] = option(
        (),
        help="Language of the captions, such as en; repeatable. Default: none is stated.",
        check=Check("be a language's code, such as en", lambda code: bool(_LANGUAGE.fullmatch(code))),
        metavar="CODE",
    )

    def __post_init__(self) -> None:
        """Name each format once, in one order."""
        if set(self.format) <= set(FORMATS):
            object.__setattr__(self, "format", tuple(name for name in FORMATS if name in self.format))


@dataclass(frozen=True)
class ExportRuntime:
    """What is done with the finished export; not hashed."""

    output: Path | None = option(
        None,
        help="Also copy it into this folder, which must be new, empty, or an earlier export. What the copy says of its "
        "origin has no paths.",
        metavar="FOLDER",
    )
    push_to_hub: str | None = option(
        None, help="Also upload it to this repository of the model hub, which is made if need be.", metavar="OWNER/NAME"
    )
    private: bool = option(False, help="Make the repository of --push-to-hub a private one, where it is made.")
    hub_revision: str | None = option(None, help="Branch to upload to. Default: the main one.", metavar="BRANCH")
