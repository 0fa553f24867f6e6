"""Evaluation from packs: the figures of the files where the pack kept their bytes, on every kind of set."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from workbench import COLOURS, DISTILL, SHAPES, Cli, Pairs, draw_image

from data_schemas.evaluation_report import read_report

EVALUATE = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100)


@pytest.fixture
def image_pairs(encoded_session: tuple[Path, Pairs], tmp_path: Path) -> Pairs:
    """Return the 24 images that the student was trained on, in a folder that the test may change."""
    pairs = encoded_session[1]
    root = shutil.copytree(pairs.root, tmp_path / "set")
    return Pairs(root, root / "pairs.tsv", pairs.images, pairs.captions)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a folder of class folders with train/ and test/: four colours, an image of each shape."""
    root = tmp_path / "shapes"
    for split in ("train", "test"):
        for colour in COLOURS[:4]:
            for shape in SHAPES:
                path = root / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, 40)
    return root


def alter(path: Path) -> None:
    """Let a file hold another image than was packed."""
    draw_image(path, "white", "circle", 40)


def test_evaluate__from_a_pack_gives_the_figures_of_the_files(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    words = (*EVALUATE, "--retrieval", image_pairs.manifest)
    plain = run_cli(*words)
    pack = run_cli("pack", "--manifest", image_pairs.manifest, "--shard-images", 7)["fingerprint"]
    for image in image_pairs.images:
        (image_pairs.root / image).unlink()
    packed = run_cli(*words, "--packed", pack)
    assert packed["fingerprint"] != plain["fingerprint"]
    assert packed["metrics"] == plain["metrics"]
    overlaps = [read_report(Path(outcome["path"]))["overlap"][0] for outcome in (plain, packed)]
    assert overlaps[0] == overlaps[1]
    assert overlaps[1]["num_exact"] == 24  # by the bytes of their records
    page = (Path(packed["path"]) / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == (Path(plain["path"]) / "report.html").read_text().count(
        "data:image/jpeg;base64,"
    )
    assert run_cli(*words, "--packed", pack)["status"] == "unchanged"
    alter(image_pairs.root / image_pairs.images[0])
    run_cli("pack", "--images", image_pairs.root)  # newer, which gc would keep in its place
    assert run_cli.run("gc", "--yes").exit_code == 0
    assert pack in {path.name for path in (run_cli.store / "pack").glob("[!.]*")}


@pytest.mark.parametrize("packed", ["the folder", "the folder above", "a split alone"])
def test_evaluate__reads_class_folders_from_a_pack(packed: str, trained: Any, classes: Path, run_cli: Cli) -> None:
    words = (*EVALUATE, "--zero-shot", classes, "--knn", classes, "--knn-k", 3, "--no-overlap")
    plain = run_cli(*words)
    folder = {"the folder": classes, "the folder above": classes.parent, "a split alone": classes / "test"}[packed]
    pack = run_cli("pack", "--images", folder)["fingerprint"]
    for path in (classes / "test").rglob("*.jpg"):
        alter(path)
    outcome = run_cli(*words, "--packed", pack)
    assert outcome["metrics"] == plain["metrics"]


def test_evaluate__takes_the_pack_that_fits_each_set(
    trained: Any, image_pairs: Pairs, classes: Path, run_cli: Cli
) -> None:
    words = (*EVALUATE, "--retrieval", image_pairs.manifest, "--zero-shot", classes, "--no-overlap")
    plain = run_cli(*words)
    packs = [
        run_cli("pack", "--images", classes)["fingerprint"],
        run_cli("pack", "--manifest", image_pairs.manifest)["fingerprint"],
    ]
    for path in [*classes.rglob("*.jpg"), *(image_pairs.root / image for image in image_pairs.images)]:
        alter(path)
    assert run_cli(*words, "--packed", packs[0], "--packed", packs[1])["metrics"] == plain["metrics"]


def test_evaluate__reports_what_a_pack_rejected(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    (image_pairs.root / image_pairs.images[4]).write_bytes(b"no image")
    words = (*EVALUATE, "--retrieval", image_pairs.manifest, "--max-bad-fraction", 0.1)
    plain = run_cli(*words)
    pack = run_cli("pack", "--manifest", image_pairs.manifest, "--max-bad-fraction", 0.1)["fingerprint"]
    assert run_cli(*words, "--packed", pack)["metrics"] == plain["metrics"]


def test_evaluate__refuses_a_pack_that_serves_no_set(
    trained: Any, image_pairs: Pairs, classes: Path, run_cli: Cli
) -> None:
    pack = run_cli("pack", "--images", classes)["fingerprint"]
    message = run_cli.fails(*EVALUATE, "--retrieval", image_pairs.manifest, "--packed", pack)
    assert "--packed must name a pack that has all images of a set; got" in message
    assert f"made from {classes}, which serves none" in message


def test_evaluate__fails_a_set_whose_pack_was_altered(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    outcome = run_cli("pack", "--manifest", image_pairs.manifest)
    shard = Path(outcome["path"]) / "shards" / "000000.bin"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    words = (*EVALUATE, "--retrieval", image_pairs.manifest, "--packed", outcome["fingerprint"], "--no-overlap")
    assert f"{shard} must be as it was written; the record of images/" in run_cli.fails(*words)


def test_evaluate__looks_for_copies_among_packed_training_images(
    encoded: Pairs, image_pairs: Pairs, run_cli: Cli
) -> None:
    pack = run_cli("pack", "--manifest", image_pairs.manifest)["fingerprint"]
    run_cli(*DISTILL, "--packed", pack, "--epochs", 1)
    outcome = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    [overlap] = read_report(Path(outcome["path"]))["overlap"]
    assert (overlap["num_training"], overlap["num_exact"]) == (24, 24)
    (run_cli.store / "pack" / pack / "index" / "000000.parquet").unlink()
    again = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest, "--num-resamples", 101)
    assert read_report(Path(again["path"]))["overlap"] == []
