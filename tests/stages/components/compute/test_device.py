"""--device: no silent CPU where there is a GPU, one GPU that is torch's own, and a line of the log that says which."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import DISTILL, Cli, Pairs

from data_schemas.errors import ProtoRKDError
from stages.components.compute import device as subject
from stages.components.compute.device import choose_device, choose_devices, describe_work
from stages.components.compute.gpu_driver import read_driver
from stages.components.compute.precision import choose_precision

CPU = torch.device("cpu")
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
AUTO = choose_precision("auto", CPU)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for a machine with a driver of NVIDIA, on which torch, built for CUDA 13, finds no GPU."""
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(subject, "read_driver", partial(read_driver, tmp_path / "version"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two GPUs, the second of which is torch's own; and those that become so."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch, "empty", lambda *sizes, device: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return devices


def test_auto__takes_the_cpu_where_there_is_no_driver(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "read_driver", lambda: None)
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("visible", ["", "-1"])
def test_auto__takes_the_cpu_where_the_environment_hides_the_gpus(
    driver: None, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_device("auto") == CPU


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("cuda", "reason"),
    [(None, "is a build without CUDA"), ("13.2", "is built for CUDA 13.2, which needs an NVIDIA driver of 580.65")],
)
def test_auto__is_an_error_where_there_is_a_driver_but_no_use_of_it(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, reason: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ProtoRKDError, match="--device auto must find the GPU of a machine that has an") as caught:
        choose_device("auto")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("Or pass --device cpu to do without.")
    assert choose_device("cpu") == CPU


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda__that_is_not_to_be_had_says_why(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*args: object, **words: object) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "current_device", refuse)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ProtoRKDError, match=rf"got {name}\. torch .* is built for CUDA 13\.2, which needs"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "device"), [("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda", "cuda:1"), ("auto", "cuda:1")]
)
def test_choose_device__makes_a_gpu_torchs_own(chosen: list[torch.device], name: str, device: str) -> None:
    assert choose_device(name) == torch.device(device)
    assert chosen == [torch.device(device)]


def test_choose_device__of_torchruns_process_takes_the_gpu_of_its_number(
    chosen: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device("auto") == torch.device("cuda:0")
    assert chosen == [torch.device("cuda:0")]


def test_choose_devices__makes_the_first_of_several_torchs_own(chosen: list[torch.device]) -> None:
    assert choose_devices("cuda:1, cuda:0") == [torch.device("cuda:1"), torch.device("cuda:0")]
    assert chosen == [torch.device("cuda:1")]


def test_choose_device__leaves_torchs_gpu_alone_for_a_cpu(chosen: list[torch.device]) -> None:
    assert choose_device("cpu") == CPU
    assert not chosen


def test_choose_device__takes_one_name_alone() -> None:
    with pytest.raises(ProtoRKDError, match="--device must be a device that torch can use here"):
        choose_device("cpu,cpu")


@pytest.mark.usefixtures("chosen")
def test_describe_work__names_gpus() -> None:
    assert describe_work(torch.device("cuda:0"), precision="bf16") == "cuda:0 (GPU 0), bf16"
    devices = choose_devices("cuda:0,cuda:1")
    assert describe_work(*devices, precision="fp32") == "cuda:0 (GPU 0), cuda:1 (GPU 1), fp32"
    assert describe_work(CPU, precision="fp32") == "cpu, fp32"


def test_stages__say_once_where_they_compute_and_nothing_where_they_do_not(
    store: Path, run_cli: Cli, encoded: Pairs, word_vectors: Path
) -> None:
    manifest = ("--manifest", encoded.manifest, "--teacher", word_vectors, "--device", "cpu")
    losses = ("--loss", "proto-rkd=1", "--loss-option", "proto-rkd.num-prototypes=4")
    retrieval = ("--retrieval", encoded.manifest, "--device", "cpu", "--precision", "fp32", "--workers", 0)
    embed = ("embed", "--manifest", encoded.manifest, "--device", "cpu", "--precision", "fp32", "--workers", 0)
    calls: list[tuple[tuple[Any, ...], list[str]]] = [
        (("encode-teacher", *manifest, "--limit", 9, "--force"), ["encode-teacher: on cpu, fp32"]),
        (("encode-teacher", *manifest), []),
        ((*DISTILL, *losses), ["distill: on cpu, fp32", f"prototypes: on cpu, {AUTO}"]),
        ((*DISTILL, *losses), []),
        (("prototypes", "--num-prototypes", 5, "--device", "cpu"), [f"prototypes: on cpu, {AUTO}"]),
        (("evaluate", *retrieval), ["evaluate: on cpu, fp32"]),
        (embed, ["embed: on cpu, fp32"]),
        (("search", "--text", "red circle", "--device", "cpu"), ["search: the teacher on cpu, fp32"]),
        (("search", "--picture", encoded.root / encoded.images[0]), ["search: the student on cpu, fp32"]),
    ]
    for words, lines in calls:
        result = run_cli.run(*words)
        assert result.exit_code == 0, result.output
        assert [line for line in result.stderr.splitlines() if " on cpu, " in line] == lines
