"""Inputs that are mostly broken: each stage stops, names the first and the option, and makes nothing of the rest."""

from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, make_manifest, make_pairs

from pipeline.store.store import Store


@pytest.fixture
def broken(trained: dict[str, Any], encoded_session: tuple[Path, Pairs], tmp_path: Path) -> Pairs:
    """Images of which most are none, the captions of the trained student, and a manifest."""
    pairs = make_pairs(tmp_path / "broken", 24, 40)
    for image in pairs.images[:20]:
        (pairs.root / image).write_bytes(b"no image")
    return pairs


def words_of(stage: str, broken: Pairs, word_vectors: Path, tmp_path: Path) -> tuple[object, ...]:
    """Return a command whose input is mostly broken."""
    if stage == "encode-teacher":
        manifest = make_manifest(tmp_path / "rows.tsv", [f"{row}.jpg" for row in range(24)], ["red", *[""] * 23])
        return (stage, "--manifest", manifest, "--teacher", word_vectors)
    return {
        "pack": (stage, "--manifest", broken.manifest, "--workers", 1),
        "distill": (*DISTILL, "--image-root", broken.root, "--epochs", 1),
        "evaluate": (stage, "--device", "cpu", "--workers", 0, "--retrieval", broken.manifest, "--num-resamples", 100),
    }[stage]


@pytest.mark.parametrize(
    ("stage", "first"),
    [
        ("encode-teacher", "rows.tsv"),
        ("pack", "images/000.jpg"),
        ("distill", "images/0"),
        ("evaluate", "images/000.jpg"),
    ],
)
def test_stage__stops_at_input_that_is_mostly_broken_unless_told_otherwise(
    stage: str, first: str, broken: Pairs, run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    words = words_of(stage, broken, word_vectors, tmp_path)
    before = len(Store(run_cli.store).artifacts(stage))
    message = run_cli.fails(*words)
    assert "--max-bad-fraction" in message
    assert first in message
    assert len(Store(run_cli.store).artifacts(stage)) == before
    outcome = run_cli(*words, "--max-bad-fraction", 1)
    assert outcome["status"] == "created"
    assert {20, 23} & {value for value in outcome["counts"].values() if isinstance(value, int)} or stage == "evaluate"


@pytest.mark.parametrize("option", ["--manifest", "--teacher", "--store"])
def test_path__that_the_system_will_not_look_at_is_named(
    option: str, encoded_session: tuple[Path, Pairs], word_vectors: Path, run_cli: Cli
) -> None:
    """As where the content of a file is pasted in the place of its name."""
    words = {"--manifest": encoded_session[1].manifest, "--teacher": word_vectors, "--store": run_cli.store}
    words[option] = Path("x" * 300)
    message = run_cli.fails("encode-teacher", *(word for pair in words.items() for word in pair))
    assert f"{'x' * 200} must be a path that you can reach; File name too long. Check it." in message


def test_command__in_a_folder_that_was_removed_says_so(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def getcwd() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr("os.getcwd", getcwd)
        assert "The current folder must be there; it has been removed." in run_cli.fails("status")
