"""A frozen backbone is kept once, known by its weights' bytes, and loaded without any hub."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from backbones import make_tiny_backbone
from hub_models import COMMIT, put_into_cache, save_vision_model
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import ProtoRKDError
from data_schemas.images.backbone_checkpoint import BackboneConfig
from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages.components.backbones.frozen import BackboneParams, identify_weights, load_backbone, make_backbone
from stages.components.backbones.registry import build_backbone
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize

CPU = torch.device("cpu")
DATA = os.environ.get("PROTORKD_TEST_DATA", "")


def test_make_backbone__keeps_weights_that_give_the_same_features(store: Path) -> None:
    artifact = make_tiny_backbone(Store(store))
    network, config = load_backbone(artifact.path, device=CPU)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.randn(2, 3, 32, 32)
    built = build_backbone("timm:test_resnet", image_size=32)
    built.network.load_state_dict(safetensors.torch.load_file(store.parent / "test_resnet_0.safetensors"))
    features = network(images)
    assert features.shape == (2, config.feature_dim)
    torch.testing.assert_close(features, built.network(images))
    assert config.preprocessing == built.preprocessing
    assert config.name == "timm:test_resnet"
    assert artifact.record.inputs["weights"].location.endswith("test_resnet_0.safetensors")


def test_make_backbone__is_made_once_and_again_for_other_bytes_or_another_pooling(store: Path) -> None:
    first = make_tiny_backbone(Store(store))
    assert make_tiny_backbone(Store(store)).record.created == first.record.created
    vit, other = (
        make_tiny_backbone(Store(store), name="timm:test_vit", pooling=each) for each in ("native", "cls+mean")
    )
    assert vit.record.inputs["weights"].digest == other.record.inputs["weights"].digest
    assert len({first.record.fingerprint, vit.record.fingerprint, other.record.fingerprint}) == 3
    widths = [BackboneConfig.read(artifact.path).feature_dim for artifact in (vit, other)]
    assert widths[1] == 2 * widths[0]


def test_make_backbone__keeps_a_model_of_the_hub_with_its_commit(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = save_vision_model("dinov2", tmp_path / "dinov2-tiny")
    put_into_cache(folder, "facebook/dinov2-tiny", home=tmp_path)
    context = context_of(Store(store))
    name = "hf:facebook/dinov2-tiny"
    weights = identify_weights(name, None, context)
    assert weights.location == f"facebook/dinov2-tiny@{COMMIT}"
    artifact = make_backbone(BackboneParams(name, pooling="cls+mean"), weights, context)
    shutil.rmtree(tmp_path / "hub")
    network, config = load_backbone(artifact.path, device=CPU)
    assert (config.name, config.pooling) == (name, "cls+mean")
    assert artifact.record.inputs["weights"].location == weights.location
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, config.feature_dim) == (1, 32)
    local = identify_weights(f"hf:{folder}", None, context)  # the same bytes from elsewhere
    assert local.digest == weights.digest
    (folder / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text() + " ")
    assert identify_weights(f"hf:{folder}", None, context).digest != weights.digest


def test_make_backbone__knows_a_folder_by_its_content_wherever_it_lies(store: Path, tmp_path: Path) -> None:
    context = context_of(Store(store))
    made = []
    for place in ("here", "there"):
        folder = save_vision_model("siglip", tmp_path / place / "siglip")
        name = f"hf:{folder}"
        made.append(make_backbone(BackboneParams(name), identify_weights(name, None, context), context))
    assert made[0].record.fingerprint == made[1].record.fingerprint
    assert BackboneConfig.read(made[0].path).name == "hf:siglip"


def test_make_backbone__takes_another_file_into_a_model_of_the_hub(store: Path, tmp_path: Path) -> None:
    folder = save_vision_model("clip", tmp_path / "clip")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save({"state_dict": {f"module.{key}": value + 1 for key, value in tensors.items()}}, tmp_path / "mine.pth")
    context = context_of(Store(store))
    name = f"hf:{folder}"
    weights = identify_weights(name, tmp_path / "mine.pth", context)
    assert set(weights.parts) == {"mine.pth", "config.json", "preprocessor_config.json"}
    network, _ = load_backbone(make_backbone(BackboneParams(name), weights, context).path, device=CPU)
    assert torch.equal(network.state_dict()["model.visual_projection.weight"], tensors["visual_projection.weight"] + 1)


def test_identify_weights__needs_a_file(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"--init-from must name a file of weights; got .*none\.pth"):
        identify_weights("resnet18", tmp_path / "none.pth", context_of(Store(store)))


@pytest.fixture
def lite0(store: Path) -> Artifact:
    """EfficientNet-Lite0 with real weights."""
    weights = Path(DATA, "weights", "efficientnet_lite0.safetensors")
    context = context_of(Store(store))
    name = "timm:tf_efficientnet_lite0"
    return make_backbone(BackboneParams(name), identify_weights(name, weights, context), context)


def features_of(artifact: Artifact, paths: list[Path]) -> NDArray[np.float32]:
    network, config = load_backbone(artifact.path, device=CPU)
    transform, normalize = EvalTransform(config.preprocessing), Normalize(config.preprocessing, CPU)
    images = torch.stack([transform(open_lazily(str(path))) for path in paths])
    features: NDArray[np.float32] = network(normalize(images)).numpy()
    return features


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each row with each other row, (a, b)."""
    products: NDArray[np.float32] = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    return products


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="PROTORKD_TEST_DATA is not set")
def test_efficientnet_lite0__gives_what_timm_gives_of_full_size_photographs(lite0: Artifact) -> None:
    import timm

    paths = sorted(Path(DATA, "photos_fullsize", "images").iterdir())[:20]
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(safetensors.torch.load_file(Path(DATA, "weights", "efficientnet_lite0.safetensors")))
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])).numpy()
    np.testing.assert_allclose(features_of(lite0, paths), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="PROTORKD_TEST_DATA is not set")
def test_efficientnet_lite0__finds_each_photograph_among_features_that_were_computed_elsewhere(lite0: Artifact) -> None:
    """Those are of photographs of 500 pixels, ours of the same at 112: near, and nearest to their own."""
    stored = pq.read_table(Path(DATA, "coco22k_features", "test-00000-of-00001.parquet")).slice(0, 20)
    expected = np.array(stored["embedding"].to_pylist(), dtype=np.float32)
    near = cosines(
        features_of(lite0, [Path(DATA, "coco22k", name) for name in stored["filepath"].to_pylist()]), expected
    )
    assert (near.argmax(axis=1) == np.arange(20)).all()
    assert near.diagonal().mean() > 0.7
