"""Run the export stage: formats, their checks, the model card, the list of files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data_schemas.calibration import Calibration
from data_schemas.files import disk_errors, list_files
from pipeline.log import log
from pipeline.stage import Context, Input, Result
from pipeline.store.draft import Draft
from stages.components.calibration.calibration import CalibrationRuntime, CalibrationSource, make_calibration
from stages.components.student.weights import load_student
from stages.export.calibration import extension_of
from stages.export.folder_check import check_folder
from stages.export.formats.folder import write_folder
from stages.export.formats.onnx_file import write_onnx
from stages.export.formats.torch_file import write_state_dict
from stages.export.manifest import write_manifest
from stages.export.model_card.card import write_card

if TYPE_CHECKING:
    from stages.export.options import ExportParams, ExportSources

_MILLION = 1e6


def write_export(params: "ExportParams", sources: "ExportSources", out: Draft, context: Context) -> Result:
    """Write the wanted formats, and compare them with teacher and student.

    Args:
        params: Parameters of the stage.
        sources: Student, teacher, evaluation and lineage.
        out: Draft of the export.
        context: Store that a frozen backbone is looked for in first, and a calibration's data in.

    Raises:
        ProtoRKDError: a format cannot be written, or embeds differently.
    """
    if out.resumed:
        out.clear()  # writing takes seconds, and leftover files would be listed, too
    chosen = sources.student.value
    assert chosen.artifact is not None
    chosen.artifact.require_whole((chosen.weights.relative_to(chosen.artifact.path).as_posix(),), read=True)
    student = load_student(chosen.config, chosen.weights, device=torch.device("cpu"), store=context.store)
    query_prompt = None if sources.query_prompt is None else sources.query_prompt.value
    calibration, uses = _calibrate(sources.calibration, context)
    extension = None if calibration is None else extension_of(calibration, chosen.config.embedding_dim)
    differences: dict[str, float] = {}
    with disk_errors(out.path):
        if sources.teacher is not None:
            source = sources.teacher.value
            files = [name for name in sources.teacher.parts if (source.path / name).is_file()]
            write_folder(chosen, student, source, files, out.path, query_prompt=query_prompt, calibration=extension)
            differences |= check_folder(
                out.path, chosen, student, source, query_prompt=query_prompt, calibration=calibration
            )
        if "onnx" in params.format:
            differences["onnx"] = write_onnx(student, chosen.config, out.path, calibration=extension)
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
        uses=uses,
    )


def _calibrate(source: Input[CalibrationSource] | None, context: Context) -> tuple[Calibration | None, tuple[str, ...]]:
    """Find or make the calibration that is asked for; return it, and the digest of its artifact."""
    if source is None:
        return None, ()
    calibration, digest = make_calibration(source.value, CalibrationRuntime(), context)
    return calibration, (digest,)


def _open_to_readers(root: Path) -> None:
    """Give every file the mode of a new one, because safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in list_files(root):
        (root / path).chmod(0o666 & ~umask)
