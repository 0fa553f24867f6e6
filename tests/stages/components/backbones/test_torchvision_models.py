"""Every backbone takes a training step, is saved, and is evaluated as it was."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing, StudentConfig, TeacherRecord
from stages.components.backbones.registry import FAMILIES, build_backbone, find_family
from stages.components.backbones.torchvision_family import TorchvisionFamily
from stages.components.student.student import build_student
from stages.components.student.weights import load_student, save_weights

QUICK = {"mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"}
SMALLEST_SIZES = {"inception_v3": 75, "maxvit_t": 224, "vit_h_14": 28, "alexnet": 64}  # of all others: 32 pixels
OVER_300_MILLION_PARAMETERS = {"regnet_y_128gf", "resnet50w4", "resnet50w5", "vit_h_14", "vit_l_16", "vit_l_32"}

every_backbone = pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TorchvisionFamily().names()],
)


def config_of(name: str, image_size: int) -> StudentConfig:
    return StudentConfig(
        backbone=name,
        embedding_dim=5,
        projection_layers=1,
        preprocessing=Preprocessing(image_size=image_size),
        teacher=TeacherRecord(identity="", dim=5, recipe={}),
        losses={},
    )


@every_backbone
def test_backbone__trains_a_step_and_is_evaluated_as_saved(name: str, tmp_path: Path) -> None:
    image_size = SMALLEST_SIZES.get(name, 32)
    torch.manual_seed(0)
    student = build_student(name, embedding_dim=5, image_size=image_size)
    images = torch.randn(2, 3, image_size, image_size)
    before = student.head[0].weight.detach().clone()  # type: ignore[index]
    (student(images) - torch.randn(2, 5)).square().mean().backward()
    without_gradient = [key for key, parameter in student.named_parameters() if parameter.grad is None]
    assert not without_gradient
    assert all(bool(parameter.grad.isfinite().all()) for parameter in student.parameters())  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in student.parameters():
            # By the sign alone, for normalising two last pixels makes gradients of any size.
            parameter.sub_(1e-4 * parameter.grad.sign_())  # type: ignore[union-attr]
            parameter.grad = None
    assert not torch.equal(before, student.head[0].weight)  # type: ignore[index]

    with torch.inference_mode():
        embeddings = student.eval()(images)
        assert embeddings.shape == (2, 5)
        assert embeddings.isfinite().all()
        if name in OVER_300_MILLION_PARAMETERS:  # the copies made by saving and loading take many gigabytes
            return
        save_weights(student, tmp_path / "student.safetensors")
        del student
        loaded = load_student(config_of(name, image_size), tmp_path / "student.safetensors", device=torch.device("cpu"))
        torch.testing.assert_close(loaded(images), embeddings, rtol=1e-3, atol=1e-4)


def test_names__are_sorted_and_has_torchvision_and_wide_resnets() -> None:
    names = TorchvisionFamily().names()
    assert names == sorted(names)
    assert set(torchvision.models.list_models(module=torchvision.models)) < set(names)
    assert {"resnet50w2", "resnet50w4", "resnet50w5"} <= set(names)


def test_build_student__is_in_train_mode_and_says_how_wide_its_features_are() -> None:
    student = build_student("squeezenet1_1", embedding_dim=3, image_size=32)
    assert all(module.training for module in student.modules())
    assert student.features(torch.zeros(2, 3, 32, 32)).shape == (2, student.feature_dim)


def test_build_backbone__says_how_to_install_open_clip_for_a_name_that_only_it_may_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ProtoRKDError, match=r"--student .* must .* got 'RN50'.*pip install 'protorkd\[open-clip\]'"):
        build_backbone("RN50", image_size=32)


def test_build_backbone__prefers_torchvision_where_open_clip_has_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, name: str) -> bool:
        raise AssertionError(name)

    monkeypatch.setattr("stages.components.backbones.open_clip_family.OpenCLIPFamily.lists", refuse)
    assert find_family("resnet18") == (FAMILIES[0], "resnet18")
