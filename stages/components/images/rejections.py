"""Limit the share of a set's images that may be unreadable."""

from collections.abc import Sequence

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from pipeline.terminal import printable_line
from stages.components.images.image_set import ImageSet


def check_rejected(rejections: Sequence[Rejection], images: ImageSet, *, max_bad_fraction: float) -> None:
    """Raise an error if too many images cannot be read, or all of them.

    Args:
        rejections: Images that cannot be read, with reasons.
        images: Set of images.
        max_bad_fraction: Largest share of the set that may be rejected.

    Raises:
        ProtoRKDError: more are rejected; the first of them are named.
    """
    total = len(images.paths)
    if len(rejections) > max_bad_fraction * total or len(rejections) == total:
        named = [f"{images.root / entry.value}: {entry.reason}" for entry in rejections[:3]]
        first = "".join(f"\n  {printable_line(line)}" for line in named)
        rule = "be read" if len(rejections) == total else f"be read but for a share of {max_bad_fraction:g}"
        raise ProtoRKDError(
            f"Images must {rule} (--max-bad-fraction); got {len(rejections):,} of {total:,} that cannot. The first:"
            f"{first}\nMend them or the paths, pass --image-root, or raise --max-bad-fraction."
        )
