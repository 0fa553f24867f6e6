"""A pointer of Git LFS is told from the file that it stands for."""

from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from stages.components.inputs.lfs_pointer import check_fetched


def test_check_fetched__refuses_a_pointer_and_says_how_to_fetch_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ProtoRKDError, match=f"--teacher must lead to whole files; got {path}, .* Run git lfs pull in"):
        check_fetched(path, flag="--teacher")


@pytest.mark.parametrize("content", [b"", b"version 1", b"weights"])
def test_check_fetched__takes_any_other_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    check_fetched(tmp_path / "model.safetensors", flag="--teacher")
    check_fetched(tmp_path / "missing", flag="--teacher")
