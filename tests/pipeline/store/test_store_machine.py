"""Any order of runs, changes, kills, damages, repairs and removals: the store is whole, or says what is not."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from toy_stage import CHILD, TOY, ChildInputs, NoOptions, ToyInputs, ToyParams, ToyRuntime

from data_schemas.errors import ProtoRKDError
from pipeline import claim
from pipeline.commands.artifacts import artifact_problems, gc, status, verify
from pipeline.runner import run_stage
from pipeline.stage import Context
from pipeline.store import draft as draft_module
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Store

STAGES = (TOY, replace(CHILD, keep=True))
WORDS = ("words", "other words", "third words")


class Cut(BaseException):
    """A kill: nothing in the code may catch it."""


class StoreMachine(RuleBasedStateMachine):
    """Two stages, a source that changes, and a store that a user, a disk and a scheduler do things to."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = Store(self.root / "store")
        self.source = self.root / "source.txt"
        self.source.write_text(WORDS[0])
        self.digests = {}  # by stage, parameters and source: what these gave the first time
        self.damaged = set()  # files that were damaged and not mended since

    def teardown(self):
        shutil.rmtree(self.root)

    def context(self, *, force=False):
        """Without a memory of digests: SQLite waits for the disk at each of them."""
        return Context(self.store, FileDigests(None), force=force, stages={stage.name: stage for stage in STAGES})

    def command(self, command, *words):
        return CliRunner().invoke(command, [*words, "--store", str(self.store.root)], obj=STAGES)

    def run_toy(self, scale, *, force=False, fail_after=-1):
        return run_stage(
            TOY,
            params=ToyParams(scale=scale),
            inputs=ToyInputs(self.source),
            runtime=ToyRuntime(fail_after=fail_after),
            context=self.context(force=force),
        )

    @rule(scale=st.sampled_from([1.0, 2.0]), force=st.booleans())
    def run(self, scale, force):
        outcome = self.run_toy(scale, force=force)
        if outcome.status == "created":
            self.forget(outcome.artifact.path)
        key = (scale, self.source.read_text())
        if not self.damaged_below(outcome.artifact.path):  # a flipped byte that no size tells of stays until it is read
            assert self.digests.setdefault(key, outcome.artifact.record.digest) == outcome.artifact.record.digest

    @rule(scale=st.sampled_from([1.0, 2.0]), parts=st.integers(0, 2))
    def fail(self, scale, parts):
        """Raise in the middle of the stage."""
        try:
            outcome = self.run_toy(scale, fail_after=parts)
        except RuntimeError:  # as asked
            return
        if outcome.status == "created":
            self.forget(outcome.artifact.path)

    @rule(scale=st.sampled_from([1.0, 2.0]), force=st.booleans(), name=st.sampled_from(["seal", "publish", "fsync"]))
    def kill_in_commit(self, scale, force, name):
        """Let the process die before the record, between record and rename, or in the commit's waits for the disk."""

        def cut(*args, **options):
            raise Cut

        target = {"seal": draft_module.Draft, "publish": draft_module, "fsync": draft_module}[name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, cut)
            if name == "publish":
                patch.setattr(claim, name, cut)
            try:
                self.run_toy(scale, force=force)
            except Cut:
                self.damaged = {path for path in self.damaged if self.is_damaged(path)}
            except ProtoRKDError as error:
                raise AssertionError("a kill must not be caught") from error

    @precondition(lambda self: any(Store(self.root / "store").artifacts("toy")))
    @rule()
    def run_child(self):
        context = self.context()
        options = {"params": NoOptions(), "inputs": ChildInputs(None), "runtime": NoOptions()}
        outcome = run_stage(STAGES[1], **options, context=context)
        if outcome.status == "created":
            self.forget(outcome.artifact.path)

    @rule(words=st.sampled_from(WORDS))
    def change_source(self, words):
        self.source.write_text(words)

    @precondition(lambda self: any(Store(self.root / "store").artifacts()))
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "remove"]))
    def damage(self, data, how):
        artifact = data.draw(st.sampled_from(self.store.artifacts()))
        path = artifact.path / data.draw(st.sampled_from(sorted(file.path for file in artifact.record.files)))
        if not path.is_file() or path in self.damaged or not path.stat().st_size:
            return
        good = path.read_bytes()
        if how == "remove":
            path.unlink()
        else:
            path.write_bytes(good[:-1] if how == "cut" else bytes([good[0] ^ 1]) + good[1:])
        self.damaged.add(path)

    @rule(mend=st.booleans())
    def verify(self, mend):
        done = self.command(verify, *(["--repair"] if mend else []))
        for path in self.damaged:
            assert str(path) in done.output
        if mend and done.exit_code == 0:
            self.damaged.clear()
        if not self.damaged:
            assert "NOT WHOLE" not in done.output or mend
        self.damaged = {path for path in self.damaged if self.is_damaged(path)}

    @rule()
    def collect(self):
        wanted = {child.record.inputs["toy"].digest for child in self.store.artifacts("child")}
        before = {artifact.record.digest for artifact in self.store.artifacts()} & wanted
        done = self.command(gc, "--yes")
        assert done.exit_code == 0 or isinstance(done.exception, ProtoRKDError)
        assert before <= {artifact.record.digest for artifact in self.store.artifacts()}
        self.damaged = {path for path in self.damaged if self.is_damaged(path)}

    @rule()
    def look(self):
        assert self.command(status).exit_code == 0

    @invariant()
    def all_that_is_listed_is_whole_but_for_what_was_damaged(self):
        for artifact in self.store.artifacts():
            wrong = {artifact.path / path for path in artifact_problems(artifact)}
            assert wrong <= self.damaged

    def is_damaged(self, path):
        return any(
            artifact.path in path.parents and path.relative_to(artifact.path).as_posix() in artifact_problems(artifact)
            for artifact in self.store.artifacts()
        )

    def damaged_below(self, folder):
        return any(folder in path.parents for path in self.damaged)

    def forget(self, folder):
        self.damaged = {path for path in self.damaged if folder not in path.parents}


pytestmark = pytest.mark.usefixtures("quiet_log")


def run_machine(num_examples):
    checks = list(HealthCheck)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_store__keeps_its_word_whatever_is_done_to_it():
    run_machine(20)


@pytest.mark.slow
def test_store__keeps_its_word_whatever_is_done_to_it_a_thousand_times():
    run_machine(1000)
