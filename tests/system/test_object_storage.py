"""The road from a manifest to an evaluation on an object store, and the same on a machine that has nothing yet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from workbench import DISTILL, Cli, Trained, make_pairs

from data_schemas.artifact_record import ArtifactRecord
from pipeline.remote.object_store import Objects

if TYPE_CHECKING:
    from object_server import ObjectServer

EVALUATE = ("--num-resamples", 100, "--workers", 0, "--device", "cpu", "--no-overlap")


@pytest.fixture
def machine(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Cli]:
    """Return the command line on a machine with a cache of its own, and the store in the bucket."""

    def make(name: str) -> Cli:
        monkeypatch.setenv("PROTORKD_STORE_CACHE", str(tmp_path / name))
        return Cli(f"{bucket}/team/store")  # type: ignore[arg-type]

    return make


def test_road__on_an_object_store_is_found_by_a_machine_that_has_nothing(
    machine: Callable[[str], Cli], bucket_server: "ObjectServer", word_vectors: Path, tmp_path: Path
) -> None:
    pairs = make_pairs(tmp_path / "pictures", 24, 40)
    commands = (
        ("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors),
        DISTILL,
        ("evaluate", "--retrieval", pairs.manifest, *EVALUATE),
    )
    made = [machine("one")(*words) for words in commands]
    assert {outcome["status"] for outcome in made} == {"created"}
    bucket_server.requests.clear()
    outputs = [machine("two")(*words) for words in commands]
    assert {outcome["status"] for outcome in outputs} == {"unchanged"}
    assert [outcome["digest"] for outcome in outputs] == [outcome["digest"] for outcome in made]
    assert Path(outputs[2]["path"]).is_relative_to(tmp_path / "two")
    assert bucket_server.count() == bucket_server.count("GET") + bucket_server.count("PUT", ".asked")
    bucket_server.requests.clear()
    assert [machine("two")(*words)["status"] for words in commands] == 3 * ["unchanged"]
    assert bucket_server.count() <= 8  # listings of records: of what a command names by leaving it out
    for command in ("status", "verify", "gc"):
        assert machine("three").run(command).exit_code == 0
    bucket_server.requests.clear()
    [row] = machine("six")("runs")["runs"]
    assert row["fingerprint"] == made[1]["fingerprint"]
    assert row["pairs/mean_recall/low"] <= row["pairs/mean_recall"]
    assert bucket_server.count("GET", ".safetensors") == bucket_server.count("PUT") == 0
    fewer = machine("four")(*commands[0], "--limit", 12)
    assert fewer["counts"]["reused_captions"] == 12  # fetched, and not embedded again
    message = machine("five").fails("compare", outputs[1]["fingerprint"], outputs[2]["fingerprint"])
    assert "two" in message  # of which both name one evaluation, which it has looked at


def test_images_and_manifest__of_a_bucket_train_as_files_do_and_are_read_once(
    machine: Callable[[str], Cli],
    bucket: str,
    bucket_server: "ObjectServer",
    word_vectors: Path,
    undisturbed: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROTORKD_OBJECT_CACHE", str(tmp_path / "objects"))
    pairs = make_pairs(tmp_path / "pictures", 24, 40)
    objects = Objects(f"{bucket}/data")
    for path in ("pairs.tsv", *pairs.images):
        objects.write(path, (pairs.root / path).read_bytes())
    run, manifest = machine("one"), f"{bucket}/data/pairs.tsv"
    encoded = run("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    assert ArtifactRecord.read(Path(encoded["path"])).inputs["manifest"].location == manifest
    files = Cli(tmp_path / "files")
    same = files("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    assert encoded["digest"] == same["digest"]
    one_worker = [1 if word == 0 and DISTILL[place - 1] == "--workers" else word for place, word in enumerate(DISTILL)]
    distilled = run(*one_worker)
    assert bucket_server.count("GET", "/data/images/") == 24  # hashed, and kept on disk
    assert distilled["digest"] == undisturbed.outcome["digest"]  # of the same images, from files
    assert run(*DISTILL)["status"] == "unchanged"
    packed = run("pack", "--manifest", manifest, "--workers", 1)
    assert packed["digest"] == files("pack", "--manifest", pairs.manifest, "--workers", 1)["digest"]
    assert bucket_server.count("GET", "/data/images/") == 24
    evaluation = ("--student", distilled["path"], "--num-resamples", 100, "--workers", 0, "--device", "cpu")
    metrics = files("evaluate", "--retrieval", pairs.manifest, "--teacher", word_vectors, *evaluation)["metrics"]
    evaluated = run("evaluate", "--retrieval", manifest, *evaluation)
    assert evaluated["metrics"] == metrics
    report = json.loads((Path(evaluated["path"]) / "report.json").read_text())
    assert [found["num_exact"] for found in report["overlap"]] == [24]  # it knows the images that it was trained on
