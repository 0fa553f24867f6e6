"""A device that prepares batches is sent pixels of a raw pack, and trains on what readers would have made of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from host_reads import Reads
from torch import Tensor
from workbench import DISTILL, Cli, Pairs, at_step, power_cut

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.batch_resize import resize_batch
from stages.components.images.transforms import Normalize
from stages.distill.data import training_data
from stages.distill.data.device_pipeline import DevicePreprocess, prepares_batches

LIGHT = (*DISTILL, "--augmentation", "light", "--log-every-steps", 1)


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a CPU do what a GPU does; and tell how many images each batch had that it resized."""
    sizes_of_batches = []

    def resize(pixels: Tensor, sizes: Tensor, *, size: int, interpolation: str) -> Tensor:
        sizes_of_batches.append(len(sizes))
        return resize_batch(pixels, sizes, size=size, interpolation=interpolation)

    monkeypatch.setattr(training_data, "prepares_batches", lambda device: True)
    monkeypatch.setattr(training_data, "resize_batch", resize)
    return sizes_of_batches


@pytest.fixture
def pack(encoded: Pairs, run_cli: Cli) -> str:
    """Make a raw pack."""
    fingerprint: str = run_cli("pack", "--manifest", encoded.manifest, "--format", "raw")["fingerprint"]
    return fingerprint


def losses_of(outcome: dict[str, Any]) -> list[float]:
    lines = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize(("kind", "prepares"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_batches__are_prepared_by_the_kind_of_device(kind: str, prepares: bool) -> None:
    assert prepares_batches(torch.device(kind)) == prepares


def test_training__is_that_of_the_readers_crops_up_to_rounding(
    pack: str, run_cli: Cli, resized: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = run_cli(*LIGHT, "--packed", pack)
    assert resized == [8] * 6
    monkeypatch.setattr(training_data, "prepares_batches", prepares_batches)
    here = run_cli(*LIGHT, "--packed", pack, "--force")
    assert len(resized) == 6
    assert here["fingerprint"] == there["fingerprint"]
    assert losses_of(there) == pytest.approx(losses_of(here), rel=0.02)


def test_training__ends_with_the_same_bytes_however_it_is_read_and_stopped(
    pack: str, run_cli: Cli, resized: list[int]
) -> None:
    words = (*LIGHT, "--packed", pack)
    with at_step(2, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*words, "--save-every-minutes", 1e-9)
    before = len(resized)
    resumed = run_cli(*words)
    assert len(resized) - before == 4
    for workers in (0, 1):
        assert run_cli(*words, "--force", "--workers", workers)["digest"] == resumed["digest"]


@pytest.mark.parametrize("format_", ["jpeg", "files"])
def test_training__leaves_what_has_to_be_decoded_to_the_readers(
    format_: str, encoded: Pairs, run_cli: Cli, resized: list[int]
) -> None:
    words: tuple[object, ...] = ()
    if format_ == "jpeg":
        words = ("--packed", run_cli("pack", "--manifest", encoded.manifest)["fingerprint"])
    run_cli(*DISTILL, *words, "--epochs", 1)
    assert not resized


def test_training__without_augmentation_sees_what_evaluation_sees(
    pack: str, run_cli: Cli, resized: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*DISTILL, "--augmentation", "none", "--epochs", 1, "--packed", pack)
    there = run_cli(*words)
    monkeypatch.setattr(training_data, "prepares_batches", prepares_batches)
    assert run_cli(*words, "--force")["digest"] == there["digest"]
    assert resized == [8] * 3


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_prepare__reads_no_number(augmentation: str) -> None:
    sizes = torch.tensor([[30, 40], [9, 16], [70, 50], [1, 1]])
    pixels = torch.randint(256, (int(sizes.prod(dim=1).sum()), 3), dtype=torch.uint8)
    normalize = Normalize(Preprocessing(image_size=32), torch.device("cpu"))
    prepare = DevicePreprocess(
        normalize,
        Augment(AUGMENTATIONS[augmentation]),
        lambda pixels, sizes: resize_batch(pixels, sizes, size=32, interpolation="bicubic"),
    )
    reads = Reads()
    with reads:
        assert prepare(pixels, torch.arange(4), sizes).shape == (4, 3, 32, 32)
    assert not reads.found


@pytest.mark.gpu
def test_training__on_a_gpu_is_that_on_a_cpu_up_to_rounding(pack: str, run_cli: Cli) -> None:
    here = run_cli(*LIGHT, "--packed", pack)
    words = (*LIGHT, "--packed", pack, "--device", "cuda", "--force")
    for workers in (0, 2):
        there = run_cli(*words, "--workers", workers)
        assert losses_of(there)[0] == pytest.approx(losses_of(here)[0], rel=0.05)
