"""Find a teacher by name, folder or file, and identify it by the bytes that determine its embeddings."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import check_regular
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.lfs_pointer import check_fetched
from stages.components.teacher.model_kind import check_embeds_sentences, names_pooling
from stages.components.teacher.remote_code import check_code
from stages.components.teacher.weights.files import changes_on_loading, find_weights, missing_layers

_DOCUMENTS = {".md", ".png", ".jpg", ".gitattributes", ".gitignore"}
_OTHER_FORMATS = {".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".gguf"}
_OTHER_FOLDERS = {"onnx", "openvino", "coreml"}
_HUB_OWNER = "sentence-transformers"
_MODULES_NAME = "modules.json"
_WITHOUT_FILES = (".Normalize", ".Dropout")  # modules that may have no folder, which git does not keep when empty


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
        check_fetched(path, flag="--teacher")
        return TeacherSource(name=name, path=path.resolve(), kind="word-vectors", location=str(path.resolve()))
    if path.is_dir():
        if not any((path / config).is_file() for config in ("modules.json", "config.json")):
            raise ProtoRKDError(
                f"--teacher must name a folder with a sentence-transformers model (modules.json); got {name}."
            )
        folder, location = path.resolve(), str(path.resolve())
        _check_files(folder)
    elif path.exists():
        raise ProtoRKDError(f"--teacher must name a folder or a file; got {name}, which is no regular file.")
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1 or name.endswith((".txt", ".gz")):
        raise ProtoRKDError(f"--teacher must name an existing folder or file; got {name}, which is not there.")
    else:
        folder, location = _from_hub(name)
    for file in _loaded_files(folder):
        check_fetched(file, flag="--teacher")
    check_embeds_sentences(folder, name=name)
    if missing := missing_layers(folder):
        raise ProtoRKDError(
            f"--teacher must hold the weights of every layer, for the rest would be random; got {name}, which lacks "
            f"{', '.join(f'layer {number}' for number in missing)}. Fetch it again, or save it anew where it was "
            "trained, with the configuration that belongs to its weights."
        )
    if trust_code:
        check_code(folder)
    return TeacherSource(
        name=name, path=folder, kind="sentence-transformers", location=location, trusts_code=trust_code
    )


def identify_teacher(name: str, *, file_digests: FileDigests, trust_code: bool = False) -> Input[TeacherSource]:
    """Hash what determines a teacher's embeddings: weights, tokenizer, pooling and normalisation; not its name or path.

    Documentation and copies of the weights in formats that are not loaded do not count. The same files have another
    identity if their code may run. Weights that are changed on loading say so, because they once were not.

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
    if source.kind == "sentence-transformers":
        if changes := changes_on_loading(source.path):
            identity |= {"changes": changes}
            parts |= changes
        if not names_pooling(source.path):
            parts |= {"pooling": "not named: the mean is taken"}
    return Input(digest=hash_json(identity), location=source.location, parts=parts, value=source)


def former_digest(teacher: Input[TeacherSource]) -> str:
    """Return the digest that a teacher had while its weights were not changed on loading."""
    files = {name: digest for name, digest in teacher.parts.items() if (teacher.value.path / name).is_file()}
    identity = {"kind": teacher.value.kind, "files": files}
    return hash_json(identity | ({"code": "trusted"} if teacher.value.trusts_code else {}))


def _check_files(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in it, which a library that reads the model would wait for."""
    for path in sorted(folder.rglob("*")):
        if path.exists() and not path.is_dir():  # a link to nothing is the library's to find missing
            check_regular(path)


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
    ignored = [f"*{suffix}" for suffix in sorted(_OTHER_FORMATS)] + [f"{folder}/*" for folder in sorted(_OTHER_FOLDERS)]
    which: dict[str, Any] = {"repo_id": repository, "revision": revision or None, "ignore_patterns": ignored}
    cached = None
    try:
        cached = Path(snapshot_download(**which, local_files_only=True))
    except HFValidationError as error:
        raise ProtoRKDError(f"--teacher must name a folder, a file or a model; got {name}.") from error
    except OSError as error:  # not in the local cache, or less than the cache knows to be in the commit
        half: str | None = getattr(error, "snapshot_path", None)
        cached = None if half is None else Path(half)
    if cached is not None:
        if (_lists_modules(cached) and find_weights(cached)) or _lists_none(repository, cached.name):
            return _pinned(repository, cached)
        which["revision"] = cached.name
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    try:
        snapshot = Path(snapshot_download(**which))  # the cached one if there is no network
        has_modules = (snapshot / _MODULES_NAME).is_file()
    except Exception as error:  # the hub's client raises many kinds, none of them the user's business
        if cached is None:
            raise ProtoRKDError(
                "--teacher must name an existing folder, a file of word vectors or a model on the hub; got "
                f"{name}: it is not on this disk, and {repository}{revision and ' at ' + revision} cannot be fetched"
                f"{offline}: {type(error).__name__}."
            ) from error
        snapshot, has_modules = cached, _lists_modules(cached)
    if not has_modules and not _lists_none(repository, snapshot.name, ask=True):
        raise ProtoRKDError(
            f"--teacher must be a whole model; got {name}, of which {snapshot} lacks {_MODULES_NAME}, which says how "
            f"tokens become an embedding, or what that names, and the hub cannot be asked for it{offline}. Run the "
            "command once where there is a network, or pass a folder with the whole model."
        )
    return _pinned(repository, snapshot)


def _lists_modules(snapshot: Path) -> bool:
    """Return whether a cached model has its list of modules, and a folder of each that needs one.

    The cache holds what was asked for, which another program may have done with weights and tokenizer alone, and what
    had come when a download was broken off.
    """
    try:
        modules = json.loads((snapshot / _MODULES_NAME).read_bytes())
        folders = [module["path"] for module in modules if not module["type"].endswith(_WITHOUT_FILES)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((snapshot / folder).is_dir() for folder in folders)


def _lists_none(repository: str, commit: str, *, ask: bool = False) -> bool:
    """Return whether the cache notes that the hub has no list of modules for a commit: a model of transformers alone.

    Args:
        repository: Name of the model.
        commit: Its commit.
        ask: Whether the hub is asked first, whose client notes the answer in the cache.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if ask:
        with contextlib.suppress(Exception):  # which is also the answer that there is none
            hf_hub_download(repository, _MODULES_NAME, revision=commit)
    known = try_to_load_from_cache(repository, _MODULES_NAME, revision=commit)
    return known is not None and not isinstance(known, str)


def _pinned(repository: str, snapshot: Path) -> tuple[Path, str]:
    """Return a snapshot's folder, and its name with the commit, after which the folder is named."""
    return snapshot, f"{repository}@{snapshot.name}"
