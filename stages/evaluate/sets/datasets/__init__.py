"""The named sets that students are measured on: found under one folder, whatever layout they lie there in."""

from stages.evaluate.sets.datasets.catalogue import KNOWN_SETS, find_sets
from stages.evaluate.sets.datasets.description import Absent, FoundSet, PackedImages
from stages.evaluate.sets.datasets.downloading import download
from stages.evaluate.sets.datasets.unpacking import unpack

__all__ = ["KNOWN_SETS", "Absent", "FoundSet", "PackedImages", "download", "find_sets", "unpack"]
