"""Completion, asked for as a shell asks for it: through the environment, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import cli
from pipeline.store.store import Store

ROOT = Path(__file__).parents[3]
SCRIPT = """
import atexit, sys
atexit.register(lambda: print("imported:", *{name.partition(".")[0] for name in sys.modules}))
sys.argv[0] = "protorkd"
import cli
cli.main()
"""


def complete(*words, begun="", shell="bash"):
    """Return what a shell would offer after ``words``, and what the process had imported by then."""
    line = {"COMP_WORDS": " ".join(["protorkd", *map(str, words), begun]), "COMP_CWORD": str(len(words) + 1)}
    environment = os.environ | line | {"_PROTORKD_COMPLETE": f"{shell}_complete", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    offered, _, imported = done.stdout.rpartition("imported:")
    return offered.split("\n")[:-1] if offered.strip() else [], set(imported.split())


def test_completion__offers_commands_options_and_choices():
    assert "plain,encode-teacher" in complete(begun="enc")[0]
    assert "plain,--image-size" in complete("distill", begun="--image-s")[0]
    assert complete("distill", "--precision", begun="bf")[0] == ["plain,bf16"]
    assert "plain,fish" in complete("completion")[0]


def test_completion__offers_names_without_importing_what_has_them():
    offered, imported = complete("distill", "--student", begun="resnet50")
    assert offered == ["plain,resnet50", "plain,resnet50w2", "plain,resnet50w4", "plain,resnet50w5"]
    assert not imported & {"torch", "torchvision", "numpy", "pyarrow"}
    offered, imported = complete("distill", "--loss", begun="proto")
    assert offered == ["plain,proto", "plain,proto-rkd", "plain,protocpc"]
    assert not imported & {"torch", "torchvision", "numpy", "pyarrow"}


def test_completion__offers_artifacts_of_the_stage_that_is_wanted(toy):
    artifact = toy.run().artifact
    fingerprint = artifact.record.fingerprint
    assert complete("verify", "--store", toy.store.root, begun=fingerprint[:3])[0] == [f"plain,{fingerprint[:12]}"]
    assert complete("gc", "--store", toy.store.root, "--drop")[0] == [f"plain,{fingerprint[:12]}"]
    assert complete("evaluate", "--store", toy.store.root, "--student")[0] == []
    offered, imported = complete("verify", "--store", toy.store.root, shell="zsh")
    assert offered[:2] == ["plain", fingerprint[:12]]
    assert offered[2] == f"toy {artifact.record.created[:16]}"
    assert not imported & {"torch", "numpy", "pyarrow"}


def test_completion__offers_nothing_of_a_store_that_is_not_there(tmp_path):
    assert complete("verify", "--store", tmp_path / "absent")[0] == []
    assert not Store(tmp_path / "absent").root.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion__prints_the_script_of_a_shell(shell):
    result = CliRunner().invoke(cli, ["completion", shell], prog_name="protorkd", catch_exceptions=False)
    assert result.exit_code == 0
    assert f"_PROTORKD_COMPLETE={shell}_complete" in result.stdout


def test_completion__works_in_bash(tmp_path):
    script = tmp_path / "complete.bash"
    script.write_text(CliRunner().invoke(cli, ["completion", "bash"], prog_name="protorkd").stdout)
    command = tmp_path / "protorkd"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cli; cli.main()"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
    command.chmod(0o755)
    asked = (
        f"PATH={tmp_path}:$PATH; source {script}; COMP_WORDS=(protorkd dist); COMP_CWORD=1; "
        'cd /; _protorkd_completion protorkd dist protorkd; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["distill"], done.stderr
