"""Fingerprints: what a run was asked to do, as a hash. Digests: what it wrote, as a hash."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry
from data_schemas.later_fields import is_left_out

FINGERPRINT_LENGTH = 32


def canonical(value: Any) -> Any:
    """Reduce a value to the one JSON form that is hashed; `later_fields` at their defaults are left out.

    Raises:
        ProtoRKDError: the value has no canonical form (a path, a set, a NaN, an object).
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):  # bytes of a command line that are not UTF-8
            value.encode()
            return value
    elif isinstance(value, float):
        if math.isfinite(value):
            return value + 0.0  # -0.0 becomes 0.0, which is the same number
    elif isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: canonical(value[key]) for key in sorted(value)}
    elif isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {field.name: canonical(each) for field, each in fields.items() if not is_left_out(field, each)}
    raise ProtoRKDError(f"A parameter must be text, a finite number, a flag or a list of these; got {value!r}.")


def canonical_json(value: Any) -> bytes:
    """Encode the canonical form: sorted keys, no spaces, UTF-8."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fingerprint(stage: str, version: int, params: Any, inputs: Mapping[str, str]) -> str:
    """Name a run by what it was asked to do.

    Args:
        stage: Name of the stage.
        version: Version of the stage; raised when the same parameters come to mean other output.
        params: Resolved parameters, defaults included; a dataclass or a mapping.
        inputs: Digest of each input, by name.

    Returns:
        32 hexadecimal digits.
    """
    identity = {"stage": stage, "version": version, "params": canonical(params), "inputs": dict(inputs)}
    return hash_json(identity)[:FINGERPRINT_LENGTH]


def digest_of_files(files: Iterable[FileEntry]) -> str:
    """Return the root hash over paths, sizes and bytes of an artifact's files, in any order."""
    return hash_json([[file.path, file.size, file.sha256] for file in sorted(files, key=lambda file: file.path)])
