"""What a command that has nothing to compute imports: what takes long to import waits until something runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, FEATURES, Cli, Pairs

from tests.system.test_imports import ROOT, SLOW_TO_IMPORT, TABLES

SCRIPT = """
import sys
import cli
try:
    cli.cli(sys.argv[1:])
finally:
    print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def run(*words: object) -> tuple[str, set[str]]:
    """Run a command in a process of its own: what it printed, and what it had imported by its end."""
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120)
    printed, _, imported = done.stdout.rpartition("imported:")
    return done.stderr + printed, set(imported.split())


def test_status__imports_neither_tensors_nor_tables(trained: dict[str, Any], store: Path) -> None:
    printed, imported = run("status", "--store", store)
    assert "distill" in printed
    assert not imported & (SLOW_TO_IMPORT | TABLES | {"obstore"})


@pytest.mark.parametrize(
    "stage",
    ["encode-teacher", "encode-images", "prototypes", "report", "distill", "evaluate", "embed", "export", "index"],
)
def test_unchanged__imports_no_tensors(
    stage: str,
    trained: dict[str, Any],
    store: Path,
    run_cli: Cli,
    encoded_session: tuple[Path, Pairs],
    word_vectors: Path,
    backbone_weights: Path,
) -> None:
    manifest = encoded_session[1].manifest
    words = {
        "encode-teacher": ("encode-teacher", "--manifest", manifest, "--teacher", word_vectors),
        "prototypes": ("prototypes", "--num-prototypes", 3),
        "report": ("report", "--num-neighbours", 3),
        "distill": DISTILL,
        "embed": ("embed", "--images", manifest.parent, "--workers", 0),
        "index": ("index",),
        "encode-images": (*FEATURES, "--init-from", backbone_weights, "--manifest", manifest),
        "evaluate": ("evaluate", "--retrieval", manifest, "--num-resamples", 100, "--workers", 0),
        "export": ("export", "--format", "torch", "--format", "sentence-transformers"),
    }[stage]
    run_cli(*words)
    printed, imported = run(*words, "--store", store)
    assert f"{stage}: unchanged" in printed
    assert not imported & SLOW_TO_IMPORT
    printed, imported = run("why", *words, "--store", store)
    assert "would not run: unchanged" in printed
    assert not imported & SLOW_TO_IMPORT


def test_why__of_a_teacher_on_a_cpu_imports_no_tensors(write_manifest: Any, word_vectors: Path, store: Path) -> None:
    words = ("--manifest", write_manifest(["red"]), "--teacher", word_vectors.parent / "saved", "--store", store)
    (word_vectors.parent / "saved").mkdir()
    (word_vectors.parent / "saved" / "modules.json").write_text("[]")
    printed, imported = run("why", "encode-teacher", *words, "--device", "cpu")
    assert "nothing like it in the store" in printed
    assert not imported & SLOW_TO_IMPORT
