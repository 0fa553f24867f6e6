"""Low-rank adapters: which layers have them, what trains, and what comes out merged; with peft alone."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hub_models import save_vision_model
from torch import nn

from data_schemas.errors import ProtoRKDError
from stages.components.student.adapters import add_adapters, find_adaptable, import_peft, merge_adapters
from stages.components.student.student import Student, build_student

SIZE = 32


@pytest.fixture
def peft() -> object:
    return pytest.importorskip("peft")


def of_timm(_folder: Path) -> Student:
    return build_student("timm:test_vit", embedding_dim=16, image_size=SIZE)


def of_the_hub(folder: Path) -> Student:
    save_vision_model("dinov2", folder / "dinov2")
    return build_student(f"hf:{folder / 'dinov2'}", embedding_dim=16, image_size=SIZE)


def of_torchvision(_folder: Path) -> Student:
    """A ViT of torchvision's layers, whose attention is torch's, as in OpenCLIP's."""
    backbone = torchvision.models.VisionTransformer(
        image_size=SIZE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    backbone.heads = nn.Identity()  # type: ignore[assignment]
    return Student(backbone=backbone, head=nn.Linear(16, 16), feature_dim=16, embedding_dim=16).train()


EVERY = pytest.mark.parametrize("make", [of_timm, of_the_hub, of_torchvision])
Make = Callable[[Path], Student]


def images() -> torch.Tensor:
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def move_adapters(student: Student) -> None:
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


@EVERY
def test_add_adapters__leaves_the_student_at_first_as_it_was(peft: object, make: Make, tmp_path: Path) -> None:
    student = make(tmp_path).eval()
    before = student(images())
    assert add_adapters(student, rank=2, image_size=SIZE) > 0
    torch.testing.assert_close(student(images()), before)


@EVERY
def test_add_adapters__trains_every_adapter_and_the_head_alone(peft: object, make: Make, tmp_path: Path) -> None:
    student = make(tmp_path)
    num = add_adapters(student, rank=2, image_size=SIZE)
    student(images()).square().sum().backward()
    with_gradient = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert with_gradient == trained
    adapters = {name for name in trained if ".lora_" in name}
    assert len(adapters) == 2 * num
    assert all(name.startswith("head.") for name in trained - adapters)
    assert not any(module.training for module in student.backbone.modules())


@EVERY
def test_merge_adapters__gives_weights_that_compute_the_same_without(peft: object, make: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = make(tmp_path).eval()
    torch.manual_seed(0)
    student = make(tmp_path).eval()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    add_adapters(student, rank=2, image_size=SIZE)
    move_adapters(student)
    merged = merge_adapters(student.state_dict())
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(images()), student(images()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(images()), make(tmp_path).eval()(images()))
    moved = {name for name in before if not torch.equal(before[name], merged[name])}
    assert len(moved) == len(find_adaptable(plain.backbone, image_size=SIZE))


@EVERY
def test_merge_adapters__adds_what_peft_adds(peft: object, make: Make, tmp_path: Path) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    student = make(tmp_path)
    add_adapters(student, rank=3, image_size=SIZE)
    move_adapters(student)
    ours = merge_adapters(student.state_dict())
    layers = [(name, module) for name, module in student.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        base = layer.get_base_layer()
        weight = "weight" if isinstance(base, nn.Linear) else "in_proj_weight"
        torch.testing.assert_close(getattr(base, weight).data, ours[f"{name}.{weight}"], rtol=0, atol=0)
    assert layers


def test_merge_adapters__leaves_a_student_without_adapters_as_it_is() -> None:
    tensors = {"backbone.base_layer.0.weight": torch.ones(2), "head.weight": torch.ones(3)}  # names as of timm's DLA
    assert merge_adapters(tensors) == tensors


def test_find_adaptable__names_all_linear_layers_of_the_blocks_and_none_behind_them() -> None:
    backbone = build_student("timm:test_vit", embedding_dim=16, image_size=SIZE).backbone.eval()
    names = set(find_adaptable(backbone, image_size=SIZE))
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert names == {f"blocks.{number}.{layer}" for number in range(6) for layer in layers}
    assert not backbone.training


def test_find_adaptable__leaves_out_layers_that_no_pass_calls() -> None:
    student = of_torchvision(Path())
    layer = student.backbone.encoder.layers.encoder_layer_0
    names = find_adaptable(student.backbone, image_size=SIZE)
    prefix = "encoder.layers.encoder_layer_0."
    assert {name for name in names if name.startswith(prefix)} == {
        f"{prefix}{name}" for name in ("self_attention", "mlp.0", "mlp.3")
    }
    assert layer.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "linear layers in its blocks, as transformers have them; got ResNet. Pass --unfreeze"),
        ("squeezenet1_1", "--lora must have a --student of known blocks; got SqueezeNet. Pass --unfreeze all"),
    ],
)
def test_find_adaptable__refuses_what_has_none_and_says_what_to_do(name: str, message: str) -> None:
    backbone = build_student(name, embedding_dim=16, image_size=SIZE).backbone
    with pytest.raises(ProtoRKDError, match=message):
        find_adaptable(backbone, image_size=SIZE)


def test_import_peft__names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ProtoRKDError, match=r"--lora must have peft; .* Run pip install 'protorkd\[lora\]'\."):
        import_peft()
