"""The named sets that students are measured on: found under one folder, whatever layout they lie there in."""

from stages.evaluate.datasets.catalogue import KNOWN_SETS, find_sets
from stages.evaluate.datasets.description import Absent, FoundSet, PackedPictures
from stages.evaluate.datasets.downloading import download
from stages.evaluate.datasets.unpacking import unpack

__all__ = ["KNOWN_SETS", "Absent", "FoundSet", "PackedPictures", "download", "find_sets", "unpack"]
