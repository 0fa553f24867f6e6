"""``runs``: every student in one table, from a store that may be read-only."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from workbench import Cli

import protorkd
from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact

ROOT = Path(__file__).parents[4]


def names(text: str) -> list[str]:
    lines = text.split("\n\n", maxsplit=1)[0].splitlines()
    return [line.split()[0] for line in lines[1:]]


def test_runs__shows_the_best_student_first(run_cli: Cli, students: list[Artifact]) -> None:
    result = run_cli.run("runs")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        *("fingerprint", "lr", "seed", "test/mean_recall", "validation/mean_recall", "seconds", "pairs")
    ]
    assert names(result.stdout) == [each.record.fingerprint[:12] for each in (*students[3::-1], students[4])]
    assert lines[1].split()[1:3] == ["0.01", "1"]
    assert "*" in lines[1]
    assert "15.00" in lines[1]  # the last line of validation
    assert lines[5].split()[1:3] == ["0.03", "0"]


def test_runs__chooses_sorts_and_groups(run_cli: Cli, students: list[Artifact]) -> None:
    text = run_cli.run("runs", "--where", "lr=0.001", "--where", "test/mean_recall>0", "--sort", "seed").stdout
    assert names(text) == [each.record.fingerprint[:12] for each in students[:2]]
    assert text.splitlines()[0].split()[:2] == ["fingerprint", "seed"]
    lines = run_cli.run("runs", "--group-by", "seed", "--metric", "test/mean_recall").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["2", "runs", "0.01"], ["2", "runs", "0.001"]]
    assert "±" in lines[1]


def test_runs__gives_all_numbers_to_other_programs(run_cli: Cli, students: list[Artifact]) -> None:
    runs = run_cli("runs")["runs"]
    assert [each["fingerprint"] for each in runs] == [
        each.record.fingerprint for each in (*students[3::-1], students[4])
    ]
    rows = list(csv.DictReader(run_cli.run("runs", "--format", "csv").stdout.splitlines()))
    assert [float(row["lr"]) for row in rows] == [each["lr"] for each in runs]
    assert float(rows[0]["test/mean_recall/low"]) == runs[0]["test/mean_recall/low"] == runs[0]["test/mean_recall"] - 2
    assert runs[0]["training/loss"] == pytest.approx(5 / 3 + 3)


def test_runs__says_where_there_is_nothing(tmp_path: Path, run_cli: Cli) -> None:
    empty = Cli(tmp_path / "none")
    result = empty.run("runs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "none holds no students." in result.stderr
    assert empty("runs") == {"runs": []}
    assert "None of 5 students fulfils lr>1." in run_cli.run("runs", "--where", "lr>1").stderr
    message = run_cli.fails("runs", "--where", "learning=1")
    assert "--where must name an option or a metric of these artifacts; got 'learning'" in message
    nothing = run_cli.run("runs", "--where", "lr=0.03", "--sort", "test/mean_recall", "--metric", "test/mean_recall")
    assert nothing.stdout.splitlines()[0].split()[-3:] == ["test/mean_recall", "seconds", "pairs"]
    assert "got 'nothing'" in run_cli.fails("runs", "--where", "lr>1", "--sort", "nothing")
    assert empty.run("runs", "--where", "lr>1", "--sort", "lr").exit_code == 0
    assert "--baseline must go with --page" in run_cli.fails("runs", "--baseline", "abc")


def test_runs__reads_a_store_that_cannot_be_written(run_cli: Cli, store: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    run_cli.run("runs", "--page", str(tmp_path / "runs.html"))
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_runs__needs_nothing_slow(store: Path) -> None:
    code = (
        "import sys\n"
        "from cli import cli\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "runs", "--store", str(store)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "test/mean_recall" in finished.stdout
    assert not set(finished.stderr.split()) & {"torch", "numpy", "pyarrow", "sklearn", "transformers", "jinja2"}


def test_status__tells_objective_seed_and_headline_of_students(run_cli: Cli, students: list[Artifact]) -> None:
    lines = {line.split()[1]: line for line in run_cli.run("status").stdout.splitlines()}
    recall = run_cli("runs")["runs"][0]["test/mean_recall"]
    assert (
        f"  loss infonce=1, seed 1, test/mean_recall {recall:.2f}  from " in lines[students[3].record.fingerprint[:12]]
    )
    assert "  loss infonce=1, seed 0  from " in lines[students[4].record.fingerprint[:12]]


def test_protorkd_runs__is_a_list_of_dicts(store: Path, students: list[Artifact]) -> None:
    runs = protorkd.runs(store=store)
    assert [each["fingerprint"] for each in runs] == [each.record.fingerprint for each in students]
    assert (runs[0]["lr"], runs[0]["loss"], runs[0]["pairs"]) == (1e-3, ["infonce=1"], 100)
    assert [each["seed"] for each in protorkd.runs(store=store, where="lr=0.01")] == [0, 1]
    with pytest.raises(ProtoRKDError, match=r"where must name an option or a metric of these artifacts; got 'rl'"):
        protorkd.runs(store=store, where=["rl=0.01"])


def test_protorkd_runs__is_a_frame_where_pandas_is(store: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = protorkd.runs(store=store, as_frame=True)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.groupby("lr")["test/mean_recall"].mean().notna().tolist() == [True, True, False]


def test_protorkd_runs__says_that_pandas_is_lacking(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ProtoRKDError, match="as_frame must have pandas to make a DataFrame; it is not installed"):
        protorkd.runs(store=store, as_frame=True)


def test_json__is_one_line(run_cli: Cli) -> None:
    [line] = run_cli.run("runs", "--format", "json").stdout.splitlines()
    assert len(json.loads(line)["runs"]) == 5
