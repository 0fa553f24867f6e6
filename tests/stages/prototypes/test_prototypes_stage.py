"""Prototypes from the command line: which captions take part, what is written, what is refused."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import COLOURS, SHAPES, Cli, Pairs

import cli
from data_schemas.artifact_record import PAGE_NAME
from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray
from data_schemas.pair_index import read_captions
from data_schemas.prototypes import Prototypes, read_report
from pipeline.commands.stages import stage_command, why_command
from stages.components.compute.device_table import DeviceTable
from stages.prototypes.report import render_page, size_bins
from stages.prototypes.stage import STAGE

Write = Callable[..., Path]

COLOUR_SETS = [" ".join(chosen) for num in (1, 2, 3) for chosen in combinations(COLOURS, num)]
KNOWN_CAPTIONS = [f"{colours} {shape}".strip() for shape in ("", *SHAPES) for colours in COLOUR_SETS]
NUM_KNOWN = 4 * 92


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the stage as a subcommand, whether or not the command line lists it."""
    monkeypatch.setitem(cli.cli.commands, STAGE.name, stage_command(STAGE))
    monkeypatch.setitem(cli.why.commands, STAGE.name, why_command(STAGE))


@pytest.fixture
def shapes(run_cli: Cli, write_manifest: Write, word_vectors: Path) -> Path:
    """Return an artifact of captions in two shards, two of which the teacher knows no word of."""
    manifest = write_manifest(["unheard", *KNOWN_CAPTIONS, "of"])
    outcome = run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--shard-rows", 256)
    return Path(outcome["path"])


def teacher_rows(root: Path) -> np.ndarray:
    table = EmbeddingArray.open(root)
    return table.read(0, table.rows).astype(np.float64)


def test_prototypes__belong_to_every_caption_that_the_teacher_knows(run_cli: Cli, shapes: Path) -> None:
    outcome = run_cli("prototypes", "--num-prototypes", 20)
    prototypes, rows = Prototypes.read(Path(outcome["path"])), teacher_rows(shapes)
    assert prototypes.centroids.shape == (20, rows.shape[1])
    assert prototypes.assignment.shape == (NUM_KNOWN + 2,)
    is_zero = ~rows.any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(is_zero), [0, NUM_KNOWN + 1])
    assert (prototypes.assignment[is_zero] == -1).all()
    assert (prototypes.cosines[is_zero] == 0).all()
    cosines = rows[~is_zero] / np.linalg.norm(rows[~is_zero], axis=1, keepdims=True) @ prototypes.centroids.T
    np.testing.assert_allclose(prototypes.cosines[~is_zero], cosines.max(axis=1), atol=1e-6)
    own = np.take_along_axis(cosines, prototypes.assignment[~is_zero, None], axis=1)[:, 0]
    np.testing.assert_allclose(own, cosines.max(axis=1), atol=1e-6)


def test_prototypes__on_a_gpu_are_those_of_the_cpu(run_cli: Cli, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage as it goes for a GPU, whose table and products lie on the CPU here."""
    expected = Prototypes.read(Path(run_cli("prototypes", "--num-prototypes", 20, "--device", "cpu")["path"]))
    place = DeviceTable.of
    monkeypatch.setattr(
        DeviceTable,
        "of",
        lambda host, device, *, is_resident: place(host, torch.device("cpu"), is_resident=is_resident),
    )
    monkeypatch.setattr("stages.prototypes.run.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("stages.prototypes.run.choose_precision", lambda name, device: "fp32")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))
    path = Path(run_cli("prototypes", "--num-prototypes", 20, "--force")["path"])
    prototypes = Prototypes.read(path)
    assert json.loads((path / "artifact.json").read_text())["environment"]["device"] == "cuda"
    np.testing.assert_allclose(prototypes.centroids, expected.centroids, atol=2e-6)
    np.testing.assert_array_equal(prototypes.assignment, expected.assignment)
    np.testing.assert_allclose(prototypes.cosines, expected.cosines, atol=2e-6)


def test_prototypes__are_counted(run_cli: Cli, shapes: Path) -> None:
    outcome = run_cli("prototypes", "--num-prototypes", 20, "--iterations", 3)
    sizes = Prototypes.read(Path(outcome["path"])).sizes
    assert outcome["counts"] == {
        "captions": NUM_KNOWN + 2,
        "zero_captions": 2,
        "fitted_captions": NUM_KNOWN,
        "prototypes": 20,
        "empty_prototypes": int((sizes == 0).sum()),
        "smallest_size": int(sizes[sizes > 0].min()),
        "median_size": float(np.median(sizes[sizes > 0])),
        "largest_size": int(sizes.max()),
        "iterations": 3,
    }
    cosines = Prototypes.read(Path(outcome["path"])).cosines
    assert outcome["metrics"] == {"mean_cosine": pytest.approx(cosines.sum() / NUM_KNOWN)}


@pytest.mark.parametrize("method", ["auto", "torch"])
def test_prototypes__are_the_same_every_time(run_cli: Cli, shapes: Path, method: str) -> None:
    words = ("prototypes", "--num-prototypes", 20, "--method", method)
    first, again, forced = run_cli(*words), run_cli(*words, "--device", "cpu"), run_cli(*words, "--force")
    assert [outcome["status"] for outcome in (first, again, forced)] == ["created", "unchanged", "created"]
    assert first["digest"] == again["digest"] == forced["digest"]
    assert first["fingerprint"] == again["fingerprint"] == forced["fingerprint"]


@pytest.mark.parametrize(
    "option",
    [
        ("--num-prototypes", 5),
        ("--iterations", 2),
        ("--restarts", 2),
        ("--captions-per-prototype", 3),
        ("--seed", 1),
        ("--method", "torch"),
    ],
    ids=lambda option: option[0],
)
def test_prototypes__are_others_for_another_request(run_cli: Cli, encoded: Pairs, option: tuple[object, ...]) -> None:
    known = run_cli("prototypes", "--num-prototypes", 4)
    assert "prototypes would run" in run_cli.run("why", "prototypes", "--num-prototypes", 4, *option).output
    assert run_cli("prototypes", "--num-prototypes", 4, *option)["fingerprint"] != known["fingerprint"]


def test_prototypes__can_be_fitted_on_some_of_the_captions(run_cli: Cli, shapes: Path) -> None:
    outcome = run_cli("prototypes", "--num-prototypes", 10, "--captions-per-prototype", 3)
    assert outcome["counts"]["fitted_captions"] == 30
    found = Prototypes.read(Path(outcome["path"]))
    assert found.sizes.sum() == NUM_KNOWN  # and yet all are assigned


def test_prototypes__record_what_computed_them(run_cli: Cli, encoded: Pairs) -> None:
    outcome = run_cli("prototypes", "--num-prototypes", 4, "--method", "torch", "--device", "cpu")
    record = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    assert record["environment"]["device"] == "cpu"
    assert "device" not in record["params"]


def test_prototypes__come_from_the_embeddings_that_are_named(
    run_cli: Cli, shapes: Path, write_manifest: Write, word_vectors: Path
) -> None:
    manifest = write_manifest(["red", "green", "blue", "red circle"], name="newer.tsv")
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    assert run_cli("prototypes", "--num-prototypes", 2)["counts"]["captions"] == 4
    named = run_cli("prototypes", "--num-prototypes", 2, "--embeddings", shapes)
    assert named["counts"]["captions"] == NUM_KNOWN + 2


def test_prototypes__refuse_to_be_more_than_the_captions(run_cli: Cli, shapes: Path) -> None:
    message = run_cli.fails("prototypes", "--num-prototypes", NUM_KNOWN + 1)
    assert "--num-prototypes must be at most 368, the number of distinct captions, beside 2 of which" in message
    assert "got 369. Ask for fewer" in message
    assert run_cli("prototypes", "--num-prototypes", NUM_KNOWN)["metrics"]["mean_cosine"] > 0.999


def test_prototypes__refuse_captions_that_the_teacher_knows_nothing_of(
    run_cli: Cli, write_manifest: Write, word_vectors: Path
) -> None:
    run_cli("encode-teacher", "--manifest", write_manifest(["unheard", "of"]), "--teacher", word_vectors)
    message = run_cli.fails("prototypes", "--num-prototypes", 1)
    assert "The teacher must know some of the captions; got 2 zero vectors and nothing else" in message


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        (("--num-prototypes", 0), "--num-prototypes must be above 0; got 0"),
        (("--seed", 1 << 31), "--seed must lie between 0 and 2147483647; got 2147483648"),
        (("--captions-per-prototype", -1), "--captions-per-prototype must be 0 or more; got -1"),
    ],
)
def test_prototypes__refuse_options_out_of_range(
    run_cli: Cli, encoded: Pairs, option: tuple[object, ...], rule: str
) -> None:
    assert rule in run_cli.fails("prototypes", *option)


def test_prototypes__refuse_a_store_without_embeddings(run_cli: Cli) -> None:
    assert "must hold an artifact of encode-teacher; it has none" in run_cli.fails("prototypes")


def test_prototypes__refuse_damaged_embeddings(run_cli: Cli, shapes: Path) -> None:
    [shard, _] = sorted(shapes.glob(f"{ARRAY_NAME}/c/*/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 0xFF
    shard.write_bytes(damaged)
    message = run_cli.fails("prototypes", "--num-prototypes", 4)
    assert f"{shard} must be as it was written; it has other bytes" in message


def test_report__shows_the_captions_nearest_to_the_centroid(run_cli: Cli, shapes: Path) -> None:
    outcome = run_cli("prototypes", "--num-prototypes", 40)
    root = Path(outcome["path"])
    report, prototypes, captions = read_report(root), Prototypes.read(root), read_captions(shapes).to_pylist()
    assert report["sizes"] == sorted(prototypes.sizes.tolist(), reverse=True)
    assert len(report["examples"]) == 24
    assert len({example["prototype"] for example in report["examples"]}) == 24
    for example in report["examples"]:
        members = np.flatnonzero(prototypes.assignment == example["prototype"])
        assert example["size"] == len(members)
        assert example["mean_cosine"] == pytest.approx(prototypes.cosines[members].mean())
        cosines = [entry["cosine"] for entry in example["captions"]]
        assert cosines == sorted(prototypes.cosines[members].tolist(), reverse=True)[:8]
        for entry in example["captions"]:
            assert (entry["caption"], entry["cosine"]) == (captions[entry["row"]], prototypes.cosines[entry["row"]])
    assert report["mean_cosine_by_iteration"][-1] <= outcome["metrics"]["mean_cosine"] + 1e-6


def test_size_bins__double_in_width() -> None:
    assert size_bins([9, 8, 3, 2, 1, 0]) == [("0", 1), ("1", 1), ("2 to 3", 2), ("4 to 7", 0), ("8 to 15", 2)]
    assert size_bins([1, 1]) == [("1", 2)]


def test_page__escapes_captions_and_loads_nothing(run_cli: Cli, write_manifest: Write, word_vectors: Path) -> None:
    hostile = "red <script>alert(1)</script> <img src=http://example.org/x.png>"
    run_cli("encode-teacher", "--manifest", write_manifest([hostile, "blue", "green"]), "--teacher", word_vectors)
    outcome = run_cli("prototypes", "--num-prototypes", 2)
    root = Path(outcome["path"])
    page = (root / PAGE_NAME).read_text("utf-8")
    assert page == render_page(read_report(root))
    assert "red &lt;script&gt;alert(1)" in page
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in tags}
    assert not [attributes for _, attributes in tags if {"src", "href"} & attributes.keys()]
    assert STAGE.page == PAGE_NAME
    assert f"open {root / PAGE_NAME}" in run_cli.run("prototypes", "--num-prototypes", 2).output
