"""Training by low-rank adapters: what moves, what is kept, how it goes on, and what is refused."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from backbones import make_tiny_backbone
from frozen_students import make_frozen_student
from hub_models import save_vision_model
from workbench import Cli, Pairs, at_step, power_cut

import protorkd
from data_schemas.images.backbone_checkpoint import WEIGHTS_NAME as BACKBONE_WEIGHTS
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, HeadConfig, StudentConfig
from pipeline.store.store import Artifact, Store

ON_CPU = ("--device", "cpu", "--workers", 0, "--precision", "fp32")
TUNE = ("distill", *ON_CPU, "--batch-size", 8, "--warmup-steps", 0, "--epochs", 1, "--lr", 1e-2)
VIT = "timm:test_vit"
LORA = ("--lora", 2)

Tune = Callable[..., dict[str, Any]]


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.fixture
def backbone(opened: Store) -> Artifact:
    return make_tiny_backbone(opened, name=VIT)


@pytest.fixture
def student(opened: Store, backbone: Artifact) -> Artifact:
    return make_frozen_student(opened, backbone, head=HeadConfig("mlp", 8, 0.5))


@pytest.fixture
def tune(run_cli: Cli, student: Artifact) -> Tune:
    pytest.importorskip("peft")
    return lambda *words: run_cli(*TUNE, "--from-student", student.path, *LORA, *words)


def weights_of(folder: Path | str, name: str = WEIGHTS_NAME) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(folder) / name)


def moved_of_backbone(backbone: Artifact, after: dict[str, torch.Tensor]) -> set[str]:
    before = weights_of(backbone.path, BACKBONE_WEIGHTS)
    own = {name.removeprefix("backbone."): after[name] for name in after if name.startswith("backbone.")}
    assert own.keys() == before.keys()
    return {name for name in before if not torch.equal(before[name], own[name])}


def test_distill__merges_adapters_into_the_weights_of_the_blocks_layers(tune: Tune, backbone: Artifact) -> None:
    after = weights_of(tune()["path"])
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert moved_of_backbone(backbone, after) == {
        f"blocks.{number}.{layer}.weight" for number in range(6) for layer in layers
    }


def test_distill__of_rank_r_moves_each_weight_by_a_matrix_of_that_rank(tune: Tune, backbone: Artifact) -> None:
    before = weights_of(backbone.path, BACKBONE_WEIGHTS)
    after = weights_of(tune()["path"])
    for name in moved_of_backbone(backbone, after):
        assert torch.linalg.matrix_rank(after[f"backbone.{name}"] - before[name], rtol=1e-3) == 2


def test_evaluate_and_load_student__need_no_peft(
    run_cli: Cli, tune: Tune, backbone: Artifact, encoded: Pairs, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(tune("--epochs", 2)["path"])
    shutil.rmtree(backbone.path)
    monkeypatch.setitem(sys.modules, "peft", None)
    asked = ("evaluate", *ON_CPU, "--num-resamples", 100, "--retrieval", encoded.manifest, "--student", path)
    run_cli(*asked, "--checkpoints", "all")
    images = [encoded.root / name for name in encoded.images[:3]]
    assert protorkd.load_student(path, store=store, device="cpu").encode(images).shape == (3, 16)
    run_cli("export", "--student", path)


def test_distill__keeps_checkpoints_and_the_mean_of_weights_merged(tune: Tune, backbone: Artifact) -> None:
    outcome = tune("--epochs", 2, "--ema-decay", 0.5)
    last, kept = weights_of(outcome["path"]), weights_of(outcome["path"], "checkpoints/epoch_2.safetensors")
    assert last.keys() == kept.keys()
    assert all(torch.equal(last[name], kept[name]) for name in last)
    assert moved_of_backbone(backbone, weights_of(outcome["path"], "checkpoints/epoch_1.safetensors"))
    plain = weights_of(tune("--epochs", 2)["path"])
    assert any(not torch.equal(last[name], plain[name]) for name in last)


def test_distill__by_adapters_that_stopped_within_an_epoch_ends_with_the_same_bytes(
    opened: Store, tune: Tune, student: Artifact, tmp_path: Path
) -> None:
    words = (*LORA, "--epochs", 2, "--ema-decay", 0.9)
    other = Cli(shutil.copytree(opened.root, tmp_path / "other"))
    undisturbed = tune(*words)
    asked = (*TUNE, *words, "--from-student", student.record.fingerprint, "--save-every-minutes", 1e-9)
    with at_step(4, power_cut), pytest.raises(RuntimeError, match="power cut"):
        other.run(*asked)
    assert other(*asked)["digest"] == undisturbed["digest"]


def test_distill__by_adapters_on_a_model_of_the_hub_from_a_file_of_its_weights(
    run_cli: Cli, encoded: Pairs, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "eyes"
    save_vision_model("dinov2", folder)
    words = ("--student", f"hf:{folder}", "--image-size", 32, "--init-from", folder / "model.safetensors")
    plain = run_cli(*TUNE, *words, "--freeze-backbone")
    outcome = run_cli(*TUNE, *words, *LORA, "--checkpoint-gradients")
    before, after = weights_of(plain["path"]), weights_of(outcome["path"])
    assert before.keys() == after.keys()
    moved = {name for name in before if name.startswith("backbone.") and not torch.equal(before[name], after[name])}
    assert moved
    assert all(".layer." in name and name.endswith(".weight") for name in moved)
    assert (
        StudentConfig.read(Path(outcome["path"])).architecture == StudentConfig.read(Path(plain["path"])).architecture
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--unfreeze", "all"), "Only one of --lora and --unfreeze must be given; got 2 and all"),
        (("--freeze-backbone",), "--lora must be left out with --freeze-backbone"),
        (("--lora", -1), "--lora must be 0 or more; got -1"),
        (("--lora", 0), "--from-student must come with --unfreeze or --lora"),
    ],
)
def test_distill__refuses_what_does_not_go_with_adapters(
    words: tuple[object, ...], message: str, run_cli: Cli, student: Artifact
) -> None:
    assert message in run_cli.fails(*TUNE, "--from-student", student.path, *LORA, *words)


def test_distill__refuses_adapters_where_there_is_nothing_to_adapt(
    run_cli: Cli, opened: Store, encoded: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (*TUNE, "--student", "resnet18", "--image-size", 32)
    assert "--lora must come with weights to adapt" in run_cli.fails(*small, *LORA)
    convolutions = make_frozen_student(opened, make_tiny_backbone(opened))
    monkeypatch.setitem(sys.modules, "peft", None)
    message = run_cli.fails(*TUNE, "--from-student", convolutions.path, *LORA)
    assert "pip install 'protorkd[lora]'" in message


def test_distill__refuses_a_backbone_without_linear_layers(run_cli: Cli, opened: Store, encoded: Pairs) -> None:
    pytest.importorskip("peft")
    student = make_frozen_student(opened, make_tiny_backbone(opened))
    message = run_cli.fails(*TUNE, "--from-student", student.path, *LORA)
    assert "--lora must have a backbone with linear layers in its blocks" in message
    assert "Pass --unfreeze in its place" in message
