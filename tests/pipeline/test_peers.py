import dataclasses
import json
import threading
import time

import pytest
from toy_peers import Met, together
from toy_stage import CHILD, TOY, ChildInputs, NoOptions, ToyInputs, ToyParams, ToyRuntime, ToySources

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from pipeline.peers import SingleProcess, barrier, fail_together, one_of_many
from pipeline.runner import context_of, run_stage, run_within
from pipeline.stage import Distributed, Input, Result


def said(outcome):
    assert isinstance(outcome, ProtoRKDError), outcome
    return str(outcome)


class PartError(ProtoRKDError):
    pass


def test_agreed__lets_all_go_on_where_none_fails():
    def work(peers):
        with fail_together(peers):
            pass
        return "went on"

    assert together(3, work) == ["went on"] * 3


def test_agreed__raises_the_error_of_the_first_that_has_one_everywhere():
    def work(peers):
        with fail_together(peers):
            if peers.rank:
                raise ProtoRKDError(f"{peers.rank} failed")

    assert list(map(said, together(3, work))) == ["1 failed"] * 3


def test_agreed__raises_the_own_error_as_it_is():
    with pytest.raises(PartError), fail_together(SingleProcess()):
        raise PartError("some of it")


def test_agreed__waits_for_nobody_after_an_error_of_the_program():
    def work(peers):
        with fail_together(peers):
            raise RuntimeError("a bug")

    assert [str(error) for error in together(2, work)] == ["a bug"] * 2


def test_barrier__lets_nobody_on_before_all_are_there():
    arrived = []

    def work(peers):
        time.sleep(0.05 * peers.rank)
        arrived.append(peers.rank)
        barrier(peers)
        return len(arrived)

    assert together(3, work) == [3] * 3


def test_barrier__raises_what_another_process_failed_with():
    def work(peers):
        if peers.is_first:
            return barrier(peers)
        with fail_together(peers):
            raise ProtoRKDError(f"{peers.rank} failed")

    assert list(map(said, together(3, work))) == ["1 failed"] * 3


def run_shared(params, sources, out, runtime, context):
    """Write a part a process, and join them."""
    peers = context.peers
    with fail_together(peers):
        if peers.rank == runtime.fail_after:
            raise ProtoRKDError(f"{peers.rank} failed, as asked")
        write_atomic(out.state / str(peers.rank), f"{peers.rank} {sources.source.value}".encode())
    if peers.is_first:
        parts = [path.read_text() for path in sorted(out.state.iterdir())]
        write_atomic(out.path / "parts.json", json.dumps(parts).encode())
    return Result(counts={"parts": len(peers.gather_objects(None))})


SHARED = dataclasses.replace(TOY, run=run_shared, distributed=Distributed(SingleProcess, fails_together=True))


def run_in(toy, peers, stage=SHARED, *, force=False, fail_after=-1, **params):
    return run_within(
        stage,
        params=ToyParams(**params),
        inputs=ToyInputs(source=toy.source),
        runtime=ToyRuntime(fail_after=fail_after),
        context=dataclasses.replace(context_of(toy.store, force=force), peers=peers),
    )


def test_run_within__runs_a_stage_that_fails_together_in_all_processes(toy):
    outcomes = together(3, lambda peers: run_in(toy, peers))
    assert [outcome.status for outcome in outcomes] == ["created"] * 3
    assert len({outcome.artifact.path for outcome in outcomes}) == 1
    assert json.loads((outcomes[0].artifact.path / "parts.json").read_text()) == ["0 words", "1 words", "2 words"]
    again = together(3, lambda peers: run_in(toy, peers))
    assert [outcome.status for outcome in again] == ["unchanged"] * 3


@pytest.mark.parametrize("rank", [0, 1])
def test_run_within__fails_in_all_processes_alike_and_lets_them_go_on_together(toy, rank):
    def work(peers):
        with pytest.raises(ProtoRKDError) as caught:
            run_in(toy, peers, fail_after=rank)
        return str(caught.value), run_in(toy, peers).status

    assert together(2, work) == [(f"{rank} failed, as asked", "created")] * 2


def test_run_within__fails_in_all_processes_where_the_first_cannot_plan(toy):
    source = toy.source.rename(toy.source.with_name("elsewhere.txt"))

    def work(peers):
        with pytest.raises(ProtoRKDError) as caught:
            run_in(toy, peers)
        peers.gather_objects(None)
        if peers.is_first:
            source.rename(toy.source)
        peers.gather_objects(None)
        return str(caught.value), run_in(toy, peers).status

    (first, status), second = together(2, work)
    assert "source.txt must be a readable file" in first
    assert second == (first, "created") == (first, status)


def test_run_within__fails_in_all_processes_where_one_sees_other_inputs(toy):
    other = toy.source.with_name("other.txt")
    other.write_text("other words")

    def identify(inputs, params, context):
        path = inputs.source if context.peers.is_first else other
        return ToySources(Input(digest=context.file_digests.digest(path), value=""))

    stage = dataclasses.replace(SHARED, identify=identify)
    first, second = map(said, together(2, lambda peers: run_in(toy, peers, stage)))
    assert first == second
    assert "must see the same options and inputs" in first
    assert not list(toy.store.leftovers())


def test_run_within__fails_in_all_processes_where_the_first_cannot_commit(toy, monkeypatch):
    def commit(*_):
        raise ProtoRKDError("the disk is full")

    monkeypatch.setattr("pipeline.runner.commit", commit)
    assert list(map(said, together(2, lambda peers: run_in(toy, peers)))) == ["the disk is full"] * 2


def test_run_within__fails_in_all_processes_where_they_have_different_stores(toy, tmp_path):
    def work(peers):
        if not peers.is_first:
            context = dataclasses.replace(context_of(type(toy.store)(tmp_path / "other")), peers=peers)
            return run_within(
                TOY, params=ToyParams(), inputs=ToyInputs(toy.source), runtime=ToyRuntime(), context=context
            )
        return run_in(toy, peers, TOY)

    for text in map(said, together(2, work)):
        assert "other must be one folder for all processes of toy" in text


def test_run_within__lets_the_first_process_alone_run_a_stage_that_is_not_distributed(toy):
    threads = []

    def run(params, sources, out, runtime, context):
        assert isinstance(context.peers, SingleProcess)
        threads.append(threading.get_ident())
        return TOY.run(params, sources, out, runtime, context)

    stage = dataclasses.replace(TOY, run=run)
    outcomes = together(2, lambda peers: run_in(toy, peers, stage))
    assert len(threads) == 1
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].artifact.record.counts == {"made": 3}


def test_run_within__tells_all_where_the_first_process_fails_alone(toy, monkeypatch):
    monkeypatch.setattr("toy_stage.RuntimeError", ProtoRKDError, raising=False)
    assert list(map(said, together(2, lambda peers: run_in(toy, peers, TOY, fail_after=1)))) == ["as asked"] * 2


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")


def run_joined(toy, peers, *, fails_together=True, **changes):
    distributed = Distributed(lambda: peers, fails_together=fails_together)
    stage = dataclasses.replace(SHARED, distributed=distributed, **changes)
    options = {"params": ToyParams(), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
    return run_stage(stage, **options, context=context_of(toy.store))


@pytest.mark.parametrize("fails_together", [True, False])
def test_run_stage__runs_in_all_processes_that_have_met(toy, launched, fails_together):
    outcomes = together(2, lambda peers: run_joined(toy, peers, fails_together=fails_together))
    assert [outcome.artifact.record.counts for outcome in outcomes] == [{"parts": 2}] * 2


def test_run_stage__of_a_stage_that_fails_together_fails_in_all_processes_though_the_others_were_done(toy, launched):
    def run(params, sources, out, runtime, context):
        if context.peers.is_first:
            raise ProtoRKDError("the last task failed")
        return Result(counts={})

    assert list(map(said, together(2, lambda peers: run_joined(toy, peers, run=run)))) == ["the last task failed"] * 2


def test_run_stage__runs_alone_what_is_not_distributed_whoever_has_met_for_the_outer_stage(toy, launched):
    toy.run()

    def run(params, sources, out, runtime, context):
        assert isinstance(context.peers, SingleProcess)
        return CHILD.run(params, sources, out, runtime, context)

    context = dataclasses.replace(context_of(toy.store), peers=Met(None, 0))
    child = dataclasses.replace(CHILD, run=run)
    outcome = run_stage(child, params=NoOptions(), inputs=ChildInputs(), runtime=NoOptions(), context=context)
    assert outcome.status == "created"


def test_run_stage__prepares_in_every_process_before_it_plans(toy, launched):
    source = toy.source.rename(toy.source.with_name("elsewhere.txt"))
    asked = []

    def prepare(inputs, params, runtime, context):
        asked.append((context.peers.rank, inputs.source, params, runtime))
        return dataclasses.replace(inputs, source=context.peers.broadcast(source))

    outcomes = together(2, lambda peers: run_joined(toy, peers, prepare=prepare))
    assert sorted(rank for rank, *_ in asked) == [0, 1]
    assert {tuple(rest) for _, *rest in asked} == {(toy.source, ToyParams(), ToyRuntime())}
    assert [outcome.artifact.record.inputs["source"].location for outcome in outcomes] == [str(source)] * 2


def test_run_stage__prepares_the_inputs_of_a_process_alone(toy):
    source = toy.source.rename(toy.source.with_name("elsewhere.txt"))
    stage = dataclasses.replace(TOY, prepare=lambda inputs, *_: dataclasses.replace(inputs, source=source))
    options = {"params": ToyParams(), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
    outcome = run_stage(stage, **options, context=context_of(toy.store))
    assert outcome.artifact.record.inputs["source"].location == str(source)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "2"}, True),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}, False),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "64"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "none"}, False),
        ({"JOB_COMPLETION_INDEX": "0"}, True),
    ],
    ids=str,
)
def test_one_of_many__is_what_a_launcher_says(environment, expected, monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_ARRAY_TASK_COUNT", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert one_of_many() == expected
