"""Stand-ins for faiss: installations that do not import, and one that sees GPUs where there are none."""

import sys
from types import ModuleType
from typing import Any

import pytest

from stages.components.compute import faiss_library

_REASONS = {
    "missing": "No module named 'faiss'",
    "without CUDA libraries": "faiss-gpu installed but nvidia-cuda-runtime-cu12 is missing",
    "half removed": "cannot import name 'IndexFlatIP' from 'faiss'",
}
DAMAGES = tuple(_REASONS)


def damage_faiss(damage: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the import of faiss fail as it really does; return how the reason begins."""
    reason = _REASONS[damage]

    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "faiss":
                raise ModuleNotFoundError(reason) if damage == "missing" else RuntimeError(reason)

    faiss_library._tell_once.cache_clear()
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    if damage == "half removed":
        monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))  # a folder without files imports as this
    else:
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    return reason


class FakeFaiss(ModuleType):
    """The real library with pretended GPUs: an index that is moved to one stays where it is.

    Args:
        num_gpus: Number of GPUs that it pretends to see.
    """

    def __init__(self, num_gpus: int) -> None:
        import faiss

        super().__init__("faiss")
        self._faiss, self._num_gpus = faiss, num_gpus
        self.moved: list[int] = []
        self.num_counts = 0

    def __getattr__(self, name: str) -> Any:
        assert name != "index_cpu_to_all_gpus", "it takes GPUs that were not asked for"
        return getattr(self._faiss, name)

    class StandardGpuResources:
        """Scratch memory, of which all is taken until less is asked for."""

        scratch = 1536 << 20

        def setTempMemory(self, num_bytes: int) -> None:
            """Take less."""
            self.scratch = num_bytes

    def get_num_gpus(self) -> int:
        """Count the GPUs."""
        self.num_counts += 1
        return self._num_gpus

    def index_cpu_to_gpu(self, resources: StandardGpuResources, number: int, index: Any) -> Any:
        """Note the GPU."""
        assert resources.scratch <= 256 << 20
        self.moved.append(number)
        return index


def install_fake_faiss(monkeypatch: pytest.MonkeyPatch, *, num_gpus: int = 2) -> FakeFaiss:
    """Replace the library by the fake."""
    fake = FakeFaiss(num_gpus)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    return fake
