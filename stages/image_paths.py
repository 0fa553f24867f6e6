"""Where image paths may lead: a manifest is data from outside, and may not name any file of this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError

_MAY_LEAVE = r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"


def check_inside(paths: Sequence[str], root: Path) -> None:
    """Refuse paths that lead out of the folder that they start from.

    Links are followed: whoever can make links inside the folder is not the manifest.

    Args:
        paths: as a manifest writes them.
        root: the folder.

    Raises:
        ProtoRKDError: one of them does.
    """
    import pyarrow as pa  # keeps it out of --help
    import pyarrow.compute as pc

    suspicious = pc.match_substring_regex(pa.array(paths, pa.large_string()), _MAY_LEAVE)
    inside = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118 - a Path would take the final slash away
    for number in pc.indices_nonzero(suspicious).to_pylist():
        place = os.path.normpath(os.path.join(inside, paths[number]))  # noqa: PTH118
        if not place.startswith(inside):
            raise ProtoRKDError(
                f"Image paths must stay below {inside}; got {paths[number]!r}. Pass --image-root if the pictures lie "
                "elsewhere, or --allow-outside if the manifest is trusted to name any file."
            )
