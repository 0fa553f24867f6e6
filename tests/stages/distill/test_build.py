"""Where distill's prototypes come from: made on the way and reused, or named."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import DISTILL, WORDS, Cli, Pairs

from data_schemas.prototypes import Prototypes
from stages.distill.build import PrototypeMaps
from stages.distill.loss_spec import READ_FEATURES, READ_PROTOTYPES
from stages.distill.objectives import OBJECTIVES

PROTO = (*DISTILL, "--epochs", 1, "--log-every-steps", 1, "--loss", "proto-rkd=1")


def record_of(outcome: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    return record


def first_loss(outcome: dict[str, Any]) -> float:
    line = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()[0]
    return float(json.loads(line)["proto-rkd"])


def prototypes_in(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "prototypes").glob("[!.]*"))


def test_prototypes__are_made_on_the_way_once_and_kept_for_the_student(encoded: Pairs, run_cli: Cli) -> None:
    before = run_cli("prototypes", "--num-prototypes", 3)
    result = run_cli.run(*PROTO, "--json")
    made = json.loads(result.stdout)
    assert "distill: 6 prototypes in place of 1024, for want of captions" in result.stderr  # a fourth of 24
    again = run_cli.run(*PROTO, "--lr", 1e-4, "--json")
    assert "prototypes: unchanged, using" in again.stderr
    own = run_cli("prototypes", "--num-prototypes", 6)
    assert own["status"] == "unchanged"
    assert record_of(made)["uses"] == record_of(json.loads(again.stdout))["uses"] == [own["digest"]]
    newest = run_cli("prototypes", "--num-prototypes", 4)
    assert run_cli.run("gc", "--yes").exit_code == 0
    kept = prototypes_in(run_cli.store)
    assert kept == sorted([own["fingerprint"], newest["fingerprint"]])
    assert before["fingerprint"] not in kept


def test_prototypes__that_are_named_are_taken(encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    four, five = (run_cli("prototypes", "--num-prototypes", num) for num in (4, 5))
    seen: list[torch.Tensor] = []
    real = PrototypeMaps.__call__

    def look(maps: PrototypeMaps, num_prototypes: int) -> torch.Tensor:
        seen.append(real(maps, num_prototypes))
        return seen[-1]

    monkeypatch.setattr(PrototypeMaps, "__call__", look)
    words = (*PROTO, "--prototypes")
    by_name = run_cli(*words, four["fingerprint"][:12])
    assert run_cli(*words, four["path"])["status"] == "unchanged"
    other = run_cli(*words, five["path"])
    assert by_name["fingerprint"] != other["fingerprint"]
    np.testing.assert_array_equal(seen[0].numpy(), Prototypes.read(Path(four["path"])).centroids)
    np.testing.assert_array_equal(seen[-1].numpy(), Prototypes.read(Path(five["path"])).centroids)
    assert record_of(by_name)["inputs"]["prototypes"]["digest"] == four["digest"]
    assert first_loss(by_name) != first_loss(other)
    assert len(prototypes_in(run_cli.store)) == 2
    why = run_cli.run("why", *PROTO, "--prototypes", four["path"], "--lr", 1).stdout
    assert "--lr: 0.001 -> 1.0" in why


def test_prototypes__that_no_objective_reads_make_no_other_training(encoded: Pairs, run_cli: Cli) -> None:
    four = run_cli("prototypes", "--num-prototypes", 4)
    words = (*DISTILL, "--epochs", 1, "--loss", "simreg=1")
    without = run_cli(*words)
    for named in (four["path"], "abc"):
        result = run_cli.run(*words, "--prototypes", named, "--json")
        again = json.loads(result.stdout)
        assert (again["status"], again["fingerprint"]) == ("unchanged", without["fingerprint"])
    forced = run_cli.run(*words, "--prototypes", four["path"], "--force")
    assert "--prototypes is not read, for no objective of --loss relates to prototypes" in forced.stderr
    assert set(record_of(without)["inputs"]) == {"embeddings", "images"}


def test_prototypes__are_read_by_the_objectives_that_take_them() -> None:
    takers = {name for name, make in OBJECTIVES.items() if "prototypes" in inspect.signature(make).parameters}
    assert takers == READ_PROTOTYPES


def test_features__are_read_by_the_objectives_that_take_them() -> None:
    takers = {name for name, kind in OBJECTIVES.items() if "features" in inspect.signature(kind.forward).parameters}
    assert takers == READ_FEATURES


def test_prototypes__must_be_of_the_teachers_width(encoded: Pairs, run_cli: Cli, tmp_path: Path, store: Path) -> None:
    narrow = tmp_path / "narrow.txt"
    numbers = np.random.default_rng(1).normal(size=(len(WORDS), 8))
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in zip(WORDS, numbers, strict=True)]
    narrow.write_text("".join(lines))
    other = Cli(shutil.copytree(store, tmp_path / "other"))
    other("encode-teacher", "--manifest", encoded.manifest, "--teacher", narrow)
    prototypes = other("prototypes", "--num-prototypes", 4)
    message = run_cli.fails(*PROTO, "--prototypes", prototypes["path"])
    assert f"--prototypes must be of the teacher's width, 16; got {prototypes['path']} of 8." in message


def test_prototypes__that_are_not_there_are_refused_by_their_flag(encoded: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*PROTO, "--prototypes", "abc")
    assert "--prototypes must name an artifact of prototypes" in message
