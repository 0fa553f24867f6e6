"""List the image files of a folder."""

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def list_images(folder: Path, *, root: Path) -> list[str]:
    """List the files below a folder that have an image's suffix, at any depth; hidden files and folders are skipped.

    Args:
        folder: Folder to search.
        root: Folder above it that the paths are relative to.

    Returns:
        Paths with forward slashes, sorted.
    """
    paths = (path.relative_to(root) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(
        path.as_posix()
        for path in paths
        if not any(part.startswith(".") for part in path.parts) and (root / path).is_file()
    )
