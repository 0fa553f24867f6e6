"""gather-cc against a server that misbehaves: what becomes of each row, and what the server saw of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from misbehaving import GOOD, HOSTS, LARGE, Server, serving
from PIL import Image

from cli import cli

pytest.importorskip("aiohttp")

# Times are short, so that what never answers is soon given up.
SHORT = ("--read-timeout-s", 0.4, "--timeout-s", 1.0, "--connect-timeout-s", 0.5, "--backoff-s", 0.01)
HERE = ("--allow-private", "--workers", 0, "--max-bytes", LARGE // 2, *SHORT)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


def write_table(path: Path, urls: Sequence[str], captions: Sequence[str] = ()) -> Path:
    captions = captions or [f"caption {number}" for number in range(len(urls))]
    lines = [f"{caption}\t{url}\n" for caption, url in zip(captions, urls, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(table: Path, output: Path, *words: object) -> Result:
    arguments = ["gather-cc", str(table), "--output", str(output), *map(str, words)]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def gather(table: Path, output: Path, *words: object) -> dict[str, Any]:
    result = run(table, output, *words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def status_of(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "status.parquet").to_pylist()
    return found


# What is asked for, and what becomes of it: status, reason and how many times it was asked for with two retries.
OUTCOMES: dict[str, tuple[str, str, int]] = {
    "good": ("ok", "", 1),
    "missing": ("failed", "http 404", 1),
    "forbidden": ("failed", "http 403", 1),
    "gone": ("failed", "http 410", 1),
    "nothing": ("failed", "http 204", 1),
    "busy_once/0": ("ok", "", 2),
    "busy_once/3600": ("failed", "http 429", 1),
    "busy_until_a_date": ("ok", "", 2),
    "broken_once": ("ok", "", 2),
    "broken": ("failed", "http 500", 3),
    "hang_up_once": ("ok", "", 2),
    "silence": ("failed", "read timeout", 3),
    "stall": ("failed", "read timeout", 3),
    "drip": ("failed", "timeout", 3),
    "close_mid_body": ("failed", "connection lost", 3),
    "garbage": ("failed", "malformed answer", 1),
    "garbage_chunks": ("failed", "malformed answer", 1),
    "good_chunks": ("ok", "", 1),
    "until_closed": ("ok", "", 1),
    "too_short_a_length": ("rejected", "truncated or damaged", 1),
    "large": ("failed", "more than --max-bytes", 1),
    "endless": ("failed", "more than --max-bytes", 1),
    "gzip_bomb": ("failed", "more than --max-bytes", 1),
    "gzipped": ("ok", "", 1),
    "not_gzipped": ("failed", "malformed answer", 1),
    "brotli": ("failed", "unknown content encoding", 1),
    "header_flood": ("failed", "malformed answer", 1),
    "long_header": ("failed", "malformed answer", 1),
    "redirect_home": ("ok", "", 1),
    "redirect//good?there": ("ok", "", 1),
    "redirect_for_ever/0": ("failed", "more than --max-redirects", 1),
    "redirect_nowhere": ("failed", "redirect to nowhere", 1),
    "redirect/file:///etc/passwd": ("failed", "redirect: scheme other than http and https", 1),
    "redirect/http://a:b@127.0.0.2/": ("failed", "redirect: url with credentials", 1),
    "redirect/http://127.1/": ("failed", "invalid url", 1),
    "empty": ("failed", "empty body", 1),
    "html": ("rejected", "not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)", 1),
    "text": ("rejected", "not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)", 1),
    "svg": ("rejected", "not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)", 1),
    "truncated": ("rejected", "truncated or damaged", 1),
    "bomb": ("rejected", "more megapixels than the limit", 1),
    "opted_out": ("failed", "opted out by X-Robots-Tag", 1),
    "narrow": ("rejected", "beyond --max-aspect-ratio", 1),
    "tiny": ("rejected", "smaller than --min-side", 1),
    "png_as_text": ("ok", "", 1),
    "animation": ("ok", "", 1),
    "cmyk": ("ok", "", 1),
    "rgba": ("ok", "", 1),
    "grey16": ("ok", "", 1),
    "rotated": ("ok", "", 1),
    "big": ("ok", "", 1),
}
# URLs that no server sees.
UNASKED: dict[str, tuple[str, str]] = {
    "": ("invalid", "empty url"),
    "no url at all": ("invalid", "invalid url"),
    "/a/path": ("invalid", "invalid url"),
    "http://": ("invalid", "invalid url"),
    "http://[::1/": ("invalid", "invalid url"),
    "http://host:99999/": ("invalid", "invalid url"),
    "http://" + "a" * 70 + ".invalid/": ("failed", "invalid url"),
    "file:///etc/passwd": ("invalid", "scheme other than http and https"),
    "ftp://127.0.0.1/a.jpg": ("invalid", "scheme other than http and https"),
    "javascript:alert(1)": ("invalid", "scheme other than http and https"),
    "http://user:secret@127.0.0.1/a.jpg": ("invalid", "url with credentials"),
    "http://2130706433/a.jpg": ("failed", "invalid url"),
    "http://nowhere.invalid/a.jpg": ("failed", "unknown host"),
    "http://127.0.0.1:1/a.jpg": ("failed", "connection refused"),
}


@pytest.fixture(scope="module")
def gathered(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them gathered at once."""
    root = tmp_path_factory.mktemp("gathered")
    table = write_table(root / "table.tsv", [*map(server.url, OUTCOMES), *UNASKED])
    with pytest.MonkeyPatch.context() as patch:
        # Not every machine that tests run on has someone to ask for names.
        patch.setattr("socket.getaddrinfo", unknown_names)
        gather(table, root / "output", *HERE, "--min-side", 10, "--resize", "longest-side", "--image-size", 512)
    return root / "output"


def unknown_names(host: str, *rest: object, **more: object) -> None:
    import socket

    host.encode("idna")
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("path", OUTCOMES)
def test_server__has_its_ways_told_apart(path: str, server: Server, gathered: Path) -> None:
    row = status_of(gathered)[list(OUTCOMES).index(path)]
    status, reason, asked = OUTCOMES[path]
    assert (row["status"], row["reason"]) == (status, reason), row
    assert server.asked[f"/{path}"] == asked + (path == "good")  # which redirect_home leads to


@pytest.mark.parametrize("url", UNASKED)
def test_url__that_cannot_be_asked_has_a_reason(url: str, gathered: Path) -> None:
    row = status_of(gathered)[len(OUTCOMES) + list(UNASKED).index(url)]
    assert (row["status"], row["reason"]) == UNASKED[url], row
    assert row["url"] == url
