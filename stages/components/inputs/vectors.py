"""Options of vectors that another tool computed, and what identifies them: the bytes of their files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from pipeline.terminal import printable_line
from stages.components.inputs.lfs_pointer import check_fetched

if TYPE_CHECKING:
    from data_schemas.vector_sources.part import VectorColumns, VectorPart


@dataclass(frozen=True)
class VectorOptions:
    """Columns of tables of vectors that another tool computed."""

    vector_key: str = option(
        "",
        help="Column that says whose each vector is. Default: the first well-known name that is there.",
        metavar="NAME",
        later=True,
    )
    vector_column: str = option(
        "",
        help="Column of vectors. Default: the only one with lists of numbers.",
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


def vectors_option(*, of: str, keys: str, purpose: str = "") -> Any:
    """Declare an option that takes vectors.

    Args:
        of: What the vectors belong to, in the plural.
        keys: What tells whose a vector is.
        purpose: Sentence that says what they are for; "" for none.
    """
    return option(
        None,
        help=f"Vectors of the {of} that another tool computed: parquet files with a column of lists, npy files beside "
        f"tables, or a zarr array; a file, a folder or a pattern. A vector's key is {keys}.{purpose and f' {purpose}'}",
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
        flag: Option that named them, for messages.
    """

    path: Path
    parts: "tuple[VectorPart, ...]"
    columns: "VectorColumns"
    key: str
    flag: str = "--vectors"


def identify_vectors(
    path: Path, columns: "VectorColumns", *, file_digests: FileDigests, flag: str = "--vectors"
) -> Input[VectorSource]:
    """Find the parts of a source of vectors, and hash their files; names and places do not count, their order does.

    Args:
        path: File, folder or pattern.
        columns: Columns of keys and vectors.
        file_digests: Remembered digests.
        flag: Option that named it, for messages.

    Raises:
        ProtoRKDError: there are none, one cannot be read, or it has no column of keys.
    """
    from data_schemas.vector_sources.find import find_parts
    from data_schemas.vector_sources.part import POSITION

    if url := url_of(path):
        raise ProtoRKDError(f"{flag} must lie on this machine; got {url}. Fetch them first.")
    parts = find_parts(path, flag=flag)
    files = [file for part in parts for file in part.files]
    digests = file_digests.digests(files)
    for file, digest in zip(files, digests, strict=True):
        if digest is None:
            raise ProtoRKDError(f"{file} must be a readable file; it is missing, closed to you, or no regular file.")
        check_fetched(file, flag=flag)
    keys = {part.key_column(columns): part for part in reversed(parts)}
    if len(keys) > 1:
        named = ", ".join(f"{name!r} in {part.path.name}" for name, part in keys.items())
        raise ProtoRKDError(f"{flag} must have one column of keys; got {named}. Name the right one with --vector-key.")
    [key] = keys
    if key == POSITION and len(parts) > 1:
        raise ProtoRKDError(
            f"{flag} must have a table of keys beside each of several arrays; got none beside {parts[0].path}."
        )
    by_file = dict(zip(files, digests, strict=True))
    by_part = {part.path.name: hash_json([by_file[file] for file in part.files]) for part in parts}
    return Input(
        digest=hash_json(digests),
        location=str(path.resolve()),
        parts=by_part if len(parts) > 1 else {},
        value=VectorSource(path, tuple(parts), columns, key, flag),
    )


def check_keys(source: VectorSource, wanted: Sequence[str], *, noun: str, remedy: str) -> None:
    """Refuse vectors that lack some of what is wanted, by their keys alone: the vectors are not read.

    Args:
        source: Vectors.
        wanted: Keys that are wanted.
        noun: What a key is, for the message, in the plural.
        remedy: Sentence that says what to do.

    Raises:
        ProtoRKDError: keys are missing; the message counts them and names the first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pa.array(wanted, pa.large_string())
    for part in source.parts:
        keys = part.keys(source.columns).cast(missing.type)
        missing = missing.filter(pc.invert(pc.is_in(missing, value_set=keys)))
    if len(missing):
        raise ProtoRKDError(
            f"{source.flag} must have a vector for each of the {len(wanted):,} {noun}; {source.path} has none for "
            f"{len(missing):,}, the first {printable_line(repr(missing[0].as_py()))}. {remedy}"
        )


def width_of(source: VectorSource) -> int:
    """Read the width of the vectors from the first that there is; 0 where there is none.

    Raises:
        ProtoRKDError: a file is damaged, or holds no vectors of one width.
    """
    blocks = (block for part in source.parts for block in part.blocks(source.columns))
    return next((block.values.shape[1] for block in blocks if block.is_valid.any()), 0)
