from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.distill.checks import check_training
from stages.distill.objectives import OBJECTIVES
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime

RUNTIME = DistillRuntime(device="cpu")


def check(*, runtime: DistillRuntime = RUNTIME, init_from: Path | None = None, **params: Any) -> None:
    check_training(DistillParams(**params), DistillInputs(init_from=init_from), runtime)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_check_training__takes_every_objective_and_draws_no_random_number(name: str) -> None:
    state = torch.get_rng_state()
    check(loss=(name,), student="squeezenet1_1")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": ("infonec=1",)}, "--loss must name a known objective; got 'infonec'. Did you mean 'infonce'"),
        (
            {"loss_option": ("infonce.temprature=1",)},
            "An option of objective infonce must be known; got 'temprature'. Did you mean 'temperature'",
        ),
        (
            {"loss_option": ("infonce.temperature=warm",)},
            "--loss-option infonce.temperature must be a number; got 'warm'",
        ),
        (
            {"loss_option": ("infonce.temperature=-1",)},
            "temperature of infonce must be a finite number above 0; got -1.0",
        ),
        ({"loss_option": ("infonce.corpus-negatives=-1",)}, "corpus_negatives of infonce must not be negative; got -1"),
        ({"student": "resnet81"}, "resnet81"),
        ({"student": "vit_b_16", "image_size": 100}, "--image-size must suit --student vit_b_16; got 100"),
        ({"pretrained": "imagenet"}, "--pretrained must be torchvision, timm, hf or open-clip:TAG; got 'imagenet'"),
        ({"pretrained": "torchvision", "student": "resnet50w2"}, "--pretrained torchvision must go with a model"),
        ({"pretrained": "open-clip:openai"}, "--pretrained open-clip:openai must go with an image tower"),
        ({"precision": "fp16"}, "--precision must be auto, fp32 or bf16 on cpu; got fp16"),
    ],
)
def test_check_training__refuses_what_a_training_would(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtoRKDError) as caught:
        check(**params)
    assert message in str(caught.value)


def test_check_training__refuses_two_sources_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="Only one of --pretrained and --init-from"):
        check(pretrained="torchvision", init_from=tmp_path / "weights.pth")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_check_training__refuses_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ProtoRKDError, match=f"--device must be a device that torch can use here .* got {device}"):
        check(runtime=replace(RUNTIME, device=device))


def test_check_training__refuses_several_devices() -> None:
    with pytest.raises(ProtoRKDError, match="--device must name 1 device; got cpu,cpu"):
        check(runtime=replace(RUNTIME, device="cpu,cpu"))
