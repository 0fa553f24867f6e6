"""Check where image paths lead: a manifest is data from outside, and must not name any file of this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.remote.object_store import is_url, url_of
from stages.components.images.opening import has_objects

_MAY_LEAVE = r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"


def check_inside(paths: Sequence[str], root: Path, *, absolute: bool = False) -> None:
    """Refuse paths that lead out of the folder that they start from.

    Symbolic links inside the folder are trusted: a manifest cannot make them.

    Args:
        paths: Image paths as a manifest writes them.
        root: Folder that the paths start from.
        absolute: Whether absolute paths without ``..`` may name any place: the manifest is a file that the user has
            here and named, as `is_own` tells.

    Raises:
        ProtoRKDError: one of them does.
    """
    if has_objects(root, paths):
        check_objects_inside(paths, root)
        return
    import pyarrow as pa  # keeps it out of --help
    import pyarrow.compute as pc

    suspicious = pc.match_substring_regex(pa.array(paths, pa.large_string()), _MAY_LEAVE)
    inside = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118 - a Path would take the final slash away
    for number in pc.indices_nonzero(suspicious).to_pylist():
        if absolute and paths[number].startswith("/") and ".." not in paths[number].split("/"):
            continue
        place = os.path.normpath(os.path.join(inside, paths[number]))  # noqa: PTH118
        if not place.startswith(inside):
            raise ProtoRKDError(
                f"Image paths must stay below {inside}; got {paths[number]!r}. Pass --image-root if the images lie "
                "elsewhere, or --allow-outside if the manifest is trusted to name any file."
            )


def is_own(manifest: Path | str) -> bool:
    """Tell whether a manifest is a file on this machine, and no URL: whoever names it may name places in it."""
    return url_of(manifest) is None and Path(manifest).is_file()


def check_objects_inside(paths: Sequence[str], root: Path) -> None:
    """Refuse objects outside the root: a URL must lie below the root's, and no path may lead out of it.

    Raises:
        ProtoRKDError: one of them does.
    """
    url = url_of(root)
    inside = f"{url.rstrip('/')}/" if url else None
    if inside is None:
        check_inside([path for path in paths if not is_url(path)], root)
        paths = [path for path in paths if is_url(path)]
    for path in paths:
        is_below = inside is not None and (path.startswith(inside) if is_url(path) else path[:1] not in ("/", "\\"))
        if not is_below or ".." in path.split("/"):
            raise ProtoRKDError(
                f"Image paths must stay below {inside or root}; got {path!r}. Pass --image-root if the images lie "
                "elsewhere, such as s3://bucket/images, or --allow-outside if the manifest is trusted to name any."
            )
