"""Apply the head of a student to the features that its frozen backbone gave, as often as there are heads."""

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.compute.precision import full_float32
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.embedder import load_identified
from stages.components.student.weights import load_head

_ROWS = 8192  # at a time


@full_float32()
@torch.no_grad()  # not inference mode: probes are fitted to what comes out
def embed_features(student: StudentWeights, features: Tensor, *, device: torch.device) -> Tensor:
    """Embed features by the head of a student, in fp32.

    Raises:
        ProtoRKDError: the weights are gone, or do not fit the features.

    Shapes:
        features: (images, feature_dim), float32.
        returns: (images, dim), float32, on the CPU.
    """
    head = load_identified(student, lambda path: load_head(student.config, path, device=device))
    if (width := features.shape[1]) != (wanted := len(head.feature_mean)):
        raise ProtoRKDError(
            f"Features of images must be as wide as those that the student was distilled from, {wanted}; got {width}. "
            "Compute --image-vectors with the tool of encode-images --vectors."
        )
    return torch.cat([head(rows.to(device)).cpu() for rows in torch.split(features, _ROWS)])
