"""After a power cut at any moment of a real stage its artifact is absent or whole, and the same command ends well."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from power_cuts import PowerCuts, Tree, lay_out
from workbench import Cli, counted_captions

from pipeline.commands.artifacts import artifact_problems
from pipeline.store.store import Store

STAGE = "encode-teacher"
NUM_STATES = 12


def spread(states: list[Tree], num: int) -> list[Tree]:
    """So many states, evenly over the run; the last are those around the commit."""
    if len(states) <= num:
        return states
    return [states[round(index * (len(states) - 1) / (num - 1))] for index in range(num)]


@pytest.mark.parametrize("num_states", [NUM_STATES, pytest.param(10_000, marks=pytest.mark.slow)])
def test_encode__survives_a_power_cut_at_any_moment(
    num_states: int, write_manifest: Callable[..., Path], word_vectors: Path, run_cli: Cli, tmp_path: Path
) -> None:
    words = (STAGE, "--manifest", write_manifest(counted_captions(600)), "--teacher", word_vectors, "--shard-rows", 256)
    expected = Cli(tmp_path / "undisturbed")(*words)["digest"]
    (run_cli.store / STAGE).mkdir(parents=True)
    cuts = PowerCuts(run_cli.store / STAGE)
    with cuts.watched():
        run_cli(*words)
    assert cuts.num_operations > 20
    assert len(cuts.states) > 50
    for tree in spread(cuts.states, num_states):
        after = Cli(tmp_path / "after")
        lay_out(tree, after.store / STAGE)
        for artifact in Store(after.store).artifacts():
            assert artifact_problems(artifact) == {}, sorted(tree)
        outcome = after(*words)
        assert outcome["digest"] == expected, sorted(tree)
        assert artifact_problems(Store(after.store).artifacts()[0]) == {}
        shutil.rmtree(after.store)
