"""protorkd prompts: the texts that evaluate embeds, in one table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from set_miniatures import make_cifar10
from workbench import Cli, draw_image, make_manifest

from data_schemas.vector_sources.arrays import ArrayVectors
from data_schemas.vector_sources.part import TEXT_KEYS, VectorColumns
from stages.evaluate.sets.prompts import TEMPLATES, class_prompts


def written(run_cli: Cli, path: Path, *words: object) -> list[str]:
    result = run_cli.run("prompts", *words, "--output", path)
    assert result.exit_code == 0, result.output
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["caption"]
    return [text for (text,) in rows[1:]]


def test_prompts__are_those_of_a_known_set(run_cli: Cli, tmp_path: Path) -> None:
    make_cifar10(tmp_path / "data")
    texts = written(run_cli, tmp_path / "p.tsv", "--for", "cifar10", "--eval-data-dir", tmp_path / "data")
    assert texts[: len(TEMPLATES)] == list(class_prompts(["airplane"], TEMPLATES))
    assert len(texts) == len(set(texts)) == len(TEMPLATES) * len({text for text in texts if len(text.split()) == 1})


def test_prompts__of_several_sets_come_once(run_cli: Cli, tmp_path: Path) -> None:
    for name in ("hot_dog", "cat"):
        (tmp_path / "pets" / "test" / name).mkdir(parents=True)
        draw_image(tmp_path / "pets" / "test" / name / "1.jpg", "red", "circle", 8)
    manifest = make_manifest(tmp_path / "pairs.tsv", ["1.jpg", "2.jpg", "3.jpg"], ["a cat", "a song", "a cat"])
    sts = tmp_path / "sts.csv"
    sts.write_text("score,sentence1,sentence2\n1,a song,a tune\n2,a dog,a tune\n")
    sets = ("--for", manifest, "--for", f"mine={tmp_path / 'pets'}", "--template", "a {}", "--sts", sts)
    assert written(run_cli, tmp_path / "p.tsv", *sets) == ["a cat", "a song", "a hot dog", "a dog", "a tune"]


def test_prompts__take_the_same_names_and_templates_as_evaluate(run_cli: Cli, tmp_path: Path) -> None:
    for name in ("c1", "c2"):
        (tmp_path / "mnist" / name).mkdir(parents=True)
        draw_image(tmp_path / "mnist" / name / "1.jpg", "red", "circle", 8)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    sets = ("--for", tmp_path / "mnist", "--class-names", tmp_path / "names.txt")
    texts = written(run_cli, tmp_path / "p.tsv", *sets)
    assert texts[:2] == ["one", "the digit one"]  # the templates of MNIST


def test_prompts__are_keys_of_an_array_beside_them(run_cli: Cli, tmp_path: Path) -> None:
    captions = ['a "sign"', "two\nlines", "a\ttab", "7"]
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"filepath": f"{row}.jpg", "title": text}) + "\n" for row, text in enumerate(captions))
    )
    texts = written(run_cli, tmp_path / "p.tsv", "--for", tmp_path / "pairs.jsonl")
    np.save(tmp_path / "p.npy", np.ones((len(texts), 2)))
    keys = ArrayVectors(tmp_path / "p.npy").keys(VectorColumns(known=TEXT_KEYS))
    assert keys.to_pylist() == texts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--for must name a set; got none"),
        (("--for", "cifar10"), "pass the folder that the set is in"),
        (("--for", "cifar11", "--eval-data-dir", "HERE"), "Nearest: cifar10"),
        (("--for", "cifar10", "--eval-data-dir", "HERE"), "cifar10: Nothing is there"),
        (("--for", "HERE/none.tsv"), "none.tsv must be a file"),
        (("--for", "HERE", "--template", "a photo"), "--template must hold {}"),
    ],
    ids=["no-set", "no-folder", "unknown", "absent", "no-file", "template"],
)
def test_prompts__say_what_is_wrong(words: tuple[str, ...], said: str, run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    draw_image(tmp_path / "cat" / "1.jpg", "red", "circle", 8)
    output = tmp_path / "p.tsv"
    asked = [word.replace("HERE", str(tmp_path)) for word in words]
    assert said in run_cli.fails("prompts", *asked, "--output", output)
    assert not output.exists()
