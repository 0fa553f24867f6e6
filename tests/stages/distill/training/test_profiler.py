"""Where the time of steps goes is written where it is asked for, and the parts add up."""

import json
from pathlib import Path

import pytest
import torch
from workbench import DISTILL, Cli, Pairs, Trained

from stages.distill.training.profiler import PARTS, NoClock, StepClock, summarise

PARTS_OF_A_PROFILE = {*PARTS, "everything else", "step"}


def test_profile__is_written_beside_the_metrics_and_changes_nothing(
    encoded: Pairs, run_cli: Cli, undisturbed: Trained
) -> None:
    outcome = run_cli(*DISTILL, "--epochs", 6, "--profile")
    logs = Path(outcome["path"]) / "logs"
    profile = json.loads((logs / "profile.json").read_text())
    assert profile["steps"] == 18
    assert profile["images_per_s"] > 0
    assert set(profile["parts"]) == PARTS_OF_A_PROFILE
    shares = {name: part["share"] for name, part in profile["parts"].items()}
    assert sum(share for name, share in shares.items() if name != "step") == pytest.approx(1)
    for name in ("student forward", "backward", "optimizer"):
        assert 0 < profile["parts"][name]["median_s"] < profile["parts"]["step"]["median_s"]
    assert profile["apart_s"]["saving"] > 0
    events = json.loads((logs / "trace.json").read_text())["traceEvents"]
    assert any("convolution" in str(event.get("name")) for event in events)


def test_profile__of_a_run_leaves_its_digest(encoded: Pairs, run_cli: Cli, undisturbed: Trained) -> None:
    assert run_cli(*DISTILL, "--profile")["digest"] == undisturbed.outcome["digest"]


def test_summary__gives_medians_means_and_shares() -> None:
    steps = [{"student forward": forward, "step": 4.0} for forward in (1.0, 1.0, 4.0)]
    summary = summarise(steps, num_images=24, apart={"validation": 5.0})
    assert isinstance(summary["parts"], dict)
    assert summary["parts"]["student forward"] == {"median_s": 1.0, "mean_s": 2.0, "share": 0.5}
    assert summary["parts"]["everything else"]["share"] == 0.5
    assert summary["images_per_s"] == 2.0
    assert summary["seconds_of_steps"] == [4.0, 4.0, 4.0]
    assert summary["apart_s"] == {"validation": 5.0, "saving": 0.0}


def test_clock__leaves_out_what_is_apart_from_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("stages.distill.training.profiler.time.monotonic", lambda: now[0])
    clock = StepClock(tmp_path, torch.device("cpu"))
    now[0] = 100.0  # before the first part
    for _ in range(2):
        for name, seconds in (("targets", 1.0), ("backward", 2.0), ("backward", 3.0), ("validation", 50.0)):
            with clock.part(name):
                now[0] += seconds
        now[0] += 0.5
        clock.add(8)
        clock.step()
    clock.close()
    profile = json.loads((tmp_path / "profile.json").read_text())
    medians = {name: part["median_s"] for name, part in profile["parts"].items() if part["median_s"]}
    assert medians == {"targets": 1.0, "backward": 5.0, "everything else": 0.5, "step": 6.5}
    assert profile["apart_s"]["validation"] == 100.0
    assert profile["images_per_s"] == pytest.approx(16 / 13)


def test_no_clock__is_one_that_costs_nothing() -> None:
    clock = NoClock()
    assert clock.part("targets") is clock.part("backward")


@pytest.mark.gpu
def test_clock__on_a_gpu_times_the_device(tmp_path: Path) -> None:
    clock = StepClock(tmp_path, torch.device("cuda"))
    matrix = torch.ones(4096, 4096, device="cuda")
    for _ in range(3):
        with clock.part("student forward"):
            matrix @ matrix
        clock.step()
    clock.close()
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["parts"]["student forward"]["median_s"] > 1e-4
