"""Models of timm: features, poolings, sizes and files as timm itself has them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hub_models import COMMIT, put_into_cache
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.initial_weights import load_initial_weights, load_published_weights
from stages.components.backbones.registry import build_backbone, find_family
from stages.components.backbones.timm_family import TimmFamily

TAG = "r160_in1k"


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def make_model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def save(model: Any, folder: Path) -> Path:
    """Save a model as it lies on timm's hub."""
    folder.mkdir(parents=True)
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": model.num_classes,
        "pretrained_cfg": {key: value for key, value in model.pretrained_cfg.items() if key != "architecture"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@torch.no_grad()
def features_of(model: Any, images: Tensor) -> Tensor:
    model.reset_classifier(0)
    features: Tensor = model(images)
    return features


@pytest.mark.parametrize("name", sorted(timm.list_models("test_*")))
def test_features__are_those_of_timm_without_its_classifier(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    save(model, tmp_path / "model")
    images = torch.randn(2, 3, 160, 160)
    for backbone, path in (
        (f"timm:{name}", tmp_path / "model" / "model.safetensors"),
        (f"timm:{tmp_path}/model", None),
    ):
        built = build_backbone(backbone, image_size=0)
        if path is not None:
            loaded = load_initial_weights(built, path, backbone_name=backbone)
            assert loaded.format == "timm"
        else:
            source = TimmFamily().find_weights(str(tmp_path / "model"))
            loaded = load_published_weights(built, source, backbone_name=backbone)
            assert built.architecture is not None
            assert built.architecture["architecture"] == name
        assert (loaded.mean, loaded.std) == (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        with torch.no_grad():
            torch.testing.assert_close(built.network(images), features_of(make_model(name), images))


@pytest.mark.parametrize(("name", "has_cls"), [("test_vit", True), ("test_vit2", False), ("test_vit3", False)])
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_pooling__is_over_the_tokens_of_forward_features(
    name: str, has_cls: bool, pooling: str, tmp_path: Path
) -> None:
    if "cls" in pooling and not has_cls:
        with pytest.raises(ProtoRKDError, match=r"--pooling must be native or mean .* no class token; got cls"):
            build_backbone(f"timm:{name}", image_size=0, pooling=pooling)
        return
    model = make_model(name)
    save(model, tmp_path / "model")
    built = build_backbone(f"timm:{name}", image_size=0, pooling=pooling)
    load_initial_weights(built, tmp_path / "model" / "model.safetensors", backbone_name=f"timm:{name}")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens = model.forward_features(images)
        parts = {"cls": tokens[:, 0], "mean": tokens[:, model.num_prefix_tokens :].mean(1)}
        expected = torch.cat([model.fc_norm(parts[part]) for part in pooling.split("+")], dim=1)
        torch.testing.assert_close(built.network(images), expected)
    built.network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in built.network.parameters())


def test_pooling__is_native_for_networks_without_tokens() -> None:
    with pytest.raises(ProtoRKDError, match=r"--pooling must be native for timm:test_resnet, which has no tokens"):
        build_backbone("timm:test_resnet", image_size=0, pooling="mean")


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_vit__takes_another_image_size_with_its_positions_resized_as_timm_does(pooling: str, tmp_path: Path) -> None:
    folder = save(make_model("test_vit"), tmp_path / "model")
    expected = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / "model.safetensors")},
        num_classes=0,
        img_size=96,
    ).state_dict()
    built = build_backbone("timm:test_vit", image_size=96, pooling=pooling)
    load_initial_weights(built, folder / "model.safetensors", backbone_name="timm:test_vit")
    found = {key.removeprefix("model."): tensor for key, tensor in built.network.state_dict().items()}
    torch.testing.assert_close(found, dict(expected), rtol=0, atol=0)
    assert built.preprocessing.image_size == 96
    assert built.preprocessing.resize_size == 101  # 96 / 0.95, rounded down as timm does


def test_convolutions__take_any_size_and_the_models_own_preprocessing() -> None:
    built = build_backbone("timm:test_resnet", image_size=64)
    assert built.network(torch.zeros(1, 3, 64, 64)).shape[0] == 1
    half = (0.5, 0.5, 0.5)
    mean = (0.485, 0.456, 0.406)
    assert built.preprocessing.mean in (half, mean)
    assert built.preprocessing == Preprocessing(
        64, built.preprocessing.mean, built.preprocessing.std, "bilinear", resize_size=67
    )


@pytest.mark.parametrize("name", ["test_vit", f"test_vit.{TAG}"])
def test_hub__is_read_from_its_cache_without_a_network(name: str, tmp_path: Path) -> None:
    put_into_cache(save(make_model("test_vit"), tmp_path / "model"), f"timm/test_vit.{TAG}", home=tmp_path)
    source = TimmFamily().find_weights(name)
    assert source.source == f"timm/test_vit.{TAG}@{COMMIT}"
    assert [path.name for path in source.files] == ["model.safetensors"]
    built = build_backbone(f"timm:{name}", image_size=0)
    assert load_published_weights(built, source, backbone_name=f"timm:{name}").format == source.source


def test_hub__says_how_to_get_a_model_without_cache_and_network() -> None:
    with pytest.raises(
        ProtoRKDError,
        match=rf"timm:test_vit.{TAG} must be in the hub's cache .*Run `hf download timm/test_vit.{TAG}` .*--init-from",
    ):
        TimmFamily().find_weights(f"test_vit.{TAG}")


def test_hub__is_found_without_importing_timm_where_the_tag_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(save(make_model("test_vit"), tmp_path / "model"), f"timm/test_vit.{TAG}", home=tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert TimmFamily().find_weights(f"test_vit.{TAG}").source.endswith(COMMIT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vitt", r"must name a model of timm; got 'test_vitt'\. Nearest: test_vit"),
        ("test_vit.in1k", f"must have the tag after its name; got 'in1k'. Known: {TAG}"),
        ("vit_small_patch16_18x2_224", "must have published weights; it has none. Pass --init-from FILE"),
    ],
)
def test_find_weights__refuses_names_without_weights(name: str, message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        TimmFamily().find_weights(name)


def test_names__are_none_and_building_says_how_to_install_where_timm_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert TimmFamily().names() == []
    with pytest.raises(ProtoRKDError, match=r"must have timm installed.*Run: pip install 'protorkd\[timm\]'"):
        build_backbone("timm:test_vit", image_size=0)
    with pytest.raises(ProtoRKDError, match=r"After pip install 'protorkd\[timm\]': timm:NAME\."):
        find_family("test_vitt")


def test_find_family__suggests_names_of_timm() -> None:
    with pytest.raises(
        ProtoRKDError, match=r"got 'tf_efficientnet_lite0'\. Nearest: timm:tf_efficientnet_lite0"
    ) as error:
        find_family("tf_efficientnet_lite0")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("config", ['{"model_type": "vit"}', "[]"])
def test_folder__of_another_library_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ProtoRKDError, match=r"must name timm's architecture .* transformers model is hf:FOLDER"):
        build_backbone(f"timm:{tmp_path}", image_size=0)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("module.", "DataParallel"),
        ("model.", "Lightning module"),
        ("visual.trunk.", "OpenCLIP"),
        ("_orig_mod.", "timm"),
    ],
)
def test_load_initial_weights__takes_timms_layout_with_prefixes(prefix: str, name: str, tmp_path: Path) -> None:
    model = make_model("test_resnet")
    torch.save({"state_dict": {prefix + key: value for key, value in model.state_dict().items()}}, tmp_path / "w.pth")
    built = build_backbone("timm:test_resnet", image_size=0)
    loaded = load_initial_weights(built, tmp_path / "w.pth", backbone_name="timm:test_resnet")
    assert loaded.format == name
    model.reset_classifier(0)
    torch.testing.assert_close(built.network.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_load_initial_weights__names_what_does_not_fit(tmp_path: Path) -> None:
    safetensors.torch.save_file(make_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    built = build_backbone("timm:test_vit", image_size=0)
    with pytest.raises(ProtoRKDError, match=r"must be of a known format, with weights of a timm:test_vit"):
        load_initial_weights(built, tmp_path / "w.safetensors", backbone_name="timm:test_vit")
    less = {key: value for key, value in make_model("test_vit").state_dict().items() if key != "blocks.0.norm1.weight"}
    safetensors.torch.save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(ProtoRKDError, match=r"\(timm\) must hold all weights .* 1 missing: blocks\.0\.norm1\.weight"):
        load_initial_weights(built, tmp_path / "less.safetensors", backbone_name="timm:test_vit")
