"""The page of a search as text: what it holds, what it hides, and what it would rank as the set itself does."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import EMBED, Embedded
from workbench import Cli, make_manifest

from pipeline.store.store import Store
from stages.components.embeddings.searchable import find_searchable, read_rows
from stages.search.page import _codes


def page_of(run_cli: Cli, path: Path, *words: object) -> tuple[str, dict[str, Any]]:
    run_cli("search", "--device", "cpu", "--page", path, *words)
    html = path.read_text(encoding="utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return html, json.loads(found[1])


def decoded(codes: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(codes["values"]), np.int8).reshape(-1, codes["dim"])
    return values * np.frombuffer(base64.b64decode(codes["scales"]), np.float32)[:, None]


def test_page__holds_every_image_with_its_embedding(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    _, data = page_of(run_cli, tmp_path / "page.html", "--text", "red circle")
    rows = read_rows(find_searchable(None, store=Store(embedded.store))).values
    assert [item["name"] for item in data["items"]] == list(embedded.images.images)
    assert all(item["thumb"].startswith("data:image/jpeg;base64,") for item in data["items"])
    np.testing.assert_allclose(decoded(data["codes"]), rows, atol=1 / 127)
    assert [query["name"] for query in data["queries"]] == ["red circle"]
    assert [caption["name"] for caption in data["captions"]] == list(dict.fromkeys(embedded.images.captions))


def test_page__ranks_as_the_set_does(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    _, data = page_of(run_cli, tmp_path / "page.html", "--text", "red circle")
    [query] = run_cli("search", "--device", "cpu", "--text", "red circle", "--top", 24)["queries"]
    scores = decoded(data["codes"]) @ decoded(data["query_codes"])[0]
    exact = {hit["image"]: hit["score"] for hit in query["results"]}
    np.testing.assert_allclose(scores, [exact[item["name"]] for item in data["items"]], atol=0.02)


def test_page__takes_an_even_sample_of_many(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    html, data = page_of(run_cli, tmp_path / "page.html", "--page-rows", 4)
    assert [item["name"] for item in data["items"]] == [embedded.images.images[row] for row in (3, 9, 15, 21)]
    assert "An even sample of 4 is on this page" in html


def test_page__of_captions_holds_captions(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    [encoded] = (embedded.store / "encode-teacher").glob("[!.]*")
    image = embedded.images.root / embedded.images.images[0]
    html, data = page_of(run_cli, tmp_path / "page.html", "--in", encoded.name, "--picture", image)
    assert data["noun"] == "caption"
    assert data["items"][0] == {"name": "red circle", "others": ["images/000.jpg"], "is_image": False, "set": 0}
    assert data["queries"][0]["thumb"].startswith("data:image/jpeg")
    assert str(embedded.images.root) not in html


def test_page__escapes_what_strangers_wrote(
    embedded: Embedded, run_cli: Cli, tmp_path: Path, word_vectors: Path
) -> None:
    hostile = "red </script><script>alert(1)</script>"
    manifest = make_manifest(embedded.store / "hostile.tsv", ["</script>.jpg"], [hostile])
    encoded = run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    html, data = page_of(run_cli, tmp_path / "page.html", "--in", encoded["fingerprint"], "--text", hostile)
    assert data["items"][0]["name"] == hostile
    assert html.count("</script>") == 2
    assert "alert(1)</" not in html


def test_page__allows_no_script_but_its_own(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    html, _ = page_of(run_cli, tmp_path / "page.html")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert "http:" not in html.replace("http-equiv", "")
    assert "https:" not in html


def test_page__refuses_captions_of_another_teacher(
    embedded: Embedded, run_cli: Cli, tmp_path: Path, word_vectors: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(word_vectors.read_text().replace("0.1", "0.2"))
    encoded = run_cli("encode-teacher", "--manifest", embedded.images.manifest, "--teacher", other)
    words = ("search", "--page", tmp_path / "page.html", "--captions", encoded["fingerprint"])
    assert "--captions must be of the teacher in whose space the set lies" in run_cli.fails(*words)


def test_page__shows_a_grey_square_where_an_image_has_gone(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    from stages.components.report.thumbnails import stand_in

    _, data = page_of(run_cli, tmp_path / "page.html", "--image-root", tmp_path)
    assert {item["thumb"] for item in data["items"]} == {stand_in()}


def test_page__of_a_pack_needs_no_files(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    packed = run_cli("pack", "--manifest", embedded.images.manifest)
    run_cli(*EMBED, "--packed", packed["fingerprint"])
    _, of_pack = page_of(run_cli, tmp_path / "pack.html")
    _, of_files = page_of(run_cli, tmp_path / "files.html", "--in", embedded.outcome["fingerprint"])
    assert [item["thumb"] for item in of_pack["items"]] == [item["thumb"] for item in of_files["items"]]


@pytest.mark.parametrize("num", [0, 5])
def test_codes__keep_a_row_to_half_a_step(num: int) -> None:
    rows = np.random.default_rng(0).normal(size=(num, 7)).astype(np.float32)
    steps = np.abs(rows).max(axis=1, initial=0)[:, None] / 127
    assert (np.abs(decoded(_codes(rows)) - rows) <= steps / 2 + 1e-6).all()
