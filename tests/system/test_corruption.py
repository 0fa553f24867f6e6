"""Whatever is done to any file of any artifact, ``verify`` names it, and training and evaluation refuse to read it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, counted_captions

from data_schemas.artifact_record import RECORD_NAME
from pipeline.commands.artifacts import artifact_problems
from pipeline.store.store import Artifact, Store


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "first byte": lambda path: flip(path, 0.0),
    "middle byte": lambda path: flip(path, 0.5),
    "last byte": lambda path: flip(path, 1.0),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.fixture
def full_store(
    trained: dict[str, Any], encoded_session: tuple[Path, Pairs], run_cli: Cli, write_manifest: Callable[..., Path]
) -> Store:
    """Return one artifact of every stage, and of those that they make on their way; embeddings of two shards."""
    teacher = Path(Store(run_cli.store).artifacts("encode-teacher")[0].record.inputs["teacher"].location)
    manifest = write_manifest(counted_captions(300))
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", teacher, "--shard-rows", 256)
    run_cli("prototypes", "--num-prototypes", 4, "--device", "cpu")
    run_cli("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", encoded_session[1].manifest)
    return Store(run_cli.store)


def files_of(store: Store) -> Iterator[tuple[Artifact, str]]:
    for artifact in store.artifacts():
        for path in sorted(artifact.path.rglob("*")):
            if path.is_file() and path.stat().st_size:
                yield artifact, path.relative_to(artifact.path).as_posix()


def named(artifact: Artifact, store: Store) -> set[str]:
    """Return what is said to be wrong with an artifact, as ``verify`` finds it."""
    if artifact.path in store.unreadable():
        return {RECORD_NAME}
    found = store.find(artifact.record.stage, artifact.record.fingerprint)
    return set(artifact_problems(found)) if found else {RECORD_NAME}


def test_verify__names_every_damage_to_every_file_of_every_stage(full_store: Store) -> None:
    stages, num_files = set(), 0
    for artifact, path in files_of(full_store):
        stages.add(artifact.record.stage)
        num_files += 1
        good = (artifact.path / path).read_bytes()
        for name, damage in DAMAGES.items():
            if path == RECORD_NAME and name == "cut":
                continue  # its closing line end, which says nothing
            damage(artifact.path / path)
            assert named(artifact, full_store) == {path}, name
            (artifact.path / path).write_bytes(good)
        assert named(artifact, full_store) == set()
    wanted = {"encode-teacher", "prototypes", "distill", "evaluate", "image-embeddings", "measurements"}
    assert wanted <= stages
    assert num_files > 30


def test_verify__names_two_shards_that_were_exchanged(full_store: Store) -> None:
    artifact = max(full_store.artifacts("encode-teacher"), key=lambda artifact: artifact.record.counts["captions"])
    shards = [f"embeddings.zarr/c/{number}/0" for number in range(2)]
    first, second = (artifact.path / shard for shard in shards)
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    assert named(artifact, full_store) == set(shards)


@pytest.mark.parametrize("name", ["first byte", "cut", "removed"])
def test_distill__refuses_embeddings_and_pairs_that_are_damaged(name: str, encoded: Pairs, run_cli: Cli) -> None:
    [artifact] = Store(run_cli.store).artifacts("encode-teacher")
    for path in ("pairs.parquet", "embeddings.zarr/c/0/0", "embeddings.zarr/zarr.json"):
        good = (artifact.path / path).read_bytes()
        DAMAGES[name](artifact.path / path)
        assert str(artifact.path / path) in run_cli.fails(*DISTILL)
        (artifact.path / path).write_bytes(good)
    assert not Store(run_cli.store).artifacts("distill")


def test_evaluate__refuses_a_student_that_is_damaged(
    trained: dict[str, Any], encoded_session: tuple[Path, Pairs], run_cli: Cli
) -> None:
    [artifact] = Store(run_cli.store).artifacts("distill")
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", encoded_session[1].manifest)
    for path in ("student.safetensors", "student.json"):
        good = (artifact.path / path).read_bytes()
        for name in ("middle byte", "cut", "removed"):
            DAMAGES[name](artifact.path / path)
            assert path in run_cli.fails(*words), name
            (artifact.path / path).write_bytes(good)
    assert run_cli(*words)["status"] == "created"


def test_verify__repairs_a_store_in_which_every_artifact_is_damaged(full_store: Store, run_cli: Cli) -> None:
    """Each is made anew with the bytes that it had; what stages made on their way, by the stage that wants it."""
    before = {(artifact.record.stage, artifact.record.digest) for artifact in full_store.artifacts()}
    for artifact in full_store.artifacts():
        file = max(artifact.record.digested_files, key=lambda file: file.size)
        flip(artifact.path / file.path, 0.5)
    assert "made whole" in run_cli.run("verify", "--repair").stdout
    assert run_cli.run("verify").exit_code == 0
    assert {(artifact.record.stage, artifact.record.digest) for artifact in full_store.artifacts()} == before
