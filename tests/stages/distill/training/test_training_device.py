"""What torch is told while a student trains on a GPU; the flags are there without one, so a CPU shows them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.backends import cudnn
from workbench import DISTILL, ROOT, Cli, Pairs, Trained

import stages.distill.run
from data_schemas.errors import ProtoRKDError
from stages.distill.training.step import TrainingStep
from stages.distill.training.training_device import measuring_device, training_device
from stages.distill.training.validation import Validation

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REFUSAL = (
    "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")  # which makes the fixture put the variable back, whatever becomes of it
    monkeypatch.delenv(WORKSPACE)


@pytest.fixture
def _other_flags() -> Iterator[None]:
    """Flags that a caller may have set, all other than torch's own."""
    cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)


def training(device: torch.device, *, deterministic: bool) -> AbstractContextManager[None]:
    return training_device(device, deterministic=deterministic, trained="--student vgg11 and --loss infonce=1")


def flags() -> dict[str, Any]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": cudnn.deterministic,
        "tries": cudnn.benchmark,
        "tf32": cudnn.allow_tf32,
    }


PLAIN = {"deterministic": False, "warns": False, "cudnn": False, "tries": False, "tf32": True}


@pytest.mark.parametrize(
    ("device", "deterministic", "changed"),
    [
        (GPU, False, {"tries": True, "tf32": False}),
        (GPU, True, {"deterministic": True, "cudnn": True, "tf32": False}),
        (CPU, False, {"tf32": False}),
        (CPU, True, {"tf32": False}),
    ],
)
def test_training_device__sets_flags_and_puts_them_back(
    device: torch.device, deterministic: bool, changed: dict[str, bool]
) -> None:
    assert flags() == PLAIN
    with training(device, deterministic=deterministic):
        assert flags() == PLAIN | changed
    assert flags() == PLAIN


@pytest.mark.usefixtures("_other_flags")
@pytest.mark.parametrize("deterministic", [False, True])
def test_training_device__puts_back_what_the_caller_had_set(deterministic: bool) -> None:
    before = flags()
    with pytest.raises(ZeroDivisionError), training(GPU, deterministic=deterministic):
        raise ZeroDivisionError
    assert flags() == before
    assert before["tries"]
    assert before["warns"]


def test_deterministic__names_the_operation_that_has_no_such_form() -> None:
    with (
        pytest.raises(ProtoRKDError, match="adaptive_avg_pool2d_backward_cuda has none, and got --student vgg11 and"),
        training(GPU, deterministic=True),
    ):
        raise RuntimeError(REFUSAL)
    assert flags() == PLAIN


@pytest.mark.parametrize(("deterministic", "message"), [(True, "CUDA out of memory"), (False, REFUSAL)])
def test_training_device__lets_other_errors_through(deterministic: bool, message: str) -> None:
    with pytest.raises(RuntimeError, match=message[:20]), training(GPU, deterministic=deterministic):
        raise RuntimeError(message)


def test_deterministic__tells_cublas_and_leaves_the_word_for_the_next_training() -> None:
    with training(GPU, deterministic=True):
        assert os.environ[WORKSPACE] == ":4096:8"
    assert os.environ[WORKSPACE] == ":4096:8"
    with training(GPU, deterministic=True):
        pass


@pytest.mark.parametrize("word", [":4096:8", ":16:8"])
def test_deterministic__takes_what_the_environment_says_to_cublas(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv(WORKSPACE, word)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"allocation.all.allocated": 3})
    with training(GPU, deterministic=True):
        assert os.environ[WORKSPACE] == word


def test_deterministic__refuses_another_word_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":4096:2")
    with pytest.raises(ProtoRKDError, match=r"or :16:8 for --deterministic; got :4096:2\. Set it"):
        training(GPU, deterministic=True).__enter__()
    assert flags() == PLAIN


def test_deterministic__comes_too_late_where_cublas_has_worked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"allocation.all.allocated": 3})
    with pytest.raises(ProtoRKDError, match="got nothing, and this process has computed on the GPU already"):
        training(GPU, deterministic=True).__enter__()
    assert WORKSPACE not in os.environ


@pytest.mark.parametrize("deterministic", [False, True])
def test_measuring_device__takes_any_operation_and_tries_nothing_within_a_training(deterministic: bool) -> None:
    with training(GPU, deterministic=deterministic):
        before = flags()
        with measuring_device():
            assert flags() == before | {"deterministic": False, "tries": False}
        assert flags() == before


@pytest.mark.parametrize(("words", "deterministic"), [((), False), (("--deterministic",), True)])
def test_distill__trains_under_its_devices_flags_and_validates_without_trying(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], deterministic: bool
) -> None:
    seen: dict[str, list[dict[str, Any]]] = {"step": [], "validation": []}

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen[name].append(flags())
            return function(*args, **options)

        return call

    # A CPU trains here, told what a GPU would be.
    monkeypatch.setattr(
        stages.distill.run, "training_device", lambda device, **options: training_device(GPU, **options)
    )
    for name in ("forward", "loss", "backward", "update"):
        monkeypatch.setattr(TrainingStep, name, watched("step", getattr(TrainingStep, name)))
    monkeypatch.setattr(Validation, "_embed", watched("validation", Validation._embed))
    run_cli(*DISTILL, "--validation-fraction", 0.2, *words)
    shared = {"deterministic": deterministic, "warns": False, "cudnn": deterministic, "tf32": False}
    assert seen["step"]
    assert all(found == shared | {"tries": not deterministic} for found in seen["step"])
    assert len(seen["validation"]) == 2
    assert all(found == shared | {"tries": False, "deterministic": False} for found in seen["validation"])
    assert flags() == PLAIN


def test_distill__says_which_student_and_objective_cannot_be_deterministic(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError(REFUSAL)

    monkeypatch.setattr(
        stages.distill.run, "training_device", lambda device, **options: training_device(GPU, **options)
    )
    monkeypatch.setattr(TrainingStep, "backward", refuse)
    message = run_cli.fails(*DISTILL, "--deterministic")
    assert "adaptive_avg_pool2d_backward_cuda has none, and got --student squeezenet1_1 and --loss infonce=1" in message


def test_deterministic__changes_nothing_on_a_cpu_and_is_no_part_of_what_was_asked_for(
    undisturbed: Trained, trained: dict[str, Any], run_cli: Cli
) -> None:
    assert run_cli(*DISTILL, "--deterministic")["status"] == "unchanged"
    assert run_cli(*DISTILL, "--deterministic", "--force")["digest"] == trained["digest"]


def test_training_device__does_not_import_the_compiler_for_nothing() -> None:
    code = (
        "import sys, torch\n"
        "from stages.distill.training.training_device import measuring_device, training_device\n"
        "before = set(sys.modules)\n"
        "with training_device(torch.device('cpu'), deterministic=True, trained=''), measuring_device():\n"
        "    pass\n"
        "with training_device(torch.device('cuda'), deterministic=False, trained=''), measuring_device():\n"
        "    pass\n"
        "assert not [name for name in set(sys.modules) - before if name.startswith('torch.')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
