"""Whatever the disk refuses: a clear error, nothing whole lost, no half artifact; then the same command ends well."""

import errno
import itertools
import shutil

import pytest
from failing_disk import FailingDisk

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import artifact_problems

ADVICE = {errno.ENOSPC: "Free some space", errno.EIO: "Mend the disk"}


def whole_parts(toy):
    return {path.name for path in toy.store.root.glob("toy/*/parts/*.txt")}


def fail_each(toy, work, *, code, prepare, every):
    """Let the first call fail, then one after the other; yields after each failure, until the work goes through."""
    for nth in itertools.count(1, every):
        shutil.rmtree(toy.store.root, ignore_errors=True)
        prepare()
        disk = FailingDisk(toy.store.root / "toy", nth=nth, code=code)
        error = None
        try:
            with disk.in_place():
                work()
        except ProtoRKDError as caught:
            error = caught
        if not disk.failed:
            assert error is None
            return
        yield disk.failed, error


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("first", errno.ENOSPC),
        ("first", errno.EIO),
        ("resumed", errno.EIO),
        ("mended", errno.ENOSPC),
        ("forced", errno.EIO),
    ],
)
def test_run_stage__survives_each_refusal_of_the_disk(toy, case, code, every):
    digest = toy.run().artifact.record.digest

    def prepare():
        if case == "resumed":
            with pytest.raises(RuntimeError):
                toy.run(fail_after=2)
        elif case != "first":
            artifact = toy.run().artifact
            if case == "mended":
                (artifact.path / "parts/1.txt").unlink()

    num_failures = 0
    forced = case == "forced"
    for failed, error in fail_each(toy, lambda: toy.run(force=forced), code=code, prepare=prepare, every=every):
        num_failures += 1
        if error is not None:
            assert ADVICE[code] in str(error), failed
            assert "must be writable" in str(error), failed
        for artifact in toy.store.artifacts():
            if case != "mended":
                assert artifact_problems(artifact) == {}, failed
        if case == "forced":
            assert any(toy.store.root.rglob("artifact.json")), failed
        if case == "resumed":
            assert {"0.txt", "1.txt"} <= whole_parts(toy), failed
        outcome = toy.run()
        assert outcome.artifact.record.digest == digest, failed
        assert artifact_problems(outcome.artifact) == {}, failed
        assert not list(toy.store.root.rglob("*.partial")), failed
    assert num_failures > 15 // every
