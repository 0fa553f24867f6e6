"""Files of models on the hub: from its cache where they are there, else by a download that says how to do without."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from stages.components.inputs.lfs_pointer import check_fetched

_SHARDS = "model-*-of-*.safetensors"
_SAFE_WEIGHTS = ("model.safetensors", _SHARDS)
_TORCH_WEIGHTS = ("pytorch_model.bin",)


def find_snapshot(
    repository: str, *, revision: str, patterns: Sequence[str], is_enough: Callable[[Path], bool], name: str
) -> Path:
    """Find the folder of a model's snapshot, which is named after its commit.

    Without a revision the cached snapshot is taken, or else the hub's newest.

    Args:
        repository: OWNER/NAME.
        revision: Commit, tag or branch; "" for none.
        patterns: Patterns of the files to fetch.
        is_enough: Tells whether a cached folder has all that is needed.
        name: Name of the backbone, for messages.

    Raises:
        ProtoRKDError: neither the cache nor the hub has it; the message says how to get it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        cached = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
        if is_enough(cached):
            return cached
        revision = cached.name  # what is there stays, and is completed
    except HFValidationError as error:
        raise ProtoRKDError(f"{name} must name a model of the hub or a folder; got {repository!r}.") from error
    except OSError:
        pass  # not in the cache: ask the hub
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises many kinds, none of them the user's business
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        at = f" --revision {revision}" if revision else ""
        raise ProtoRKDError(
            f"{name} must be in the hub's cache or downloadable; it is not on this disk, and {repository} cannot be "
            f"fetched{offline}: {type(error).__name__}. Run `hf download {repository}{at}` where there is a network, "
            "and bring its cache here or name the folder; or pass --init-from FILE."
        ) from error


def find_model(repository: str, *, revision: str, described: Sequence[str], name: str) -> Path:
    """Find the snapshot of a model with its weights, of which safetensors are fetched where there are any.

    Args:
        repository: OWNER/NAME.
        revision: Commit, tag or branch; "" for none.
        described: Files beside the weights; of those that end in ``?`` there may be none.
        name: Name of the backbone, for messages.

    Raises:
        ProtoRKDError: neither the cache nor the hub has it.
    """
    needed = [file for file in described if not file.endswith("?")]
    beside = [file.removesuffix("?") for file in described]

    def is_whole(folder: Path) -> bool:
        return all((folder / file).is_file() for file in needed) and bool(_weight_files(folder))

    for patterns in (_SAFE_WEIGHTS, _TORCH_WEIGHTS):
        folder = find_snapshot(
            repository, revision=revision, patterns=[*patterns, *beside], is_enough=is_whole, name=name
        )
        if _weight_files(folder):
            break
    return folder


def split_revision(name: str) -> tuple[str, str]:
    """Split ``OWNER/NAME@REVISION``; without a revision it is ""."""
    repository, _, revision = name.partition("@")
    return repository, revision


def weight_files(folder: Path, *, flag: str) -> tuple[Path, ...]:
    """List the files of weights in a model's folder: safetensors, whole or in shards, or else torch's own.

    Raises:
        ProtoRKDError: there are none, or one is a pointer of Git LFS.
    """
    found = _weight_files(folder)
    if not found:
        raise ProtoRKDError(
            f"{flag} must lead to weights, model.safetensors or pytorch_model.bin; {folder} has neither. "
            "Fetch the whole folder, or pass --init-from FILE."
        )
    for file in found:
        check_fetched(file, flag=flag)
    return found


def _weight_files(folder: Path) -> tuple[Path, ...]:
    shards = sorted(folder.glob(_SHARDS))
    is_whole = bool(shards) and len(shards) == int(shards[-1].stem.rpartition("-")[2])
    choices = [[folder / "model.safetensors"], shards if is_whole else [], [folder / "pytorch_model.bin"]]
    return next((tuple(files) for files in choices if files and all(file.is_file() for file in files)), ())
