"""A faiss index on disk, and beside it its settings and recall in JSON."""

from dataclasses import asdict, dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json

INDEX_NAME = "index.faiss"
CONFIG_NAME = "index.json"
FLAT, LISTS = "flat", "lists"


@dataclass(frozen=True)
class IndexConfig:
    """The content of ``index.json``: settings and recall of an index.

    Args:
        kind: ``flat`` compares a query with every row; ``lists`` with the rows of the nearest lists.
        rows: Number of rows that can be found: all that are not zero vectors.
        dim: Width of a row; rows and queries are of unit length, and scores are cosines, unless rows are calibrated:
            then they have one more number, and queries of words end in 1.
        lists: Number of lists into which the rows are divided; 0 in a flat index.
        probes: Number of lists that a query looks into.
        recall: Share of the ten nearest rows that are found, over a sample of rows; 1 in a flat index.
    """

    kind: str
    rows: int
    dim: int
    lists: int
    probes: int
    recall: float

    def write(self, root: Path) -> None:
        """Write ``index.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, asdict(self))

    @classmethod
    def read(cls, root: Path) -> "IndexConfig":
        """Read ``index.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing or damaged.
        """
        try:
            return cls(**read_json(root / CONFIG_NAME))
        except TypeError as error:
            raise ProtoRKDError(f"{root / CONFIG_NAME} must describe an index; {error}. Run index again.") from error
