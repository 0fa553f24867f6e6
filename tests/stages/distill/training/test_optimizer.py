"""Which parameters decay, and the learning rate's way."""

import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from stages.distill.training.optimizer import (
    AdamWSettings,
    build_optimizer,
    parameter_groups,
    set_lr,
    warmup_cosine,
)


def test_parameter_groups__spare_biases_and_gains() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, spared = parameter_groups(module, 0.1)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert [parameter.shape for parameter in spared["params"]] == [(4,), (4,), (4,), (2,)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_parameter_groups__count_scalars_and_channel_gains_as_vectors() -> None:
    module = nn.ParameterDict({"logit_scale": torch.zeros(()), "layer_scale": torch.zeros(8, 1, 1)})
    decayed, spared = parameter_groups(module, 0.1)
    assert (len(decayed["params"]), len(spared["params"])) == (0, 2)


def test_parameter_groups__leave_out_frozen_parameters_and_name_the_others_once() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    module[0].requires_grad_(requires_grad=False)
    groups = parameter_groups(module, 0.1)
    named = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(named) == sorted(id(parameter) for parameter in module[1].parameters())


def test_parameter_groups__train_also_where_one_is_empty() -> None:
    module = nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW(parameter_groups(module, 0.1), lr=0.1)
    before = module.weight.detach().clone()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, module.weight)


CONVOLUTIONS = nn.Conv2d(3, 4, 3)
TRANSFORMER = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2))


@pytest.mark.parametrize(
    ("student", "betas", "eps"),
    [
        (CONVOLUTIONS, (0.9, 0.999), 1e-8),
        (TRANSFORMER, (0.9, 0.98), 1e-6),
        (timm.create_model("test_vit"), (0.9, 0.98), 1e-6),
        (timm.create_model("test_resnet"), (0.9, 0.999), 1e-8),
        (torchvision.models.swin_transformer.ShiftedWindowAttention(4, [2, 2], [0, 0], 1), (0.9, 0.999), 1e-8),
    ],
)
def test_build_optimizer__suits_the_architecture_unless_told(
    student: nn.Module, betas: tuple[float, float], eps: float
) -> None:
    own = build_optimizer(student, nn.Module(), AdamWSettings(lr=0.1, weight_decay=0.2)).defaults
    assert (own["lr"], own["betas"], own["eps"]) == (0.1, betas, eps)
    settings = AdamWSettings(lr=0.1, weight_decay=0.2, beta1=0.5, beta2=0.6, eps=0.7)
    told = build_optimizer(student, nn.Module(), settings).defaults
    assert (told["betas"], told["eps"]) == ((0.5, 0.6), 0.7)


def test_build_optimizer__trains_objectives_without_decay() -> None:
    objectives = nn.Linear(2, 3)
    groups = build_optimizer(CONVOLUTIONS, objectives, AdamWSettings(lr=0.1, weight_decay=0.2)).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays[id(CONVOLUTIONS.weight)] == 0.2
    assert [decays[id(parameter)] for parameter in objectives.parameters()] == [0.0, 0.0]


def test_warmup_cosine__rises_linearly_from_its_first_step_to_one() -> None:
    factors = [warmup_cosine(step, warmup_steps=4, total_steps=20) for step in range(5)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup_cosine__falls_to_zero_and_stays_there() -> None:
    factors = [warmup_cosine(step, warmup_steps=4, total_steps=20) for step in range(4, 23)]
    assert factors == sorted(factors, reverse=True)
    assert factors[8] == pytest.approx(0.5)
    assert factors[4] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factors[16:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 1), (0, 5), (5, 5), (9, 5)])
def test_warmup_cosine__trains_every_step_of_a_short_run(warmup_steps: int, total_steps: int) -> None:
    factors = [warmup_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps) for step in range(total_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert warmup_cosine(total_steps, warmup_steps=warmup_steps, total_steps=total_steps) == 0.0


def test_build_optimizer__scales_the_rate_of_the_backbone_alone() -> None:
    student = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 4)})
    objectives = nn.Linear(2, 3)
    optimizer = build_optimizer(student, objectives, AdamWSettings(lr=0.5, weight_decay=0.2, backbone_lr_scale=0.1))
    set_lr(optimizer, 0.4)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for module, lr in ((student["backbone"], 0.04), (student["head"], 0.4), (objectives, 0.4)):
        assert [groups[id(parameter)]["lr"] for parameter in module.parameters()] == [pytest.approx(lr)] * 2
    decays = [groups[id(parameter)]["weight_decay"] for parameter in student.parameters()]
    assert decays == [0.2, 0.0, 0.2, 0.0]
    plain = build_optimizer(student, objectives, AdamWSettings(lr=0.5, weight_decay=0.2))
    set_lr(plain, 0.4)
    assert {group["lr"] for group in plain.param_groups} == {0.4}
