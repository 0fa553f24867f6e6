"""Find the parts of a source of vectors: a file, a folder, or a pattern."""

from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.patterns import expand, is_pattern, pattern_root
from data_schemas.vector_sources.arrays import ArrayVectors
from data_schemas.vector_sources.list_columns import ParquetVectors
from data_schemas.vector_sources.part import VectorPart

_PARQUET = (".parquet", ".pq")
_ZARR_METADATA = ("zarr.json", ".zarray")


def find_parts(path: Path, *, flag: str) -> list[VectorPart]:
    """Find the parts of a source of vectors, in the order of their names.

    In a folder with arrays, tables are theirs; else each parquet file is a part.

    Args:
        path: File, folder or pattern.
        flag: Option that named it, for messages.

    Raises:
        ProtoRKDError: nothing is there, or nothing that holds vectors.
    """
    if is_pattern(path):
        root = pattern_root(path)
        arrays = [found for found in sorted(root.glob(str(path.relative_to(root)))) if _is_zarr(found)]
        return [_part(each, flag) for each in arrays or expand(path)]
    if path.is_file() or _is_zarr(path):
        return [_part(path, flag)]
    if not path.is_dir():
        raise ProtoRKDError(
            f"{flag} must name a file or a folder on this machine, or a pattern of files; got {path}, which is not "
            "there."
        )
    inside = sorted(path.iterdir())
    arrays = [each for each in inside if each.suffix == ".npy" or _is_zarr(each)]
    parts = arrays or [each for each in inside if each.suffix in _PARQUET]
    if not parts:
        raise ProtoRKDError(
            f"{flag} must hold vectors: parquet files, npy files or zarr arrays; got {path}, which has none."
        )
    return [_part(each, flag) for each in parts]


def _part(path: Path, flag: str) -> VectorPart:
    if path.suffix in _PARQUET:
        return ParquetVectors(path)
    if path.suffix == ".npy" or _is_zarr(path):
        return ArrayVectors(path)
    raise ProtoRKDError(
        f"{flag} must name parquet, npy or zarr; got {path}. Write a parquet file with a column of keys and one of "
        "lists of numbers."
    )


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in _ZARR_METADATA)
