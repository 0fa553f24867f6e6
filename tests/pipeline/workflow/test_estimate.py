"""--dry-run: what would be done, and what it would take by what earlier runs took; nothing is written."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from toy_stage import CHILD, TOY

from data_schemas.errors import ProtoRKDError
from pipeline.commands.stages import stage_command
from pipeline.workflow.estimate import forecast

STAGES = (TOY, CHILD)


@pytest.fixture
def dry_run(toy):
    def dry_run(*words, stage=TOY):
        words = [*map(str, words), "--store", str(toy.store.root), "--dry-run"]
        result = CliRunner().invoke(stage_command(stage), words, obj=STAGES)
        if isinstance(result.exception, ProtoRKDError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return dry_run


def everything(toy):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in toy.store.root.rglob("*")}


def took(toy, artifact, seconds):
    """Let a record say that its run took so long."""
    replace(artifact.record, seconds=seconds).write(artifact.path)


def test_dry_run__writes_nothing(toy, dry_run):
    dry_run("--source", toy.source)
    assert not toy.store.root.exists()
    toy.run()
    before = everything(toy)
    for words in ((), ("--scale", 2), ("--force",), ("--json",)):
        dry_run("--source", toy.source, *words)
    dry_run(stage=CHILD)
    assert everything(toy) == before


def test_dry_run__says_that_there_is_nothing_to_go_by(toy, dry_run):
    assert dry_run("--source", toy.source, "--num-parts", 4).splitlines()[1:] == [
        "  4 made",
        "  time: no earlier run with the same word to go by",
        "  disk: about 40 B",
    ]


def test_dry_run__goes_by_the_pace_of_an_earlier_run_that_is_like_it(toy, dry_run):
    earlier = toy.run(num_parts=3).artifact
    took(toy, earlier, 30.0)
    lines = dry_run("--source", toy.source, "--num-parts", 12).splitlines()
    assert lines[0].endswith(f"against {earlier.path.name[:12]}: --num-parts: 3 -> 12")
    assert lines[2] == f"  time: about 2 min, as {earlier.path.name[:12]} took 30 s for 3 made"
    assert "no earlier run" in dry_run("--source", toy.source, "--word", "other")
    took(toy, earlier, 0.0)  # which is said of what was made in several runs
    assert "no earlier run" in dry_run("--source", toy.source, "--num-parts", 12)


def test_dry_run__goes_by_the_largest_of_the_runs_that_are_like_it(toy, dry_run):
    for num_parts, seconds in ((30, 60.0), (3, 30.0), (2, 10.0)):
        took(toy, toy.run(num_parts=num_parts).artifact, seconds)
    assert "time: about 2 min, as " in dry_run("--source", toy.source, "--num-parts", 60)


def test_dry_run__says_why_as_why_does(toy, dry_run):
    artifact = toy.run().artifact
    unchanged = f"toy would not run: unchanged, {artifact.path} has it.\n"
    assert dry_run("--source", toy.source) == unchanged
    assert dry_run("--source", toy.source, "--force").splitlines()[0].endswith(": forced")


def test_dry_run__says_that_a_killed_run_is_gone_on_with(toy, dry_run):
    with pytest.raises(RuntimeError):
        toy.run(fail_after=2)
    assert "goes on from what an earlier run left" in dry_run("--source", toy.source)


def test_dry_run__prints_one_json_object(toy, dry_run):
    earlier = toy.run().artifact
    took(toy, earlier, 3.0)
    values = json.loads(dry_run("--source", toy.source, "--scale", 2, "--json"))
    assert (values["status"], values["would_run"]) == ("dry run", True)
    fingerprint = earlier.record.fingerprint
    assert values["estimate"] == {"counts": {"made": 3}, "seconds": 3.0, "gone_by": fingerprint, "bytes": 30}
    values = json.loads(dry_run("--source", toy.source, "--json"))
    assert (values["would_run"], values["path"]) == (False, str(earlier.path))
    assert "estimate" not in values


def test_forecast__of_a_stage_that_does_not_say_its_work_goes_by_the_newest_run(toy):
    toy.run()
    child = toy.run_child().artifact
    took(toy, child, 7.0)
    inputs = CHILD.inputs(toy=toy.run(scale=2.0).artifact.record.fingerprint)
    found = forecast(CHILD, params=CHILD.params(), inputs=inputs, runtime=None, store=toy.store, stages=STAGES)
    assert (found.seconds, found.size) == (7.0, child.record.size)


def test_record__tells_how_long_a_run_took_unless_it_was_broken_off(toy):
    assert toy.run(pause_s=0.01).artifact.record.seconds >= 0.03
    with pytest.raises(RuntimeError):
        toy.run(scale=2.0, fail_after=2)
    assert toy.run(scale=2.0).artifact.record.seconds == 0.0
