"""Which sets an evaluation measures, what it says of those that are not there, and that one failure stops no other."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from set_miniatures import make_cifar10
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from workbench import COLOURS, DISTILL, SHAPES, Cli, Pairs, draw_image

from data_schemas.errors import ProtoRKDError
from data_schemas.evaluation_report import read_report

EVALUATE = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100, "--no-overlap")


@pytest.fixture
def pairs(encoded_session: tuple[Path, Pairs]) -> Pairs:
    """Return the 24 images that the student was trained on."""
    return encoded_session[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a data folder of one set of class folders: six colours, an image of each shape in train/, two in test/."""
    root = tmp_path / "data"
    for split, shapes in (("train", SHAPES), ("test", SHAPES[:2])):
        for colour in COLOURS[:6]:
            for shape in shapes:
                path = root / "shapes" / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, 40 if split == "train" else 44)
    return root


def test_eval_data_dir__does_every_task_that_a_set_allows(trained: Any, data: Path, run_cli: Cli) -> None:
    outcome = run_cli(*EVALUATE, "--eval-data-dir", data, "--knn-k", 3)
    report = read_report(Path(outcome["path"]))
    tasks = [(entry["name"], entry["task"]) for entry in report["sets"]]
    expected = ["zero_shot", "knn", "knn_backbone", "linear_probe", "linear_probe_backbone", "clustering"]
    assert tasks == [("shapes", task) for task in expected]
    absent = {each["name"]: each for each in report["absent"]}
    assert {"imagenet", "cifar10", "sun397"} <= absent.keys()
    assert str(data / "cifar10") in absent["cifar10"]["places"]


def test_eval_data_dir__reads_a_set_in_its_authors_format(trained: Any, tmp_path: Path, run_cli: Cli) -> None:
    make_cifar10(tmp_path / "data")
    words = (*EVALUATE, "--eval-data-dir", tmp_path / "data", "--dataset", "cifar10", "--task", "zero-shot")
    outcome = run_cli(*words)
    [entry] = read_report(Path(outcome["path"]))["sets"]
    assert (entry["name"], entry["num_classes"]) == ("cifar10", 3)
    assert run_cli(*words)["status"] == "unchanged"
    assert "whole" in run_cli.run("verify").stdout


def test_eval_data_dir__misses_a_set_that_was_named(trained: Any, data: Path, run_cli: Cli) -> None:
    message = run_cli.fails(*EVALUATE, "--eval-data-dir", data, "--dataset", "shapes", "--dataset", "dtd", "--knn-k", 3)
    assert "dtd" in message
    assert str(data / "dtd") in message


def test_eval_data_dir__says_that_a_set_has_no_test_images(trained: Any, data: Path, run_cli: Cli) -> None:
    shutil.copytree(data / "shapes" / "train", data / "stl10" / "train")
    outcome = run_cli(*EVALUATE, "--eval-data-dir", data, "--task", "zero-shot")
    [found] = [each for each in read_report(Path(outcome["path"]))["absent"] if each["name"] == "stl10"]
    assert "must hold test images" in found["reason"]
    message = run_cli.fails(*EVALUATE, "--eval-data-dir", data, "--dataset", "stl10", "--knn-k", 3)
    assert "training images alone" in message
    assert str(data / "stl10") in message


def test_download__must_say_what_to_fetch(trained: Any, data: Path, run_cli: Cli) -> None:
    assert "--dataset" in run_cli.fails(*EVALUATE, "--eval-data-dir", data, "--download")
    assert "--eval-data-dir" in run_cli.fails(*EVALUATE, "--knn", data / "shapes", "--dataset", "cifar10")


def test_evaluate__finishes_the_tasks_that_can_be_done(trained: Any, data: Path, pairs: Pairs, run_cli: Cli) -> None:
    words = (*EVALUATE, "--retrieval", pairs.manifest, "--retrieval", data / "absent.tsv", "--knn", data / "shapes")
    result = run_cli.run(*words, "--knn-k", 30, "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["status"] == "failed"
    assert "pairs/mean_recall" in told["metrics"]
    assert {failure["task"] for failure in told["failures"]} == {"reading", "knn", "knn_backbone"}
    assert "--knn-k" in result.stderr
    assert "absent.tsv" in result.stderr
    page = Path(told["path"]) / "report.html"
    assert "--knn-k" in page.read_text()
    assert not list((run_cli.store / "evaluate").glob("[!.]*"))


def test_evaluate__does_what_failed_once_it_is_mended(trained: Any, data: Path, pairs: Pairs, run_cli: Cli) -> None:
    victim = data / "shapes" / "test" / "red" / "circle.jpg"
    good = victim.read_bytes()
    victim.write_bytes(b"no image")
    words = (*EVALUATE, "--retrieval", pairs.manifest, "--knn", data / "shapes", "--knn-k", 3)
    assert "--max-bad-fraction" in run_cli.fails(*words)
    victim.write_bytes(good)
    outcome = run_cli(*words)
    assert outcome["status"] == "created"
    assert read_report(Path(outcome["path"]))["failures"] == []


def test_evaluate__takes_the_options_of_one_set_together(trained: Any, data: Path, run_cli: Cli) -> None:
    shapes = data / "shapes"
    outcome = run_cli(*EVALUATE, "--zero-shot", shapes, "--knn", shapes, "--linear-probe", shapes, "--knn-k", 3)
    assert outcome["counts"]["sets"] == 1
    assert len(list(run_cli.store.glob("image-embeddings/[!.]*"))) == 2  # train and test, each once


def test_evaluate__refuses_one_name_for_two_sets(trained: Any, data: Path, pairs: Pairs, run_cli: Cli) -> None:
    shapes = data / "shapes"
    others = (("--zero-shot", f"shapes={shapes / 'train'}"), ("--retrieval", f"shapes={pairs.manifest}"))
    for other in others:
        message = run_cli.fails(*EVALUATE, *other, "--knn", shapes, "--knn-k", 3)
        assert "Every set must have its own name; got shapes twice" in message


def test_task__leaves_the_others_out(trained: Any, data: Path, pairs: Pairs, run_cli: Cli) -> None:
    words = ("--eval-data-dir", data, "--retrieval", pairs.manifest, "--knn-k", 3)
    outcome = run_cli(*EVALUATE, *words, "--task", "knn", "--task", "analysis")
    tasks = [entry["task"] for entry in read_report(Path(outcome["path"]))["sets"]]
    assert tasks == ["geometry", "neighbourhoods", "knn", "knn_backbone", "clustering"]


@pytest.mark.parametrize(("suffix", "key"), [("", "embeddings"), ("_backbone", "features")])
def test_evaluate__agrees_with_scikit_learn(trained: Any, data: Path, run_cli: Cli, suffix: str, key: str) -> None:
    shapes = data / "shapes"
    metrics = run_cli(*EVALUATE, "--knn", shapes, "--linear-probe", shapes, "--knn-k", 1)["metrics"]
    found = [load_file(path) for path in run_cli.store.glob("image-embeddings/[!.]*/image_embeddings.safetensors")]
    test, train = sorted(found, key=lambda tensors: len(tensors["rows"]))
    rows = [tensors[key] for tensors in (train, test)]
    labels = [np.repeat(np.arange(6), len(tensors["rows"]) // 6) for tensors in (train, test)]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in rows]
    nearest = KNeighborsClassifier(1).fit(unit[0], labels[0])
    assert metrics[f"shapes/knn{suffix}/top1"] == pytest.approx(100 * nearest.score(unit[1], labels[1]))
    [entry] = [
        entry
        for path in run_cli.store.glob("evaluate/[!.]*")
        for entry in read_report(path)["sets"]
        if entry["task"] == f"linear_probe{suffix}"
    ]
    rows = [each.astype(np.float64) for each in rows]  # in float32 its line search fails on some processors
    mean, scale = rows[0].mean(axis=0), rows[0].std(axis=0)
    scaled = [(each - mean) / np.where(scale > 0, scale, 1) for each in rows]
    probe = LogisticRegression(C=1 / entry["l2_weight"], max_iter=5000, tol=1e-6).fit(scaled[0], labels[0])
    expected = 100 * probe.score(scaled[1], labels[1])
    assert metrics[f"shapes/linear_probe{suffix}/top1"] == pytest.approx(expected, abs=100 / 12)


def test_sts__measures_the_teacher(trained: Any, tmp_path: Path, run_cli: Cli) -> None:
    pairs = tmp_path / "sts.tsv"
    rows = ["red circle\tred square\t4", "red circle\tgreen stripe\t1", "blue stripe\tblue circle\t3"]
    pairs.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    outcome = run_cli(*EVALUATE, "--sts", pairs)
    assert set(outcome["metrics"]) == {"sts/sts/spearman", "sts/sts/pearson"}
    assert not list(run_cli.store.glob("image-embeddings/*"))


def test_overlap__finds_training_images_among_those_measured(trained: Any, pairs: Pairs, run_cli: Cli) -> None:
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100)
    outcome = run_cli(*words, "--retrieval", pairs.manifest)
    [found] = read_report(Path(outcome["path"]))["overlap"]
    assert (found["name"], found["num_exact"], found["num_training"]) == ("pairs", 24, 24)
    assert "training" in (Path(outcome["path"]) / "report.html").read_text()


def test_overlap__is_not_looked_for_among_images_that_have_changed_since_the_training(
    pairs: Pairs, word_vectors: Path, tmp_path: Path, run_cli: Cli
) -> None:
    root = shutil.copytree(pairs.root, tmp_path / "own")
    run_cli("encode-teacher", "--manifest", root / "pairs.tsv", "--teacher", word_vectors)
    run_cli(*DISTILL, "--epochs", 1)
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100, "--retrieval", pairs.manifest)
    first = run_cli(*words)
    draw_image(root / pairs.images[0], "red", "circle", 50)
    result = run_cli.run(*words, "--json")
    changed = json.loads(result.stdout)
    assert (changed["status"], first["status"]) == ("created", "created")
    assert f"images below {root} are no longer those that distill" in result.stderr
    assert [len(read_report(Path(each["path"]))["overlap"]) for each in (first, changed)] == [1, 0]
    shutil.copyfile(pairs.root / pairs.images[0], root / pairs.images[0])
    again = run_cli(*words)
    assert (again["status"], again["fingerprint"]) == ("unchanged", first["fingerprint"])


@pytest.mark.parametrize("identity", ["content", "path"])
def test_overlap__knows_the_training_images_as_the_training_did(
    encoded: Pairs, pairs: Pairs, run_cli: Cli, identity: str
) -> None:
    run_cli(*DISTILL, "--epochs", 1, "--image-identity", identity)
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100, "--retrieval", pairs.manifest)
    assert len(read_report(Path(run_cli(*words)["path"]))["overlap"]) == 1


def test_overlap__that_cannot_be_looked_for_fails_alone(
    trained: Any, pairs: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.evaluate.overlap.report

    def refuse(*_: Any, **__: Any) -> None:
        raise ProtoRKDError("The disk must have room; got none. Free some.")

    words = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100, "--retrieval", pairs.manifest)
    with monkeypatch.context() as patch:
        patch.setattr(stages.evaluate.overlap.report, "hash_images", refuse)
        result = run_cli.run(*words, "--json")
    told = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, [failure["task"] for failure in told["failures"]]) == (1, ["overlap"])
    assert "pairs/mean_recall" in told["metrics"]
    assert "The disk must have room" in result.stderr
    assert run_cli(*words)["status"] == "created"


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
def test_evaluate__agrees_with_scikit_learn_on_photographs(trained: Any, tmp_path: Path, run_cli: Cli) -> None:
    source, part = Path(os.environ["PROTORKD_TEST_DATA"]) / "cifar10", tmp_path / "cifar10"
    for split, num in (("train", 60), ("test", 30)):
        for folder in sorted(path for path in (source / split).iterdir() if path.is_dir()):
            (part / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:num]:
                (part / split / folder.name / image.name).symlink_to(image)
    outcome = run_cli(*EVALUATE, "--knn", part, "--linear-probe", part)
    entries = {entry["task"]: entry for entry in read_report(Path(outcome["path"]))["sets"]}
    found = [load_file(path) for path in run_cli.store.glob("image-embeddings/[!.]*/image_embeddings.safetensors")]
    test, train = sorted(found, key=lambda tensors: len(tensors["rows"]))
    labels, wanted = np.repeat(np.arange(10), 60), np.repeat(np.arange(10), 30)
    for suffix, key in (("", "embeddings"), ("_backbone", "features")):
        near, far = (rows[key] / np.linalg.norm(rows[key], axis=1, keepdims=True) for rows in (train, test))
        voters = KNeighborsClassifier(20, weights=lambda far: np.exp((1 - far**2 / 2) / 0.07), algorithm="brute")
        expected = 100 * voters.fit(near, labels).score(far, wanted)
        assert entries[f"knn{suffix}"]["metrics"]["top1"] == pytest.approx(expected, abs=0.4)
        mean, scale = train[key].mean(axis=0), train[key].std(axis=0)
        near, far = ((rows[key] - mean) / np.where(scale > 0, scale, 1) for rows in (train, test))
        probe = entries[f"linear_probe{suffix}"]
        fitted = LogisticRegression(C=1 / probe["l2_weight"], max_iter=5000).fit(near, labels)
        assert probe["metrics"]["top1"] == pytest.approx(100 * fitted.score(far, wanted), abs=0.7)
