"""Turn a calibration into the module of an export that applies it."""

import torch

from data_schemas.calibration import MIXED, Calibration, QueryBank
from stages.components.calibration.extended_vectors import TEXT
from stages.export.modeling_protorkd import ProtoRKDCalibration


def extension_of(calibration: Calibration, embedding_dim: int) -> ProtoRKDCalibration:
    """Build the module that extends embeddings by a calibration.

    Args:
        calibration: Calibration of the student's scores.
        embedding_dim: Width of the embeddings without it.
    """
    if not isinstance(calibration, QueryBank):
        scores = calibration.map_images(TEXT)
        return ProtoRKDCalibration(kind=MIXED, embedding_dim=embedding_dim, slope=scores.slope, offset=scores.offset)
    extension = ProtoRKDCalibration(
        kind=calibration.kind,
        embedding_dim=embedding_dim,
        num_captions=len(calibration.captions),
        temperature=calibration.temperature,
    )
    extension.load_state_dict({"query_bank": torch.from_numpy(calibration.captions)})
    extension.eval()
    return extension
