"""Students whose backbones come from timm or the hub: trained, measured, embedded and loaded as any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from hub_models import COMMIT, put_into_cache, save_vision_model
from workbench import DISTILL, Cli, Pairs

import protorkd
from data_schemas.files import hash_file
from data_schemas.images.student_checkpoint import IMAGENET_MEAN, WEIGHTS_NAME, StudentConfig
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages.components.student.weights import load_student
from stages.distill.options import DistillInputs, DistillParams
from stages.distill.stage import identify

ONCE = (*DISTILL, "--epochs", 1)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def backbone_of(outcome: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load_file(Path(outcome["path"]) / WEIGHTS_NAME)
    return {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}


def record_of(outcome: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    return record


def save_timm(name: str, path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    tensors: dict[str, torch.Tensor] = timm.create_model(name, img_size=32).state_dict()
    safetensors.torch.save_file(tensors, path)
    return tensors


def test_distill__trains_a_vit_of_timm_from_a_file_in_its_layout(encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    tensors = save_timm("test_vit", tmp_path / "vit.safetensors")
    words = (*ONCE, "--student", "timm:test_vit", "--init-from", tmp_path / "vit.safetensors", "--pooling", "cls+mean")
    frozen = run_cli(*words, "--freeze-backbone", "--augmentation", "none")
    found = backbone_of(frozen)
    assert all(torch.equal(value, tensors[key.removeprefix("model.")]) for key, value in found.items())
    assert not any("head" in key for key in found)
    config = StudentConfig.read(Path(frozen["path"]))
    assert (config.pooling, config.architecture) == ("cls+mean", None)
    assert (config.preprocessing.mean, config.preprocessing.resize_size) == ((0.5, 0.5, 0.5), 33)
    whole = run_cli(*words)
    assert any(not torch.equal(value, found[key]) for key, value in backbone_of(whole).items())
    student = load_student(config, Path(whole["path"]) / WEIGHTS_NAME, device=CPU)
    assert student(torch.zeros(2, 3, 32, 32)).shape == (2, config.embedding_dim)
    assert run_cli(*words)["status"] == "unchanged"


def test_distill__starts_from_what_timm_publishes_and_knows_it_by_its_bytes(
    encoded: Pairs, run_cli: Cli, tmp_path: Path, hub: Path
) -> None:
    folder = tmp_path / "test_resnet"
    folder.mkdir()
    torch.manual_seed(1)
    tensors = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    put_into_cache(folder, "timm/test_resnet.r160_in1k", home=tmp_path)
    words = (*ONCE, "--student", "timm:test_resnet.r160_in1k", "--pretrained", "timm", "--freeze-backbone")
    outcome = run_cli(*words)
    found = backbone_of(outcome)
    assert all(torch.equal(value, tensors[key]) for key, value in found.items() if "num_batches" not in key)
    entry = record_of(outcome)["inputs"]["pretrained"]
    assert entry["location"] == f"timm/test_resnet.r160_in1k@{COMMIT}"
    assert "architecture" not in record_of(outcome)["inputs"]
    assert run_cli(*words)["status"] == "unchanged"
    file = next(hub.rglob("model.safetensors"))
    safetensors.torch.save_file({key: value + 1 for key, value in tensors.items()}, file)
    assert "pretrained" in run_cli.run("why", *words).stdout
    assert run_cli(*words)["fingerprint"] != outcome["fingerprint"]
    shutil.rmtree(hub)
    message = run_cli.fails(*words)
    assert "timm:test_resnet.r160_in1k must be in the hub's cache or downloadable" in message
    assert "hf download timm/test_resnet.r160_in1k" in message


def test_distill__knows_torchvisions_published_weights_by_their_bytes(
    encoded: Pairs, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    published = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    path = tmp_path / "torch" / "hub" / "checkpoints" / published.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    fingerprints = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
        outcome = run_cli(*ONCE, "--pretrained", "torchvision", "--freeze-backbone")
        fingerprints.add(outcome["fingerprint"])
        assert record_of(outcome)["inputs"]["pretrained"]["location"] == f"{published} of torchvision"
    assert len(fingerprints) == 2
    assert "pretrained" not in record_of(run_cli(*ONCE))["inputs"]


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
def test_distill__trains_a_model_of_the_hub_that_needs_no_hub_afterwards(
    kind: str, encoded: Pairs, run_cli: Cli, tmp_path: Path, hub: Path
) -> None:
    put_into_cache(save_vision_model(kind, tmp_path / kind), "owner/tiny", home=tmp_path)
    words = (*ONCE, "--student", "hf:owner/tiny", "--pretrained", "hf")
    outcome = run_cli(*words)
    inputs = record_of(outcome)["inputs"]
    assert inputs["pretrained"]["location"] == inputs["architecture"]["location"] == f"owner/tiny@{COMMIT}"
    config = StudentConfig.read(Path(outcome["path"]))
    assert config.architecture is not None
    assert config.preprocessing.resize == ("squash" if kind == "siglip" else "shortest")
    shutil.rmtree(hub)
    student = load_student(config, Path(outcome["path"]) / WEIGHTS_NAME, device=CPU)
    images = torch.randn(2, 3, 32, 32)
    assert student(images).shape == (2, config.embedding_dim)
    embedded = run_cli("embed", "--images", encoded.root / "images", "--workers", 0, "--device", "cpu")
    assert embedded["status"] == "created"
    loaded = protorkd.load_student(outcome["path"]).encode(sorted((encoded.root / "images").iterdir())[0])
    assert loaded.shape == (1, config.embedding_dim)


def test_distill__starts_a_model_of_the_hub_from_random_weights(encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    folder = save_vision_model("dinov3", tmp_path / "dinov3")
    outcome = run_cli(*ONCE, "--student", f"hf:{folder}", "--pooling", "mean")
    inputs = record_of(outcome)["inputs"]
    assert "pretrained" not in inputs
    assert set(inputs["architecture"]["parts"]) == {"config.json", "preprocessor_config.json"}
    assert StudentConfig.read(Path(outcome["path"])).preprocessing.mean == IMAGENET_MEAN  # of no one's weights
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    assert run_cli(*ONCE, "--student", f"hf:{folder}", "--pooling", "mean")["fingerprint"] != outcome["fingerprint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student", "timm:test_resnet", "--pooling", "cls"), "--pooling must be native for timm:test_resnet"),
        (("--pooling", "mean"), "--pooling must be native for a backbone of torchvision"),
        (("--student", "timm:test_vitt"), "must name a model of timm; got 'test_vitt'. Nearest: test_vit"),
        (
            ("--student", "timm:test_vit", "--pretrained", "torchvision"),
            "--pretrained torchvision must go with a model",
        ),
        (("--student", "hf:owner/nothing"), "hf:owner/nothing must be in the hub's cache or downloadable"),
        (("--student", "tset_vit"), "must name a known backbone; got 'tset_vit'. Nearest: timm:test_vit"),
    ],
)
def test_distill__refuses_at_once(words: tuple[str, ...], message: str, encoded: Pairs, run_cli: Cli) -> None:
    assert message in run_cli.fails(*ONCE, *words)


def test_export__gives_a_state_dict_and_a_folder(encoded: Pairs, run_cli: Cli) -> None:
    run_cli(*ONCE, "--student", "timm:test_resnet")
    assert run_cli("export", "--format", "torch", "--format", "sentence-transformers")["status"] == "created"


def test_init_from__is_known_anew_where_images_are_prepared_otherwise_than_before(
    encoded: Pairs, store: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    context = context_of(Store(store))

    def digest(student: str) -> str:
        sources = identify(DistillInputs(init_from=weights), DistillParams(student=student), context)
        assert sources.init_from is not None
        return sources.init_from.digest

    assert digest("resnet18") == digest("efficientnet_v2_s") == hash_file(weights)
    assert digest("efficientnet_v2_l") != hash_file(weights)
