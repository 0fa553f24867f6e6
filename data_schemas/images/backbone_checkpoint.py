"""A frozen backbone on disk: its weights as safetensors, and beside them in JSON all that is needed to run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import check_version, read_json, write_json
from data_schemas.images.student_checkpoint import Preprocessing, preprocessing_of
from data_schemas.later_fields import as_plain

WEIGHTS_NAME = "backbone.safetensors"
CONFIG_NAME = "backbone.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class BackboneConfig:
    """The content of ``backbone.json``: what maps an image to features.

    Args:
        name: Name of the backbone as ``--backbone`` takes it, such as ``timm:tf_efficientnet_lite0``.
        feature_dim: Width of its features.
        preprocessing: How an image becomes its input.
        pooling: Pooling of a transformer's tokens: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        architecture: Configuration that a backbone of transformers is built from; None for families that build by name.
    """

    name: str
    feature_dim: int
    preprocessing: Preprocessing
    pooling: str = "native"
    architecture: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def write(self, root: Path) -> None:
        """Write ``backbone.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, as_plain(self))

    @classmethod
    def read(cls, root: Path) -> "BackboneConfig":
        """Read ``backbone.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing, damaged or of a newer kind.
        """
        path = root / CONFIG_NAME
        return cls.of(read_json(path), path)

    @classmethod
    def of(cls, values: dict[str, Any], path: Path) -> "BackboneConfig":
        """Build it from its JSON.

        Args:
            values: The JSON.
            path: File that it was read from, for messages.

        Raises:
            ProtoRKDError: it is damaged or of a newer kind.
        """
        try:
            check_version(values, path, newest=SCHEMA_VERSION)
            return cls(**{**values, "preprocessing": preprocessing_of(values["preprocessing"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(f"{path} must describe a backbone; {error!r}. Run encode-images again.") from error
