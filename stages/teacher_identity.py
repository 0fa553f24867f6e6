"""Which teacher it is: found by name, folder or file, and identified by the bytes that make its embeddings."""

import os
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.memo import FileDigests
from pipeline.stage import Input

_DOCUMENTS = {".md", ".png", ".jpg", ".gitattributes", ".gitignore"}
_OTHER_FORMATS = {".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".gguf"}
_OTHER_FOLDERS = {"onnx", "openvino", "coreml"}
_HUB_OWNER = "sentence-transformers"


@dataclass(frozen=True)
class TeacherSource:
    """Where a teacher's bytes lie.

    Args:
        name: as the user gave it.
        path: a sentence-transformers folder, or a text file of word vectors.
        kind: "sentence-transformers" or "word-vectors".
    """

    name: str
    path: Path
    kind: str


def find_teacher(name: str) -> TeacherSource:
    """Find a teacher by folder, by file of word vectors in GloVe's text format, or by its name on the model hub.

    Raises:
        ProtoRKDError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return TeacherSource(name=name, path=path.resolve(), kind="word-vectors")
    if path.is_dir():
        if not any((path / config).is_file() for config in ("modules.json", "config.json")):
            raise ProtoRKDError(
                f"--teacher must name a folder with a sentence-transformers model (modules.json); got {name}."
            )
        return TeacherSource(name=name, path=path.resolve(), kind="sentence-transformers")
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or name.endswith((".txt", ".gz")):
        raise ProtoRKDError(f"--teacher must name an existing folder or file; got {name}, which is not there.")
    return TeacherSource(name=name, path=_from_hub(name), kind="sentence-transformers")


def identify_teacher(name: str, *, file_digests: FileDigests) -> Input:
    """Hash what makes a teacher's embeddings: weights, tokenizer, pooling and normalisation; not its name or place.

    Documentation and copies of the weights in formats that are not loaded do not count.

    Raises:
        ProtoRKDError: there is no such teacher.
    """
    source = find_teacher(name)
    files = [source.path] if source.kind == "word-vectors" else _loaded_files(source.path)
    digests = {
        "word vectors" if source.kind == "word-vectors" else file.relative_to(source.path).as_posix(): (
            file_digests.digest(file)
        )
        for file in files
    }
    location = str(source.path) if Path(name).exists() else name
    digest = hash_json({"kind": source.kind, "files": digests})
    return Input(digest=digest, location=location, parts=digests, value=source)


def _loaded_files(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not path.is_file() or hidden or _OTHER_FOLDERS & set(relative.parts):
            continue
        if path.suffix.lower() in _DOCUMENTS | _OTHER_FORMATS or path.name.startswith(("README", "LICENSE")):
            continue
        shadowed = path.name.startswith("pytorch_model") and any(path.parent.glob("model*.safetensors"))
        if not shadowed:
            files.append(path)
    return files


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    repository = name if "/" in name else f"{_HUB_OWNER}/{name}"
    ignored = [f"*{suffix}" for suffix in sorted(_OTHER_FORMATS)] + [f"{folder}/*" for folder in sorted(_OTHER_FOLDERS)]
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except HFValidationError as error:
        raise ProtoRKDError(f"--teacher must name a folder, a file or a model; got {name}.") from error
    except OSError:
        pass  # not in the local cache: ask the hub
    try:
        return Path(snapshot_download(repository, ignore_patterns=ignored))
    except Exception as error:  # the hub's client raises many kinds, none of them the user's business
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise ProtoRKDError(
            f"--teacher must name an existing folder, a file of word vectors or a model on the hub; got {name}: "
            f"it is not on this disk, and {repository} cannot be fetched{offline}: {type(error).__name__}."
        ) from error
