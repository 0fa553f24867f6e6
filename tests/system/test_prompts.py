"""Prompts by name from encoding to export: captions have one, queries another, and every stage agrees on both."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from searching import opened_search
from workbench import DISTILL, Cli, Pairs, make_pairs, with_prompts

from data_schemas.evaluation_report import read_report
from pipeline.store.store import Store
from stages.components.images.decoding import open_image
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.encoder import StudentEncoder
from stages.components.student.weights import load_student
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.teacher import Teacher
from stages.export.loading import load_model
from stages.export.parity import unit

PROMPTS: dict[str, str | None] = {"search_query": "yellow stripe ", "search_document": "blue ", "plain": ""}
TEXTS = ["red circle", "green square", "", "one two"]


@pytest.fixture(scope="module")
def prompted(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Pairs]:
    """A store whose student is distilled from captions with a prompt, its teacher, and its images."""
    root = tmp_path_factory.mktemp("prompted")
    teacher = with_prompts(bert_folder, root / "teacher", PROMPTS, in_mean=False)
    pairs, run_cli = make_pairs(root / "pictures", 24, 40), Cli(root / "store")
    asked = ("--manifest", pairs.manifest, "--teacher", teacher, "--prompt-name", "search_document")
    run_cli("encode-teacher", *asked)
    run_cli(*DISTILL, "--epochs", 1)
    run_cli("embed", "--device", "cpu", "--precision", "fp32", "--workers", 0, "--manifest", pairs.manifest)
    return root / "store", teacher, pairs


@pytest.fixture
def found(prompted: tuple[Path, Path, Pairs], store: Path) -> tuple[Path, Pairs]:
    """Copy the store; return the teacher and the images."""
    shutil.copytree(prompted[0], store)
    return prompted[1:]


def by_teacher(folder: Path, prompt: str | None, texts: list[str]) -> np.ndarray:
    return unit(Teacher(find_teacher(str(folder)), prompt=prompt or "").encode(texts))


def test_search__embeds_words_by_the_prompt_of_queries_or_of_captions(found: tuple[Path, Pairs], store: Path) -> None:
    for name, text in [(None, "blue "), *PROMPTS.items()]:
        vectors = opened_search(store, query_prompt_name=name).queries.texts(["red circle"])
        np.testing.assert_allclose(vectors, by_teacher(found[0], text, ["red circle"]), atol=1e-6)


def test_search__among_captions_takes_the_prompt_of_queries(found: tuple[Path, Pairs], run_cli: Cli) -> None:
    [encoded] = (run_cli.store / "encode-teacher").glob("*/artifact.json")
    asked = ("search", "--device", "cpu", "--in", encoded.parent, "--text", "red circle", "--json")
    scores = {}
    for name in (None, "search_query"):
        [line] = run_cli.run(*asked, *([] if name is None else ["--query-prompt-name", name])).stdout.splitlines()
        [query] = json.loads(line)["queries"]
        scores[name] = query["results"][0]["score"]
    assert scores[None] == pytest.approx(1, abs=1e-3)  # the caption itself, behind its own prompt
    assert scores["search_query"] < scores[None] - 0.01


def test_evaluate__embeds_captions_as_queries_where_they_look_for_images(
    found: tuple[Path, Pairs], run_cli: Cli
) -> None:
    teacher, pairs = found
    asked = ("evaluate", "--workers", 0, "--device", "cpu", "--precision", "fp32", "--retrieval", pairs.manifest)
    plain = run_cli(*asked)
    outcome = run_cli(*asked, "--query-prompt-name", "search_query")
    assert outcome["fingerprint"] != plain["fingerprint"]
    entries = {entry["task"]: entry for entry in read_report(Path(outcome["path"]))["sets"]}
    assert entries["retrieval"]["query_prompt"] == "yellow stripe "
    assert "yellow stripe" in (Path(outcome["path"]) / "report.html").read_text()
    student = find_checkpoint(None, store=Store(run_cli.store))
    network = load_student(student.config, student.weights, device=torch.device("cpu"))
    encoder = StudentEncoder(network, student.config, device=torch.device("cpu"))
    images = unit(encoder.encode([open_image(pairs.root / name) for name in pairs.images]))
    scores = by_teacher(teacher, "yellow stripe ", list(pairs.captions)) @ images.T
    hits = (scores > np.diag(scores)[:, None]).sum(axis=1) < 5
    assert outcome["metrics"]["pairs/text_to_image/recall@5"] == pytest.approx(100 * hits.mean())
    others = {name for name, value in plain["metrics"].items() if outcome["metrics"][name] != value}
    assert others
    assert all("text_to_image" in name or name == "pairs/mean_recall" for name in others)
    made = [json.loads(path.read_text()) for path in (run_cli.store / "measurements").glob("*/artifact.json")]
    assert sorted(each["params"]["task"] for each in made) == ["geometry", "neighbourhoods", "retrieval", "retrieval"]


def test_evaluate__refuses_a_prompt_of_queries_that_there_are_none_of(
    found: tuple[Path, Pairs], run_cli: Cli, tmp_path: Path
) -> None:
    asked = ("evaluate", "--workers", 0, "--device", "cpu", "--query-prompt-name", "search_query")
    assert "--query-prompt-name must go with a set of --retrieval" in run_cli.fails(
        *asked, "--retrieval", found[1].manifest, "--task", "analysis"
    )
    assert "--query-prompt-name must name a prompt that the teacher registers; got query." in run_cli.fails(
        *asked[:-1], "query", "--retrieval", found[1].manifest
    )


def test_export__encodes_texts_and_queries_as_evaluation_and_search_do(found: tuple[Path, Pairs], run_cli: Cli) -> None:
    plain = run_cli("export")
    outcome = run_cli("export", "--query-prompt-name", "search_query")
    assert outcome["fingerprint"] != plain["fingerprint"]
    assert {"text", "image", "query"} == {name.partition("/")[0] for name in outcome["metrics"]}
    model = load_model(outcome["path"], device="cpu")
    captions = by_teacher(found[0], "blue ", TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS), captions, atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), captions, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS), by_teacher(found[0], "yellow stripe ", TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="plain"), by_teacher(found[0], "", TEXTS), atol=1e-5)
    unnamed = load_model(plain["path"], device="cpu")
    np.testing.assert_allclose(unnamed.encode_query(TEXTS), captions, atol=1e-5)
    assert "must go with --format sentence-transformers" in run_cli.fails(
        "export", "--format", "torch", "--query-prompt-name", "search_query"
    )
