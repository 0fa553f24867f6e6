"""Write the folder that ``SentenceTransformer(folder)`` loads: captions by the teacher, images by the student."""

from collections.abc import Collection
from pathlib import Path

from data_schemas.files import write_json, write_unsynced
from data_schemas.later_fields import as_plain
from stages.components.compute.tensor_file import write_tensors
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.student import Student
from stages.components.student.weights import save_weights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.export.code_files import CALIBRATION_FOLDER, CODE_NAME, CODE_NAMES
from stages.export.formats.text_route import TextRoute, write_text_route
from stages.export.modeling_protorkd import FORMAT, ProtoRKDCalibration
from stages.export.requirements import requirements_of

IMAGE_FOLDER = "image_0_ProtoRKDImageEncoder"

_PROMPT_NAME = "caption"
_NORMALIZE = "1_Normalize"
_CODE = Path(CODE_NAME).stem


def write_folder(
    chosen: StudentWeights,
    student: Student,
    source: TeacherSource,
    files: Collection[str],
    out: Path,
    *,
    query_prompt: str | None,
    calibration: ProtoRKDCalibration | None,
) -> None:
    """Write student and teacher as one model.

    Args:
        chosen: Weights of the student, which are copied byte for byte where they are all that it has.
        student: The same, loaded; with its backbone where that is frozen and lies elsewhere.
        source: Source of the teacher.
        files: Files that make the teacher's identity.
        out: Folder of the export.
        query_prompt: Text that ``encode_query`` puts before a query; None leaves the teacher's own, or the captions'.
        calibration: What extends the embeddings; None where they are raw.

    Raises:
        ProtoRKDError: as `write_text_route`; or the code beside the model cannot build such a student.
    """
    recipe = EncodingOptions.of(chosen.config.teacher.recipe)
    route = write_text_route(source, files, out)
    for name in CODE_NAMES:
        write_unsynced(out / name, (Path(__file__).parents[1] / name).read_bytes())
    _write_image_encoder(chosen, student, out / IMAGE_FOLDER)
    write_json(
        out / "router_config.json",
        {
            "types": {**route.modules, IMAGE_FOLDER: f"{_CODE}.ProtoRKDImageEncoder"},
            "structure": {"text": list(route.modules), "image": [IMAGE_FOLDER]},
            "parameters": {
                "max_tokens": recipe.max_tokens,
                "truncate_dim": recipe.truncate_dim or route.truncate_dim,
            },
        },
    )
    write_json(
        out / _NORMALIZE / "config.json",
        {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
    )
    modules = {"": f"{_CODE}.ProtoRKDRouter", _NORMALIZE: "sentence_transformers.base.modules.Normalize"}
    if calibration is not None:
        modules[CALIBRATION_FOLDER] = f"{_CODE}.{ProtoRKDCalibration.__name__}"
        write_json(out / CALIBRATION_FOLDER / "config.json", calibration.get_config_dict())
        write_tensors(dict(calibration.state_dict()), out / CALIBRATION_FOLDER / "model.safetensors")
    write_json(
        out / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(modules.items())
        ],
    )
    prompts, default = _prompts(route, recipe, query_prompt)
    write_json(
        out / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": default,
            "similarity_fn_name": "cosine" if calibration is None else "dot",
            "requirements": requirements_of(chosen.config.backbone),
        },
    )


def _write_image_encoder(chosen: StudentWeights, student: Student, out: Path) -> None:
    config, artifact = chosen.config, chosen.artifact
    assert artifact is not None
    if not config.is_head_alone:
        weights = artifact.read_whole(chosen.weights.relative_to(artifact.path).as_posix())
        write_unsynced(out / "model.safetensors", weights)
    else:
        save_weights(student, out / "model.safetensors")
    write_json(
        out / "config.json",
        {
            "format": FORMAT,
            "backbone_name": config.backbone,
            "embedding_dim": config.embedding_dim,
            "projection_layers": config.projection_layers,
            **as_plain(config.preprocessing),
            "pooling": config.pooling,
            "architecture": config.architecture,
            "feature_head": None if config.head is None else {"kind": config.head.kind, "width": config.head.width},
        },
    )


def _prompts(route: TextRoute, recipe: EncodingOptions, query_prompt: str | None) -> tuple[dict[str, str], str | None]:
    """Return the prompts by name, and the name of the default, which becomes the captions' own."""
    prompts, default = dict(route.prompts), route.default_prompt_name
    if recipe.prompt:
        named = {name: prompts.get(name) or recipe.prompt for name in ("query", "document")}
        prompts, default = {**prompts, **named, _PROMPT_NAME: recipe.prompt}, _PROMPT_NAME
    if query_prompt is not None:
        prompts["query"] = query_prompt
    return prompts, default
