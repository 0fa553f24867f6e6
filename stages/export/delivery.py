"""Deliver an export: copy it to a folder, and upload it to the model hub, without the store's own record of it."""

import glob
import os
import shutil
import uuid
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_errors, fsync_all
from pipeline.log import log
from pipeline.store.store import Artifact
from stages.export.manifest import MANIFEST_NAME, changes


def copy_to(folder: Path, artifact: Artifact) -> None:
    """Copy an export atomically.

    Args:
        folder: Target folder: new, empty, or a copy of an earlier export, which is replaced.
        artifact: Artifact of export.

    Raises:
        ProtoRKDError: the folder holds something else, or cannot be written, or the artifact is damaged.
    """
    artifact.require_whole(read=True)
    names = _shared_names(artifact)
    earlier = folder.exists() and _is_earlier_export(folder)
    if earlier and (folder / MANIFEST_NAME).read_bytes() == (artifact.path / MANIFEST_NAME).read_bytes():
        log.info("export: unchanged, %s has it", folder)
        return
    folder = folder.resolve()
    made, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("new", "old"))
    with disk_errors(folder):
        try:
            for name in names:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / name, made / name)  # without the modes of the store's files
            fsync_all([made / name for name in names])
            if folder.exists():
                folder.rename(old)
            made.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    log.info("export: copied to %s", folder)


def push(artifact: Artifact, repository: str, *, private: bool, revision: str | None) -> str:
    """Upload an export to the model hub, and return the address of the commit.

    The hub's own client finds the token, in its cache or in HF_TOKEN.

    Args:
        artifact: Artifact of export.
        repository: Repository, OWNER/NAME; created if necessary.
        private: Whether a repository that is created is private; False leaves that to the owner's settings.
        revision: Branch, created if necessary; None for the main one.

    Raises:
        ProtoRKDError: the hub cannot be reached, or refuses, or the artifact is damaged.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    artifact.require_whole(read=True)
    api = HfApi(library_name="protorkd")
    try:
        # None leaves it to the owner's settings whether a new repository is private.
        name = api.create_repo(repository, private=private or None, repo_type="model", exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=artifact.path,
            allow_patterns=[glob.escape(name) for name in _shared_names(artifact)],
            revision=revision,
            commit_message=f"Upload export {artifact.record.fingerprint[:12]} of protorkd",
        )
    except HFValidationError as error:
        raise ProtoRKDError(f"--push-to-hub must name OWNER/NAME; got {repository}.") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise ProtoRKDError(
            f"--push-to-hub must be able to write to {repository}; {_reason(error, get_token())}. Log in with "
            "'hf auth login' or set HF_TOKEN, and run the same command again: the export is kept."
        ) from error
    log.info("export: uploaded to %s", commit.commit_url)
    return str(commit.commit_url)


def _shared_names(artifact: Artifact) -> list[str]:
    """Return the files to deliver: neither record nor journal, which name folders of this machine."""
    return [file.path for file in artifact.record.digested_files]


def _is_earlier_export(folder: Path) -> bool:
    """Return whether the folder is an unchanged copy of an export; False if it is empty.

    Raises:
        ProtoRKDError: it holds anything else.
    """
    if not folder.is_dir():
        raise ProtoRKDError(f"--output must name a folder; got {folder}. Name another.")
    if not os.listdir(folder):  # noqa: PTH208 - one entry is enough
        return False
    if not (folder / MANIFEST_NAME).is_file():
        raise ProtoRKDError(f"--output must be new, empty or an earlier export; {folder} holds something else.")
    if changed := changes(folder):
        path, problem = next(iter(changed.items()))
        raise ProtoRKDError(
            f"--output must be an earlier export as it was written; {folder / path} {problem}. Name another folder, or "
            "remove that one."
        )
    return True


def _reason(error: Exception, token: str | None) -> str:
    """Return the hub's answer without addresses and headers of requests, and without the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or ("" if status else str(error))
    line = said.partition("\n")[0].strip().rstrip(".")
    reason = f"it answered {status}" if status else type(error).__name__
    reason = f"{reason}: {line}" if line else reason
    return reason.replace(token, "...") if token else reason
