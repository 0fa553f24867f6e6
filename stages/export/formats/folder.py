"""Write the folder that ``SentenceTransformer(folder)`` loads: captions by the teacher, images by the student."""

from collections.abc import Collection
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_json, write_unsynced
from data_schemas.student_checkpoint import Preprocessing, StudentConfig
from stages.components.backbones.open_clip_family import OpenCLIPFamily
from stages.components.backbones.registry import find_family
from stages.components.backbones.torchvision_family import TorchvisionFamily
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.export.formats.text_route import CODE_NAME, TextRoute, write_text_route
from stages.export.modeling_protorkd import FORMAT

IMAGE_FOLDER = "image_0_ProtoRKDImageEncoder"

_PROMPT_NAME = "caption"
_NORMALIZE = "1_Normalize"


def write_folder(
    student: StudentWeights, source: TeacherSource, files: Collection[str], out: Path, *, query_prompt: str | None
) -> None:
    """Write student and teacher as one model.

    Args:
        student: Student, whose weights are copied byte for byte.
        source: Source of the teacher.
        files: Files that make the teacher's identity.
        out: Folder of the export.
        query_prompt: Text that ``encode_query`` puts before a query; None leaves the teacher's own, or the captions'.

    Raises:
        ProtoRKDError: as `write_text_route`; or the code beside the model cannot build such a student.
    """
    _check_buildable(student.config)
    recipe = EncodingOptions.of(student.config.teacher.recipe)
    route = write_text_route(source, files, out)
    write_unsynced(out / CODE_NAME, (Path(__file__).parents[1] / CODE_NAME).read_bytes())
    _write_image_encoder(student, out / IMAGE_FOLDER)
    write_json(
        out / "router_config.json",
        {
            "types": {**route.modules, IMAGE_FOLDER: f"{Path(CODE_NAME).stem}.ProtoRKDImageEncoder"},
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
    write_json(
        out / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": f"{Path(CODE_NAME).stem}.ProtoRKDRouter"},
            {"idx": 1, "name": "1", "path": _NORMALIZE, "type": "sentence_transformers.base.modules.Normalize"},
        ],
    )
    prompts, default = _prompts(route, recipe, query_prompt)
    write_json(
        out / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": default,
            "similarity_fn_name": "cosine",
            "requirements": _requirements(student.config.backbone),
        },
    )


def _check_buildable(config: StudentConfig) -> None:
    """Refuse a student that the code beside the model does not know how to build, or whose images it cannot prepare."""
    family = find_family(config.backbone)[0]
    plain = Preprocessing(image_size=config.preprocessing.image_size)
    is_plain = (config.preprocessing.resize_size, config.preprocessing.resize) == (plain.resize_size, plain.resize)
    if family.source not in (TorchvisionFamily.source, OpenCLIPFamily.source) or not is_plain:
        raise ProtoRKDError(
            "--format sentence-transformers must have a student of torchvision or of OpenCLIP (images not squashed); "
            f"got {config.backbone}. Pass --format torch or onnx, or load it by protorkd.load_student."
        )


def _write_image_encoder(student: StudentWeights, out: Path) -> None:
    config, preprocessing = student.config, student.config.preprocessing
    assert student.artifact is not None
    weights = student.artifact.read_whole(student.weights.relative_to(student.artifact.path).as_posix())
    write_unsynced(out / "model.safetensors", weights)
    write_json(
        out / "config.json",
        {
            "format": FORMAT,
            "backbone_name": config.backbone,
            "embedding_dim": config.embedding_dim,
            "projection_layers": config.projection_layers,
            "image_size": preprocessing.image_size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
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


def _requirements(backbone: str) -> dict[str, str]:
    """Return what has to be installed, with versions."""
    requirements = {"sentence-transformers": ">=6.0", "torchvision": ">=0.26"}
    if isinstance(find_family(backbone)[0], OpenCLIPFamily):
        requirements["open_clip_torch"] = ">=3.0"
    return requirements
