"""Run the export stage: formats, their checks, the model card, the list of files."""

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.files import disk_errors, list_files
from pipeline.log import log
from pipeline.stage import Result
from pipeline.store.draft import Draft
from pipeline.store.store import Store
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.encoder import StudentEncoder
from stages.components.student.student import Student
from stages.components.student.weights import load_student
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.teacher import Teacher
from stages.export.formats.folder import write_folder
from stages.export.formats.onnx_file import write_onnx
from stages.export.formats.torch_file import write_state_dict
from stages.export.loading import load_model
from stages.export.manifest import write_manifest
from stages.export.model_card.card import write_card
from stages.export.parity import CAPTIONS, require_near, sample_images, unit

if TYPE_CHECKING:
    from stages.export.options import ExportParams, ExportSources

_MILLION = 1e6


def write_export(params: "ExportParams", sources: "ExportSources", out: Draft, *, store: Store) -> Result:
    """Write the wanted formats, and compare them with teacher and student.

    Args:
        params: Parameters of the stage.
        sources: Student, teacher, evaluation and lineage.
        out: Draft of the export.
        store: Store that a frozen backbone is looked for in first.

    Raises:
        ProtoRKDError: a format cannot be written, or embeds differently.
    """
    if out.resumed:
        out.clear()  # writing takes seconds, and leftover files would be listed, too
    chosen = sources.student.value
    assert chosen.artifact is not None
    chosen.artifact.require_whole((chosen.weights.relative_to(chosen.artifact.path).as_posix(),), read=True)
    student = load_student(chosen.config, chosen.weights, device=torch.device("cpu"), store=store)
    query_prompt = None if sources.query_prompt is None else sources.query_prompt.value
    differences: dict[str, float] = {}
    with disk_errors(out.path):
        if sources.teacher is not None:
            source = sources.teacher.value
            files = [name for name in sources.teacher.parts if (source.path / name).is_file()]
            write_folder(chosen, student, source, files, out.path, query_prompt=query_prompt)
            differences |= _check_folder(out.path, chosen, student, source, query_prompt=query_prompt)
        if "onnx" in params.format:
            differences["onnx"] = write_onnx(student, chosen.config, out.path)
        if "torch" in params.format:
            write_state_dict(student, chosen.config, out.path)
        evaluation = None if sources.evaluation is None else sources.evaluation.value
        write_card(out.path, params, lineage=sources.lineage.value, evaluation=evaluation)
        _open_to_readers(out.path)
        entries = write_manifest(out.path, lineage=sources.lineage.value, formats=params.format)
    for name, difference in differences.items():
        log.info("export: %s embeds as before, to %.1e in each number", name, difference)
    return Result(
        counts={
            "files": len(entries) + 1,
            "bytes": sum(entry.size for entry in entries),
            "student_parameters": sum(parameter.numel() for parameter in student.parameters()),
        },
        metrics={f"{name}/difference_in_millionths": value * _MILLION for name, value in differences.items()},
    )


def _check_folder(
    folder: Path, chosen: StudentWeights, student: Student, source: TeacherSource, *, query_prompt: str | None
) -> dict[str, float]:
    """Load the folder as its users do, and compare captions with the teacher and images with the student."""
    recipe = EncodingOptions.of(chosen.config.teacher.recipe)
    with contextlib.redirect_stderr(io.StringIO()):  # the library's progress bars
        model = load_model(folder, device="cpu", trust_remote_code=source.trusts_code)
    images = sample_images()
    queries = {}
    if query_prompt is not None:
        queries["query"] = require_near(
            model.encode_query(list(CAPTIONS), show_progress_bar=False),
            _by_teacher(source, replace(recipe, prompt=query_prompt)),
            what="Queries",
        )
    return queries | {
        "text": require_near(
            model.encode(list(CAPTIONS), show_progress_bar=False), _by_teacher(source, recipe), what="Captions"
        ),
        "image": require_near(
            model.encode(images, show_progress_bar=False),
            unit(StudentEncoder(student, chosen.config, device=torch.device("cpu")).encode(images)),
            what="Images",
        ),
    }


def _by_teacher(source: TeacherSource, recipe: EncodingOptions) -> NDArray[np.float32]:
    """Embed the captions of the comparison by the teacher, at unit length."""
    teacher = Teacher(source, max_tokens=recipe.max_tokens, prompt=recipe.prompt, truncate_dim=recipe.truncate_dim)
    return unit(teacher.encode(CAPTIONS))


def _open_to_readers(root: Path) -> None:
    """Give every file the mode of a new one, because safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in list_files(root):
        (root / path).chmod(0o666 & ~umask)
