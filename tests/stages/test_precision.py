"""--precision: what the device multiplies in hardware, and no emulation by accident."""

import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages import precision
from stages.precision import autocast, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto__takes_bf16_only_where_the_device_has_it(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, chosen: str
) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda device: has_bf16)
    assert choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_precision__that_is_named_is_taken(name: str) -> None:
    assert choose_precision(name, CPU) == name


def test_fp16__is_refused_away_from_a_gpu() -> None:
    with pytest.raises(ProtoRKDError, match="--precision must be auto, fp32 or bf16 on cpu; got fp16"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("capability", "chosen"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")], ids=["T4", "A100", "H100"]
)
def test_auto__goes_by_the_generation_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == chosen


def test_autocast__of_fp32_changes_nothing_and_of_bf16_is_for_its_context() -> None:
    with autocast("fp32", CPU)():
        assert not torch.is_autocast_enabled("cpu")
    make = autocast("bf16", CPU)
    for _ in range(2):  # a maker of contexts: one a step
        with make():
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
