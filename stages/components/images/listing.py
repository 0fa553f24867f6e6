"""Image files of a folder."""

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def list_images(folder: Path, *, root: Path) -> list[str]:
    """List what is called an image below a folder, however deep; hidden files and folders are passed over.

    Args:
        folder: the folder.
        root: folder above it that paths are to start from.

    Returns:
        Paths with forward slashes, sorted.
    """
    paths = (path.relative_to(root) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(
        path.as_posix()
        for path in paths
        if not any(part.startswith(".") for part in path.parts) and (root / path).is_file()
    )
