"""OpenCLIP's image towers as backbones: the wiring with a stand-in, and the library itself where it is installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from backbones import build_network
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.backbones.initial_weights import InitialWeights, load_initial_weights, load_published_weights
from stages.components.backbones.registry import build_backbone, find_family, published_name
from stages.components.student.gradient_checkpointing import enable_gradient_checkpointing

HAS_OPEN_CLIP = importlib.util.find_spec("open_clip") is not None
real = [pytest.mark.slow, pytest.mark.skipif(not HAS_OPEN_CLIP, reason="open_clip is not installed")]

PUBLISHED = {
    "RN50": {"laion": {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, "openai": {"quick_gelu": True}},
    "RN50-quickgelu": {"openai": {"quick_gelu": True}},
}


class FakeClip(nn.Module):
    """A CLIP of a few numbers: pools the image, and projects its colours."""

    def __init__(
        self, embed_dim: int, vision_cfg: dict[str, Any], text_cfg: dict[str, Any], quick_gelu: bool = False
    ) -> None:
        super().__init__()
        self.options = vision_cfg | {"quick_gelu": quick_gelu}
        size = vision_cfg["image_size"]
        self.visual = nn.Sequential(nn.AvgPool2d(size), nn.Flatten(), nn.Linear(3, embed_dim))
        self.transformer = nn.Linear(text_cfg["width"], text_cfg["width"])


class FakeOpenClip(ModuleType):
    """Has open_clip's public names that are used, and downloads nothing."""

    CLIP = FakeClip
    downloads: str | Exception = "weights.pt"

    def list_models(self) -> list[str]:
        return ["RN50", "RN50-quickgelu", "convnext_tiny"]

    def get_model_config(self, name: str) -> dict[str, Any]:
        assert name in self.list_models()
        vision = {"image_size": 224, "layers": [3, 4, 6, 3]}
        return {"embed_dim": 6, "vision_cfg": vision, "text_cfg": {}, "quick_gelu": name.endswith("quickgelu")}

    def list_pretrained_tags_by_model(self, name: str) -> list[str]:
        return list(PUBLISHED.get(name, {}))

    def get_pretrained_cfg(self, name: str, tag: str) -> dict[str, Any]:
        return dict(PUBLISHED[name][tag])

    def download_pretrained(self, published: dict[str, Any]) -> str:
        if isinstance(self.downloads, Exception):
            raise self.downloads
        return self.downloads

    def create_model(self, name: str, *, pretrained: str, force_image_size: int, weights_only: bool) -> nn.Module:
        assert weights_only
        if force_image_size == 65:
            raise RuntimeError("size mismatch")
        clip = FakeClip(6, {"image_size": force_image_size}, {"width": 1})
        nn.init.constant_(clip.visual[2].weight, len(pretrained))
        return clip


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch) -> FakeOpenClip:
    module = FakeOpenClip("open_clip")
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


@pytest.mark.usefixtures("open_clip")
@pytest.mark.parametrize("name", ["RN50", "open-clip:RN50", "open-clip:convnext_tiny"])
def test_build_backbone__builds_a_tower_for_the_image_size_without_its_text_tower(name: str) -> None:
    backbone, feature_dim = build_network(name, image_size=48)
    assert feature_dim == 6
    assert isinstance(backbone, nn.Sequential)
    assert backbone(torch.zeros(2, 3, 48, 48)).shape == (2, 6)


@pytest.mark.parametrize(("tower", "quick_gelu"), [("RN50", False), ("RN50-quickgelu", True)])
def test_build_backbone__passes_on_the_configuration(
    tower: str, quick_gelu: bool, open_clip: FakeOpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[FakeClip] = []
    monkeypatch.setattr(open_clip, "CLIP", lambda **options: built.append(FakeClip(**options)) or built[0])
    build_backbone(f"open-clip:{tower}", image_size=48)
    assert built[0].options == {
        "image_size": 48,
        "layers": [3, 4, 6, 3],
        "output_tokens": False,
        "timm_model_pretrained": False,
        "quick_gelu": quick_gelu,
    }


@pytest.mark.usefixtures("open_clip")
def test_find_family__knows_what_open_clip_lists() -> None:
    family = find_family("open-clip:RN50")[0]
    assert find_family("RN50") == (family, "RN50")
    assert find_family("open-clip:RN50:laion") == (family, "RN50:laion")
    with pytest.raises(ProtoRKDError, match=r"--student open-clip:NAME must .*got 'open-clip:RN51'\. Nearest: RN50"):
        build_backbone("open-clip:RN51", image_size=48)


def test_build_backbone__says_how_to_install_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ProtoRKDError, match=r"must have open_clip installed.*pip install 'protorkd\[open-clip\]'"):
        build_backbone("open-clip:RN50", image_size=48)


def load_pretrained(name: str, pretrained: str, image_size: int) -> tuple[Any, InitialWeights]:
    """Build a tower with the weights that a training would start from."""
    full = published_name(name, pretrained)
    family, short = find_family(full)
    built = build_backbone(full, image_size=image_size)
    return built.network, load_published_weights(built, family.find_weights(short), backbone_name=full)


@pytest.mark.usefixtures("open_clip")
@pytest.mark.parametrize(
    ("name", "pretrained"),
    [("RN50", "open-clip:laion"), ("open-clip:RN50:laion", "open-clip"), ("open-clip:RN50:openai", "open-clip:laion")],
)
def test_load_published_weights__gives_a_towers_weights_and_its_normalisation(name: str, pretrained: str) -> None:
    backbone, loaded = load_pretrained(name, pretrained, 48)
    assert loaded == InitialWeights("open-clip:RN50:laion", 2, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert bool((backbone[2].weight == len("weights.pt")).all())


@pytest.mark.usefixtures("open_clip")
def test_load_initial_weights__takes_the_image_tower_of_an_open_clip_checkpoint(tmp_path: Path) -> None:
    clip = FakeClip(6, {"image_size": 48}, {"width": 1})
    built = build_backbone("RN50", image_size=48)
    for prefix in ("", "module."):
        weights = {prefix + key: tensor + 1 for key, tensor in clip.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "epoch_1.pt")
        loaded = load_initial_weights(built, tmp_path / "epoch_1.pt", backbone_name="RN50")
        assert loaded == InitialWeights("OpenCLIP", 2, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert torch.equal(built.network[2].weight, clip.visual[2].weight + 1)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "tag", "image_size", "message"),
    [
        ("RN50", "laion5", 48, r"must be a tag of RN50 in open_clip; got 'laion5'. Known: laion, openai\."),
        ("open-clip:convnext_tiny", "laion", 48, "It has none: leave --pretrained out"),
        ("RN50", "openai", 48, "activation .* got RN50. Pass --student open-clip:RN50-quickgelu"),
        ("RN50", "laion", 65, "must fit RN50 with images of 65 pixels; got size mismatch.*--image-size"),
    ],
)
def test_load_pretrained__refuses_what_does_not_go_with_the_tower(
    name: str, tag: str, image_size: int, message: str, open_clip: FakeOpenClip
) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        load_pretrained(name, f"open-clip:{tag}", image_size)


def test_load_pretrained__points_to_a_file_where_a_towers_download_fails(open_clip: FakeOpenClip) -> None:
    open_clip.downloads = OSError("no route to host")
    with pytest.raises(ProtoRKDError, match="must be downloadable; got no route to host"):
        load_pretrained("RN50", "open-clip:laion", 48)


@pytest.mark.parametrize(
    ("name", "image_size", "feature_dim", "num_blocks"),
    [
        pytest.param("RN50", 64, 1024, 16, marks=real),
        pytest.param("open-clip:ViT-S-32", 64, 384, 12, marks=real),
        pytest.param("open-clip:convnext_tiny", 64, 1024, 0, marks=real),
        pytest.param("coca_ViT-B-32", 32, 512, 12, marks=real),
    ],
)
def test_real_tower__trains_a_step(name: str, image_size: int, feature_dim: int, num_blocks: int) -> None:
    backbone, width = build_network(name, image_size=image_size)
    assert width == feature_dim
    if num_blocks:
        assert enable_gradient_checkpointing(backbone) == num_blocks
    features = backbone(torch.randn(2, 3, image_size, image_size))
    assert features.shape == (2, feature_dim)
    features.square().mean().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Take the library itself but for the download: random weights of its smallest vision transformer, at 64 px."""
    import open_clip

    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-S-32", force_image_size=64)
    path = tmp_path / "weights.pt"
    torch.save(clip.state_dict(), path)
    published = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "url": "", "hf_hub": ""}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["tag"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: published)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda published: str(path))
    return SimpleNamespace(clip=clip, path=path)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_OPEN_CLIP, reason="open_clip is not installed")
def test_real_tower__computes_what_clip_computes_of_downloaded_weights(small_published: SimpleNamespace) -> None:
    images = torch.randn(2, 3, 64, 64)
    expected: Tensor = small_published.clip.eval().encode_image(images)
    built = build_backbone("ViT-S-32", image_size=64)
    load_initial_weights(built, small_published.path, backbone_name="ViT-S-32")
    for network in (load_pretrained("ViT-S-32", "open-clip:tag", 64)[0], built.network):
        torch.testing.assert_close(network.eval()(images), expected)
    larger, _ = load_pretrained("ViT-S-32", "open-clip:tag", 96)  # positions resized by open_clip
    assert torch.equal(larger.conv1.weight, small_published.clip.visual.conv1.weight)
