"""The files beside the embeddings of images: which image has which row, and what embedded them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.files import read_json, write_atomic_by, write_json
from data_schemas.later_fields import as_plain, later

IMAGES_NAME = "images.parquet"
CONFIG_NAME = "embed.json"
SCHEMA_VERSION = 1

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_row", pa.int64(), nullable=False),
        pa.field("image", pa.large_string(), nullable=False),
        pa.field("sha256", pa.large_string()),
    ],
    metadata={"protorkd": "embedded pictures 1"},
)


@dataclass(frozen=True)
class EmbedConfig:
    """The content of ``embed.json``: the student and settings that embedded the images.

    Args:
        student: The student's ``student.json``, which holds the teacher's identity and recipe.
        weights_sha256: SHA-256 of the weights that embedded the images.
        checkpoint: ``last``, or ``epoch_3``.
        precision: Precision that the backbone ran in: fp32, bf16 or fp16.
        normalized: Whether embeddings were scaled to unit length.
        calibration: ``query-bank`` or ``mixed`` where rows end in one more number, by which the inner product with a
            query that ends in 1 is the calibrated score; ``none`` where they are raw.
    """

    student: dict[str, Any]
    weights_sha256: str
    checkpoint: str
    precision: str
    normalized: bool
    schema_version: int = SCHEMA_VERSION
    calibration: str = later(NONE)

    def write(self, root: Path) -> None:
        """Write ``embed.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, as_plain(self))

    @classmethod
    def read(cls, root: Path) -> "EmbedConfig":
        """Read ``embed.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing, damaged or of a newer kind.
        """
        path = root / CONFIG_NAME
        try:
            config = cls(**read_json(path))
        except TypeError as error:
            raise ProtoRKDError(f"{path} must say what embedded the images; {error}. Run embed again.") from error
        if config.schema_version > SCHEMA_VERSION:
            raise ProtoRKDError(f"{path} must be of schema version {SCHEMA_VERSION} or older; use a newer protorkd.")
        return config


def write_images(root: Path, table: pa.Table) -> None:
    """Write which image has which row; several images of the same bytes share one."""
    table = table.cast(IMAGES_SCHEMA)
    write_atomic_by(root / IMAGES_NAME, lambda partial: pq.write_table(table, partial, write_page_checksum=True))


def read_images(root: Path) -> pa.Table:
    """Read which image has which row, in the order of their source.

    Raises:
        ProtoRKDError: the file is missing, damaged or of another kind.
    """
    path = root / IMAGES_NAME
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(f"{path} must be a whole parquet file; {in_one_line(error)}. Run embed again.") from error
    if not table.schema.equals(IMAGES_SCHEMA):
        raise ProtoRKDError(f"{path} must have the columns {IMAGES_SCHEMA.names}; got {table.schema.names}.")
    return table
