"""``distill --features auto`` and ``newest``: the same artifacts as naming what encode-images made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workbench import Cli, Pairs, draw_image

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.images.student_checkpoint import StudentConfig
from pipeline.store.store import Store

ON_CPU = ("--device", "cpu", "--workers", 0)
TRAIN = ("distill", "--batch-size", 8, "--epochs", 1, "--warmup-steps", 0, "--precision", "fp32", *ON_CPU)
BACKBONE = ("--student", "squeezenet1_1", "--image-size", 32)


@pytest.fixture
def auto(run_cli: Cli, encoded: Pairs, backbone_weights: Path) -> Callable[..., dict[str, Any]]:
    return lambda *words: run_cli(*TRAIN, *BACKBONE, "--init-from", backbone_weights, "--features", "auto", *words)


def test_distill__makes_features_and_gives_the_artifact_of_both_commands(
    auto: Callable[..., dict[str, Any]], encoded: Pairs, run_cli: Cli, backbone_weights: Path, store: Path
) -> None:
    outcome = auto()
    [features] = Store(store).artifacts("encode-images")
    by_hand = run_cli(
        "encode-images", "--manifest", encoded.manifest, "--backbone", "squeezenet1_1", "--image-size", 32,
        "--init-from", backbone_weights, *ON_CPU,
    )  # fmt: skip
    assert (by_hand["status"], by_hand["digest"]) == ("unchanged", features.record.digest)
    named = run_cli(*TRAIN, "--features", features.path)
    assert (named["status"], named["fingerprint"]) == ("unchanged", outcome["fingerprint"])
    record = ArtifactRecord.read(Path(outcome["path"]))
    assert features.record.digest in record.uses
    config = StudentConfig.read(Path(outcome["path"]))
    assert (config.backbone, config.preprocessing.image_size) == ("squeezenet1_1", 32)
    assert auto()["status"] == "unchanged"
    assert auto("--freeze-backbone", "--augmentation", "none")["status"] == "unchanged"


def test_distill__computes_the_features_of_a_changed_image_alone(
    auto: Callable[..., dict[str, Any]],
    pairs_folder: Callable[[int, int], Pairs],
    run_cli: Cli,
    word_vectors: Path,
    store: Path,
) -> None:
    pairs = pairs_folder(24, 40)
    run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    auto()
    draw_image(pairs.root / pairs.images[3], "pink", "circle", 40)
    assert auto()["status"] == "created"
    newest = Store(store).artifacts("encode-images")[-1].record
    assert (newest.counts["encoded_rows"], newest.counts["reused_rows"]) == (1, 23)


def test_distill__newest_takes_the_features_that_were_made_last(
    auto: Callable[..., dict[str, Any]], run_cli: Cli, encoded: Pairs
) -> None:
    assert "must hold an artifact of encode-images; it has none" in run_cli.fails(*TRAIN, "--features", "newest")
    outcome = auto()
    newest = run_cli(*TRAIN, "--features", "newest")
    assert (newest["status"], newest["fingerprint"]) == ("unchanged", outcome["fingerprint"])


def test_why__says_that_features_come_first(run_cli: Cli, encoded: Pairs, backbone_weights: Path) -> None:
    words = (*TRAIN, *BACKBONE, "--init-from", backbone_weights, "--features", "auto")
    assert "none are made yet. The run makes them first" in run_cli.fails("why", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--features auto must come with --pretrained or --init-from"),
        (("--init-from", "WEIGHTS", "--projection-layers", 2), "--projection-layers must be left out with --features"),
        (("--init-from", "WEIGHTS", "--augmentation", "light"), "--augmentation must be left out with --features"),
        (("--init-from", "WEIGHTS", "--pretrained", "torchvision"), "Only one of --pretrained and --init-from"),
    ],
)
def test_distill__refuses_before_features_are_made(
    words: tuple[object, ...], message: str, run_cli: Cli, encoded: Pairs, backbone_weights: Path, store: Path
) -> None:
    given = [backbone_weights if word == "WEIGHTS" else word for word in words]
    assert message in run_cli.fails(*TRAIN, *BACKBONE, "--features", "auto", *given)
    assert not Store(store).artifacts("encode-images")


def test_distill__names_features_to_who_freezes_a_backbone(
    run_cli: Cli, encoded: Pairs, backbone_weights: Path
) -> None:
    words = (*TRAIN, *BACKBONE, "--init-from", backbone_weights, "--freeze-backbone")
    assert "--features auto in place of" in run_cli.run(*words, "--augmentation", "none").stderr
    assert "--features auto in place of" not in run_cli.run(*words).stderr


SWEEP = """
[encode-images]
manifest = "{manifest}"
backbone = "squeezenet1_1"
image-size = 32
init-from = "{weights}"
device = "cpu"
workers = 0

[distill]
batch-size = 8
epochs = 1
warmup-steps = 0
device = "cpu"

[sweep.distill]
head = ["linear", "gated"]
{axis} = {values}
"""


@pytest.mark.parametrize(("axis", "values"), [("seed", [0, 1]), ("feature-noise", [0.0, 0.5])])
def test_run__trains_all_heads_of_a_sweep_on_one_artifact_of_features(
    axis: str, values: list[float], run_cli: Cli, encoded: Pairs, backbone_weights: Path, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "heads.toml"
    file.write_text(SWEEP.format(manifest=encoded.manifest, weights=backbone_weights, axis=axis, values=values))
    planned = json.loads(run_cli.run("run", file, "--dry-run", "--json").stdout.splitlines()[-1])["stages"]
    assert [entry["stage"] for entry in planned] == ["encode-images", *["distill"] * 4]
    assert planned[0]["estimate"]["counts"]["encoded_rows"] == len(encoded.images)
    assert run_cli.run("run", file).exit_code == 0
    [features] = Store(store).artifacts("encode-images")
    students = [artifact.record for artifact in Store(store).artifacts("distill")]
    assert len(students) == 4
    assert {record.inputs["features"].digest for record in students} == {features.record.digest}
    assert {record.params.get("head", "linear") for record in students} == {"linear", "gated"}
    again = json.loads(run_cli.run("run", file, "--dry-run", "--json").stdout.splitlines()[-1])["stages"]
    assert not any(entry["would_run"] for entry in again)
