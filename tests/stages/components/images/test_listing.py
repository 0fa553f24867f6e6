import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

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
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list_images(tmp_path, root=tmp_path)
    assert found.images == ["a.jpg", "b.jfif", "broken.png", "c.JPE", "d/e.pgm", "f.avif", "g"]
    assert found.others == Counter({".txt": 1, ".heic": 1})


def test_tell_of_others__warns_of_what_looks_like_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="protorkd"):
        tell_of_others(tmp_path, {})
        tell_of_others(tmp_path, {".txt": 2})
        tell_of_others(tmp_path, {".heic": 1, ".txt": 2})
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[1].endswith("3 files are no images that can be read, and are left out: 1 .heic, 2 .txt")
