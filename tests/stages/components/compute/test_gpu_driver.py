"""Why there is no GPU: from the driver's own file, torch's build and the environment, all of them made up."""

from pathlib import Path

import pytest

from stages.components.compute.gpu_driver import explain_missing_gpu, hides_gpus, read_driver

# As the drivers write it; the second is that of the open kernel modules.
CLOSED = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3-AF03)\n"


def explain(tmp_path: Path, **words: str | None) -> str:
    (tmp_path / "nvidia0").touch()
    values = {"driver": "580.65.06", "torch_version": "2.15.0", "cuda": "13.2", "visible": None}
    return explain_missing_gpu(**{**values, **words}, devices=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "version"),
    [(CLOSED, "535.104.05"), (OPEN, "580.65.06"), ("NVRM version: none that anyone knows\n", ""), ("", "")],
)
def test_read_driver__finds_the_version_among_other_numbers(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    assert read_driver(tmp_path / "version") == version


def test_read_driver__finds_none_without_its_file(tmp_path: Path) -> None:
    assert read_driver(tmp_path / "version") is None


@pytest.mark.parametrize(
    ("visible", "hides"), [(None, False), ("", True), ("-1", True), (" -1,0", True), ("0", False), ("1,-1", False)]
)
def test_hides_gpus__tells_by_the_first_that_is_named(visible: str | None, hides: bool) -> None:
    assert hides_gpus(visible) == hides


@pytest.mark.parametrize(
    ("words", "reason", "remedy"),
    [
        ({"cuda": None}, "torch 2.15.0 is a build without CUDA", "Install a torch that is built for CUDA 13."),
        (
            {"cuda": None, "driver": "550.54.14"},
            "is a build without CUDA",
            "Install a torch that is built for CUDA 12.",
        ),
        (
            {"cuda": None, "driver": "470.82.01"},
            "is a build without CUDA",
            "Install a torch that is built for CUDA, and a newer driver.",
        ),
        (
            {"driver": "550.54.14"},
            "which needs an NVIDIA driver of 580.65 or newer; the one that is loaded is 550.54.14",
            "Install a newer driver, or a torch that is built for CUDA 12.",
        ),
        (
            {"cuda": "12.8", "driver": "525.59"},
            "is built for CUDA 12.8, which needs an NVIDIA driver of 525.60 or newer",
            "Install a newer driver.",
        ),
        (
            {"visible": "7"},
            "no GPU answers",
            "nvidia-smi says, and whether there is the one that CUDA_VISIBLE_DEVICES=7",
        ),
        ({"driver": "", "cuda": "12.8"}, "the NVIDIA driver that is loaded does not rule that out", "nvidia-smi says."),
        ({"cuda": "14.0"}, "no GPU answers", "nvidia-smi says."),
        ({"visible": "-1"}, "CUDA_VISIBLE_DEVICES=-1 hides every GPU", "Unset it"),
        ({"driver": None}, "No NVIDIA driver is loaded", "Install one"),
    ],
)
def test_explain__gives_a_reason_and_a_remedy(
    tmp_path: Path, words: dict[str, str | None], reason: str, remedy: str
) -> None:
    text = explain(tmp_path, **words)
    assert reason in text
    assert remedy in text


@pytest.mark.parametrize(("driver", "cuda"), [("525.60", "12.8"), ("580.65", "13.2"), ("590.44.01", "12.6")])
def test_explain__calls_no_driver_too_old_that_is_new_enough(tmp_path: Path, driver: str, cuda: str) -> None:
    assert "no GPU answers" in explain(tmp_path, driver=driver, cuda=cuda)


def test_explain__knows_a_container_without_gpus(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    values = {"driver": "580.65.06", "torch_version": "2.15.0", "cuda": "13.2", "visible": None}
    text = explain_missing_gpu(**values, devices=tmp_path)  # type: ignore[arg-type]
    assert "no GPU of it is to be seen" in text
    assert "(--gpus all)" in text
