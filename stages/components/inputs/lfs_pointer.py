"""Tell a file from the pointer to it that git leaves where Git LFS did not fetch it."""

from pathlib import Path

from data_schemas.errors import ProtoRKDError

_BEGINNING = b"version https://git-lfs.github.com/spec/"


def check_fetched(path: Path, *, flag: str) -> None:
    """Refuse a pointer of Git LFS; a file that cannot be opened is left to whoever reads it.

    Args:
        path: File of the user's.
        flag: Option that led to it.

    Raises:
        ProtoRKDError: the file is a pointer.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_BEGINNING))
    except OSError:
        return
    if beginning == _BEGINNING:
        raise ProtoRKDError(
            f"{flag} must lead to whole files; got {path}, which is a Git LFS pointer to one. Run git lfs pull in "
            f"{path.parent}, or fetch the file from where it is published."
        )
