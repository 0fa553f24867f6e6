"""Training on images that goes on from a whole student: what it takes over, what of it moves, and what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from backbones import make_tiny_backbone
from click.testing import CliRunner
from features import make_features
from frozen_students import make_frozen_student
from hub_models import save_vision_model
from workbench import Cli, Pairs, at_step, power_cut

import protorkd
from cli import cli
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import IMAGE_KIND, EmbeddingArray
from data_schemas.images.backbone_checkpoint import WEIGHTS_NAME as BACKBONE_WEIGHTS
from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, HeadConfig, StudentConfig
from pipeline.store.store import Artifact, Store
from stages.distill.fine_tuning import last_blocks

ON_CPU = ("--device", "cpu", "--workers", 0, "--precision", "fp32")
TUNE = ("distill", *ON_CPU, "--batch-size", 8, "--warmup-steps", 0, "--epochs", 1, "--lr", 1e-3)
HEAD = HeadConfig("mlp", 8, 0.5)
VIT = "timm:test_vit"
ALL = ("--unfreeze", "all")


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.fixture
def backbone(opened: Store) -> Artifact:
    return make_tiny_backbone(opened, name=VIT)


@pytest.fixture
def student(opened: Store, backbone: Artifact) -> Artifact:
    return make_frozen_student(opened, backbone, head=HEAD)


@pytest.fixture
def tune(run_cli: Cli, student: Artifact) -> Callable[..., dict[str, Any]]:
    return lambda *words: run_cli(*TUNE, "--from-student", student.path, *words)


def weights_of(folder: Path | str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(folder) / WEIGHTS_NAME)


def start_of(student: Artifact, backbone: Artifact) -> dict[str, torch.Tensor]:
    own = safetensors.torch.load_file(backbone.path / BACKBONE_WEIGHTS)
    return {**weights_of(student.path), **{f"backbone.{name}": tensor for name, tensor in own.items()}}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_distill__trains_the_last_blocks_and_the_head_of_a_student(
    tune: Callable[..., dict[str, Any]], student: Artifact, backbone: Artifact
) -> None:
    outcome = tune("--unfreeze", "last:2")
    changed = moved(start_of(student, backbone), weights_of(outcome["path"]))
    trained = ("backbone.blocks.4.", "backbone.blocks.5.", "backbone.norm.", "backbone.fc_norm.", "head.layers.")
    assert all(name.startswith(trained) for name in changed)
    assert {"backbone.blocks.4.attn.qkv.weight", "head.layers.0.weight"} <= changed
    config = StudentConfig.read(Path(outcome["path"]))
    before, described = StudentConfig.read(student.path), BackboneConfig.read(backbone.path)
    assert (config.backbone, config.head, config.backbone_digest) == (VIT, HEAD, "")
    assert config.preprocessing == before.preprocessing == described.preprocessing
    assert not config.is_head_alone
    assert student.record.digest in ArtifactRecord.read(Path(outcome["path"])).uses


def test_distill__begins_where_the_student_ended(
    run_cli: Cli, opened: Store, backbone: Artifact, encoded: Pairs
) -> None:
    student = make_frozen_student(opened, backbone)  # of no batch normalisation, whose statistics would move
    words = ("--unfreeze", "all", "--lr", 1e-9, "--weight-decay", 0)
    outcome = run_cli(*TUNE, "--from-student", student.path, *words)
    paths = [encoded.root / name for name in encoded.images]
    before, after = (
        protorkd.load_student(path, store=opened.root, device="cpu").encode(paths)
        for path in (student.path, outcome["path"])
    )
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_distill__trains_all_blocks_by_a_smaller_rate_unless_told(
    tune: Callable[..., dict[str, Any]], student: Artifact, backbone: Artifact
) -> None:
    start = start_of(student, backbone)

    def distance(*words: object) -> float:
        after = weights_of(tune("--unfreeze", "all", "--epochs", 1, "--weight-decay", 0, *words)["path"])
        name = "backbone.patch_embed.proj.weight"
        return float((after[name] - start[name]).abs().max())

    small, large = distance(), distance("--backbone-lr-scale", 1)
    assert 0 < small < 0.2 * large
    assert small == distance("--backbone-lr-scale", 0.1)


def test_distill__goes_on_with_the_noise_that_the_head_was_trained_with(
    run_cli: Cli, opened: Store, encoded: Pairs, backbone: Artifact
) -> None:
    rows = np.random.default_rng(0).normal(size=(len(encoded.images), 64)).astype(np.float16)
    features = make_features(opened.root, encoded.images, rows, backbone=backbone)
    train = (
        "distill",
        "--preset",
        "plain",
        "--features",
        features.path,
        "--device",
        "cpu",
        "--batch-size",
        8,
        "--epochs",
        1,
    )
    noisy, plain = run_cli(*train, "--feature-noise", 0.5), run_cli(*train)

    def tuned(student: dict[str, Any], *words: object) -> tuple[float, str]:
        outcome = run_cli(*TUNE, "--from-student", student["path"], "--unfreeze", "last:1", *words)
        return ArtifactRecord.read(Path(outcome["path"])).params.get("feature_noise", 0.0), outcome["digest"]

    assert tuned(noisy) == tuned(noisy, "--feature-noise", 0.5)
    assert tuned(noisy)[0] == 0.5
    without, told = tuned(plain), tuned(plain, "--feature-noise", 0.5)
    assert (without[0], told[0]) == (0.0, 0.5)
    assert without[1] != told[1]


def test_distill__that_stopped_within_an_epoch_ends_with_the_same_bytes(
    run_cli: Cli, opened: Store, tune: Callable[..., dict[str, Any]], student: Artifact, tmp_path: Path
) -> None:
    words = ("--unfreeze", "last:1", "--epochs", 2, "--ema-decay", 0.9, "--augmentation", "light")
    words += ("--feature-noise", 0.5)
    other = Cli(shutil.copytree(opened.root, tmp_path / "other"))
    undisturbed = tune(*words)
    asked = (*TUNE, *words, "--from-student", student.record.fingerprint, "--save-every-minutes", 1e-9)
    with at_step(4, power_cut), pytest.raises(RuntimeError, match="power cut"):
        other.run(*asked)
    assert other(*asked)["digest"] == undisturbed["digest"]


def test_distill__goes_on_from_a_head_on_features_of_a_model_of_the_hub(
    run_cli: Cli, encoded: Pairs, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "eyes"
    save_vision_model("dinov2", folder)
    asked = ("--backbone", f"hf:{folder}", "--image-size", 32, "--pooling", "cls+mean")
    features = run_cli("encode-images", "--manifest", encoded.manifest, *ON_CPU, *asked)
    head = run_cli("distill", "--features", features["path"], "--batch-size", 8, "--epochs", 1, "--device", "cpu")
    shutil.rmtree(folder)
    outcome = run_cli(*TUNE, "--from-student", head["fingerprint"], "--unfreeze", "last:1", "--checkpoint-gradients")
    before, after = (StudentConfig.read(Path(each["path"])) for each in (head, outcome))
    assert after == dataclasses.replace(before, backbone_digest="")
    [backbone] = Store(store).artifacts("backbone")
    own = {name: tensor for name, tensor in weights_of(outcome["path"]).items() if name.startswith("backbone.")}
    start = {
        f"backbone.{name}": tensor
        for name, tensor in safetensors.torch.load_file(backbone.path / BACKBONE_WEIGHTS).items()
    }
    changed = moved(start, own)
    assert all(".layer.1." in name or "layernorm." in name for name in changed)
    assert any(".layer.1." in name for name in changed)
    images = [encoded.root / name for name in encoded.images[:2]]
    assert protorkd.load_student(outcome["path"], store=store, device="cpu").encode(images).shape == (2, 16)


def test_distill__of_batch_normalisation_moves_no_statistics_of_the_backbone_unless_told(
    run_cli: Cli, opened: Store, encoded: Pairs
) -> None:
    backbone = make_tiny_backbone(opened)
    student = make_frozen_student(opened, backbone, head=HEAD)
    start = start_of(student, backbone)

    def changed(*words: object) -> set[str]:
        outcome = run_cli(*TUNE, "--from-student", student.path, "--unfreeze", "last:1", *words)
        names = moved(start, weights_of(outcome["path"]))
        assert all(name.startswith(("backbone.layer4.", "head.layers.")) for name in names)
        return names

    def statistics(names: set[str]) -> set[str]:
        return {name.partition(".")[0] for name in names if "running_" in name}

    names = changed()
    assert statistics(names) == {"head"}
    assert any(".bn" in name and name.endswith(".weight") for name in names)  # gains go on training
    assert statistics(changed("--freeze-batchnorm", "none")) == {"backbone", "head"}
    assert statistics(changed("--freeze-batchnorm", "all")) == set()


def test_distill__goes_on_from_a_tuned_student_and_from_an_epoch_of_any(
    run_cli: Cli, tune: Callable[..., dict[str, Any]], encoded: Pairs
) -> None:
    first = tune("--unfreeze", "last:1", "--epochs", 2)
    second = run_cli(*TUNE, "--from-student", f"{first['fingerprint']}@epoch_1", "--unfreeze", "last:1")
    config = StudentConfig.read(Path(second["path"]))
    assert (config.head, config.backbone_digest) == (HEAD, "")
    plain = run_cli(*TUNE, "--student", "resnet18", "--image-size", 32, "--projection-layers", 2)
    third = run_cli(*TUNE, "--from-student", plain["fingerprint"], "--unfreeze", "last:1")
    config = StudentConfig.read(Path(third["path"]))
    assert (config.head, config.projection_layers, config.preprocessing.image_size) == (None, 2, 32)
    changed = moved(weights_of(plain["path"]), weights_of(third["path"]))
    assert all(name.startswith(("backbone.layer4.1.", "head.")) for name in changed)


def test_evaluate_embed_and_export__take_a_tuned_student_without_its_first_backbone(
    run_cli: Cli, tune: Callable[..., dict[str, Any]], backbone: Artifact, encoded: Pairs, store: Path
) -> None:
    outcome = tune("--unfreeze", "all")
    shutil.rmtree(backbone.path)
    path = Path(outcome["path"])
    asked = ("evaluate", *ON_CPU, "--num-resamples", 100, "--retrieval", encoded.manifest, "--student", path)
    assert 0 <= run_cli(*asked)["metrics"]["pairs/mean_recall"] <= 100
    rows = run_cli("embed", "--manifest", encoded.manifest, *ON_CPU, "--student", path, "--embedding-dtype", "float32")
    table = EmbeddingArray.open(Path(rows["path"]), kind=IMAGE_KIND)
    wanted = protorkd.load_student(path, store=store, device="cpu").encode(
        [encoded.root / name for name in encoded.images]
    )
    np.testing.assert_allclose(table.read(0, table.rows), wanted, rtol=1e-4, atol=1e-5)
    folder = Path(run_cli("export", "--student", path)["path"])
    assert "fine-tuned; head on its standardised features: mlp, width 8" in (folder / "README.md").read_text()


def test_distill__asks_for_the_same_whether_or_not_the_student_is_described(
    run_cli: Cli, tune: Callable[..., dict[str, Any]], student: Artifact
) -> None:
    outcome = tune("--unfreeze", "last:1")
    told = ("--student", VIT, "--image-size", 32, "--backbone-lr-scale", 0.1, "--freeze-batchnorm", "backbone")
    assert tune("--unfreeze", "last:1", *told)["status"] == "unchanged"
    params = ArtifactRecord.read(Path(outcome["path"])).params
    assert (params["student"], params["image_size"]) == (VIT, 32)
    assert (params["backbone_lr_scale"], params["freeze_batchnorm"]) == (0.1, "backbone")
    assert run_cli.run("verify").exit_code == 0
    plan = run_cli.run(*TUNE, "--from-student", student.path, "--unfreeze", "all", "--dry-run")
    assert plan.exit_code == 0, plan.output


def test_distill__says_where_held_out_images_may_have_been_trained_on(
    run_cli: Cli, encoded: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = ("--validation-fraction", 0.4, "--seed", 3)
    student = run_cli(*TUNE, "--student", "resnet18", "--image-size", 32, *held_out)

    def says(*words: object) -> bool:
        caplog.clear()
        run_cli(*TUNE, "--from-student", student["path"], "--unfreeze", "last:1", *words)
        return "may have been trained on images that are held out now: it held out 0.4" in caplog.text

    assert not says(*held_out)
    assert not says("--seed", 3, "--validation-fraction", 0.3)
    assert says("--seed", 3, "--validation-fraction", 0.5)
    assert says("--seed", 4, "--validation-fraction", 0.4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--unfreeze", "last:7"), "--unfreeze must name at most last:6, for the backbone has 6 blocks; got last:7"),
        (("--unfreeze", "last:0"), "--unfreeze must be all, or last:N with N of 1 or more; got last:0"),
        ((), "--from-student must come with --unfreeze"),
        ((*ALL, "--student", "resnet50"), "--student must be left out with --from-student, whose own is timm:test_vit"),
        ((*ALL, "--image-size", 64), "--image-size must be left out with --from-student, whose own is 32; got 64"),
        ((*ALL, "--pooling", "mean"), "--pooling must be left out with --from-student, whose own is native"),
        ((*ALL, "--projection-dim", 6), "--from-student must be of the width that is asked for, 6; got embeddings of"),
        ((*ALL, "--pretrained", "timm"), "Only one of --pretrained and --from-student must be given"),
        ((*ALL, "--freeze-backbone"), "--unfreeze must be left out with --freeze-backbone"),
        ((*ALL, "--head", "gated"), "--head must come with --features"),
    ],
)
def test_distill__refuses_what_does_not_go_with_a_student(
    words: tuple[object, ...], message: str, run_cli: Cli, student: Artifact
) -> None:
    assert message in run_cli.fails(*TUNE, "--from-student", student.path, *words)


def test_distill__refuses_students_that_are_not_there_or_take_no_images(
    run_cli: Cli, opened: Store, student: Artifact, encoded: Pairs
) -> None:
    words = (*TUNE, "--unfreeze", "all", "--from-student")
    assert "--from-student must" in run_cli.fails(*words, "0123456789")
    message = run_cli.fails(*words, f"{student.record.fingerprint}@epoch_9")
    assert "--from-student must name weights that" in message
    plain = run_cli(*TUNE, "--student", "resnet18", "--image-size", 32)
    message = run_cli.fails(*words, plain["path"], "--feature-noise", 0.5)
    assert "--feature-noise must come with a student whose head was found on features; got 0.5" in message
    vectors_only = make_frozen_student(opened, None)
    assert "--from-student must name a student with a backbone" in run_cli.fails(*words, vectors_only.path)
    features = make_features(opened.root, encoded.images, np.zeros((len(encoded.images), 4), np.float16))
    message = run_cli.fails(*words, student.path, "--features", features.path)
    assert "must be left out with --features" in message


def test_unfreeze__names_the_last_blocks_of_any_student(run_cli: Cli, encoded: Pairs) -> None:
    small = (*TUNE, "--student", "resnet18", "--image-size", 32)
    whole, last = run_cli(*small), run_cli(*small, "--unfreeze", "last:1")
    changed = moved(weights_of(whole["path"]), weights_of(last["path"]))
    assert any(name.startswith("backbone.layer1.") for name in changed)
    assert "at most last:8, for the backbone has 8 blocks" in run_cli.fails(*small, "--unfreeze", "last:9")
    assert "--unfreeze must have a --student of known blocks" in run_cli.fails(
        *TUNE, "--student", "squeezenet1_1", "--unfreeze", "last:1"
    )


def test_run__fills_in_the_student_of_an_earlier_step_that_a_later_one_unfreezes(
    encoded: Pairs, opened: Store, tmp_path: Path
) -> None:
    common = {"workers": 0, "device": "cpu", "batch-size": 8, "warmup-steps": 0, "epochs": 1}
    file = tmp_path / "run.yaml"
    first = {"run": "distill", "student": "resnet18", "image-size": 32, **common}
    tuned = {"run": "distill", "as": "tuned", "unfreeze": "last:1", **common}
    file.write_text(json.dumps({"store": str(opened.root), "stage": [first, tuned]}))
    result = CliRunner().invoke(cli, ["run", str(file), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    records = [artifact.record for artifact in opened.artifacts("distill")]
    [record] = [each for each in records if "from_student" in each.inputs]
    assert record.params["student"] == "resnet18"
    assert {each.digest for each in records} - {record.digest} == set(record.uses)


@pytest.mark.parametrize(("text", "num"), [("", 0), ("all", 0), ("last:3", 3), ("last:12", 12)])
def test_last_blocks__reads_the_number(text: str, num: int) -> None:
    assert last_blocks(text) == num
