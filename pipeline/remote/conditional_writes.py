"""Check that when two writers create one object, the object store lets only the first succeed."""

import contextlib
import time
import uuid
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json
from pipeline.remote.object_store import Objects

_REMEMBERED_S = 24 * 3600


def check_conditional_writes(objects: Objects, memory: Path) -> None:
    """Create an object twice, and refuse a store in which both succeed.

    Some servers ignore the condition without a word, and two writers of one artifact would then not notice each other.

    Args:
        objects: The store.
        memory: File that remembers the outcome for a day.

    Raises:
        ProtoRKDError: the store cannot be shared by several writers.
    """
    keeps = _remembered(memory)
    if keeps is None:
        keeps = _probe(objects)
        write_json(memory, {"keeps": keeps, "asked": time.time()})
    if not keeps:
        raise ProtoRKDError(
            f"{objects.url} must refuse to create an object that exists (If-None-Match), or several writers would "
            "overwrite each other; it does not. Use another server, or pass --single-writer if nobody else writes "
            "there meanwhile."
        )


def _probe(objects: Objects) -> bool:
    key = f".probe-{uuid.uuid4().hex}"
    try:
        first = objects.create(key, b"1")
        second = objects.create(key, b"2")
    finally:
        objects.remove([key])
    return first is not None and second is None


def _remembered(memory: Path) -> bool | None:
    with contextlib.suppress(ProtoRKDError, KeyError, TypeError):
        found = read_json(memory)
        if 0 <= time.time() - found["asked"] < _REMEMBERED_S:
            return bool(found["keeps"])
    return None
