"""Starting points: files of every known layout fill the backbone, and nothing else does."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from backbones import build_network
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    StudentConfig,
    TeacherRecord,
    checkpoint_path,
)
from stages.components.backbones.family import BackboneSource, BuiltBackbone
from stages.components.backbones.initial_weights import InitialWeights, load_published_weights
from stages.components.backbones.initial_weights import load_initial_weights as load_into
from stages.components.backbones.registry import build_backbone, find_family, published_name
from stages.components.backbones.torchvision_family import TorchvisionFamily
from stages.components.student.student import Student
from stages.components.student.weights import save_weights

Tensors = dict[str, Tensor]

SMALL = "squeezenet1_1"


def load_initial_weights(network: nn.Module, path: Path, *, backbone_name: str) -> InitialWeights:
    return load_into(BuiltBackbone(network, Preprocessing(image_size=32)), path, backbone_name=backbone_name)


@pytest.fixture(scope="module")
def trained() -> Tensors:
    """State dict of torchvision's resnet18 with classifier, every tensor moved away from how it starts."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    return {
        key: tensor + torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 7
        for key, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return build_network("resnet18", image_size=32)[0]


def prefixed(tensors: Tensors, prefix: str, **extra: tuple[int, ...]) -> Tensors:
    """Put a prefix before the backbone's keys, and put in the heads and queues of a method."""
    backbone = {prefix + key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}
    return backbone | {key: torch.zeros(shape) for key, shape in extra.items()}


def moco_v1(tensors: Tensors) -> dict[str, Any]:
    state = prefixed(tensors, "module.encoder_q.", **{"module.encoder_q.fc.weight": (4, 512), "module.queue": (4, 9)})
    state |= {key.replace("encoder_q", "encoder_k"): torch.zeros_like(tensor) for key, tensor in state.items()}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def moco_v2(tensors: Tensors) -> dict[str, Any]:
    heads = {f"module.encoder_q.fc.{layer}.{kind}": (4,) for layer in (0, 2) for kind in ("weight", "bias")}
    return {"state_dict": prefixed(tensors, "module.encoder_q.", **heads, **{"module.queue_ptr": (1,)})}


def moco_v3(tensors: Tensors) -> dict[str, Any]:
    heads = {"module.base_encoder.fc.0.weight": (4,), "module.predictor.0.weight": (4,)}
    momentum = {f"module.momentum_encoder.{key}": (1,) for key in tensors}
    return {"state_dict": prefixed(tensors, "module.base_encoder.", **heads, **momentum)}


def seed_simclr(tensors: Tensors) -> dict[str, Any]:
    heads = {f"module.module.module.fc.{layer}.weight": (4,) for layer in (0, 1, 3)}
    return {"opt": argparse.Namespace(lr=0.1), "model": prefixed(tensors, "module.module.module.", **heads)}


def vissl_simclr(tensors: Tensors) -> dict[str, Any]:
    trunk = prefixed(tensors, "_feature_blocks.")
    model = {"trunk": trunk, "heads": {"0.clf.0.weight": torch.zeros(4)}}
    return {"classy_state_dict": {"base_model": {"model": model}, "losses": {}}, "iteration": 5}


def vissl_simclr_alone(tensors: Tensors) -> dict[str, Any]:
    return {"model_state_dict": prefixed(tensors, "_feature_blocks.")}


def swav(tensors: Tensors) -> Tensors:
    heads = {f"module.projection_head.{layer}.weight": (4,) for layer in (0, 1, 3)}
    return prefixed(tensors, "module.", **heads, **{"module.prototypes.weight": (3000, 2)})


def deepcluster(tensors: Tensors) -> dict[str, Any]:
    heads = {f"module.prototypes.prototypes{index}.weight": (4,) for index in range(3)}
    return {"state_dict": prefixed(tensors, "module.", **heads), "best_acc": np.float64(51.2)}


def seed_student(tensors: Tensors) -> dict[str, Any]:
    others = {"module.student.fc.0.weight": (4,), "module.teacher.conv1.weight": (4,), "module.queue": (4,)}
    return {"state_dict": prefixed(tensors, "module.student.", **others), "args": argparse.Namespace()}


def imagenet_example(tensors: Tensors) -> dict[str, Any]:
    return {"state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()}, "best_acc1": np.float32(70)}


def own(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}


def dino(tensors: Tensors) -> dict[str, Any]:
    heads = {"head.mlp.0.weight": (4, 512), "head.last_layer.weight_g": (4, 1)}
    student = prefixed({key: torch.zeros_like(tensor) for key, tensor in tensors.items()}, "module.backbone.")
    return {"student": student, "teacher": prefixed(tensors, "backbone.", **heads), "epoch": 3}


def dino_student(tensors: Tensors) -> dict[str, Any]:
    return {"student": prefixed(tensors, "module.backbone.", **{"module.head.mlp.0.weight": (4, 512)})}


def lightning(tensors: Tensors) -> dict[str, Any]:
    return {"state_dict": prefixed(tensors, "model.", **{"criterion.weight": (4,)}), "pytorch-lightning_version": "2"}


def lightning_backbone(tensors: Tensors) -> dict[str, Any]:
    return {"state_dict": prefixed(tensors, "model.backbone.", **{"model.head.weight": (4,)})}


def averaged_by_timm(tensors: Tensors) -> dict[str, Any]:
    return {"arch": "resnet18", "state_dict_ema": dict(tensors)}


def compiled(tensors: Tensors) -> Tensors:
    return {f"_orig_mod.{key}": tensor for key, tensor in tensors.items()}


def compiled_in_parallel(tensors: Tensors) -> Tensors:
    return {f"module._orig_mod.{key}": tensor for key, tensor in tensors.items()}


def compiled_layer_by_layer(tensors: Tensors) -> Tensors:
    return {key.replace("layer1.", "layer1._orig_mod."): tensor for key, tensor in tensors.items()}


LAYOUTS: dict[str, tuple[Callable[[Tensors], Any], tuple[float, float, float]]] = {
    "MoCo v1 or v2": (moco_v1, IMAGENET_STD),
    "MoCo v1 or v2 ": (moco_v2, IMAGENET_STD),
    "MoCo v3": (moco_v3, IMAGENET_STD),
    "SimCLR of SEED": (seed_simclr, IMAGENET_STD),
    "SimCLR of VISSL": (vissl_simclr, IMAGENET_STD),
    "SimCLR of VISSL ": (vissl_simclr_alone, IMAGENET_STD),
    "SwAV or DeepCluster-v2": (swav, (0.228, 0.224, 0.225)),
    "SwAV or DeepCluster-v2 ": (deepcluster, (0.228, 0.224, 0.225)),
    "SEED student": (seed_student, IMAGENET_STD),
    "DataParallel": (imagenet_example, IMAGENET_STD),
    "torchvision": (own, IMAGENET_STD),
    "DINO": (dino, IMAGENET_STD),
    "DINO ": (dino_student, IMAGENET_STD),
    "Lightning module": (lightning, IMAGENET_STD),
    "Lightning module ": (lightning_backbone, IMAGENET_STD),
    "torchvision ": (averaged_by_timm, IMAGENET_STD),
    "torchvision  ": (compiled, IMAGENET_STD),
    "torchvision   ": (compiled_layer_by_layer, IMAGENET_STD),
    "DataParallel ": (compiled_in_parallel, IMAGENET_STD),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_load_initial_weights__fills_the_backbone_from_every_layout(
    layout: str, legacy: bool, trained: Tensors, backbone: nn.Module, tmp_path: Path
) -> None:
    write, std = LAYOUTS[layout]
    path = tmp_path / "weights.pth.tar"
    torch.save(write(trained), path, _use_new_zipfile_serialization=not legacy)
    erase(backbone)
    loaded = load_initial_weights(backbone, path, backbone_name="resnet18")
    num_tensors = 100 if write is own else 120  # 60 weights, 40 running statistics, 20 counts of batches
    assert loaded == InitialWeights(layout.strip(), num_tensors, IMAGENET_MEAN, std)
    for key, tensor in backbone.state_dict().items():
        if not (key.endswith("num_batches_tracked") and write is own):
            assert torch.equal(tensor, trained[key]), key


def erase(backbone: nn.Module) -> None:
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            tensor.zero_()


def test_load_initial_weights__takes_safetensors_and_half_precision(
    trained: Tensors, backbone: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({key: tensor.half() for key, tensor in own(trained).items()}, path)
    erase(backbone)
    assert load_initial_weights(backbone, path, backbone_name="resnet18").num_tensors == 100
    weight = backbone.state_dict()["layer4.1.conv2.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, trained["layer4.1.conv2.weight"].half().float())


@pytest.mark.parametrize("name", ["student.safetensors", checkpoint_path(3)])
@pytest.mark.parametrize("has_config", [True, False])
def test_load_initial_weights__takes_a_student_with_its_normalisation(
    name: str, has_config: bool, tmp_path: Path
) -> None:
    first, feature_dim = build_network(SMALL, image_size=32)
    student = Student(backbone=first, head=nn.Linear(feature_dim, 3), feature_dim=feature_dim, embedding_dim=3)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_weights(student, tmp_path / name)
    preprocessing = Preprocessing(image_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    if has_config:
        StudentConfig(SMALL, 3, 1, preprocessing, TeacherRecord("", 3, {}), {}).write(tmp_path)
    second, _ = build_network(SMALL, image_size=32)
    loaded = load_initial_weights(second, tmp_path / name, backbone_name=SMALL)
    assert loaded.format == "ProtoRKD student"
    assert (loaded.mean == preprocessing.mean) is has_config
    assert (loaded.std == preprocessing.std) is has_config
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_load_initial_weights__takes_a_wide_resnet_of_swav(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stages.components.backbones.wide_resnet._NUM_BLOCKS", (1, 1))
    first, _ = build_network("resnet50w2", image_size=32)
    torch.save(swav(first.state_dict()), tmp_path / "wide.pth")
    second, _ = build_network("resnet50w2", image_size=32)
    assert load_initial_weights(second, tmp_path / "wide.pth", backbone_name="resnet50w2").std[0] == 0.228
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, r"1 missing: conv1\.weight\. Pass"),
        ({"bn1.running_mean": None}, r"1 missing: bn1\.running_mean\. Pass"),
        ({"layer9.weight": torch.zeros(1), "a": torch.zeros(1)}, r"2 unexpected: layer9\.weight, a\. Pass"),
        ({"fc2.weight": torch.zeros(1)}, r"1 unexpected: fc2\.weight"),
        ({"bn1.weight": torch.zeros(3)}, r"1 of another shape: bn1\.weight \(3,\) for \(64,\)\. Pass the --student"),
        (
            {f"bn1.{kind}": None for kind in ("weight", "bias", "running_mean", "running_var")},
            r"4 missing: bn1\.weight, bn1\.bias, bn1\.running_mean, \.\.\.\. Pass",
        ),
    ],
)
def test_load_initial_weights__refuses_what_does_not_match_and_changes_nothing(
    change: dict[str, Tensor | None], message: str, trained: Tensors, backbone: nn.Module, tmp_path: Path
) -> None:
    changed = {key: tensor for key, tensor in (trained | change).items() if tensor is not None}
    torch.save(changed, tmp_path / "weights.pth")
    erase(backbone)
    with pytest.raises(ProtoRKDError, match=rf"weights\.pth \(torchvision\) must hold all .* resnet18 .*{message}"):
        load_initial_weights(backbone, tmp_path / "weights.pth", backbone_name="resnet18")
    assert not any(tensor.any() for tensor in backbone.state_dict().values())


def test_load_initial_weights__knows_a_pointer_of_git_lfs(backbone: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ProtoRKDError, match=r"--init-from must lead to whole files; .* Run git lfs pull in"):
        load_initial_weights(backbone, tmp_path / "weights.pth", backbone_name="resnet18")


def test_load_initial_weights__refuses_those_of_another_backbone(trained: Tensors, tmp_path: Path) -> None:
    deeper, _ = build_network("resnet34", image_size=32)
    torch.save(moco_v2(trained), tmp_path / "weights.pth")
    with pytest.raises(ProtoRKDError, match=r"\(MoCo v1 or v2\) must hold all weights of the resnet34 .* 80 missing"):
        load_initial_weights(deeper, tmp_path / "weights.pth", backbone_name="resnet34")


def test_load_initial_weights__names_the_keys_of_an_unknown_format(backbone: nn.Module, tmp_path: Path) -> None:
    torch.save({"encoder.a": torch.zeros(1), "encoder.b": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ProtoRKDError, match=r"must be of a known format.* got 2 tensors: encoder\.a, encoder\.b"):
        load_initial_weights(backbone, tmp_path / "weights.pth", backbone_name="resnet18")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_load_initial_weights__runs_no_code(legacy: bool, backbone: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ProtoRKDError, match=r"evil\.pth must hold tensors and plain values alone; got .*exec"
    ) as raised:
        load_initial_weights(backbone, tmp_path / "evil.pth", backbone_name="resnet18")
    assert "weights_only" not in str(raised.value)  # torch's own message says how to run the code


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "arch": "resnet18"}, r"must hold tensors by name.*got epoch, arch\."),
        ([torch.zeros(1)], "must hold tensors by name.*list"),
        (b"no weights", r"must be a whole file of weights|must hold tensors and plain values alone"),
        (b"", "must be a whole file of weights"),
    ],
)
def test_load_initial_weights__refuses_what_holds_no_weights(
    content: Any, message: str, backbone: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ProtoRKDError, match=message):
        load_initial_weights(backbone, path, backbone_name="resnet18")


def test_load_initial_weights__refuses_a_cut_file_and_a_missing_one(
    trained: Tensors, backbone: nn.Module, tmp_path: Path
) -> None:
    whole = safetensors.torch.save(trained)
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ProtoRKDError, match=r"cut\.safetensors must be a whole file"):
        load_initial_weights(backbone, tmp_path / "cut.safetensors", backbone_name="resnet18")
    with pytest.raises(ProtoRKDError, match=r"--init-from must be a file .* got .*none\.pth"):
        load_initial_weights(backbone, tmp_path / "none.pth", backbone_name="resnet18")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Tensors | Exception], None]:
    """Put weights into torch's cache, as if torchvision had downloaded them; or let the download fail."""

    def publish(weights: Tensors | Exception) -> None:
        def download(url: str, path: str, begins: str | None, *, progress: bool) -> None:
            assert begins == "0123abcd"
            if isinstance(weights, Exception):
                raise weights
            torch.save(weights, path)

        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setattr(
            "stages.components.backbones.torchvision_family._default_weights",
            lambda name: ("Weights.DEFAULT", "https://host/weights-0123abcd.pth"),
        )
        monkeypatch.setattr("torch.hub.download_url_to_file", download)

    return publish


def load_pretrained(built: BuiltBackbone, source: str, *, backbone_name: str) -> InitialWeights:
    """Find and load published weights, as a training does."""
    name = published_name(backbone_name, source)
    family, short = find_family(name)
    return load_published_weights(built, family.find_weights(short), backbone_name=name)


def test_load_pretrained__gives_torchvisions_weights_without_classifier(
    trained: Tensors, backbone: nn.Module, publish: Callable[[Tensors], None]
) -> None:
    publish(trained)
    erase(backbone)
    built = BuiltBackbone(backbone, Preprocessing(image_size=32))
    loaded = load_pretrained(built, "torchvision", backbone_name="resnet18")
    assert loaded == InitialWeights("Weights.DEFAULT of torchvision", 120, IMAGENET_MEAN, IMAGENET_STD)
    assert all(torch.equal(tensor, trained[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_load_pretrained__normalises_as_torchvision_does_inside_the_net(
    name: str, publish: Callable[[Tensors], None]
) -> None:
    whole = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True)
    publish(whole.state_dict())  # with classifiers, auxiliary ones too
    built = build_backbone(name, image_size=75)
    loaded = load_pretrained(built, "torchvision", backbone_name=name)
    images = torch.rand(2, 3, 75, 75)
    whole.fc = nn.Identity()
    expected = whole.eval()(normalise(images, IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(built.network(normalise(images, loaded.mean, loaded.std)), expected)


def test_load_initial_weights__normalises_googlenet_as_torchvision_does(tmp_path: Path) -> None:
    whole = torchvision.models.googlenet(weights=None, init_weights=False)
    torch.save(whole.state_dict(), tmp_path / "googlenet-1378be20.pth")
    built = build_backbone("googlenet", image_size=32)
    loaded = load_into(built, tmp_path / "googlenet-1378be20.pth", backbone_name="googlenet")
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_load_pretrained__reads_old_names_of_densenet(publish: Callable[[Tensors], None]) -> None:
    first, second = (build_network("densenet121", image_size=32)[0] for _ in range(2))
    weights = first.state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): weights[key] for key in weights}
    assert old.keys() != weights.keys()
    publish(old)
    built = BuiltBackbone(second, Preprocessing(image_size=32))
    load_pretrained(built, "torchvision", backbone_name="densenet121")
    torch.testing.assert_close(second.state_dict(), weights, rtol=0, atol=0)


def small_vit(image_size: int) -> VisionTransformer:
    vit = VisionTransformer(image_size, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    vit.heads.head = nn.Identity()
    return vit


def test_load_initial_weights__resizes_positions_and_reads_old_names_of_vit(tmp_path: Path) -> None:
    first, second = small_vit(32), small_vit(16)
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for key, tensor in first.state_dict().items()
    }
    torch.save(old, tmp_path / "vit.pth")
    load_initial_weights(second, tmp_path / "vit.pth", backbone_name="vit_b_16")
    before, after = first.encoder.pos_embedding, second.encoder.pos_embedding
    assert torch.equal(after[:, 0], before[:, 0])  # the class token
    # Bicubic with corners aligned: those of 4 x 4 patches become those of 2 x 2.
    torch.testing.assert_close(after[0, 1:], before[0, 1:][[0, 3, 12, 15]])
    assert torch.equal(second.encoder.layers[0].mlp[3].weight, first.encoder.layers[0].mlp[3].weight)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_load_pretrained__points_to_a_file_where_the_download_fails(
    error: Exception, backbone: nn.Module, publish: Callable[[Exception], None]
) -> None:
    publish(error)
    built = BuiltBackbone(backbone, Preprocessing(image_size=32))
    with pytest.raises(ProtoRKDError, match=rf"downloadable; got {error} for https://host/.*--init-from FILE"):
        load_pretrained(built, "torchvision", backbone_name="resnet18")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (
            "torchvision",
            "resnet50w2",
            r"must go with a model of torchvision; got --student resnet50w2",
        ),
        ("imagenet", "resnet18", "--pretrained must be torchvision, timm, hf or open-clip:TAG; got 'imagenet'"),
        ("timm:tag", "timm:test_vit", "--pretrained must be torchvision, timm, hf or open-clip:TAG; got 'timm:tag'"),
        ("timm", "resnet18", r"must go with a model of timm; got --student resnet18\. Pass --student timm:NAME"),
        ("open-clip:openai", "resnet18", "must go with an image tower of OpenCLIP; got --student resnet18"),
    ],
)
def test_published_name__refuses_a_source_that_has_none(source: str, name: str, message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        published_name(name, source)


def test_torchvision__is_known_to_publish_what_it_does_publish() -> None:
    from stages.components.backbones.torchvision_family import _default_weights

    for name in torchvision.models.list_models(module=torchvision.models):
        published = torchvision.models.get_model_weights(name).DEFAULT
        assert _default_weights(name) == (str(published), published.url)
        recipe = published.transforms()
        half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert (tuple(recipe.mean), tuple(recipe.std)) == (
            half if name == "efficientnet_v2_l" else (IMAGENET_MEAN, IMAGENET_STD)
        )


def test_torchvision__finds_weights_in_torchs_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = torchvision.models.ResNet18_Weights.DEFAULT
    for variable, hub in (("TORCH_HOME", tmp_path / "hub"), ("XDG_CACHE_HOME", tmp_path / "torch" / "hub")):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.setenv(variable, str(tmp_path))
        path = hub / "checkpoints" / published.url.rpartition("/")[2]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
        assert Path(torch.hub.get_dir()) == hub
        assert TorchvisionFamily().find_weights("resnet18") == BackboneSource(
            (path,), source=f"{published} of torchvision"
        )
