"""What the stages say of their work before they do it, held to what they then do."""

import json
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs

from pipeline.options.declaration import line_of
from pipeline.options.values import options_of
from stages import STAGES
from stages.distill.completion import objective_names, student_names


@pytest.fixture
def ask(run_cli: Cli) -> Any:
    """Return what a stage says that it would do, and what it then does."""

    def ask(*words: object) -> tuple[dict[str, Any], dict[str, Any], int]:
        before = sorted(run_cli.store.rglob("*"))
        asked = run_cli(*words, "--dry-run")
        assert sorted(run_cli.store.rglob("*")) == before
        done = run_cli(*words)
        record = json.loads((Path(done["path"]) / "artifact.json").read_text())
        size = sum(file["size"] for file in record["files"] if not file["path"].startswith(("logs/", "journal")))
        assert asked["fingerprint"] == done["fingerprint"]
        return asked["estimate"], done["counts"], size

    return ask


def agree(estimate: dict[str, Any], counts: dict[str, Any], names: tuple[str, ...]) -> None:
    assert {name: estimate["counts"][name] for name in names} == {name: counts[name] for name in names}


def test_encode_teacher__foretells_captions_and_bytes(
    ask: Any, pairs_folder: Any, word_vectors: Path, write_manifest: Any
) -> None:
    manifest = pairs_folder(24, 40).manifest
    estimate, counts, size = ask("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    agree(estimate, counts, ("pairs", "captions", "encoded_captions"))
    assert 0.5 < estimate["bytes"] / size < 1.1  # a parquet file of 24 rows is mostly header
    more = write_manifest(["red circle", "one two three", "four"])
    estimate, counts, _ = ask("encode-teacher", "--manifest", more, "--teacher", word_vectors)
    agree(estimate, counts, ("pairs", "captions", "encoded_captions"))
    assert estimate["counts"]["encoded_captions"] == 2
    assert estimate["seconds"] is not None


def test_encode_teacher__knows_the_width_of_a_saved_model(bert_folder: Path) -> None:
    from stages.components.teacher.identity import find_teacher
    from stages.encode_teacher.work_estimate import teacher_dim

    assert teacher_dim(find_teacher(str(bert_folder))) == 16


def test_encode_teacher__foretells_bytes_of_many_rows() -> None:
    from data_schemas.embedding_array import stored_bytes

    assert stored_bytes(1_000_000, 384, "float16") == pytest.approx(1_000_000 * 384 * 2, rel=0.001)
    assert stored_bytes(1, 384, "float32") == pytest.approx(256 * 384 * 4, rel=0.001)


def test_prototypes__foretell_captions_and_bytes(ask: Any, encoded: Pairs) -> None:
    estimate, counts, size = ask("prototypes", "--num-prototypes", 3)
    agree(estimate, counts, ("captions", "prototypes"))
    assert estimate["bytes"] < size


@pytest.mark.parametrize("format_", ["jpeg", "raw"])
def test_pack__foretells_images_and_bytes(ask: Any, pairs_folder: Any, format_: str) -> None:
    manifest = pairs_folder(24, 100).manifest
    words = ("pack", "--manifest", manifest, "--format", format_, "--short-side", 50)
    estimate, counts, _ = ask(*words)
    agree(estimate, counts, ("images",))
    assert estimate["bytes"] == pytest.approx(counts["bytes"], rel=0.01 if format_ == "raw" else 0.6)


def test_distill__foretells_steps_and_bytes(ask: Any, encoded: Pairs, run_cli: Cli) -> None:
    estimate, counts, size = ask(*DISTILL)
    agree(estimate, counts, ("pairs", "steps"))
    assert estimate["bytes"] == pytest.approx(size, rel=0.01)
    assert estimate["seconds"] is None
    assert run_cli(*DISTILL, "--seed", 1, "--dry-run")["estimate"]["seconds"] > 0
    words = ("evaluate", "--retrieval", encoded.manifest, "--num-resamples", 100, "--workers", 0)
    assert run_cli(*words, "--dry-run")["estimate"]["counts"] == {"checkpoints": 1, "sets": 1, "pictures": 24}


def test_distill__foretells_nothing_for_a_student_that_it_does_not_know(encoded: Pairs, run_cli: Cli) -> None:
    assert "must name a known backbone; got 'resnet19'" in run_cli.fails(
        "distill", "--student", "resnet19", "--dry-run"
    )


def test_names_for_completion__are_those_that_there_are() -> None:
    import torchvision

    from stages.distill.objectives import OBJECTIVES

    wide = ["resnet50w2", "resnet50w4", "resnet50w5"]
    assert student_names() == sorted([*torchvision.models.list_models(module=torchvision.models), *wide])
    assert objective_names() == list(OBJECTIVES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_stage__says_whose_artifact_each_reference_names(stage: Any) -> None:
    lines = {name: line_of(known.field) for name, known in options_of(stage).items()}
    names = {each.name for each in STAGES}
    assert [name for name, line in lines.items() if line.metavar == "REF" and line.artifact not in names] == []
