"""Search of several sets at once, and with calibrated scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import EMBED, Embedded, opened_search
from workbench import Cli, make_manifest

from data_schemas.calibration import MixedScores, QueryBank
from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages import STAGES
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.calibration.extended_vectors import nearness_to_bank
from stages.components.embeddings.searchable import find_searchable, read_rows
from stages.components.student.checkpoints import find_checkpoint


def newest(store: Path, stage: str) -> Artifact:
    found = Store(store).newest(stage)
    assert found is not None
    return found


def calibration_of(store: Path, kind: str) -> QueryBank | MixedScores:
    opened = Store(store)
    source = identify_calibration(find_checkpoint(None, store=opened), kind).value
    return make_calibration(source, CalibrationRuntime("cpu"), context_of(opened, stages=STAGES))[0]


def both(embedded: Embedded) -> tuple[object, ...]:
    store = embedded.store
    names = [newest(store, stage).record.fingerprint for stage in ("embed", "encode-teacher")]
    return ("--in", names[0], "--in", names[1])


def query_of(store: Path, caption: str) -> np.ndarray:
    with_caption = opened_search(store, searched=(str(newest(store, "encode-teacher").path),))
    return with_caption.queries.texts([caption])


def test_search__ranks_by_the_query_bank(embedded: Embedded, run_cli: Cli) -> None:
    bank = calibration_of(embedded.store, "query-bank")
    assert isinstance(bank, QueryBank)
    images = read_rows(newest(embedded.store, "embed"))
    wanted = images.values @ query_of(embedded.store, "green square")[0] - nearness_to_bank(images.values, bank)
    asked = ("search", "--device", "cpu", "--text", "green square", "--top", 24, "--calibrate", "query-bank")
    [query] = run_cli(*asked)["queries"]
    assert [hit["row"] for hit in query["results"]] == images.numbers[np.argsort(-wanted, kind="stable")].tolist()
    np.testing.assert_allclose([hit["score"] for hit in query["results"]], -np.sort(-wanted), atol=1e-5)


def test_search__gives_the_same_without_faiss_and_of_rows_that_embed_calibrated(
    embedded: Embedded, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("search", "--device", "cpu", "--text", "red circle", "--top", 24)
    indexed = run_cli(*asked, "--calibrate", "query-bank")["queries"][0]["results"]
    dtype = ("--embedding-dtype", "float32")
    raw = run_cli(*EMBED, *dtype, "--manifest", embedded.images.manifest)
    held = run_cli(*EMBED, *dtype, "--manifest", embedded.images.manifest, "--calibrate", "query-bank")
    of_rows = run_cli(*asked, "--in", held["fingerprint"])["queries"][0]["results"]
    assert [hit["score"] for hit in of_rows] == pytest.approx([hit["score"] for hit in indexed], abs=2e-3)
    monkeypatch.setattr("stages.search.finder.find_faiss", lambda: None)
    without = run_cli(*asked, "--in", raw["fingerprint"], "--calibrate", "query-bank")["queries"][0]["results"]
    assert [hit["score"] for hit in without] == pytest.approx([hit["score"] for hit in of_rows], abs=1e-5)
    image = embedded.images.root / embedded.images.images[3]
    cosines = run_cli("search", "--device", "cpu", "--picture", image, "--in", held["fingerprint"])
    assert cosines["queries"][0]["results"][0]["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("held", [False, True], ids=["raw rows", "rows that embed calibrated"])
def test_search__of_images_and_captions_is_one_list_on_one_scale(held: bool, embedded: Embedded, run_cli: Cli) -> None:
    captions, scores = newest(embedded.store, "encode-teacher"), calibration_of(embedded.store, "mixed")
    assert isinstance(scores, MixedScores)
    exact = (*EMBED, "--embedding-dtype", "float32", "--manifest", embedded.images.manifest)
    run_cli(*exact)
    images = read_rows(newest(embedded.store, "embed")).values
    if held:
        run_cli(*exact, "--calibrate", "mixed")
    asked = (*both(embedded), "--calibrate", "mixed", "--top", 48, "--device", "cpu")
    picture = embedded.images.root / embedded.images.images[0]
    by_text, by_image = run_cli("search", *asked, "--text", "red circle", "--picture", picture)["queries"]
    texts = read_rows(captions).values
    for found, kind, query in (
        (by_text, "text", query_of(embedded.store, "red circle")[0]),
        (by_image, "picture", images[0]),
    ):
        mapped = scores.map_images(kind)
        wanted = np.concatenate([mapped.slope * (images @ query) + mapped.offset, texts @ query])
        hits = found["results"]
        assert [hit["score"] for hit in hits] == pytest.approx((-np.sort(-wanted)).tolist(), abs=5e-3)
        assert [hit["rank"] for hit in hits] == list(range(1, 49))
        assert sum("image" in hit for hit in hits) == 24
        assert {hit["in"] for hit in hits} == {
            newest(embedded.store, "embed").record.fingerprint,
            captions.record.fingerprint,
        }
    turned = run_cli(
        "search",
        *both(embedded)[2:],
        *both(embedded)[:2],
        "--calibrate",
        "mixed",
        "--text",
        "red circle",
        "--device",
        "cpu",
    )
    assert [each["stage"] for each in turned["in"]] == ["encode-teacher", "embed"]


def test_page__scores_as_the_command_does(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    run_cli("search", *both(embedded), "--calibrate", "mixed", "--page", path, "--device", "cpu", "--text", "red")
    data = page_data(path)
    assert (data["noun"], len(data["items"]), data["added"]) == ("result", 48, [])
    assert [item["is_image"] for item in data["items"]] == [True] * 24 + [False] * 24
    assert all("thumb" in item for item in data["items"][:24])
    of_images, of_captions = data["maps"]
    scores = calibration_of(embedded.store, "mixed")
    assert isinstance(scores, MixedScores)
    assert of_images["text"] == pytest.approx(list(vars(scores.map_images("text")).values()))
    assert of_captions == {"text": [1, 0], "picture": [1, 0]}
    run_cli("search", "--calibrate", "query-bank", "--page", path, "--device", "cpu", "--text", "red")
    assert len(page_data(path)["added"]) == 24


def page_data(path: Path) -> dict[str, Any]:
    _, _, rest = path.read_text().partition('<script id="data" type="application/json">')
    data: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return data


def test_nearest__of_a_row_of_several_sets_leaves_out_the_row_itself(embedded: Embedded) -> None:
    names = [str(newest(embedded.store, stage).path) for stage in ("embed", "encode-teacher")]
    opened = opened_search(embedded.store, searched=tuple(names), calibrate="mixed")
    for row in (0, 47):
        hits = opened.nearest(row, top=47)
        assert {hit.row for hit in hits} == set(range(48)) - {row}
        assert [hit.rank for hit in hits] == list(range(1, 48))
    assert opened.searched.is_image(0)
    assert not opened.searched.is_image(47)


def test_search__refuses_what_cannot_be_compared(
    embedded: Embedded, run_cli: Cli, tmp_path: Path, bert_folder: Path
) -> None:
    by_words = ("search", "--device", "cpu", "--text", "red")
    assert "--calibrate query-bank must have images alone" in run_cli.fails(
        *by_words, *both(embedded), "--calibrate", "query-bank"
    )
    assert "each artifact once" in run_cli.fails(*by_words, *both(embedded)[:2], *both(embedded)[:2])
    held = run_cli(*EMBED, "--manifest", embedded.images.manifest, "--calibrate", "query-bank")["fingerprint"]
    assert "--calibrate must be query-bank" in run_cli.fails(*by_words, "--in", held, "--calibrate", "mixed")
    assert "--calibrate must go with images that embed left raw" in run_cli.fails(
        "index", "--in", held, "--calibrate", "query-bank"
    )
    manifest = make_manifest(tmp_path / "other.tsv", ["a.jpg", "b.jpg"], ["red circle", "blue square"])
    other = run_cli("encode-teacher", "--manifest", manifest, "--teacher", bert_folder, "--device", "cpu")
    assert "--in must name sets in one space" in run_cli.fails(
        *by_words, *both(embedded)[:2], "--in", other["fingerprint"], "--calibrate", "mixed"
    )


def test_search__says_what_a_calibration_lacks(embedded: Embedded, run_cli: Cli) -> None:
    found = find_searchable(None, store=Store(embedded.store))
    shutil.rmtree(embedded.store / "encode-teacher")
    asked = ("search", "--device", "cpu", "--text", "red", "--in", found.path, "--calibrate", "query-bank")
    assert "no artifact of encode-teacher with the digest" in run_cli.fails(*asked)
