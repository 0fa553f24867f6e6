"""Whatever happens to a file of an artifact, it is named; with its inputs at hand the artifact becomes whole again."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from toy_stage import CHILD, TOY, ChildInputs, NoOptions, ToyInputs, ToyParams, ToyRuntime

from data_schemas.artifact_record import JOURNAL_NAME, RECORD_NAME, ArtifactRecord
from pipeline.commands.artifacts import artifact_problems
from pipeline.maintenance.repair import repair
from pipeline.options.declaration import option
from pipeline.runner import context_of, run_stage
from pipeline.store.store import Artifact

pytestmark = pytest.mark.usefixtures("quiet_log")


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES = {"flip": flip, "cut": cut, "empty": lambda path: path.write_bytes(b""), "remove": lambda path: path.unlink()}


@pytest.fixture
def context(toy):
    return context_of(toy.store, stages=(TOY, CHILD))


@pytest.fixture
def made(toy, context, monkeypatch):
    """Return an artifact of a request that names its input by a relative path."""
    monkeypatch.chdir(toy.source.parent)
    artifact = make(context, source=Path(toy.source.name))
    monkeypatch.chdir("/")
    return artifact


def make(context, *, source, **params):
    inputs = ToyInputs(source=source)
    return run_stage(TOY, params=ToyParams(**params), inputs=inputs, runtime=ToyRuntime(), context=context).artifact


def is_whole(artifact):
    """Tell whether what lies there now is what its record says now."""
    return artifact_problems(Artifact(artifact.path, ArtifactRecord.read(artifact.path))) == {}


def files_of(artifact):
    return sorted(path.relative_to(artifact.path).as_posix() for path in artifact.path.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair__makes_any_damaged_file_anew(toy, context, made, damage):
    for name in [*files_of(made)]:
        if name == RECORD_NAME:
            continue
        bytes_before = (made.path / name).read_bytes()
        DAMAGES[damage](made.path / name)
        damaged = (made.path / name).read_bytes() if damage != "remove" else None
        problems = artifact_problems(made)
        assert list(problems) == [name]
        done = repair(made, problems, context=context)
        assert done.problem == ""
        if damaged is not None:
            assert done.set_aside[name].read_bytes() == damaged
        [made] = toy.store.artifacts("toy")
        assert artifact_problems(made) == {}
        if name.startswith(("logs/", JOURNAL_NAME)):
            assert not (made.path / name).exists()
            shutil.rmtree(made.path)
            made = make(context, source=toy.source)
        else:
            assert (made.path / name).read_bytes() == bytes_before


def test_repair__tells_files_that_were_exchanged_apart(context, made):
    first, second = made.path / "parts/0.txt", made.path / "parts/1.txt"
    first.rename(made.path / "parts/x")
    second.rename(first)
    (made.path / "parts/x").rename(second)
    problems = artifact_problems(made)
    assert set(problems) == {"parts/0.txt", "parts/1.txt"}
    assert repair(made, problems, context=context).problem == ""
    assert is_whole(made)


def test_repair__sets_a_foreign_file_aside(context, made):
    (made.path / "parts/foreign").write_text("mine")
    done = repair(made, artifact_problems(made), context=context)
    assert done.set_aside["parts/foreign"].read_text() == "mine"
    assert artifact_problems(made) == {}


def test_repair__says_that_an_input_is_no_longer_what_it_was(toy, context, made):
    toy.source.write_text("others")
    cut(made.path / "parts/0.txt")
    assert "Its inputs are no longer what they were" in repair(made, artifact_problems(made), context=context).problem
    assert [artifact.path for artifact in toy.store.artifacts()] == [made.path]  # nothing was run with the others
    toy.source.unlink()
    cut(made.path / "parts/1.txt")
    problem = repair(made, artifact_problems(made), context=context).problem
    assert problem.startswith("It could not be made anew: ")
    assert "source.txt must be a readable file" in problem


def test_repair__names_the_artifact_that_was_the_newest(toy, context, made):
    child = run_stage(
        CHILD, params=NoOptions(), inputs=ChildInputs(None), runtime=NoOptions(), context=context
    ).artifact
    make(context, source=toy.source, scale=2.0)
    cut(child.path / "child.txt")
    assert repair(child, artifact_problems(child), context=context).problem == ""
    assert is_whole(child)


def test_repair__leaves_other_versions_and_unknown_stages_to_the_user(toy, context, made):
    for stages, wanted in (
        ((replace(TOY, version=2),), "earlier version of toy"),
        ((), "Run again what it was made for"),
    ):
        flip(made.path / "summary.txt")
        done = repair(made, artifact_problems(made), context=context_of(toy.store, stages=stages))
        assert wanted in done.problem
        make(context, source=toy.source)


def test_repair__of_a_record_that_lies_sets_it_aside(context, made):
    replace(made.record, digest="0" * 64).write(made.path)
    lying = replace(made, record=replace(made.record, digest="0" * 64))
    done = repair(lying, artifact_problems(lying), context=context)
    assert list(done.set_aside) == [RECORD_NAME]
    assert "Run toy again" in done.problem


@dataclass(frozen=True)
class TrustingInputs(ToyInputs):
    trust_code: bool = option(False, help="Run what comes with it.", runs_code=True)


def test_repair__takes_no_trust_in_code_from_a_record(toy):
    calls = []

    def run(params, sources, out, runtime, context):
        calls.append(params)
        return TOY.run(params, sources, out, runtime, context)

    stage = replace(TOY, inputs=TrustingInputs, run=run)
    context = context_of(toy.store, stages=(stage,))
    inputs = TrustingInputs(toy.source, trust_code=True)
    made = run_stage(stage, params=ToyParams(), inputs=inputs, runtime=ToyRuntime(), context=context).artifact
    cut(made.path / "parts/0.txt")
    before = files_of(made)
    done = repair(made, artifact_problems(made), context=context)
    assert done.problem.startswith("--trust-code must be given again where a record asks for code to be run")
    assert str(toy.source) in done.problem
    assert (done.set_aside, files_of(made), len(calls)) == ({}, before, 1)
    assert repair(made, artifact_problems(made), context=context, trust_code=True).problem == ""
    assert (is_whole(made), len(calls)) == (True, 2)


def test_repair__of_logs_alone_needs_no_trust(toy):
    stage = replace(TOY, inputs=TrustingInputs)
    context = context_of(toy.store, stages=(stage,))
    inputs = TrustingInputs(toy.source, trust_code=True)
    made = run_stage(stage, params=ToyParams(), inputs=inputs, runtime=ToyRuntime(), context=context).artifact
    cut(made.path / "logs/times.txt")
    assert repair(made, artifact_problems(made), context=context).problem == ""
    assert is_whole(made)
