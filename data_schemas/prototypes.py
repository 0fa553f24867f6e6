"""Prototypes on disk: centroids of the cached embeddings, which caption belongs to which, and the report on both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.files import read_json, write_atomic, write_atomic_by, write_json

CENTROIDS_NAME = "centroids.safetensors"
ASSIGNMENT_NAME = "assignment.parquet"
REPORT_NAME = "report.json"
SCHEMA_VERSION = 1
UNASSIGNED = -1

ASSIGNMENT_SCHEMA = pa.schema(
    [
        pa.field("caption_row", pa.int64(), nullable=False),
        pa.field("prototype", pa.int32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
    ],
    metadata={"protorkd": "assignment 1"},
)

_TENSOR = "centroids"
_LENGTH_TOLERANCE = 1e-3
_REPORT_KEYS = {"schema_version", "dim", "num_captions", "num_prototypes", "sizes", "mean_cosine", "examples"}


@dataclass(frozen=True)
class Prototypes:
    """Spherical k-means of the distinct captions of an encode-teacher artifact.

    Shapes:
        centroids: (num_prototypes, dim), float32, of unit length.
        assignment: (captions,), int32: each caption's nearest prototype; -1 for the zero vector, which is near none.
        cosines: (captions,), float32: cosine of each caption with its prototype; 0 where there is none.
    """

    centroids: NDArray[np.float32]
    assignment: NDArray[np.int32]
    cosines: NDArray[np.float32]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of captions of each prototype: (num_prototypes,)."""
        taken = self.assignment[self.assignment != UNASSIGNED]
        return np.bincount(taken, minlength=len(self.centroids)).astype(np.int64)

    def write(self, root: Path) -> None:
        """Write centroids and assignment into an artifact's folder.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        tensors = {_TENSOR: np.ascontiguousarray(self.centroids, dtype=np.float32)}
        write_atomic(root / CENTROIDS_NAME, safetensors.numpy.save(tensors, metadata={"protorkd": "prototypes 1"}))
        rows = np.arange(len(self.assignment), dtype=np.int64)
        table = pa.table([rows, self.assignment, self.cosines], schema=ASSIGNMENT_SCHEMA)
        write_atomic_by(
            root / ASSIGNMENT_NAME, lambda partial: pq.write_table(table, partial, write_page_checksum=True)
        )

    @classmethod
    def read(cls, root: Path) -> "Prototypes":
        """Read centroids and assignment from an artifact's folder.

        Raises:
            ProtoRKDError: a file is missing, damaged or of another kind, or the two do not belong together.
        """
        centroids = _read_centroids(root / CENTROIDS_NAME)
        table = _read_assignment(root / ASSIGNMENT_NAME)
        assignment = table["prototype"].to_numpy()
        wrong = np.flatnonzero((assignment < UNASSIGNED) | (assignment >= len(centroids)))
        if len(wrong):
            raise ProtoRKDError(
                f"{root / ASSIGNMENT_NAME} must name prototypes from -1 to {len(centroids) - 1}; got "
                f"{assignment[wrong[0]]} in row {wrong[0]}. Run prototypes again with --force."
            )
        return cls(centroids=centroids, assignment=assignment, cosines=table["cosine"].to_numpy())


def write_report(root: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` into an artifact's folder.

    Args:
        root: The artifact's folder.
        report: Sizes of all prototypes, the largest first, how near the captions are to theirs, and for some prototypes
            the captions nearest to the centroid. The schema's version is added.
    """
    write_json(root / REPORT_NAME, {"schema_version": SCHEMA_VERSION, **report})


def read_report(root: Path) -> dict[str, Any]:
    """Read ``report.json`` from an artifact's folder.

    Raises:
        ProtoRKDError: it is missing, damaged or of a newer kind.
    """
    path = root / REPORT_NAME
    report = read_json(path)
    if not isinstance(report, dict) or not report.keys() >= _REPORT_KEYS:
        raise ProtoRKDError(f"{path} must be a report on prototypes; it lacks some of {sorted(_REPORT_KEYS)}.")
    if report["schema_version"] > SCHEMA_VERSION:
        raise ProtoRKDError(f"{path} must be of schema version {SCHEMA_VERSION} or older; use a newer protorkd.")
    return report


def _read_centroids(path: Path) -> NDArray[np.float32]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            centroids: NDArray[Any] = file.get_tensor(_TENSOR)
    except (OSError, safetensors.SafetensorError) as error:
        raise ProtoRKDError(f"{path} must hold the centroids; {error}. Run prototypes again.") from error
    if centroids.ndim != 2 or centroids.dtype != np.float32:
        raise ProtoRKDError(
            f"{path} must hold float32 of shape (prototypes, dim); got {centroids.dtype} of shape {centroids.shape}. "
            "Run prototypes again with --force."
        )
    off = np.flatnonzero(~(np.abs(np.linalg.norm(centroids, axis=1) - 1) < _LENGTH_TOLERANCE))  # NaN is off, too
    if len(off):
        raise ProtoRKDError(
            f"{path} must hold rows of unit length; got {np.linalg.norm(centroids[off[0]]):g} in row {off[0]}. "
            "Run prototypes again with --force."
        )
    return centroids


def _read_assignment(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        names = table.schema.names
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(
            f"{path} must be a whole parquet file; {in_one_line(error)}. Run prototypes again."
        ) from error
    if not table.schema.equals(ASSIGNMENT_SCHEMA):
        raise ProtoRKDError(f"{path} must have the columns {ASSIGNMENT_SCHEMA.names}; got {names}.")
    return table
