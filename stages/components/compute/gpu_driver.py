"""Explain why torch finds no GPU, from the NVIDIA driver's files; nothing here imports torch."""

import re
from pathlib import Path

DRIVER_FILE = Path("/proc/driver/nvidia/version")
DEVICES = Path("/dev")

# The oldest driver for each major version of CUDA on Linux, from CUDA's release notes.
_OLDEST_DRIVERS = {12: (525, 60), 13: (580, 65)}


def read_driver(file: Path = DRIVER_FILE) -> str | None:
    """Read the version of the NVIDIA driver that is loaded, such as ``550.54.14``.

    Returns:
        None where there is no such driver; "" where the file does not say which.
    """
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)*\b", lines[0]) if lines else None
    return found[0] if found else ""


def hides_gpus(visible: str | None) -> bool:
    """Return whether the value of CUDA_VISIBLE_DEVICES hides all GPUs."""
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")


def explain_missing_gpu(
    *, driver: str | None, torch_version: str, cuda: str | None, visible: str | None, devices: Path = DEVICES
) -> str:
    """Explain why torch finds no GPU, and what to do, in two sentences that end an error message.

    Args:
        driver: Version of the driver, as `read_driver` returns it.
        torch_version: Version of the installed torch.
        cuda: CUDA version that torch is built for; None for a build without CUDA.
        visible: Value of CUDA_VISIBLE_DEVICES; None if it is not set.
        devices: Folder in which the driver's devices appear.
    """
    if hides_gpus(visible):
        return f"CUDA_VISIBLE_DEVICES={visible} hides every GPU. Unset it, or name one there."
    if driver is None:
        return "No NVIDIA driver is loaded here. Install one, or take a machine that has it."
    fitting = _newest_cuda(driver)
    build = f"a torch that is built for CUDA {fitting}" if fitting else "a torch that is built for CUDA"
    if cuda is None:
        newer = "" if fitting or not driver else ", and a newer driver"
        return f"torch {torch_version} is a build without CUDA. Install {build}{newer}."
    oldest = _OLDEST_DRIVERS.get(int(cuda.split(".")[0]))
    if driver and oldest is not None and _numbers(driver) < oldest:
        other = f", or {build}" if fitting else ""
        return (
            f"torch {torch_version} is built for CUDA {cuda}, which needs an NVIDIA driver of {oldest[0]}.{oldest[1]} "
            f"or newer; the one that is loaded is {driver}. Install a newer driver{other}."
        )
    if not any(devices.glob("nvidia[0-9]*")):
        return (
            f"An NVIDIA driver is loaded, but no GPU of it is to be seen: {devices} has no nvidia0. In a container, "
            "start that with its GPUs (--gpus all)."
        )
    named = "" if visible is None else f", and whether there is the one that CUDA_VISIBLE_DEVICES={visible} names"
    return (
        f"torch {torch_version} is built for CUDA {cuda}, and the NVIDIA driver {driver or 'that is loaded'} does not "
        f"rule that out, but no GPU answers. Look what nvidia-smi says{named}."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _newest_cuda(driver: str) -> int | None:
    """Find the newest CUDA, by its major version, that a driver runs."""
    runs = [major for major, oldest in _OLDEST_DRIVERS.items() if driver and _numbers(driver) >= oldest]
    return max(runs, default=None)
