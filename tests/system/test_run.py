"""A whole run from one file, with real stages: captions are encoded once, prototypes made once."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from workbench import Pairs

from cli import cli

FILE = """
store: {store}
encode-teacher: {{manifest: {manifest}, teacher: {teacher}}}
prototypes: {{num-prototypes: 3}}
distill:
  {{image-size: 32, batch-size: 8, warmup-steps: 0, workers: 0, device: cpu, student: squeezenet1_1, epochs: 1}}
evaluate: {{retrieval: {manifest}, num-resamples: 100, workers: 0, overlap: false, task: retrieval}}
sweep:
  distill:
    loss: [proto, [simreg=1, proto-rkd=0.5]]
"""


def test_run__encodes_once_for_all_that_it_trains(
    tmp_path: Path, store: Path, encoded_session: tuple[Path, Pairs], word_vectors: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(FILE.format(store=store, manifest=encoded_session[1].manifest, teacher=word_vectors))
    lines = call(path)
    steps = [(line["step"], line["status"]) for line in lines[:-1]]
    names = ("encode-teacher", "prototypes", "distill", "evaluate", "distill", "evaluate")
    assert steps == [(name, "created") for name in names]
    first, second = lines[-1]["combinations"]
    assert first["swept"] == {"distill.loss": ["proto"]}
    assert second["swept"] == {"distill.loss": ["simreg=1", "proto-rkd=0.5"]}
    assert set(first["metrics"]) == set(second["metrics"]) >= {"pairs/mean_recall"}
    records = {path.parent.parent.name: json.loads(path.read_text()) for path in store.glob("*/*/artifact.json")}
    assert records["distill"]["inputs"]["prototypes"]["digest"] == records["prototypes"]["digest"]
    assert {line["status"] for line in call(path)[:-1]} == {"unchanged"}


def call(path: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, ["run", str(path), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]
