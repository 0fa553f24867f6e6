"""The table of targets gives the same rows wherever it is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_schemas.teacher_embeddings import TeacherEmbeddings
from pipeline.options import click_options
from stages.distill import targets as module
from stages.distill.stage import DistillRuntime
from stages.distill.targets import Targets, load_targets

CPU = torch.device("cpu")

# The choices that the option offers.
[PLACEMENTS] = [option.type.choices for option in click_options(DistillRuntime) if option.name == "targets_placement"]


@pytest.fixture(params=["float16", "float32"])
def embeddings(request: pytest.FixtureRequest, tmp_path: Path) -> TeacherEmbeddings:
    """600 rows of width 5 in three shards; row 300 is zero."""
    made = TeacherEmbeddings.create(tmp_path, rows=600, dim=5, dtype=request.param, shard_rows=256)
    values = np.random.default_rng(0).normal(size=(600, 5)).astype(request.param)
    values[300] = 0
    for shard in made.shards():
        made.write(shard, values[shard.start : shard.stop])
    return TeacherEmbeddings.open(tmp_path)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_targets__are_the_stored_rows_in_any_placement(
    placement: str, embeddings: TeacherEmbeddings, tmp_path: Path
) -> None:
    targets = load_targets(embeddings, placement=placement, device=CPU, scratch=tmp_path / "state" / "targets.bin")
    rows = torch.tensor([599, 0, 300, 0, 256])
    gathered = targets.gather(rows)
    assert (gathered.shape, gathered.dtype, targets.dim) == ((5, 5), torch.float32, 5)
    expected = embeddings.read(0, 600)[rows.numpy()].astype(np.float32)
    np.testing.assert_array_equal(gathered.numpy(), expected)
    assert targets.is_zero().nonzero().flatten().tolist() == [300]


def test_targets__that_are_mapped_leave_no_file_behind(embeddings: TeacherEmbeddings, tmp_path: Path) -> None:
    scratch = tmp_path / "state" / "targets.bin"
    targets = load_targets(embeddings, placement="mapped", device=CPU, scratch=scratch)
    assert targets.placement == "mapped"
    assert not scratch.exists()
    np.testing.assert_array_equal(targets.gather(torch.tensor([5])).numpy(), embeddings.read(5, 6).astype(np.float32))


def test_targets__are_mapped_where_memory_is_short(
    embeddings: TeacherEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free_memory", lambda: 1000)
    targets = load_targets(embeddings, placement="auto", device=CPU, scratch=tmp_path / "targets.bin")
    assert targets.placement == "mapped"


def test_targets__find_zero_rows_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 3)
    table = torch.ones(8, 2)
    table[[2, 3, 7]] = 0
    assert Targets(table, CPU).is_zero().nonzero().flatten().tolist() == [2, 3, 7]


def test_targets__leave_room_for_those_of_the_other_processes(
    embeddings: TeacherEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = embeddings.rows * embeddings.dim * embeddings.dtype.itemsize
    monkeypatch.setattr(module, "_free_memory", lambda: 3 * size)
    for num_processes, placement in (("1", "ram"), ("2", "mapped")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_processes)
        targets = load_targets(embeddings, placement="auto", device=CPU, scratch=tmp_path / "targets.bin")
        assert targets.placement == placement
