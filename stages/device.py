"""Which device the work runs on."""

import torch

from data_schemas.errors import ProtoRKDError


def choose_device(name: str) -> torch.device:
    """Turn ``--device`` into a device: "auto" takes a GPU where there is one.

    Raises:
        ProtoRKDError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ProtoRKDError(
            f"--device must be a device that torch can use here (auto, cpu, cuda, ...); got {name}."
        ) from error
    return device
