"""Find and identify the inputs of an export: the student's weights, its teacher, its figures and its lineage."""

from pathlib import Path

from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input
from stages.components.backbones.module_family import PREFIX
from stages.components.calibration.calibration import CalibrationSource, identify_calibration
from stages.components.student.checkpoints import StudentWeights, find_checkpoint
from stages.components.teacher.prompts import find_query_prompt
from stages.components.teacher.recorded import find_recorded_teacher, recorded_location
from stages.export.code_files import CODE_NAMES
from stages.export.model_card.figures import ChosenEvaluation, find_evaluation
from stages.export.model_card.lineage import trace
from stages.export.options import ExportInputs, ExportParams, ExportSources

_WRITTEN_OUT = (*CODE_NAMES, "model_card/card.md")  # files of this package that go with an export


def find_inputs(inputs: ExportInputs, params: ExportParams, context: Context) -> ExportSources:
    """Identify student, weights, teacher, evaluation, lineage and code; the teacher only where its files are needed.

    Raises:
        ProtoRKDError: the student or its teacher is missing, or they do not go together, or the evaluation is another
            student's.
    """
    student = find_checkpoint(inputs.student, store=context.store)
    assert student.artifact is not None
    record = student.artifact.record
    teacher = query_prompt = None
    identity = student.config.teacher.identity
    location = recorded_location(identity, context)
    if "sentence-transformers" in params.format:
        _check_width(student)
        _check_code(student)
        teacher = find_recorded_teacher(
            inputs.teacher,
            identity,
            what="the student was distilled from",
            trust_code=inputs.trust_remote_code,
            context=context,
        )
        location = teacher.location
        query_prompt = find_query_prompt(inputs.query_prompt_name, teacher)
    elif inputs.query_prompt_name is not None:
        raise ProtoRKDError(
            "--query-prompt-name must go with --format sentence-transformers, which alone has captions. Leave it out."
        )
    evaluation = find_evaluation(inputs.evaluation, student=student, store=context.store)
    lineage = trace(student, teacher_location=location, base_model=params.base_model, store=context.store)
    parts = {name: hash_json(value) for name, value in lineage.items()}
    code = {Path(path).name: hash_file(Path(__file__).parent / path) for path in _WRITTEN_OUT}
    calibration = None if params.calibrate == NONE else _identify_calibration(student, params)
    return ExportSources(
        student=Input(digest=record.digest, location=str(student.artifact.path.resolve()), value=student),
        weights=Input(digest=student.sha256, location=student.name, value=None),
        teacher=teacher,
        query_prompt=query_prompt,
        evaluation=None if evaluation is None else _identify_evaluation(evaluation),
        lineage=Input(digest=hash_json(lineage), parts=parts, value=lineage),
        code=Input(digest=hash_json(code), parts=code, value=None),
        calibration=calibration,
    )


def _identify_calibration(student: StudentWeights, params: ExportParams) -> Input[CalibrationSource]:
    if "torch" in params.format:
        raise ProtoRKDError(
            f"--calibrate must go without --format torch, which holds the weights alone; got {params.calibrate}. Leave "
            "one out."
        )
    return identify_calibration(student, params.calibrate)


def _identify_evaluation(evaluation: ChosenEvaluation) -> Input[ChosenEvaluation]:
    artifact = evaluation.artifact
    return Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=evaluation)


def _check_width(student: StudentWeights) -> None:
    config = student.config
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"A student must be as wide as its teacher to share a space with it; got {config.embedding_dim} and "
            f"{config.teacher.dim}. Distil without --projection-dim, or pass --format onnx or --format torch."
        )


def _check_code(student: StudentWeights) -> None:
    if student.config.backbone.startswith(PREFIX):
        raise ProtoRKDError(
            f"A folder for sentence-transformers must be able to build its backbone; got {student.config.backbone}, a "
            "network from Python, whose code the store does not hold. Pass --format onnx, in Python where it is given."
        )
