"""Find and read the embeddings that can be searched: images of embed, or captions of encode-teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.calibration import NONE
from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact, Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_schemas.embedding_array import EmbeddingArray

EMBED, ENCODE_TEACHER = "embed", "encode-teacher"
SEARCHED_STAGES = (EMBED, ENCODE_TEACHER)


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings scaled to unit length, or calibrated; zero vectors are left out.

    Args:
        calibration: Calibration that is in the values: ``none``, ``query-bank`` or ``mixed``.

    Shapes:
        values: (found, dim), float32; (found, dim + 1) where they are calibrated.
        numbers: (found,), int64, ascending: rows in the artifact's array.
    """

    values: "NDArray[np.float32]"
    numbers: "NDArray[np.int64]"
    calibration: str = NONE


def find_searchable(reference: str | None, *, store: Store, flag: str = "--in") -> Artifact:
    """Find the artifact to search.

    Args:
        reference: Artifact of embed or encode-teacher, by fingerprint or path; None takes the newest of embed, or
            else of encode-teacher.
        store: Store with the artifacts.
        flag: Option that names the artifact, for the message.

    Raises:
        ProtoRKDError: none fits, more than one does, or a record is damaged.
    """
    if reference is None:
        for stage in SEARCHED_STAGES:
            if newest := store.newest(stage):
                return newest
        raise ProtoRKDError(
            f"{store} must hold embedded images or captions; it has none. Run embed or encode-teacher first."
        )
    if reference and (path := Path(reference)).is_dir():
        artifact = Artifact(path=path, record=ArtifactRecord.read(path))
        if artifact.record.stage not in SEARCHED_STAGES:
            raise ProtoRKDError(
                f"{flag} must name an artifact of {' or '.join(SEARCHED_STAGES)}; got one of {artifact.record.stage}: "
                f"{path}."
            )
        return artifact
    for path, error in [item for stage in SEARCHED_STAGES for item in store.unreadable(stage).items()]:
        if reference and path.name.startswith(reference):
            raise error
    known = [artifact for stage in SEARCHED_STAGES for artifact in store.artifacts(stage)]
    fitting = [artifact for artifact in known if reference and artifact.record.fingerprint.startswith(reference)]
    if len(fitting) != 1:
        listing = ", ".join(artifact.name for artifact in (fitting or known)) or "none"
        raise ProtoRKDError(
            f"{flag} must name exactly one artifact of {' or '.join(SEARCHED_STAGES)} in {store}, by fingerprint "
            f"or path; got {reference!r}. Known: {listing}."
        )
    return store.fetch(fitting[0])


def read_row(artifact: Artifact, row: int) -> "NDArray[np.float32]":
    """Read one embedding and check its shard's checksum.

    Raises:
        ProtoRKDError: its bytes have changed, or it is the zero vector.

    Shapes:
        returns: (1, dim), float32, of unit length, without what a calibration added.
    """
    import numpy as np

    values = _open(artifact).read(row, row + 1).astype(np.float32)
    if row_calibration(artifact) != NONE:
        values = values[:, :-1]
    length = np.linalg.norm(values)
    if not length:
        raise ProtoRKDError(
            f"Row {row} of {artifact.name} must have an embedding to be compared; it is the zero vector."
        )
    unit: NDArray[np.float32] = values / length
    return unit


def read_rows(artifact: Artifact) -> Rows:
    """Read all embeddings and check their checksums.

    Raises:
        ProtoRKDError: a file is missing or altered, or a number is not finite.
    """
    import numpy as np  # keeps it out of --help

    embeddings = _open(artifact)
    values = np.empty((embeddings.rows, embeddings.dim), np.float32)
    for shard in embeddings.shards():
        embeddings.decode(shard, artifact.read_whole(shard.path), out=values[shard.start : shard.stop])
    lengths = np.linalg.norm(values, axis=1)
    if not np.isfinite(lengths).all():
        raise ProtoRKDError(
            f"{artifact.path} must hold finite embeddings; row {int(np.argmin(np.isfinite(lengths)))} is not."
        )
    numbers, calibration = np.flatnonzero(lengths), row_calibration(artifact)
    if len(numbers) < len(values):
        values, lengths = values[numbers], lengths[numbers]
    if calibration == NONE:
        values /= lengths[:, None]
    return Rows(values, numbers, calibration)


def row_calibration(artifact: Artifact) -> str:
    """Return the calibration that embed has written into an artifact's rows; ``none`` where they are raw."""
    if artifact.record.stage != EMBED:
        return NONE
    from data_schemas.images.embedded_images import EmbedConfig

    return EmbedConfig.read(artifact.path).calibration


def _open(artifact: Artifact) -> "EmbeddingArray":
    from data_schemas.embedding_array import CAPTION_KIND, IMAGE_KIND, EmbeddingArray

    kind = IMAGE_KIND if artifact.record.stage == EMBED else CAPTION_KIND
    return EmbeddingArray.open(artifact.path, kind=kind)
