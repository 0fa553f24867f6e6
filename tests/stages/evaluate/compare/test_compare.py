"""``compare`` on evaluations made up of outcomes, in a store as the pipeline writes it."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from evaluations import (
    NUM,
    Checkpoints,
    make,
    make_evaluation,
    make_measured,
    make_student,
    outcomes_of,
    retrieval_outcomes,
)
from workbench import Cli

from data_schemas.files import write_atomic
from data_schemas.per_query_results import QueryResults
from pipeline.store.store import Artifact, Store
from stages.evaluate.compare.command import ComparedMetric, adjusted, notes, table
from stages.evaluate.compare.paired_comparison import Draws, compare_outcomes

ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Pair:
    """Two students that were evaluated, the second the better one, after every epoch."""

    store: Path
    students: tuple[Artifact, Artifact]
    evaluations: tuple[Artifact, Artifact]
    outcomes: tuple[Checkpoints, Checkpoints]

    @property
    def names(self) -> tuple[str, str]:
        first, second = (artifact.record.fingerprint for artifact in self.evaluations)
        return first[:12], second[:12]


@pytest.fixture
def pair(store: Path) -> Pair:
    outcomes = (
        {"epoch_1": outcomes_of(1, ease=0.1), "last": outcomes_of(2, ease=0.4)},
        {"epoch_1": outcomes_of(3, ease=0.2), "last": outcomes_of(4, ease=0.8)},
    )
    students = make_student(store, "one"), make_student(store, "other")
    one, other = (make_evaluation(store, *each) for each in zip(students, outcomes, strict=True))
    return Pair(store, students, (one, other), outcomes)


def test_compare__gives_the_differences_of_the_last_checkpoints(pair: Pair, run_cli: Cli) -> None:
    result = run_cli("compare", *pair.names)
    draws = Draws(seed=0, num_resamples=1000, num_permutations=2000)
    expected = compare_outcomes(pair.outcomes[0]["last"], pair.outcomes[1]["last"], draws=draws)
    assert [row["name"] for row in result["metrics"]] == [
        "pets/zero_shot/top1",
        "pets/zero_shot/mean_per_class",
        "pets/image_to_text/recall@5",
        "pets/image_to_text/median_rank",
    ]
    for row, difference in zip(result["metrics"], expected, strict=True):
        assert (row["first"], row["second"]) == (difference.first, difference.second)
        assert row["difference"] == difference.second - difference.first
        assert (row["low"], row["high"], row["num_pictures"]) == difference.interval
        assert row["p_value"] == difference.p_value
    assert result["metrics"][0]["difference"] > 20
    assert result["metrics"][0]["differs"]


def test_compare__says_in_json_what_was_compared(pair: Pair, run_cli: Cli) -> None:
    result = run_cli("compare", *pair.names, "--seed", 7, "--resamples", 50)
    for key, evaluation, student in zip(("first", "second"), pair.evaluations, pair.students, strict=True):
        assert result[key] == {
            "evaluation": evaluation.record.fingerprint,
            "checkpoint": "last",
            "student": student.record.fingerprint,
        }
    assert (result["seed"], result["resamples"]) == (7, 50)
    assert result["not_compared"] == ["pets/clustering/ari"]
    draws = Draws(seed=7, num_resamples=50, num_permutations=100)
    expected = compare_outcomes(pair.outcomes[0]["last"], pair.outcomes[1]["last"], draws=draws)
    assert [row["low"] for row in result["metrics"]] == [difference.interval.low for difference in expected]
    assert [row["p_value"] for row in result["metrics"]] == [difference.p_value for difference in expected]


def test_compare__prints_students_and_an_aligned_table(pair: Pair, run_cli: Cli) -> None:
    result = run_cli.run("compare", *pair.names)
    assert result.exit_code == 0
    first, second, _, options, name, _, header, *rows = result.stdout.splitlines()
    assert options.split() == ["option", "A", "B"]
    assert name.split()[0] == "name"  # the input that tells the two apart
    for line, argument, name, student in zip((first, second), "AB", pair.names, pair.students, strict=True):
        assert line == f"{argument}  {name}@last  student {student.record.fingerprint[:12]}, resnet18"
    top1 = pair.outcomes[0]["last"][0].measures["top1"].mean(), pair.outcomes[1]["last"][0].measures["top1"].mean()
    assert rows[0].split()[:4] == ["pets/zero_shot/top1", *(f"{100 * value:.2f}" for value in top1), rows[0].split()[3]]
    assert {row.index("]") for row in rows[:4]} == {header.index("95 % interval") + len("95 % interval") - 1}
    assert str(NUM) in rows[0].split()
    assert "not compared, for no single image has them: pets/clustering/ari" in result.stderr


def test_compare__takes_a_checkpoint_after_an_at_sign(pair: Pair, run_cli: Cli) -> None:
    one, other = pair.names
    result = run_cli("compare", f"{one}@epoch_1", f"{one}@last")
    assert (result["first"]["checkpoint"], result["second"]["checkpoint"]) == ("epoch_1", "last")
    top1 = [pair.outcomes[0][name][0].measures["top1"].mean() for name in ("epoch_1", "last")]
    assert (result["metrics"][0]["first"], result["metrics"][0]["second"]) == pytest.approx(
        (100 * top1[0], 100 * top1[1])
    )
    assert result["not_compared"] == []  # the first has no clustering
    assert run_cli("compare", f"{pair.evaluations[0].path}@epoch_1", other)["first"]["checkpoint"] == "epoch_1"


def test_compare__takes_the_only_checkpoint(pair: Pair, run_cli: Cli, store: Path) -> None:
    only = make_evaluation(store, make_student(store, "third"), {"epoch_9": outcomes_of(5)})
    assert run_cli("compare", only.path, pair.names[0])["first"]["checkpoint"] == "epoch_9"


def test_compare__takes_a_student_by_its_newest_evaluation(pair: Pair, run_cli: Cli, store: Path) -> None:
    newer = make_evaluation(store, pair.students[0], {"last": outcomes_of(9, ease=0.5)}, settings="newer")
    make_evaluation(store, make_student(store, "third"), {"last": outcomes_of(5)})
    for reference in (pair.students[0].record.fingerprint[:12], pair.students[0].path):
        result = run_cli.run("compare", reference, pair.students[1].path, "--json")
        found = json.loads(result.stdout)
        assert found["first"]["evaluation"] == newer.record.fingerprint
        assert found["second"]["evaluation"] == pair.evaluations[1].record.fingerprint
        assert f"A: using evaluate {newer.record.fingerprint[:12]} of distill" in result.stderr
        assert "the newest of 2" in result.stderr


def test_compare__takes_a_folder_with_an_at_sign_in_its_name(pair: Pair, run_cli: Cli, tmp_path: Path) -> None:
    moved = shutil.copytree(pair.evaluations[0].path, tmp_path / "mine@home")
    assert run_cli("compare", moved, pair.names[1])["first"]["checkpoint"] == "last"
    assert run_cli("compare", f"{moved}@epoch_1", pair.names[1])["first"]["checkpoint"] == "epoch_1"


def test_compare__refuses_an_evaluation_and_itself(pair: Pair, run_cli: Cli) -> None:
    one, _ = pair.names
    for other in (one, f"{one}@last", pair.students[0].path, pair.evaluations[0].path):
        message = run_cli.fails("compare", one, other)
        assert f"A and B must name two evaluations; both name {one}@last." in message
        assert "this evaluation has epoch_1, last" in message


def test_compare__refuses_evaluations_of_different_sets(pair: Pair, run_cli: Cli, store: Path) -> None:
    student = make_student(store, "third")
    cars = make_evaluation(store, student, {"last": outcomes_of(5, set_name="cars")}, settings="cars")
    message = run_cli.fails("compare", pair.names[0], cars.path)
    assert "must share a set and a task to be compared; got ['pets/image_to_text', 'pets/zero_shot']" in message
    fewer = [QueryResults("pets", "zero_shot", ["0.jpg"], {"top1": np.ones(1)}, labels=["dog"])]
    part = make_evaluation(store, student, {"last": fewer}, settings="part")
    assert "must hold the same images" in run_cli.fails("compare", pair.names[0], part.path)


def test_compare__refuses_what_is_not_as_it_was_written(pair: Pair, run_cli: Cli) -> None:
    path = pair.evaluations[0].path / "outcomes" / "last" / "outcomes.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = run_cli.fails("compare", *pair.names)
    assert f"{path} must be as it was written; it has other bytes" in message
    assert "Run evaluate again" in message
    run_cli("compare", f"{pair.names[0]}@epoch_1", pair.names[1])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "feed",
            "A must name exactly one evaluation or student in {store}, by fingerprint or path; got 'feed'. Known: ",
        ),
        ("", "got ''. Known: evaluate"),
        ("@last", "got ''. Known: evaluate"),
        (
            "{one}@epoch_7",
            "A must name a checkpoint that evaluate {one} has; got 'epoch_7'. Choose one of epoch_1, last",
        ),
        ("{one}@", "got ''. Choose one of epoch_1, last, as in {one}@epoch_1."),
    ],
)
def test_compare__says_what_can_be_named(pair: Pair, run_cli: Cli, reference: str, message: str) -> None:
    one, other = pair.names
    known = {"one": one, "store": pair.store}
    assert message.format(**known) in run_cli.fails("compare", reference.format(**known), other)


def test_compare__takes_no_name_for_none(run_cli: Cli, tmp_path: Path) -> None:
    elsewhere = make_evaluation(tmp_path / "elsewhere", make_student(tmp_path / "elsewhere", "one"), {})
    shutil.copytree(elsewhere.path, run_cli.store / "evaluate" / elsewhere.record.fingerprint)
    assert f"got ''. Known: {elsewhere.name}." in run_cli.fails("compare", "", "")


def test_compare__refuses_a_prefix_of_two_artifacts(pair: Pair, run_cli: Cli, store: Path) -> None:
    more = [make_student(store, f"student {number}") for number in range(16)]
    fingerprints = [artifact.record.fingerprint for artifact in (*pair.students, *pair.evaluations, *more)]
    # Of 17 and more, two begin with the same digit.
    [shared, *_] = [digit for digit in "0123456789abcdef" if sum(f.startswith(digit) for f in fingerprints) > 1]
    message = run_cli.fails("compare", pair.names[0], shared)
    assert f"B must name exactly one evaluation or student in {store}" in message
    known = message.partition("Known: ")[2]
    assert all((f[:12] in known) == f.startswith(shared) for f in fingerprints)


def test_compare__refuses_other_artifacts_and_students_without_evaluation(
    pair: Pair, run_cli: Cli, store: Path
) -> None:
    other = make(store, "prototypes", {}, lambda out: write_atomic(out.path / "report.json", b"{}"))
    assert "B must name an artifact of evaluate or distill; got one of prototypes" in run_cli.fails(
        "compare", pair.names[0], other.path
    )
    student = make_student(store, "third")
    name = student.record.fingerprint[:12]
    assert f"got distill {name}, which has none. Run evaluate with --student {name} first." in run_cli.fails(
        "compare", pair.names[0], student.path
    )


def test_compare__asks_for_outcomes_of_single_images(pair: Pair, run_cli: Cli, store: Path) -> None:
    without = make_evaluation(store, pair.students[0], {}, settings="old")
    message = run_cli.fails("compare", without.path, pair.names[1])
    assert "A must hold outcomes of single images to be compared; evaluate" in message
    assert "Run evaluate again with the same options." in message


def test_compare__takes_the_checkpoint_that_an_evaluation_shows(pair: Pair, run_cli: Cli, store: Path) -> None:
    epochs = {f"epoch_{epoch}": outcomes_of(epoch) for epoch in (1, 2, 10)}
    several = make_evaluation(store, pair.students[0], epochs, settings="several")
    compared = run_cli.run("compare", several.path, pair.names[1], "--json")
    assert json.loads(compared.stdout)["first"]["checkpoint"] == "epoch_10"


def test_compare__names_a_damaged_record(pair: Pair, run_cli: Cli) -> None:
    (pair.evaluations[0].path / "artifact.json").write_text("{}")
    assert "artifact.json must be an artifact's record" in run_cli.fails("compare", *pair.names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resamples", 0), "--resamples must be above 0; got 0."),
        (("--seed", -1), "--seed must be 0 or more; got -1."),
    ],
)
def test_compare__refuses_numbers_that_draw_nothing(
    pair: Pair, run_cli: Cli, words: tuple[object, ...], message: str
) -> None:
    assert message in run_cli.fails("compare", *pair.names, *words)


def test_compare__must_be_given_two_evaluations(pair: Pair, run_cli: Cli) -> None:
    assert run_cli.run("compare", pair.names[0]).exit_code == 2
    assert run_cli.run("compare", *pair.names * 20).exit_code == 2


def test_compare__names_the_options_that_differ(run_cli: Cli, store: Path) -> None:
    names = []
    for place, lr in enumerate((1e-3, 2e-3, 2e-3)):
        outcomes = retrieval_outcomes(place, ease=place)
        _, evaluation = make_measured(store, "same", outcomes, lr=lr, seed=place, epochs=4)
        names.append(evaluation.record.fingerprint[:12])
    found = run_cli("compare", *names)
    assert found["options"] == {"lr": [1e-3, 2e-3, 2e-3], "seed": [0, 1, 2]}
    lines = run_cli.run("compare", *names[1:]).stdout.splitlines()
    assert [line.split() for line in lines[3:5]] == [["option", "A", "B"], ["seed", "1", "2"]]


def test_compare__holds_all_others_against_the_first(run_cli: Cli, store: Path) -> None:
    outcomes = [retrieval_outcomes(place, ease=place) for place in range(3)]
    made = [make_measured(store, str(place), each, seed=place) for place, each in enumerate(outcomes)]
    references = [student.record.fingerprint[:12] for student, _ in made]
    found = run_cli("compare", *references)
    assert found["first"]["evaluation"] == made[0][1].record.fingerprint
    assert [each["second"]["student"] for each in found["comparisons"]] == [
        student.record.fingerprint for student, _ in made[1:]
    ]
    everything = [metric for each in found["comparisons"] for metric in each["metrics"]]
    alone = run_cli("compare", *references[:2])
    assert [row["p_value"] for row in alone["metrics"]] == [row["p_value"] for row in everything[:9]]
    assert sum(row["p_holm"] for row in everything[:9]) > sum(row["p_holm"] for row in alone["metrics"])
    stdout = run_cli.run("compare", *references).stdout
    assert [line.split()[3:6] for line in stdout.splitlines() if line.startswith("metric")] == [
        ["B", "-", "A"],
        ["C", "-", "A"],
    ]
    assert f"of {len(everything)}." in stdout


def test_compare__compares_the_mean_recall_before_its_parts(run_cli: Cli, store: Path) -> None:
    both = [make_measured(store, str(place), retrieval_outcomes(place, ease=place), seed=place) for place in range(2)]
    found = run_cli("compare", *(evaluation.record.fingerprint[:12] for _, evaluation in both))
    mean, *parts = found["metrics"]
    assert mean["name"] == "test/mean_recall"
    assert found["not_compared"] == []
    for key, (_, evaluation) in zip(("first", "second"), both, strict=True):
        assert mean[key] == pytest.approx(evaluation.record.metrics["test/mean_recall"])
    recalls = [row["difference"] for row in parts if "recall@" in row["name"]]
    assert len(recalls) == 6
    assert mean["difference"] == pytest.approx(sum(recalls) / 6)
    assert mean["low"] < mean["difference"] < mean["high"]


def test_compare__says_where_a_student_is_gone(run_cli: Cli, store: Path) -> None:
    both = [make_measured(store, str(place), retrieval_outcomes(place, ease=place), seed=place) for place in range(2)]
    Store(store).remove(both[1][0].path)
    result = run_cli.run("compare", *(evaluation.record.fingerprint[:12] for _, evaluation in both))
    assert "options are not compared: " in result.stderr
    assert f"has no record of student {both[1][0].record.fingerprint[:12]}" in result.stderr
    assert "test/mean_recall" in result.stdout


def test_compare__needs_nothing_slow(pair: Pair) -> None:
    code = (
        "import sys\n"
        "from cli import cli\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "compare", *pair.names, "--json", "--store", str(pair.store)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["metrics"]
    loaded = set(finished.stderr.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "torchvision", "sentence_transformers", "transformers", "faiss", "zarr", "sklearn"}


def line(p_value: float, p_holm: float) -> ComparedMetric:
    return ComparedMetric("pets/knn/top1", 50.0, 61.5, 11.5, 4.0, 19.25, 300, p_value, p_holm, differs=p_holm <= 0.05)


def test_table__marks_what_differs_beyond_chance() -> None:
    header, near, far = table([line(0.04, 0.08), line(0.00001, 0.00002)])
    assert header.split("  ")[0] == "metric"
    assert near.endswith("0.0400    0.0800")
    assert far.endswith("<0.0001   <0.0001  *")
    assert "50.00  61.50  +11.50  [+4.00, +19.25]" in near


def test_adjusted__makes_p_values_of_one_family() -> None:
    hits = np.zeros((2, 40))
    hits[1, :8] = 1
    images = [f"{number}.jpg" for number in range(40)]
    tasks = [[QueryResults("pets", f"task {n}", images, {"top1": row}) for n in range(10)] for row in hits]
    for metric in adjusted(compare_outcomes(*tasks)):
        assert metric.p_value == pytest.approx(2 / 2**8)
        assert metric.p_holm == pytest.approx(20 / 2**8)
        assert not metric.differs  # it would, looked at alone


def test_notes__warn_of_many_comparisons() -> None:
    assert "2 comparisons are made" in "\n".join(notes([line(0.04, 0.08)] * 2, resamples=1000))
    assert "comparisons" not in "\n".join(notes([line(0.04, 0.04)], resamples=1000))
    assert "0.05 or less: 1 of 2." in notes([line(0.04, 0.04), line(0.3, 0.3)], resamples=1000)[0]


def test_notes__ask_for_more_draws_where_none_could_tell() -> None:
    assert "--resamples" not in "\n".join(notes([line(0.04, 0.08)] * 100, resamples=1000))
    assert "never below 1 / 2001" in "\n".join(notes([line(0.04, 0.08)] * 101, resamples=1000))
    enough = notes([line(0.04, 0.08)] * 101, resamples=1010)
    assert "pass --resamples 1010" in "\n".join(notes([line(0.04, 0.08)] * 101, resamples=1000))
    assert "--resamples" not in "\n".join(enough)
