"""Only regular files are opened: what would keep its reader for ever is refused before a byte is read."""

import os
import socket
from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import NotRegularError, check_regular, open_regular, read_regular

OF_THE_KERNEL = ("/proc/stat", "/sys/kernel/uevent_seqnum")  # without a size, and with one that says nothing


@pytest.fixture(params=["pipe", "link to a pipe", "link to /dev/zero", "socket", *OF_THE_KERNEL])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a path that leads to no regular file."""
    path = tmp_path / "odd"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        case "link to /dev/zero":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case kernels:
            path.symlink_to(kernels)
            if not path.exists():
                pytest.skip("no such file in this system")
    return path


def test_open_regular__refuses_what_is_none(irregular: Path) -> None:
    with pytest.raises(NotRegularError, match="no regular file"):
        open_regular(irregular)


def test_check_regular__says_what_is_there(irregular: Path, tmp_path: Path) -> None:
    for path, got in ((irregular, "no regular file"), (tmp_path, "a folder"), (tmp_path / "none", "nothing there")):
        with pytest.raises(ProtoRKDError, match=f"{path} must be a file; got {got}. Check the path"):
            check_regular(path)


def test_open_regular__leaves_no_descriptor_behind(irregular: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(NotRegularError):
            open_regular(irregular)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_open_regular__refuses_a_folder_as_open_does(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_read_regular__reads_a_file_behind_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"bytes"
