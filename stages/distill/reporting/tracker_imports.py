"""Helpers of all trackers: import their packages, name their numbers, and keep the id of a run to go on with."""

import importlib
import uuid
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic


def import_tracker(module: str, *, name: str) -> Any:
    """Import the package of a tracker, which is an extra of this project's.

    Raises:
        ProtoRKDError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ProtoRKDError(
            f"--report-to {name} must have the package {name}; it cannot be imported ({error}). "
            f"Run pip install 'protorkd[{name}]'."
        ) from error


def kept_id(path: Path, run_name: str) -> str:
    """Read the id in the file; make one where there is none."""
    if not path.exists():
        write_atomic(path, f"{run_name}-{uuid.uuid4().hex[:6]}\n".encode())
    return path.read_text().strip()


def tag_of(name: str) -> str:
    """Put numbers of training under one heading; those of validation have their own."""
    return name if "/" in name else f"train/{name}"
