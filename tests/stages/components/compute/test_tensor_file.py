"""Files of tensors are the library's, byte for byte, and are written while other threads go on."""

import itertools
import resource
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from data_schemas.errors import ProtoRKDError
from stages.components.compute.tensor_file import _DTYPES, write_tensors

TENSORS = {
    f"{name}.{str(dtype).removeprefix('torch.')}": torch.arange(100, 100 + size).view(shape).to(dtype)
    for (name, size, shape), dtype in itertools.product(
        [("b", 6, (2, 3)), ("a", 1, ()), ("Ä\n", 0, (0, 4)), ("a/b", 3, (3,))], _DTYPES
    )
}


@pytest.mark.parametrize("metadata", [None, {"protorkd": '{"rejected": {"7": "missing \\"file\\" \\u00e9\t"}}'}])
@pytest.mark.parametrize("tensors", [TENSORS, {}, {"a": torch.ones(2)}], ids=["many", "none", "one"])
def test_file__is_the_librarys(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    write_tensors(tensors, tmp_path / "new" / "file", metadata=metadata)
    assert (tmp_path / "new" / "file").read_bytes() == safetensors.torch.save(tensors, metadata=metadata)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_file__may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors(TENSORS, tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_file__that_the_system_refuses_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors({"a": torch.ones(1)}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ProtoRKDError, match="file must be writable; File too large"):
            write_tensors({"a": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
