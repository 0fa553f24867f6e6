"""What makes a student's scores comparable: a bank of captions, or levels of scores in its training; on disk."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import check_version, read_json, write_atomic, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG_NAME, BANK_NAME = "calibration.json", "query_bank.safetensors"
SCHEMA_VERSION = 1
NONE, MIXED, QUERY_BANK = "none", "mixed", "query-bank"
CALIBRATIONS = (NONE, MIXED, QUERY_BANK)

_TENSOR = "query_bank"


@dataclass(frozen=True)
class ScoreLevels:
    """Levels of the cosines of queries with candidates.

    Args:
        mean: Mean over all candidates.
        nearest: Mean over the nearest of each query, a share of the candidates that is the same for every kind.
    """

    mean: float
    nearest: float


@dataclass(frozen=True)
class ScoreMap:
    """An affine map of scores: ``slope * score + offset``."""

    slope: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class QueryBank:
    """Captions as queries that any image is compared with, to find those that are near to every query.

    The score of a caption q and an image v becomes q.v - temperature * log(mean over the bank of exp(b.v /
    temperature)): Bogolin et al., Cross Modal Retrieval with Querybank Normalisation, 2022, arXiv:2112.12777; here the
    logarithm of the inverted softmax, whose second term is one more number of the image.

    Shapes:
        captions: (bank, dim), float32, of unit length.
    """

    captions: "NDArray[np.float32]"
    temperature: float
    kind = QUERY_BANK

    def write(self, root: Path) -> None:
        """Write the bank into an artifact's folder, in half precision."""
        import numpy as np  # keeps it out of --help
        import safetensors.numpy

        tensors = {_TENSOR: np.ascontiguousarray(self.captions, dtype=np.float16)}
        write_atomic(root / BANK_NAME, safetensors.numpy.save(tensors))
        _write_config(root, {"kind": self.kind, "temperature": self.temperature})


@dataclass(frozen=True)
class MixedScores:
    """Levels of cosines among captions and images of the training, as their teacher and student embed them.

    Scores of images are mapped onto the scale of captions' scores: the mean comes to lie on the mean, and the nearest
    on the nearest, so that as many of either are found first. (Standardising by the deviation of all pairs, too, leaves
    the nearest captions above the nearest images, because their scores have the longer tail.)
    """

    caption_to_image: ScoreLevels
    caption_to_caption: ScoreLevels
    image_to_image: ScoreLevels
    image_to_caption: ScoreLevels
    kind = MIXED

    def map_images(self, query: str) -> ScoreMap:
        """Return the map of images' scores onto the scale of captions' scores.

        Args:
            query: What is looked for by: ``text`` or ``picture``.
        """
        if query == "text":
            images, captions = self.caption_to_image, self.caption_to_caption
        else:
            images, captions = self.image_to_image, self.image_to_caption
        slope = (captions.nearest - captions.mean) / (images.nearest - images.mean)
        return ScoreMap(slope, captions.mean - slope * images.mean)

    def write(self, root: Path) -> None:
        """Write the levels into an artifact's folder."""
        levels = {name: [each.mean, each.nearest] for name, each in vars(self).items()}
        _write_config(root, {"kind": self.kind, **levels})


Calibration = QueryBank | MixedScores


def read_calibration(root: Path) -> Calibration:
    """Read a calibration from an artifact's folder.

    Raises:
        ProtoRKDError: a file is missing, damaged or of a newer kind.
    """
    path = root / CONFIG_NAME
    values = read_json(path)
    try:
        check_version(values, path, newest=SCHEMA_VERSION)
        if values["kind"] == QUERY_BANK:
            return QueryBank(_read_bank(root / BANK_NAME), float(values["temperature"]))
        levels = {each.name: ScoreLevels(*map(float, values[each.name])) for each in fields(MixedScores)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtoRKDError(
            f"{path} must hold a calibration; {error!r}. Remove its folder: it is made anew."
        ) from error
    return MixedScores(**levels)


def _write_config(root: Path, values: dict[str, Any]) -> None:
    write_json(root / CONFIG_NAME, {"schema_version": SCHEMA_VERSION, **values})


def _read_bank(path: Path) -> "NDArray[np.float32]":
    import numpy as np
    import safetensors.numpy

    try:
        bank = safetensors.numpy.load_file(path)[_TENSOR].astype(np.float32)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise ProtoRKDError(f"{path} must hold the query bank; {error}. Remove its folder: it is made anew.") from error
    lengths = np.linalg.norm(bank, axis=1, keepdims=True)
    if bank.ndim != 2 or not len(bank) or not (np.isfinite(lengths).all() and lengths.all()):
        raise ProtoRKDError(f"{path} must hold rows of unit length; got {bank.shape}. Remove its folder.")
    unit: NDArray[np.float32] = bank / lengths
    return unit
