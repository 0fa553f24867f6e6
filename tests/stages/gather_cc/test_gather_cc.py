"""gather-cc against a server that misbehaves: what becomes of each row, and what the server saw of it."""

import csv
import hashlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gathering import HERE, SHORT, gather, run, status_of, write_table
from misbehaving import GOOD, HOSTS, Server, serving
from PIL import Image
from workbench import Cli

from data_schemas.images.gathered_folder import block_numbers, image_path
from data_schemas.pair_index import read_captions
from data_schemas.pair_sources.text.manifest_table import read_manifest
from stages.gather_cc import addresses, resolver

pytest.importorskip("aiohttp")

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
    "close_mid_body": ("failed", "connection lost", 3),
    "garbage": ("failed", "malformed answer", 1),
    "garbage_chunks": ("failed", "malformed answer", 1),
    "good_chunks": ("ok", "", 1),
    "until_closed": ("ok", "", 1),
    "too_short_a_length": ("failed", "malformed answer", 1),
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
    """Return all of them gathered at once."""
    root = tmp_path_factory.mktemp("gathered")
    table = write_table(root / "table.tsv", [*map(server.url, OUTCOMES), *UNASKED])
    with pytest.MonkeyPatch.context() as patch:
        # Not every machine that tests run on has someone to ask for names.
        patch.setattr("socket.getaddrinfo", unknown_names)
        gather(table, root / "output", *HERE, "--min-side", 10, "--resize", "longest-side", "--image-size", 512)
    return root / "output"


def unknown_names(host: str, *rest: object, **more: object) -> None:
    host.encode("idna")
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("path", OUTCOMES)
def test_server__has_its_ways_told_apart(path: str, server: Server, gathered: Path) -> None:
    row = status_of(gathered)[list(OUTCOMES).index(path)]
    status, reason, asked = OUTCOMES[path]
    assert (row["status"], row["reason"]) == (status, reason), row
    assert server.asked[f"/{path}"] == asked + (path == "good")  # which redirect_home leads to


def test_server__that_takes_for_ever_is_left(server: Server, tmp_path: Path) -> None:
    outcomes = {"silence": "read timeout", "stall": "read timeout", "drip": "timeout"}
    table = write_table(tmp_path / "t.tsv", [server.url(path) for path in outcomes])
    gather(table, tmp_path / "out", *HERE, *SHORT, "--retries", 1)
    assert [row["reason"] for row in status_of(tmp_path / "out")] == list(outcomes.values())
    assert [server.asked[f"/{path}"] for path in outcomes] == [2, 2, 2]


@pytest.mark.parametrize("url", UNASKED)
def test_url__that_cannot_be_asked_has_a_reason(url: str, gathered: Path) -> None:
    row = status_of(gathered)[len(OUTCOMES) + list(UNASKED).index(url)]
    assert (row["status"], row["reason"]) == UNASKED[url], row
    assert row["url"] == url


def pixels_of(path: str, gathered: Path) -> np.ndarray:
    path_of_image = status_of(gathered)[list(OUTCOMES).index(path)]["image"]
    with Image.open(gathered / path_of_image) as image:
        assert image.format == "JPEG"
        assert not image.getexif()
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("path", "size", "colour", "corner"),
    [
        ("good", (60, 80), (254, 0, 0), 0),
        ("gzipped", (60, 80), (254, 0, 0), 0),
        ("cmyk", (60, 80), (254, 0, 0), 255),  # no ink
        ("rgba", (60, 80), (254, 0, 0), 255),  # transparent
        ("grey16", (60, 80), (128, 128, 128), 0),
        ("rotated", (80, 40), (254, 0, 0), 0),
        ("big", (320, 512), (254, 0, 0), 0),
    ],
)
def test_image__is_kept_upright_in_rgb_and_shrunk(
    path: str, size: tuple[int, int], colour: tuple[int, ...], corner: int, gathered: Path
) -> None:
    pixels = pixels_of(path, gathered)
    assert pixels.shape == (*size, 3)
    assert np.abs(pixels[-5, -5] - colour).max() <= 2
    # A quarter turn clockwise moves the upper left to the upper right.
    assert np.abs(pixels[5, -5 if path == "rotated" else 5] - corner).max() <= 12


def test_status__says_what_was_kept(server: Server, gathered: Path) -> None:
    row = status_of(gathered)[list(OUTCOMES).index("good")]
    data = (gathered / row["image"]).read_bytes()
    assert row["image"] == "0/0.jpg"
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert (row["bytes"], row["width"], row["height"], row["http_status"]) == (len(GOOD), 80, 60, 200)
    assert 0 < row["seconds"] < 5


def test_status__has_nulls_where_nothing_was_kept(gathered: Path) -> None:
    for row in status_of(gathered):
        if row["status"] != "ok":
            assert row["sha256"] is row["width"] is row["height"] is row["image"] is None
            assert not (gathered / image_path(row["row"])).exists()


def test_output__holds_the_kept_images_and_nothing_half_written(gathered: Path) -> None:
    kept = {row["image"] for row in status_of(gathered) if row["image"]}
    assert {path.relative_to(gathered).as_posix() for path in gathered.rglob("*.jpg")} == kept
    assert not list((gathered / ".gather/partial").iterdir())
    assert block_numbers(gathered) == []


def test_manifest__names_the_kept_images_in_the_order_of_rows(gathered: Path) -> None:
    manifest = read_manifest(gathered / "manifest.tsv")
    kept = [row for row in status_of(gathered) if row["status"] == "ok"]
    assert manifest.table["image"].to_pylist() == [row["image"] for row in kept]
    assert manifest.table["caption"].to_pylist() == [f"caption {row['row']}" for row in kept]
    assert not manifest.rejections


def test_server__is_told_no_more_than_it_has_to_be(server: Server, gathered: Path) -> None:
    for request in server.requests:
        assert not request.headers.keys() & {"cookie", "authorization", "referer"}
        assert request.headers["user-agent"] == "protorkd-gather-cc"
        assert request.headers["accept-encoding"] == "identity"


def test_summary__says_why_rows_were_lost(server: Server, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url("good"), server.url("missing/1"), server.url("missing/2")])
    result = run(table, tmp_path / "out", *HERE)
    lines = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert "2 66.7 % failed: http 404" in lines
    assert "1 33.3 % ok" in lines
    assert any(line.startswith("3 100.0 % rows; 3 asked now in") and line.endswith("rows/s") for line in lines)


def test_json__counts_by_status_and_reason(server: Server, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url("good"), server.url("missing/1"), "nonsense"])
    counts = gather(table, tmp_path / "out", *HERE)
    assert counts["status"] == "created"
    assert counts["asked"] == 3
    assert counts["statuses"] == {"ok": 1, "failed": 1, "invalid": 1}
    assert counts["reasons"]["failed"] == {"http 404": 1}
    assert Path(counts["manifest"]).is_file()
    assert Path(counts["status_table"]).is_file()


def test_gather__again_asks_nothing_and_touches_nothing(server: Server, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url("good?again"), server.url("missing/again")])
    gather(table, tmp_path / "out", *HERE)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "lock"]
    before = [path.stat().st_mtime_ns for path in files]
    found = gather(table, tmp_path / "out", *HERE)
    assert (found["status"], found["asked"]) == ("unchanged", 0)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert server.asked["/good?again"] == server.asked["/missing/again"] == 1


def test_retry_failed__asks_again_for_failed_rows_alone(server: Server, tmp_path: Path) -> None:
    paths = ["good?retry", "missing/retry", "html?retry", "broken_once?retry"]
    table = write_table(tmp_path / "t.tsv", [server.url(path) for path in paths])
    gather(table, tmp_path / "out", *HERE, "--retries", 0)
    assert [row["reason"] for row in status_of(tmp_path / "out")][3] == "http 500"
    found = gather(table, tmp_path / "out", *HERE, "--retry-failed")
    assert found["asked"] == 2
    assert [server.asked[f"/{path}"] for path in paths] == [1, 2, 1, 2]
    assert [row["status"] for row in status_of(tmp_path / "out")] == ["ok", "failed", "rejected", "ok"]
    assert len(read_manifest(tmp_path / "out/manifest.tsv").table) == 2


def test_limit__can_grow(server: Server, tmp_path: Path) -> None:
    paths = [f"good?limit{number}" for number in range(4)]
    table = write_table(tmp_path / "t.tsv", [server.url(path) for path in paths])
    gather(table, tmp_path / "out", *HERE, "--limit", 2)
    assert len(status_of(tmp_path / "out")) == 2
    assert gather(table, tmp_path / "out", *HERE, "--limit", 3)["asked"] == 1
    gather(table, tmp_path / "out", *HERE, "--limit", 1)
    assert [row["row"] for row in status_of(tmp_path / "out")] == [0, 1, 2]
    assert [server.asked[f"/{path}"] for path in paths] == [1, 1, 1, 0]


def test_rows__that_share_a_url_are_asked_once_and_share_the_image(server: Server, tmp_path: Path) -> None:
    url, other = server.url("good?shared"), server.url("missing/shared")
    table = write_table(tmp_path / "t.tsv", [url, other, url, other, url])
    found = gather(table, tmp_path / "out", *HERE)
    assert server.asked["/good?shared"] == server.asked["/missing/shared"] == 1
    assert found["asked"] == 2
    manifest = read_manifest(tmp_path / "out/manifest.tsv").table
    assert manifest["image"].to_pylist() == ["0/0.jpg"] * 3
    assert manifest["caption"].to_pylist() == ["caption 0", "caption 2", "caption 4"]
    rows = status_of(tmp_path / "out")
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["reason"] for row in rows] == ["", "http 404", "", "http 404", ""]


def test_rows__are_numbered_by_line_from_0_and_empty_lines_count(server: Server, tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    good = [server.url(f"good?line{number}") for number in range(3)]
    table.write_text(f"\none\t{good[0]}\n\n\ntwo\t{good[1]}\tmore\tfields\r\nno url\n \t{good[2]}\n")
    gather(table, tmp_path / "out", *HERE)
    rows = status_of(tmp_path / "out")
    assert [row["row"] for row in rows] == [1, 4, 5, 6]
    assert [row["reason"] for row in rows] == ["", "", "malformed row", "empty caption"]
    assert (tmp_path / "out/4/4.jpg").is_file()


AWKWARD = ['"', '"the film"', 'say "cheese', "it's", "NA", "a  b ", "naïve 猫", '""', "x\\ty", "=1+1", "https://a.b/c"]


def test_manifest__keeps_captions_of_a_table_without_quoting(server: Server, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url(f"good?a{n}") for n in range(len(AWKWARD))], AWKWARD)
    gather(table, tmp_path / "out", *HERE)
    assert read_manifest(tmp_path / "out/manifest.tsv").table["caption"].to_pylist() == AWKWARD


def test_manifest__keeps_tabs_and_line_ends_of_a_csv_with_a_header(server: Server, tmp_path: Path) -> None:
    captions = [*AWKWARD, "tab\there", "line\nend", "row\nlike\tthis\nx", "returns\r\n", "\r"]
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "TEXT", "URL"])
        writer.writerows((n, caption, server.url(f"good?b{n}")) for n, caption in enumerate(captions))
    words = ("--separator", "comma", "--caption-key", "TEXT", "--url-key", "URL")
    gather(table, tmp_path / "out", *HERE, *words)
    # The last one is white space, which is no caption.
    assert read_manifest(tmp_path / "out/manifest.tsv").table["caption"].to_pylist() == captions[:-1]
    assert [row["row"] for row in status_of(tmp_path / "out")][:3] == [1, 2, 3]


def test_manifest__is_plain_where_no_caption_needs_quotes(server: Server, tmp_path: Path) -> None:
    gather(write_table(tmp_path / "t.tsv", [server.url("good?plain")]), tmp_path / "out", *HERE)
    assert (tmp_path / "out/manifest.tsv").read_bytes() == b"filepath\ttitle\n0/0.jpg\tcaption 0\n"


def test_manifest__is_what_encode_teacher_reads(
    server: Server, tmp_path: Path, word_vectors: Path, run_cli: Cli
) -> None:
    captions = ['say "red', "green circle", '"blue" square']
    table = write_table(tmp_path / "t.tsv", [server.url(f"good?e{n}") for n in range(3)], captions)
    gather(table, tmp_path / "out", *HERE)
    outcome = run_cli("encode-teacher", "--manifest", tmp_path / "out/manifest.tsv", "--teacher", word_vectors)
    assert read_captions(Path(outcome["path"])).to_pylist() == captions


@pytest.mark.parametrize(
    ("resize", "size"), [("longest-side", (256, 160)), ("short-side", (410, 256)), ("none", (1024, 640))]
)
def test_resize__shrinks_the_side_that_is_named(
    resize: str, size: tuple[int, int], server: Server, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url(f"big?{resize}")])
    gather(table, tmp_path / "out", *HERE, "--resize", resize, "--image-size", 256)
    with Image.open(tmp_path / "out/0/0.jpg") as image:
        assert image.size == size


# Limits on who is asked how much.


def test_concurrency__holds_for_each_host_and_for_all(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        urls = [server.url(f"slow/0.05?{number}", HOSTS[number % 4]) for number in range(60)]
        gather(write_table(tmp_path / "t.tsv", urls), tmp_path / "out", *HERE, "--concurrency", 10, "--per-host", 3)
    assert {server.most[host] for host in HOSTS[:4]} == {3}
    assert server.most[""] == 10


def test_host__that_is_slow_does_not_hold_up_others(tmp_path: Path, server: Server) -> None:
    slow = [server.url(f"slow/0.1?slow{number}", HOSTS[0]) for number in range(8)]
    quick = [server.url(f"good?quick{number}", HOSTS[1]) for number in range(40)]
    start = len(server.requests)
    gather(write_table(tmp_path / "t.tsv", slow + quick), tmp_path / "out", *HERE, "--concurrency", 2, "--per-host", 1)
    order = ["quick" in request.path for request in server.requests[start:]]
    assert sum(order[:30]) >= 27


def test_retry_after__keeps_all_of_a_host_waiting(tmp_path: Path, server: Server) -> None:
    urls = [server.url("busy_once/1?pause"), *(server.url(f"good?pause{number}") for number in range(3))]
    start = len(server.requests)
    found = gather(write_table(tmp_path / "t.tsv", urls), tmp_path / "out", *HERE, "--per-host", 1)
    assert found["statuses"] == {"ok": 4}
    assert found["seconds"] >= 1
    assert len(server.requests) - start == 5


def test_host__that_never_answers_is_given_up(tmp_path: Path, server: Server) -> None:
    urls = [*(f"http://127.0.0.9:{server.port}/{number}" for number in range(20)), server.url("good?alive")]
    words = (*HERE, "--retries", 0, "--host-failures", 4, "--per-host", 1, "--concurrency", 1)
    found = gather(write_table(tmp_path / "t.tsv", urls), tmp_path / "out", *words)
    assert found["reasons"]["failed"] == {"connection refused": 4, "host given up": 16}
    assert found["statuses"]["ok"] == 1


def test_network__that_is_gone_stops_the_run_and_costs_no_row(
    tmp_path: Path, server: Server, run_without_network: Callable[..., str]
) -> None:
    table = write_table(tmp_path / "t.tsv", [f"http://host{number}.example/good" for number in range(30)])
    message = run_without_network(table, tmp_path / "out")
    assert "got no answer for 10 rows in a row, the last: lookup failed" in message
    assert block_numbers(tmp_path / "out") == []
    assert not (tmp_path / "out/manifest.tsv").exists()


@pytest.fixture
def run_without_network(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def gone(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def run_it(table: Path, output: Path) -> str:
        monkeypatch.setattr("socket.getaddrinfo", gone)
        result = run(table, output, *HERE, "--retries", 0, "--max-silent", 10)
        assert result.exit_code == 1
        return result.stderr

    return run_it


# Addresses that lead inside.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Give names their addresses, one after the other; 127.0.0.1 passes for a public one."""
    known: dict[str, list[str]] = {}

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        found = known[host]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr(resolver, "_KEPT_S", 0.0)
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or real(address))
    return known


OUTSIDE = [word for word in HERE if word != "--allow-private"]


def test_private__addresses_are_refused_unless_told(tmp_path: Path, server: Server) -> None:
    hosts = [
        "127.0.0.1",
        "127.0.0.2",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::1",
    ]
    start = len(server.requests)
    gather(write_table(tmp_path / "t.tsv", [server.url("good", host) for host in hosts]), tmp_path / "out", *OUTSIDE)
    assert {(row["status"], row["reason"]) for row in status_of(tmp_path / "out")} == {("invalid", "private address")}
    assert len(server.requests) == start
    found = gather(write_table(tmp_path / "u.tsv", [server.url("good", "::1")]), tmp_path / "more", *HERE)
    assert found["statuses"] == {"ok": 1}


def test_private__address_of_a_name_is_refused(tmp_path: Path, server: Server, names: dict[str, list[str]]) -> None:
    names |= {"outer.test": ["127.0.0.1"], "inner.test": ["127.0.0.2"]}
    urls = [server.url("good?named", "outer.test"), server.url("good?named", "inner.test")]
    gather(write_table(tmp_path / "t.tsv", urls), tmp_path / "out", *OUTSIDE)
    assert [row["reason"] for row in status_of(tmp_path / "out")] == ["", "private address"]
    assert server.asked["/good?named"] == 1


def test_private__address_is_refused_after_a_redirect(
    tmp_path: Path, server: Server, names: dict[str, list[str]]
) -> None:
    names |= {"outer.test": ["127.0.0.1"], "inner.test": ["127.0.0.2"]}
    targets = [server.url("good?hop", host) for host in ("127.0.0.2", "inner.test", "outer.test")]
    urls = [server.url(f"redirect/{target}", "outer.test") for target in targets]
    gather(write_table(tmp_path / "t.tsv", urls), tmp_path / "out", *OUTSIDE)
    reasons = [row["reason"] for row in status_of(tmp_path / "out")]
    assert reasons == ["redirect: private address", "private address", ""]
    assert server.asked["/good?hop"] == 1


def test_private__address_is_refused_when_a_name_has_changed_its_mind(
    tmp_path: Path, server: Server, names: dict[str, list[str]]
) -> None:
    names |= {"fickle.test": ["127.0.0.1", "127.0.0.2"]}
    target = server.url("good?fickle", "fickle.test")
    table = write_table(tmp_path / "t.tsv", [server.url(f"redirect_and_close/{target}", "fickle.test")])
    gather(table, tmp_path / "out", *OUTSIDE)
    assert [row["reason"] for row in status_of(tmp_path / "out")] == ["private address"]
    assert server.asked["/good?fickle"] == 0


def test_proxy__of_the_environment_is_not_asked(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    table = write_table(tmp_path / "t.tsv", [server.url("good?direct")])
    assert gather(table, tmp_path / "out", *HERE)["statuses"] == {"ok": 1}


def test_proxy__that_is_named_is_asked_for_everything(tmp_path: Path, server: Server) -> None:
    table = write_table(tmp_path / "t.tsv", ["http://nowhere.invalid/a.jpg", "http://10.0.0.1/b.jpg"])
    gather(table, tmp_path / "out", *OUTSIDE, "--proxy", server.url(""))
    assert server.asked["http://nowhere.invalid/a.jpg"] == 1
    assert server.asked["http://10.0.0.1/b.jpg"] == 0
    assert [row["reason"] for row in status_of(tmp_path / "out")] == ["http 404", "private address"]


# What a user may get wrong.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image-size", 256), "was from --image-size 512"),
        (("--quality", 80), "was from --quality 90"),
        (("--separator", "comma"), "was from --separator tab"),
    ],
)
def test_output__is_held_to_what_it_was_begun_with(
    words: Sequence[object], said: str, server: Server, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.tsv", [server.url("good?begun")])
    gather(table, tmp_path / "out", *HERE)
    result = run(table, tmp_path / "out", *HERE, *words)
    assert result.exit_code == 1
    assert said in result.stderr


def test_output__of_another_table_is_refused(server: Server, tmp_path: Path) -> None:
    gather(write_table(tmp_path / "t.tsv", [server.url("good?t")]), tmp_path / "out", *HERE)
    result = run(write_table(tmp_path / "u.tsv", [server.url("good?u")]), tmp_path / "out", *HERE)
    assert result.exit_code == 1
    assert "was from another table" in result.stderr


def test_output__that_cannot_be_written_is_named_by_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(write_table(tmp_path / "t.tsv", ["http://a.invalid/"]), tmp_path / "file/out", *HERE)
    assert result.exit_code == 1
    assert "Give --output a folder that you may write to" in result.stderr


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("\n\n", (), "must hold rows of captions and URLs; got none"),
        ("a\tb\n", ("--url-key", "b"), "--caption-key must name a column when the other does"),
        (
            "a\tb\n",
            ("--url-key", "b", "--caption-key", "c"),
            "must have one column 'c' (--caption-key); got columns 'a', 'b'",
        ),
    ],
)
def test_table__that_cannot_serve_is_refused(text: str, words: Sequence[object], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(text)
    result = run(tmp_path / "t.tsv", tmp_path / "out", *HERE, *words)
    assert result.exit_code == 1
    assert said in result.stderr


def test_aiohttp__that_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run(write_table(tmp_path / "t.tsv", ["http://a.invalid/"]), tmp_path / "out")
    assert result.exit_code == 1
    assert "pip install 'protorkd[download]'" in result.stderr
