import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from data_schemas.errors import ProtoRKDError
from stages.components.images.listing import list_images, tell_of_others


def save(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if kind == "PPM" else "RGB", (4, 4)).save(path, kind)


def test_list_images__takes_other_suffixes_by_content_and_counts_the_rest(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", "JPEG")
    for name, kind in (("b.jfif", "JPEG"), ("c.JPE", "JPEG"), ("d/e.pgm", "PPM"), ("f.avif", "AVIF"), ("g", "PNG")):
        save(tmp_path / name, kind)
    save(tmp_path / ".hidden.jfif", "JPEG")
    (tmp_path / "broken.png").write_bytes(b"")  # judged by its decoder
    (tmp_path / "labels.txt").write_text("P1 is first")
    (tmp_path / "z.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it will say why not
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    found = list_images(tmp_path, root=tmp_path)
    images = ["a.jpg", "b.jfif", "broken.png", "c.JPE", "d/e.pgm", "f.avif", "g", "gone.jpg", "pipe.jpg"]
    assert found.images == images
    assert found.others == Counter({".txt": 1, ".heic": 1, "": 1})


def test_list_images__follows_links_to_folders_and_lists_each_folder_once(tmp_path: Path) -> None:
    """Datasets are put together of links; one that leads back must not be walked for ever."""
    for name in ("set/2024/a.jpg", "elsewhere/b.jpg", "elsewhere/deep/c.jpg", "elsewhere/.hidden/d.jpg"):
        save(tmp_path / name, "JPEG")
    links = {"all": "elsewhere", "again": "elsewhere/deep", "2024/up": "set", "latest": "set/2024", "0": "elsewhere"}
    for link, target in links.items():
        (tmp_path / "set" / link).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "set", root=tmp_path / "set").images == ["0/b.jpg", "0/deep/c.jpg", "2024/a.jpg"]
    linked = tmp_path / "set" / "latest"
    assert list_images(linked, root=tmp_path / "set").images == ["latest/a.jpg"] + [
        f"latest/up/{name}" for name in ("0/b.jpg", "0/deep/c.jpg")
    ]


def test_list_images__refuses_a_folder_that_it_cannot_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ProtoRKDError, match=f"{tmp_path}/closed must be a folder that can be listed; Permission"):
        list_images(tmp_path, root=tmp_path)


def test_tell_of_others__warns_of_what_looks_like_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="protorkd"):
        tell_of_others(tmp_path, {})
        tell_of_others(tmp_path, {".txt": 2})
        tell_of_others(tmp_path, {".heic": 1, ".txt": 2})
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[1].endswith("3 files are no images that can be read, and are left out: 1 .heic, 2 .txt")


def test_list_images__refuses_a_name_that_is_no_text(tmp_path: Path) -> None:
    save(tmp_path / "a" / "good.jpg", "JPEG")
    try:
        (tmp_path / "a" / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("no such name in this file system")
    with pytest.raises(ProtoRKDError, match=r"Names of images must be UTF-8; got b'a/\\xff\.jpg' below .*: convmv"):
        list_images(tmp_path, root=tmp_path)
