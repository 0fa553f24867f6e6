"""--precision: what the device multiplies in hardware, and no emulation by accident."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import Cli, Pairs

from data_schemas.errors import ProtoRKDError
from stages.components.compute import precision
from stages.components.compute.precision import autocast, choose_precision, full_float32

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


CALLERS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "new": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "everything": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.fixture
def _tf32() -> Iterator[None]:
    """Begin and end with torch's own settings, whatever other tests have set."""
    _settle()
    yield
    _settle()


def _settle() -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place, value in (
        (torch.backends, "none"),
        *((place, value) for place, value in zip(places(), FIRST, strict=True)),
    ):
        place.fp32_precision = value


def places() -> tuple[Any, ...]:
    backends: Any = torch.backends
    return (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)


FIRST = ["none", "none", "tf32", "tf32"]  # of torch, before anybody has set anything: cuDNN takes TF32


@pytest.mark.usefixtures("_tf32")
@pytest.mark.parametrize("caller", CALLERS)
def test_full_float32__takes_tf32_nowhere_and_puts_back_what_it_found(caller: str) -> None:
    assert [place.fp32_precision for place in places()] == FIRST
    CALLERS[caller]()
    before = [place.fp32_precision for place in places()]
    with full_float32():
        assert [place.fp32_precision for place in places()] == ["ieee"] * 4
        # Libraries still read these, and torch refuses to give them where they disagree with those above.
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert [place.fp32_precision for place in places()] == before


@pytest.mark.usefixtures("_tf32")
def test_passes__take_no_tf32(
    encoded_session: tuple[Path, Pairs], trained: dict[str, Any], run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import protorkd
    from stages.components.student.student import Student
    from stages.components.teacher.network import TeacherNetwork

    seen = []

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            seen.append((name, [place.fp32_precision for place in places()]))
            return function(*args)

        return call

    _, pairs = encoded_session
    monkeypatch.setattr(Student, "features", watched("student", Student.features))
    monkeypatch.setattr(TeacherNetwork, "_embed", watched("teacher", TeacherNetwork._embed))
    run_cli("embed", "--manifest", pairs.manifest, "--device", "cpu", "--precision", "bf16", "--workers", 0)
    protorkd.load_student(trained["path"], store=run_cli.store, device="cpu").encode(pairs.root / pairs.images[0])
    run_cli("search", "--text", "red circle", "--device", "cpu")
    assert seen == [("student", ["ieee"] * 4)] * 2 + [("teacher", ["ieee"] * 4)]
    assert [place.fp32_precision for place in places()] == FIRST


@pytest.mark.gpu
def test_full_float32__convolves_on_a_gpu_as_float32_does() -> None:
    generator = torch.Generator().manual_seed(0)
    images, kernels = (torch.randn(*shape, generator=generator).cuda() for shape in ((8, 64, 32, 32), (64, 64, 3, 3)))
    exact = torch.nn.functional.conv2d(images.double(), kernels.double())
    with full_float32():
        found = torch.nn.functional.conv2d(images, kernels).double()
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()  # TF32 keeps 10 bits: 1e-3
