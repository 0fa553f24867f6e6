"""The files beside the features of images: what computed them; rows and images are those of `embedded_images`."""

from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import check_version, read_json, write_json
from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.later_fields import as_plain

CONFIG_NAME = "features.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FeaturesConfig:
    """The content of ``features.json``: what computed the features of images, and how they are laid out.

    Row ``image_row * views + view`` of the array belongs to a view of an image; view 0 is the image as in evaluation.

    Args:
        backbone: Backbone that computed the features; None for vectors that another tool computed.
        backbone_digest: Digest of its artifact; "" for vectors that another tool computed.
        precision: Precision that the backbone ran in: fp32, bf16 or fp16; "" for vectors of another tool.
        views: Rows of each image.
        augmentation: Augmentation of the views after the first; "none" where there is one view.
    """

    backbone: BackboneConfig | None
    backbone_digest: str
    precision: str
    views: int = 1
    augmentation: str = "none"
    schema_version: int = SCHEMA_VERSION

    def write(self, root: Path) -> None:
        """Write ``features.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, as_plain(self))

    @classmethod
    def read(cls, root: Path) -> "FeaturesConfig":
        """Read ``features.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing, damaged or of a newer kind.
        """
        path = root / CONFIG_NAME
        values = read_json(path)
        try:
            check_version(values, path, newest=SCHEMA_VERSION)
            backbone = values["backbone"]
            return cls(**{**values, "backbone": None if backbone is None else BackboneConfig.of(backbone, path)})
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(
                f"{path} must say what computed the features; {error!r}. Run encode-images again."
            ) from error
