"""States are written while training goes on: in order, one at a time, and before a run says that they are."""

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from power_cuts import PowerCuts, lay_out
from workbench import DISTILL, Cli, Pairs, Trained, at_step, power_cut

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import artifact_problems
from pipeline.store.store import Store
from stages.components.compute.tensor_file import write_tensors
from stages.distill.training import saving, state
from stages.distill.training.state import TrainingState, load_training_state

SAVE_EACH_STEP = ("--save-every-minutes", 1e-9)


class Writing:
    """Stands in for the writer of files: notes their names, does something before each, and says when it writes.

    Args:
        patch: Monkeypatch that puts it in place.
        before: Function that is called before each file.
    """

    def __init__(self, patch: pytest.MonkeyPatch, before: Any = lambda: None) -> None:
        self.names: list[str] = []
        self.is_on = False
        self._before = before
        for module in (saving, state):
            patch.setattr(module, "write_tensors", self._write)

    def _write(self, tensors: Any, path: Path, **words: Any) -> None:
        self.is_on = True
        try:
            self._before()
            write_tensors(tensors, path, **words)
            self.names.append(path.name)
        finally:
            self.is_on = False


def refuse() -> None:
    raise ProtoRKDError("latest.safetensors must be writable; No space left on device. Free some space.")


def test_training__goes_on_while_a_state_is_written(
    encoded: Pairs, run_cli: Cli, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_second_step = threading.Event()
    waits: list[bool] = []
    writing = Writing(monkeypatch, lambda: waits.append(in_second_step.wait(timeout=60)))
    with at_step(1, in_second_step.set):
        outcome = run_cli(*DISTILL, *SAVE_EACH_STEP)
    assert len(writing.names) == 8
    assert all(waits)
    assert outcome["digest"] == undisturbed.outcome["digest"]


def test_saving__has_one_copy_of_the_state_at_a_time(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(monkeypatch)
    real, copies = TrainingState.of, []

    def of(*args: Any, **words: Any) -> TrainingState:
        assert not writing.is_on
        copies.append(len(writing.names))
        return real(*args, **words)

    monkeypatch.setattr(TrainingState, "of", of)
    run_cli(*DISTILL, *SAVE_EACH_STEP)
    assert copies == [0, 1, 2, 4, 5, 6]  # files that were whole by then


def test_saving__writes_weights_before_the_state_that_names_them(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(monkeypatch)
    run_cli(*DISTILL)
    assert writing.names == ["epoch_1.safetensors", "latest.safetensors", "epoch_2.safetensors", "latest.safetensors"]


def test_training__ends_in_the_step_after_a_state_was_refused(
    encoded: Pairs, run_cli: Cli, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, reached = threading.Event(), []

    def refuse_and_say() -> None:
        refused.set()
        refuse()

    with pytest.MonkeyPatch.context() as patch:
        Writing(patch, refuse_and_say)
        with at_step(4, lambda: reached.append(refused.wait(timeout=60))), at_step(5, power_cut):
            message = run_cli.fails(*DISTILL)
    assert "Free some space" in message
    assert set(reached) <= {True}
    assert run_cli(*DISTILL)["digest"] == undisturbed.outcome["digest"]


def test_stop__is_a_refusal_where_its_state_was_refused(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writing(monkeypatch, refuse)
    with at_step(1, lambda: signal.raise_signal(signal.SIGINT)):
        message = run_cli.fails(*DISTILL)
    assert "Free some space" in message
    assert "was asked to stop" not in message


def test_stop__waits_until_its_state_is_written(encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Writing(monkeypatch, lambda: threading.Event().wait(timeout=0.5))
    with at_step(1, lambda: signal.raise_signal(signal.SIGINT)):
        assert "distill was asked to stop and did, after step 2 of 6." in run_cli.stops(*DISTILL)
    [path] = (run_cli.store / "distill").glob(".draft-*/state/latest.safetensors")
    state = load_training_state(path)
    assert state is not None
    assert state.progress.step == 2


@pytest.mark.parametrize("num_states", [6, pytest.param(10_000, marks=pytest.mark.slow)])
def test_distill__survives_a_power_cut_at_any_moment(
    num_states: int, encoded: Pairs, run_cli: Cli, undisturbed: Trained, tmp_path: Path
) -> None:
    (run_cli.store / "distill").mkdir()
    cuts = PowerCuts(run_cli.store / "distill")
    with cuts.watched():
        run_cli(*DISTILL)
    trees = [tree for tree in cuts.states if any(path.endswith("latest.safetensors") for path in tree)]
    assert len(trees) > 20
    for tree in trees[:: -(-len(trees) // num_states)]:
        after = Cli(tmp_path / "after")
        lay_out(tree, after.store / "distill")
        (after.store / "encode-teacher").symlink_to(run_cli.store / "encode-teacher")
        for artifact in Store(after.store).artifacts("distill"):
            assert artifact_problems(artifact) == {}, sorted(tree)
        assert after(*DISTILL)["digest"] == undisturbed.outcome["digest"], sorted(tree)
        shutil.rmtree(after.store)
