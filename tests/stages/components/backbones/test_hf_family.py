"""Vision models of transformers: features, poolings and preprocessing as the library itself gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_models import COMMIT, put_into_cache, save_vision_model
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.family import BuiltBackbone
from stages.components.backbones.hf_family import HFFamily, known_kinds
from stages.components.backbones.hf_preprocessing import preprocessing_of
from stages.components.backbones.initial_weights import load_initial_weights, load_published_weights
from stages.components.backbones.registry import build_backbone, portable_name
from stages.components.images.lazy_image import DecodedImage
from stages.components.images.transforms import EvalTransform, Normalize

KINDS = ("vit", "vit-classifier", "deit", "dinov2", "dinov2-registers", "dinov3", "clip", "siglip", "convnext")
WITHOUT_CLS = ("siglip", "convnext")
# Crops of images whose sides differ from the crop's by an odd number begin a pixel apart: the library's image
# processors round down, torchvision's centre crop, which our evaluation takes, rounds to even.
CROPPED = ("deit", "dinov2", "dinov2-registers", "clip", "convnext")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in saved:
            saved[kind] = save_vision_model(kind, tmp_path_factory.mktemp("models") / kind)
        return saved[kind]

    return folder_of


def load(folder: Path, *, pooling: str = "native", image_size: int = 0) -> BuiltBackbone:
    name = f"hf:{folder}"
    source = HFFamily().find_weights(str(folder))
    built = build_backbone(name, image_size=image_size, pooling=pooling, source=source)
    load_published_weights(built, source, backbone_name=name)
    return built


@torch.no_grad()
def reference(folder: Path, kind: str, pooling: str, images: Tensor) -> Tensor:
    """Compute features by the library alone, as its documentation says."""
    import transformers as hf

    options: dict[str, Any] = (
        {} if kind in ("dinov2", "dinov2-registers", "dinov3", "convnext") else {"interpolate_pos_encoding": True}
    )
    if kind == "clip":
        model = hf.CLIPModel.from_pretrained(folder).eval()
        if pooling == "native":
            features = model.get_image_features(pixel_values=images, **options)
            return features if isinstance(features, Tensor) else features.pooler_output
        vision = model.vision_model(pixel_values=images, **options)
        tokens = model.vision_model.post_layernorm(vision.last_hidden_state)
        assert torch.equal(tokens[:, 0], vision.pooler_output)
    elif kind == "siglip":
        vision = hf.SiglipModel.from_pretrained(folder).eval().vision_model(pixel_values=images, **options)
        tokens = vision.last_hidden_state
    elif kind == "vit-classifier":
        model = hf.ViTForImageClassification.from_pretrained(folder).eval()
        seen: list[Tensor] = []
        model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(pixel_values=images, **options)
        if pooling == "native":
            return seen[0]
        tokens = model.vit(pixel_values=images, **options).last_hidden_state
    else:
        outputs = hf.AutoModel.from_pretrained(folder).eval()(pixel_values=images, **options)
        vision, tokens = outputs, outputs.last_hidden_state
    if pooling == "native":
        return vision.pooler_output.flatten(1)
    prefix = {"siglip": 0, "deit": 2, "dinov2-registers": 5, "dinov3": 5}.get(kind, 1)
    parts = {"cls": tokens[:, 0], "mean": tokens[:, prefix:].mean(1)}
    return torch.cat([parts[part] for part in pooling.split("+")], dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_size", [32, 48])
def test_features__are_those_of_transformers_in_every_pooling(
    kind: str, image_size: int, folder_of: Callable[[str], Path]
) -> None:
    images = torch.randn(2, 3, image_size, image_size)
    poolings = [
        "native",
        *(() if kind == "convnext" else ("mean",)),
        *(() if kind in WITHOUT_CLS else ("cls", "cls+mean")),
    ]
    for pooling in poolings:
        built = load(folder_of(kind), pooling=pooling, image_size=image_size)
        with torch.no_grad():
            features = built.network(images)
        torch.testing.assert_close(features, reference(folder_of(kind), kind, pooling, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessing__is_the_image_processors_own_on_a_photograph(
    kind: str, folder_of: Callable[[str], Path]
) -> None:
    import transformers as hf

    photograph = load_sample_image("china.jpg")[: 426 if kind in CROPPED else 427, :640]
    photograph = photograph[:, :426] if kind in CROPPED else photograph  # see above
    folder = folder_of(kind)
    values = json.loads((folder / "preprocessor_config.json").read_text())
    preprocessing = preprocessing_of(values, folder, image_size=0)
    ours = EvalTransform(preprocessing)(DecodedImage(photograph)).float()
    theirs = hf.AutoImageProcessor.from_pretrained(folder)(Image.fromarray(photograph), return_tensors="pt")
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
    grey_levels = (theirs["pixel_values"][0] * std + mean) * 255
    assert grey_levels.shape == ours.shape == (3, 32, 32)
    assert (ours - grey_levels).abs().mean() < 0.5  # torchvision resizes tensors as Pillow does images, up to rounding
    assert (ours - grey_levels).abs().max() <= 2
    normalized = Normalize(preprocessing, torch.device("cpu"))(ours[None].byte())[0]
    torch.testing.assert_close(normalized, (ours / 255 - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, (224, 0, "squash")),
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, (224, 0, "shortest")),
        (
            {"size": 256, "crop_size": 224, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor"},
            (224, 256, "squash"),
        ),
        (
            {"size": 224, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"},
            (224, 256, "shortest"),
        ),
        ({"size": {"shortest_edge": 384}, "image_processor_type": "ConvNextImageProcessor"}, (384, 0, "squash")),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            (224, 256, "shortest"),
        ),
        ({"image_processor": {"size": {"height": 256, "width": 256}}}, (256, 0, "squash")),
    ],
)
def test_preprocessing_of__reads_every_form_of_sizes(values: dict[str, Any], expected: tuple[int, int, str]) -> None:
    inner = values.get("image_processor", values)
    inner |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    found = preprocessing_of(values, Path("preprocessor_config.json"), image_size=0)
    size, resize_size, resize = expected
    assert found == Preprocessing(size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", resize_size, resize)
    twice = preprocessing_of(values, Path("preprocessor_config.json"), image_size=2 * size)
    assert (twice.image_size, twice.resize_size) == (2 * size, 2 * resize_size)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"shortest_edge": 224}}, "must make squares of one size of all images; got size"),
        ({"size": {"height": 224, "width": 448}}, "must make squares of one size of all images; got size"),
        ({"max_num_patches": 256, "patch_size": 16}, "got max_num_patches. Take a model of fixed resolution"),
        ({"size": {"longest_edge": 512}, "do_pad": True}, "got do_pad"),
        ({"size": 224, "do_resize": False}, "must resize images to one size"),
        ({"size": 224, "rescale_factor": 1 / 127.5}, r"must scale bytes to 0\.\.1; got rescale_factor"),
        ({"size": 224, "image_mean": [0.5]}, r"must have three numbers as image_mean; got \[0\.5\]"),
        ({"size": 224, "resample": 9}, "must resize by one of bilinear"),
    ],
)
def test_preprocessing_of__refuses_what_is_not_plain(values: dict[str, Any], message: str) -> None:
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    with pytest.raises(ProtoRKDError, match=rf"^p\.json .*{message}"):
        preprocessing_of(usual | values, Path("p.json"), image_size=0)


@pytest.mark.parametrize("kind", ["siglip", "convnext"])
def test_build__refuses_a_pooling_that_a_kind_has_not(kind: str, folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(ProtoRKDError, match=r"--pooling must be native .*(no class token|no tokens).*; got cls"):
        build_backbone(f"hf:{folder_of(kind)}", image_size=0, pooling="cls")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "got SigLIP 2 with NaFlex"),
        ({"model_type": "bert"}, "must be of a vision model that is known here; got model_type 'bert'. Known: beit"),
        ({"model_type": "vit", "hidden_size": "wide"}, "must have a configuration that transformers .* builds; got"),
        ({"model_type": "mine", "auto_map": {}}, "Code that comes with a model is never run"),
    ],
)
def test_build__refuses_other_kinds(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ProtoRKDError, match=message):
        build_backbone(f"hf:{tmp_path}", image_size=0)


def test_build__needs_no_folder_where_the_architecture_is_known(folder_of: Callable[[str], Path]) -> None:
    built = load(folder_of("clip"))
    again = build_backbone("hf:gone", image_size=32, architecture=json.loads(json.dumps(built.architecture)))
    again.network.load_state_dict(built.network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.network(images), built.network(images))


def test_hub__is_read_from_its_cache_without_a_network(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(folder_of("dinov2"), "facebook/dinov2-tiny", home=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("facebook/dinov2-tiny", f"facebook/dinov2-tiny@{COMMIT}", "facebook/dinov2-tiny@main"):
        source = HFFamily().find_weights(name)
        assert source.source == f"facebook/dinov2-tiny@{COMMIT}"
        assert [path.name for path in source.files] == ["model.safetensors", "config.json", "preprocessor_config.json"]
        built = build_backbone(f"hf:{name}", image_size=0)
        assert load_published_weights(built, source, backbone_name=f"hf:{name}").format == source.source
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(
            built.network(images), reference(folder_of("dinov2"), "dinov2", "native", images), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("find", [HFFamily().find_weights, HFFamily().find_description])
def test_hub__says_how_to_get_a_model_without_cache_and_network(
    find: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ProtoRKDError,
        match=r"hf:facebook/dinov9@abc must be in the hub's cache .*HF_HUB_OFFLINE is set.*"
        r"Run `hf download facebook/dinov9 --revision abc` .*--init-from FILE",
    ):
        find("facebook/dinov9@abc")


@pytest.mark.parametrize("name", ["no-owner", "./nowhere", "/nowhere/at/all"])
def test_find_weights__refuses_what_is_neither_a_folder_nor_on_the_hub(name: str) -> None:
    with pytest.raises(ProtoRKDError, match=r"hf: must be followed by OWNER/NAME or an existing folder; got hf:"):
        HFFamily().find_weights(name)


def test_find_weights__says_which_file_a_folder_lacks(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    whole = folder_of("vit")
    for lacking, message in {
        "config.json": "must have a config.json",
        "preprocessor_config.json": "must say how its images are prepared, in preprocessor_config.json",
        "model.safetensors": "must lead to weights, model.safetensors or pytorch_model.bin",
    }.items():
        part = tmp_path / lacking
        part.mkdir()
        for file in whole.iterdir():
            if file.name != lacking:
                (part / file.name).write_bytes(file.read_bytes())
        with pytest.raises(ProtoRKDError, match=message):
            HFFamily().find_weights(str(part))


def test_find_weights__takes_shards(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    import transformers as hf

    model = hf.ViTModel.from_pretrained(folder_of("vit"))
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "preprocessor_config.json").write_bytes((folder_of("vit") / "preprocessor_config.json").read_bytes())
    assert len(HFFamily().find_weights(str(tmp_path)).weights) > 1
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path).network(images), load(folder_of("vit")).network(images))


def test_load_initial_weights__takes_a_file_of_the_hub_and_one_of_ours(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import safetensors.torch

    for kind in ("dinov3", "clip"):
        whole, name = load(folder_of(kind)), f"hf:{folder_of(kind)}"
        ours = tmp_path / f"{kind}.safetensors"
        safetensors.torch.save_file(whole.network.state_dict(), ours)
        student = tmp_path / f"{kind}_student.safetensors"
        tensors = {f"backbone.{key}": value for key, value in whole.network.state_dict().items()}
        safetensors.torch.save_file(tensors | {"head.0.weight": torch.zeros(2, 2)}, student)
        for path in (folder_of(kind) / "model.safetensors", ours, student):
            built = build_backbone(name, image_size=0)
            loaded = load_initial_weights(built, path, backbone_name=name)
            assert (loaded.mean, loaded.std) == (built.preprocessing.mean, built.preprocessing.std)
            torch.testing.assert_close(built.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)


def test_load_initial_weights__names_what_a_file_lacks(folder_of: Callable[[str], Path]) -> None:
    name = f"hf:{folder_of('vit')}"  # with a pooling layer, which files of classifiers do not have
    built = build_backbone(name, image_size=0)
    with pytest.raises(ProtoRKDError, match=r"2 missing: model\.pooler\.dense\.\w+, .*--pooling"):
        load_initial_weights(built, folder_of("vit-classifier") / "model.safetensors", backbone_name=name)
    with_cls = build_backbone(name, image_size=0, pooling="cls")
    loaded = load_initial_weights(with_cls, folder_of("vit-classifier") / "model.safetensors", backbone_name=name)
    assert loaded.num_tensors == len(with_cls.network.state_dict())


def test_network__has_only_weights_that_it_uses(folder_of: Callable[[str], Path]) -> None:
    for kind, pooling in (("vit", "mean"), ("clip", "mean"), ("siglip", "mean"), ("siglip", "native")):
        network: nn.Module = build_backbone(f"hf:{folder_of(kind)}", image_size=0, pooling=pooling).network
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        unused = [key for key, parameter in network.named_parameters() if parameter.grad is None]
        assert not unused, (kind, pooling)


def test_portable_name__leaves_out_where_a_folder_lies(folder_of: Callable[[str], Path]) -> None:
    assert portable_name(f"hf:{folder_of('vit')}/") == "hf:vit"
    assert portable_name("hf:facebook/dinov2-small") == "hf:facebook/dinov2-small"
    assert portable_name("resnet18") == "resnet18"


def test_known_kinds__are_classes_of_transformers() -> None:
    import transformers as hf

    from stages.components.backbones.hf_family import KINDS as TYPES

    assert all(hasattr(hf, kind.model) for kind in TYPES.values())
    assert {"clip", "siglip", "dinov2", "dinov3_vit"} <= set(known_kinds())
    assert np.all([name == name.lower() for name in known_kinds()])
