"""Find a teacher by name, folder or file, and identify it by the bytes that determine its embeddings."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.teacher.remote_code import check_code

_DOCUMENTS = {".md", ".png", ".jpg", ".gitattributes", ".gitignore"}
_OTHER_FORMATS = {".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".gguf"}
_OTHER_FOLDERS = {"onnx", "openvino", "coreml"}
_HUB_OWNER = "sentence-transformers"


@dataclass(frozen=True)
class TeacherSource:
    """A teacher that was found, but is not loaded yet.

    Args:
        name: Name, folder or file, as the user gave it.
        path: Folder of sentence-transformers, or text file of word vectors.
        kind: Kind of the path: "sentence-transformers" or "word-vectors".
        location: Place of the same bytes: a path, or a name on the hub with its commit, OWNER/NAME@COMMIT.
        trusts_code: Whether Python code that comes with the model may run.
    """

    name: str
    path: Path
    kind: str
    location: str = ""
    trusts_code: bool = False


def trust_option() -> Any:
    """Declare ``--trust-remote-code``, the same for every stage that loads a teacher."""
    return option(
        False,
        help="Run Python code that comes with the teacher: read it first. It is then part of what the teacher is.",
        runs_code=True,
    )


def find_teacher(name: str, *, trust_code: bool = False) -> TeacherSource:
    """Find a teacher by folder, by file of word vectors in GloVe's text format, or by its name on the model hub.

    Args:
        name: Path or name; ``@`` and a commit, tag or branch after a name choose its revision. Without a revision, the
            cached one is taken, or else the hub's newest.
        trust_code: Whether code that comes with the model may run.

    Raises:
        ProtoRKDError: there is none, or its code would come from another repository.
    """
    path = Path(name)
    if path.is_file():
        return TeacherSource(name=name, path=path.resolve(), kind="word-vectors", location=str(path.resolve()))
    if path.is_dir():
        if not any((path / config).is_file() for config in ("modules.json", "config.json")):
            raise ProtoRKDError(
                f"--teacher must name a folder with a sentence-transformers model (modules.json); got {name}."
            )
        folder, location = path.resolve(), str(path.resolve())
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1 or name.endswith((".txt", ".gz")):
        raise ProtoRKDError(f"--teacher must name an existing folder or file; got {name}, which is not there.")
    else:
        folder, location = _from_hub(name)
    if trust_code:
        check_code(folder)
    return TeacherSource(
        name=name, path=folder, kind="sentence-transformers", location=location, trusts_code=trust_code
    )


def identify_teacher(name: str, *, file_digests: FileDigests, trust_code: bool = False) -> Input[TeacherSource]:
    """Hash what determines a teacher's embeddings: weights, tokenizer, pooling and normalisation; not its name or path.

    Documentation and copies of the weights in formats that are not loaded do not count. The same files have another
    identity if their code may run.

    Raises:
        ProtoRKDError: as `find_teacher`.
    """
    source = find_teacher(name, trust_code=trust_code)
    files = [source.path] if source.kind == "word-vectors" else _loaded_files(source.path)
    digests = {
        "word vectors" if source.kind == "word-vectors" else file.relative_to(source.path).as_posix(): (
            file_digests.digest(file)
        )
        for file in files
    }
    identity = {"kind": source.kind, "files": digests} | ({"code": "trusted"} if source.trusts_code else {})
    parts = digests | ({"--trust-remote-code": "given"} if source.trusts_code else {})
    return Input(digest=hash_json(identity), location=source.location, parts=parts, value=source)


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


def _from_hub(name: str) -> tuple[Path, str]:
    """Fetch a model unless it is cached; return its folder, and its name with the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = name.partition("@")
    repository = name if "/" in name else f"{_HUB_OWNER}/{name}"
    which: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    ignored = [f"*{suffix}" for suffix in sorted(_OTHER_FORMATS)] + [f"{folder}/*" for folder in sorted(_OTHER_FOLDERS)]
    try:
        return _pinned(repository, snapshot_download(**which, local_files_only=True))
    except HFValidationError as error:
        raise ProtoRKDError(f"--teacher must name a folder, a file or a model; got {name}.") from error
    except OSError:
        pass  # not in the local cache: ask the hub
    try:
        return _pinned(repository, snapshot_download(**which, ignore_patterns=ignored))
    except Exception as error:  # the hub's client raises many kinds, none of them the user's business
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise ProtoRKDError(
            f"--teacher must name an existing folder, a file of word vectors or a model on the hub; got {name}: "
            f"it is not on this disk, and {repository}{revision and ' at ' + revision} cannot be fetched{offline}: "
            f"{type(error).__name__}."
        ) from error


def _pinned(repository: str, snapshot: str) -> tuple[Path, str]:
    """Return a snapshot's folder, and its name with the commit, after which the folder is named."""
    return Path(snapshot), f"{repository}@{Path(snapshot).name}"
