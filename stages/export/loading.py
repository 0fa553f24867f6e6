"""Load an export by the classes of this package, so that no code of the folder runs and no flag is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from stages.export.code_files import CALIBRATION_FOLDER, CODE_NAME

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CODE = Path(__file__).with_name(CODE_NAME)


def load_model(
    folder: Path | str, *, device: str | None = None, trust_remote_code: bool = False
) -> "SentenceTransformer":
    """Load an export; its ``encode`` takes captions, or PIL images, into one space.

    Args:
        folder: Folder of an artifact of export or of a copy, or a name on the model hub.
        device: Device of the model; None takes a GPU if there is one.
        trust_remote_code: Whether code that came with the teacher may run; the student never needs it.

    Raises:
        ProtoRKDError: it is not an export for sentence-transformers, or cannot be loaded.

    Example:
        >>> model = load_model("my-model")  # doctest: +SKIP
        >>> model.similarity(model.encode("a red circle"), model.encode([Image.open("circle.jpg")]))  # doctest: +SKIP
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    root = _folder(folder)
    config = _read(root, "config_sentence_transformers.json")
    names = [entry["path"] for entry in _read(root, "modules.json")]
    # The library's own way to load code, so that the model can be saved again and passed to other processes.
    router: Any = get_class_from_dynamic_module(f"{_CODE.stem}.ProtoRKDRouter", str(_CODE.parent))
    calibration: Any = get_class_from_dynamic_module(f"{_CODE.stem}.ProtoRKDCalibration", str(_CODE.parent))
    try:
        modules = [router.load(str(root), local_files_only=True, trust_remote_code=trust_remote_code), Normalize()]
        if CALIBRATION_FOLDER in names:
            modules.append(calibration.load(str(root), CALIBRATION_FOLDER, local_files_only=True))
    except Exception as error:  # each library below raises its own
        raise ProtoRKDError(f"{folder} must be an export that can be loaded; {error}") from error
    return SentenceTransformer(
        modules=modules,
        device=device,
        prompts=config["prompts"],
        default_prompt_name=config["default_prompt_name"],
        similarity_fn_name=config["similarity_fn_name"],
    ).eval()


def _folder(name: Path | str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name)))
    except Exception as error:  # the hub's client raises many kinds
        raise ProtoRKDError(
            f"An export must be a folder or a model on the hub; got {name}, which is neither: {type(error).__name__}."
        ) from error


def _read(root: Path, name: str) -> Any:
    if not (root / "router_config.json").is_file() or not (root / name).is_file():
        raise ProtoRKDError(
            f"{root} must be an export for sentence-transformers; it has no {name}. Run export with --format "
            "sentence-transformers."
        )
    return read_json(root / name)
