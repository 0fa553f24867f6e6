"""The audit of pinned packages: what is known to be vulnerable fails it, what cannot be looked up is counted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"

_HOLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["3"]}]}


def _audit(tmp_path: Path, output: str) -> subprocess.CompletedProcess[str]:
    """Run it with a tool runner that prints what pip-audit would."""
    runner = tmp_path / "uv"
    runner.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    runner.chmod(0o755)
    return subprocess.run([sys.executable, AUDIT, runner], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages looked up, 0 vulnerabilities\n"),
        ([_HOLE], 1, "b 2 has PYSEC-1; mended in 3"),
        ([{"name": "a", "skip_reason": "not found"}, _HOLE], 1, "1 vulnerabilities; 1 could not be looked up"),
    ],
)
def test_audit__fails_on_known_vulnerabilities_alone(
    tmp_path: Path, packages: list[Any], status: int, said: str
) -> None:
    run = _audit(tmp_path, json.dumps({"dependencies": packages}))
    assert run.returncode == status
    assert said in run.stdout


def test_audit__says_that_it_could_not_be_done(tmp_path: Path) -> None:
    run = _audit(tmp_path, "")
    assert run.returncode == 0
    assert "audit: not done" in run.stdout
