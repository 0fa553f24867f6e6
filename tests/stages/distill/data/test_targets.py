"""The table of targets gives the same rows wherever it is kept."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import DISTILL, Cli, Pairs

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry, list_files
from pipeline.options.declaration import click_options
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.distributed import Ranks
from stages.components.loading import image_loader as image_loading
from stages.distill.data import targets as module
from stages.distill.data.targets import Targets, load_targets
from stages.distill.options import DistillRuntime

CPU = torch.device("cpu")

# The choices that the option offers.
[PLACEMENTS] = [option.type.choices for option in click_options(DistillRuntime) if option.name == "targets_placement"]


@pytest.fixture(params=["float16", "float32"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    """600 rows of width 5 in two shards; row 300 is zero, row 301 but for its last number."""
    root = tmp_path / "embeddings"
    made = EmbeddingArray.create(root, rows=600, dim=5, dtype=request.param, shard_rows=512)
    values = np.random.default_rng(0).normal(size=(600, 5)).astype(request.param)
    values[300], values[301, :4] = 0, 0
    for shard in made.shards():
        made.write(shard, values[shard.start : shard.stop])
    files = tuple(FileEntry.of(root, path) for path in list_files(root))
    return Artifact(root, ArtifactRecord("encode-teacher", 1, "f" * 32, "d" * 64, {}, {}, files, {}, {}, (), "", {}))


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    (tmp_path / "draft").mkdir()
    return Draft(tmp_path / "draft", resumed=False)


def load(artifact: Artifact, draft: Draft, placement: str) -> Targets:
    return load_targets(artifact, placement=placement, device=CPU, draft=draft, ranks=Ranks())


def stored(artifact: Artifact) -> Any:
    return EmbeddingArray.open(artifact.path).read(0, 600)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_targets__are_the_stored_rows_in_any_placement(placement: str, artifact: Artifact, draft: Draft) -> None:
    targets = load(artifact, draft, placement)
    rows = torch.tensor([599, 0, 300, 0, 256])
    gathered = targets.gather(rows)
    assert (gathered.shape, gathered.dtype, targets.dim, targets.num_captions) == ((5, 5), torch.float32, 5, 600)
    expected = stored(artifact)[rows.numpy()]
    np.testing.assert_array_equal(gathered.numpy(), expected.astype(np.float32))
    np.testing.assert_array_equal(targets.take(rows).numpy(), expected)
    assert targets.is_zero().nonzero().flatten().tolist() == [300]


@pytest.mark.parametrize("placement", ["ram", "mapped"])
@pytest.mark.parametrize("number", [0, 1])
def test_targets__are_refused_where_a_byte_is_not_as_written(
    placement: str, number: int, artifact: Artifact, draft: Draft
) -> None:
    shard = list(EmbeddingArray.open(artifact.path).shards())[number]
    path = artifact.path / shard.path
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProtoRKDError, match=rf"c/{number}/0 must be as it was written; it has other bytes.*--force"):
        load(artifact, draft, placement)
    assert not list(draft.path.rglob("targets*"))


def test_targets__that_are_mapped_are_one_file_that_all_ranks_read(artifact: Artifact, draft: Draft) -> None:
    first = load(artifact, draft, "mapped")
    [path] = draft.state.iterdir()
    before = path.stat()
    second = load(artifact, Draft(draft.path, resumed=False), "mapped")
    [same] = draft.state.iterdir()
    assert (same.stat().st_ino, same.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    rows = torch.arange(600)
    assert torch.equal(first.take(rows), second.take(rows))


def test_targets__that_are_mapped_are_written_anew_where_the_file_is_damaged(artifact: Artifact, draft: Draft) -> None:
    load(artifact, draft, "mapped")
    [path] = draft.state.iterdir()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    targets = load(artifact, Draft(draft.path, resumed=True), "mapped")
    np.testing.assert_array_equal(targets.take(torch.arange(600)).numpy(), stored(artifact))


def test_targets__are_mapped_where_memory_is_short(
    artifact: Artifact, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free_memory", lambda: 1000)
    assert load(artifact, draft, "auto").placement == "mapped"


def test_targets__are_mapped_on_all_ranks_where_memory_is_short_on_one(
    artifact: Artifact, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "gather_objects", lambda _self, value: [value, "mapped"] if value == "ram" else [value])
    assert load(artifact, draft, "auto").placement == "mapped"


def test_targets__leave_room_for_those_of_the_other_processes(
    artifact: Artifact, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = stored(artifact).nbytes
    monkeypatch.setattr(module, "_free_memory", lambda: 3 * size)
    for num_processes, placement in (("1", "ram"), ("2", "mapped")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_processes)
        assert load(artifact, draft, "auto").placement == placement


def test_targets__are_not_handed_to_the_processes_that_read_images(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loader(dataset: object, **options: Any) -> Any:
        """Hand over what a spawned worker would be handed."""
        pickler = _WithoutTargets(io.BytesIO())
        pickler.dump((dataset, options["collate_fn"]))
        seen.append(dataset)
        return original(dataset, **options)

    seen: list[object] = []
    original = image_loading.DataLoader
    monkeypatch.setattr(image_loading, "DataLoader", loader)
    run_cli(*DISTILL, "--epochs", 1)
    assert seen


class _WithoutTargets(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        assert not isinstance(value, Targets)
        assert not (isinstance(value, torch.Tensor) and value.shape == (24, 16))  # the table
        return NotImplemented


def test_distill__leaves_no_mapped_table_behind(encoded: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*DISTILL, "--epochs", 1, "--targets-placement", "mapped")
    assert outcome["status"] == "created"
    assert not [name for _, _, names in os.walk(run_cli.store) for name in names if name.startswith("targets-")]
