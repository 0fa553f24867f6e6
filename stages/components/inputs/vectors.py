"""Options of vectors that another tool computed, and what identifies them: the bytes of their files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.lfs_pointer import check_fetched

if TYPE_CHECKING:
    from data_schemas.vector_sources.part import VectorColumns, VectorPart


@dataclass(frozen=True)
class VectorOptions:
    """Columns of vectors that another tool computed."""

    vector_key: str = option(
        "",
        help="Column of --vectors that says whose each vector is. Default: the first well-known name that is there.",
        metavar="NAME",
        later=True,
    )
    vector_column: str = option(
        "",
        help="Column of --vectors that holds them. Default: the only one with lists of numbers.",
        metavar="NAME",
        later=True,
    )

    def vector_columns(self, known: tuple[str, ...]) -> "VectorColumns":
        """Return the columns of keys and vectors.

        Args:
            known: Well-known names of keys.
        """
        from data_schemas.vector_sources.part import VectorColumns

        return VectorColumns(self.vector_key, self.vector_column, known)


def vectors_option(*, of: str, keys: str) -> Any:
    """Declare ``--vectors``.

    Args:
        of: What the vectors belong to, in the plural.
        keys: What tells whose a vector is.
    """
    return option(
        None,
        help=f"Vectors of the {of} that another tool computed: parquet files with a column of lists, npy files beside "
        f"tables, or a zarr array; a file, a folder or a pattern. A vector's key is {keys}.",
        metavar="PATH",
        later=True,
    )


@dataclass(frozen=True)
class VectorSource:
    """Vectors that another tool computed.

    Args:
        path: Path that the user named.
        parts: Parts of the source.
        columns: Columns of keys and vectors.
        key: Name of the column of keys.
    """

    path: Path
    parts: "tuple[VectorPart, ...]"
    columns: "VectorColumns"
    key: str


def identify_vectors(path: Path, columns: "VectorColumns", *, file_digests: FileDigests) -> Input[VectorSource]:
    """Find the parts of a source of vectors, and hash their files; names and places do not count, their order does.

    Raises:
        ProtoRKDError: there are none, one cannot be read, or it has no column of keys.
    """
    from data_schemas.vector_sources.find import find_parts
    from data_schemas.vector_sources.part import POSITION

    if url := url_of(path):
        raise ProtoRKDError(f"--vectors must lie on this machine; got {url}. Fetch them first.")
    parts = find_parts(path)
    files = [file for part in parts for file in part.files]
    digests = file_digests.digests(files)
    for file, digest in zip(files, digests, strict=True):
        if digest is None:
            raise ProtoRKDError(f"{file} must be a readable file; it is missing, closed to you, or no regular file.")
        check_fetched(file, flag="--vectors")
    keys = {part.key_column(columns): part for part in reversed(parts)}
    if len(keys) > 1:
        named = ", ".join(f"{name!r} in {part.path.name}" for name, part in keys.items())
        raise ProtoRKDError(
            f"--vectors must have one column of keys; got {named}. Name the right one with --vector-key."
        )
    [key] = keys
    if key == POSITION and len(parts) > 1:
        raise ProtoRKDError(
            f"--vectors must have a table of keys beside each of several arrays; got none beside {parts[0].path}."
        )
    by_file = dict(zip(files, digests, strict=True))
    by_part = {part.path.name: hash_json([by_file[file] for file in part.files]) for part in parts}
    return Input(
        digest=hash_json(digests),
        location=str(path.resolve()),
        parts=by_part if len(parts) > 1 else {},
        value=VectorSource(path, tuple(parts), columns, key),
    )
