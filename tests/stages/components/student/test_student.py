"""Any torchvision backbone, stripped of its classifier, with a head of the teacher's width."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import stages.components.student.student
import stages.distill.student
from data_schemas.errors import ProtoRKDError
from stages.components.backbones.torchvision_family import TorchvisionFamily
from stages.components.student.blocks import find_blocks
from stages.components.student.student import (
    Student,
    build_student,
    freeze_backbone,
    freeze_batchnorm,
    train_last_blocks,
)

slow = pytest.mark.slow


def test_build_student__is_the_same_from_both_of_its_homes() -> None:
    assert stages.distill.student.build_student is stages.components.student.student.build_student
    assert stages.distill.student.__all__ == ["build_student"]


@pytest.mark.parametrize(
    ("name", "image_size", "feature_dim"),
    [
        ("resnet18", 32, 512),
        ("squeezenet1_1", 32, 512),
        ("mobilenet_v3_small", 32, 1024),
        ("regnet_y_400mf", 32, 440),
        ("googlenet", 32, 1024),
        pytest.param("alexnet", 64, 4096, marks=slow),
        pytest.param("vgg11", 32, 4096, marks=slow),
        pytest.param("densenet121", 32, 1024, marks=slow),
        pytest.param("inception_v3", 96, 2048, marks=slow),
        pytest.param("convnext_tiny", 32, 768, marks=slow),
        pytest.param("vit_b_32", 64, 768, marks=slow),
    ],
)
def test_student__has_the_stated_shapes_in_train_and_eval_mode(name: str, image_size: int, feature_dim: int) -> None:
    student = build_student(name, embedding_dim=7, image_size=image_size)
    images = torch.rand(2, 3, image_size, image_size)
    assert (student.feature_dim, student.embedding_dim) == (feature_dim, 7)
    assert student.training
    assert student.backbone.training
    assert student(images).shape == (2, 7)
    student.eval()
    assert student(images[:1]).shape == (1, 7)
    assert student(images).dtype == torch.float32
    assert student.features(images).shape == (2, feature_dim)
    torch.testing.assert_close(student.head(student.features(images)), student(images))


@slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_student__is_made_of_every_backbone_without_its_classifier(name: str) -> None:
    student = build_student(name, embedding_dim=7)
    with torch.no_grad():
        features = student.features(torch.rand(2, 3, 224, 224))
    assert features.shape == (2, student.feature_dim)
    assert student.feature_dim != 1000


def test_list_backbones__names_classification_models_alone() -> None:
    names = TorchvisionFamily().names()
    assert {"resnet18", "vit_b_16", "convnext_tiny", "swin_t"} <= set(names)
    assert not [name for name in names if "rcnn" in name or "segmentation" in name or "quantized" in name]


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for torchvision, so that tests of the head take no time: 12 features, images of 2 pixels and more."""

    def get_model(name: str, **options: object) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 12, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 1000))

    monkeypatch.setattr("torchvision.models.get_model", get_model)


def build_tiny(**options: int | None) -> Student:
    return build_student("resnet18", **{"embedding_dim": 7, "image_size": 4, **options})


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, [(7, 12)]),
        ({"projection_layers": 2}, [(12, 12), (7, 12)]),
        ({"projection_layers": 3, "hidden_dim": 20}, [(20, 12), (20, 20), (7, 20)]),
        ({"projection_layers": 0, "embedding_dim": 12}, []),
    ],
)
def test_head__has_the_linear_layers_asked_for(options: dict[str, int], shapes: list[tuple[int, int]]) -> None:
    student = build_tiny(**options)
    assert [module.weight.shape for module in student.head.modules() if isinstance(module, nn.Linear)] == shapes
    assert student(torch.rand(2, 3, 4, 4)).shape == (2, student.embedding_dim)


@pytest.mark.usefixtures("tiny_backbone")
def test_head__of_several_layers_normalises_and_bends_between_them() -> None:
    kinds = [type(module).__name__ for module in build_tiny(projection_layers=2).head]  # type: ignore[union-attr]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_layers": 0}, r"--projection-layers must be at least 1 .* got 0 for 12 and 7"),
        ({"projection_layers": -1}, "--projection-layers must be at least 0; got -1"),
        ({"hidden_dim": 8}, "--hidden-dim must .* got 8 with 1"),
        ({"hidden_dim": 0, "projection_layers": 2}, "--hidden-dim must be at least 1"),
        ({"image_size": 0}, "--image-size must be at least 1 pixel; got 0"),
        ({"image_size": 1}, "--image-size must suit --student resnet18; got 1 .*[Kk]ernel size"),
    ],
)
def test_build_student__refuses_what_does_not_fit(options: dict[str, int], message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        build_tiny(**options)


@pytest.mark.usefixtures("tiny_backbone")
def test_build_student__leaves_the_running_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    normalised = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
    monkeypatch.setattr("torchvision.models.get_model", lambda name, **options: normalised)
    assert build_tiny().backbone[0].num_batches_tracked == 0  # type: ignore[index]


def test_build_student__names_the_nearest_for_an_unknown_backbone_and_not_all() -> None:
    with pytest.raises(ProtoRKDError, match=r"--student .* got 'resnet19'\. Nearest: resnet1\d") as raised:
        build_student("resnet19", embedding_dim=4)
    assert "protorkd list students" in str(raised.value)
    assert len(str(raised.value)) < 500


def test_build_student__refuses_a_size_that_patches_do_not_divide() -> None:
    with pytest.raises(ProtoRKDError, match="--image-size must suit --student vit_b_32; got 65"):
        build_student("vit_b_32", embedding_dim=7, image_size=65)


def test_build_student__repeats_itself_under_one_seed() -> None:
    students = []
    for _ in range(2):
        torch.manual_seed(3)
        students.append(build_student("squeezenet1_1", embedding_dim=7, image_size=32))
    first, second = (student.state_dict() for student in students)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("tiny_backbone")
def test_student__takes_weights_that_carry_no_versions_of_modules() -> None:
    student, other = build_tiny(), build_tiny()
    student.load_state_dict(dict(other.state_dict()))
    torch.testing.assert_close(student.state_dict(), other.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        student.load_state_dict({})


def test_freeze_backbone__lets_a_step_change_the_head_alone() -> None:
    student = build_student("mobilenet_v3_small", embedding_dim=7, image_size=32, projection_layers=2)
    freeze_backbone(student)
    student.train()
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in student.parameters() if one.requires_grad], lr=1.0, weight_decay=1.0)
    student(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    after = student.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {key for key in after if key.startswith("head.")}
    assert all(one.grad is None for one in student.backbone.parameters())


def test_freeze_backbone__keeps_it_in_eval_mode_and_the_head_in_the_mode_asked_for() -> None:
    student = build_student("mobilenet_v3_small", embedding_dim=7, image_size=32)
    freeze_backbone(student)
    for mode in (True, False, True):
        assert student.train(mode) is student
        assert student.head.training is mode
        assert not any(module.training for module in student.backbone.modules())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(student.features(images), student.features(images))


@pytest.mark.usefixtures("tiny_backbone")
def test_freeze_backbone__refuses_a_student_without_head() -> None:
    with pytest.raises(ProtoRKDError, match="--freeze-backbone must leave something to train"):
        freeze_backbone(build_tiny(projection_layers=0, embedding_dim=12))


def build_vit() -> Student:
    return build_student("timm:test_vit", embedding_dim=7, image_size=32)


def test_train_last_blocks__freezes_what_comes_before_and_keeps_that_in_eval_mode() -> None:
    student: Any = build_vit()
    train_last_blocks(student, 2)
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    places = {
        ".".join(name.split(".")[:3]) if ".blocks." in name else ".".join(name.split(".")[:2]) for name in trained
    }
    assert places == {"backbone.blocks.4", "backbone.blocks.5", "backbone.norm", "head.0"}
    for mode in (True, False, True):
        student.train(mode)
        assert [block.training for block in student.backbone.blocks] == [False] * 4 + [mode] * 2
        assert (student.backbone.patch_embed.training, student.head.training) == (False, mode)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_convnext", "resnet18"])
def test_train_last_blocks__moves_nothing_before_them(name: str) -> None:
    student = build_student(name, embedding_dim=7, image_size=64)
    last = find_blocks(student.backbone, flag="--unfreeze")[-1]
    train_last_blocks(student, 1)
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    optimizer = torch.optim.SGD([one for one in student.parameters() if one.requires_grad], lr=1.0)
    student(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    after = student.state_dict()
    changed = [key for key in after if not torch.equal(before[key], after[key])]
    names = list(after)
    [prefix] = [key for key, module in student.named_modules() if module is last]
    first = next(place for place, key in enumerate(names) if key.startswith(prefix))
    assert any(key.startswith(prefix) for key in changed)
    assert all(names.index(key) >= first for key in changed)


def test_train_last_blocks__counts_the_blocks() -> None:
    with pytest.raises(ProtoRKDError, match=r"at most last:6, for the backbone has 6 blocks; got last:7"):
        train_last_blocks(build_vit(), 7)
    student = build_vit()
    train_last_blocks(student, 6)
    assert not any(parameter.requires_grad for parameter in student.backbone.patch_embed.parameters())


@pytest.mark.parametrize(("part", "num"), [("backbone", 3), ("head", 1), ("", 4)])
def test_freeze_batchnorm__stops_the_statistics_of_a_part_and_not_its_gains(part: str, num: int) -> None:
    backbone = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(3)), nn.Flatten())
    head = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4))
    student = Student(backbone=backbone, head=head, feature_dim=12, embedding_dim=4).train()
    freeze_batchnorm(student, part)
    assert student.train() is student
    before = {name: tensor.clone() for name, tensor in student.named_buffers() if name.endswith("running_mean")}
    student(torch.randn(5, 3, 2, 2)).square().sum().backward()
    kept = {name for name, tensor in student.named_buffers() if name in before and torch.equal(tensor, before[name])}
    assert len(kept) == num
    assert all(name.startswith(part) for name in kept)
    assert all(parameter.grad is not None for parameter in student.parameters())
