import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from exports import Exported

from pipeline.store.store import Store
from stages.components.student.checkpoints import find_checkpoint
from stages.export.model_card.card import CARD_NAME, escape, write_card
from stages.export.model_card.figures import find_evaluation
from stages.export.model_card.lineage import trace
from stages.export.options import ExportParams


def front_matter(card: str) -> dict[str, Any]:
    head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert head
    values: dict[str, Any] = yaml.safe_load(head[1])
    return values


@pytest.fixture
def made_of(exported_session: Exported) -> dict[str, Any]:
    store = Store(exported_session.store)
    student = find_checkpoint(None, store=store)
    lineage = trace(student, teacher_location="sentence-transformers/eyes@0123", base_model="", store=store)
    return {"lineage": lineage, "evaluation": find_evaluation(None, student=student, store=store)}


def test_card__tells_the_hub_what_it_files_models_by(exported_session: Exported) -> None:
    values = front_matter((exported_session.folder / CARD_NAME).read_text())
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "sentence-transformers"
    assert values["pipeline_tag"] == "sentence-similarity"
    assert values["language"] == ["en"]
    assert "base_model" not in values  # a file of word vectors has no name on the hub
    [index] = values["model-index"]
    [report] = [json.loads(path.read_text()) for path in exported_session.store.glob("evaluate/*/report.json")]
    [result] = index["results"]
    [entry] = [entry for entry in report["sets"] if entry["task"] == "retrieval"]
    assert {each["type"] for each in result["metrics"]} == set(entry["metrics"])
    for each in result["metrics"]:
        ends = entry["intervals"][each["type"]]
        assert each["value"] == pytest.approx(entry["metrics"][each["type"]], abs=1e-3)
        assert each["args"]["interval_95"] == pytest.approx([ends["low"], ends["high"]], abs=1e-3)
        assert each["args"]["chance"] == pytest.approx(entry["chance"][each["type"]], abs=1e-3)
        assert each["args"]["num_images"] == 24


def test_card__tells_people_where_the_model_comes_from(exported_session: Exported) -> None:
    card = (exported_session.folder / CARD_NAME).read_text()
    lineage = json.loads((exported_session.folder / "export.json").read_text())["lineage"]
    for fact in (
        lineage["teacher"]["identity"],
        lineage["student"]["fingerprint"],
        lineage["student"]["sha256"],
        lineage["captions"]["manifest"],
        "| captions: rejected rows | 0 |",
        "| training: rejected images | 0 |",
        "infonce (weight 1)",
        "| batch size | 8 |",
        "24 of 24 images are among those that were trained",
    ):
        assert fact in card, fact
    rows = [line for line in card.splitlines() if line.startswith("| pairs |")]
    assert [row.split("|")[3].strip() for row in rows][:3] == [
        "image to text, median rank",
        "image to text, recall@1",
        "image to text, recall@5",
    ]


def test_card__names_a_teacher_of_the_hub(made_of: dict[str, Any], tmp_path: Path) -> None:
    write_card(tmp_path, ExportParams(), **made_of)
    card = (tmp_path / CARD_NAME).read_text()
    assert front_matter(card)["base_model"] == "sentence-transformers/eyes"
    assert "commit 0123" in card
    assert "No licence is stated" in card


def test_card__takes_names_for_text(made_of: dict[str, Any], tmp_path: Path) -> None:
    hostile = "x|y\n# Free <script>alert(1)</script> [click](javascript:1) `code` ![p](http://h/t.png) *b* _i_ | z"
    evaluation = made_of["evaluation"]
    report = json.loads(json.dumps(evaluation.report).replace('"pairs"', json.dumps(hostile)))
    report["checkpoints"] = [
        {**each, "metrics": {name.replace("pairs/", f"{hostile}/"): value for name, value in each["metrics"].items()}}
        for each in report["checkpoints"]
    ]
    lineage = json.loads(json.dumps(made_of["lineage"]))
    lineage["teacher"] |= {"name": hostile, "recipe": {**lineage["teacher"]["recipe"], "prompt": hostile}}
    lineage["training"]["params"]["loss_option"] = [hostile]
    write_card(tmp_path, ExportParams(), lineage=lineage, evaluation=dataclasses.replace(evaluation, report=report))
    card = (tmp_path / CARD_NAME).read_text()
    values = front_matter(card)
    assert values["model-index"][0]["results"][0]["dataset"]["name"] == hostile
    body = card.partition("\n---\n")[2]
    assert "<script" not in body
    assert "\n# Free" not in body
    assert not re.search(r"(?<!\\)\[click", body)
    rows = [line for line in body.splitlines() if line.startswith("| x")]
    assert len(rows) == 9
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a|b", r"a\|b"),
        ("a\n\tb\x00", "a b"),
        ("<i>&", "&lt;i&gt;&amp;"),
        (r"\_`*", r"\\\_\`\*"),
        ("Grüße 日本", "Grüße 日本"),
        (3, "3"),
    ],
)
def test_escape__leaves_plain_text(value: object, text: str) -> None:
    assert escape(value) == text


def test_trace__keeps_paths_to_itself(exported_session: Exported) -> None:
    store = Store(exported_session.store)
    student = find_checkpoint(None, store=store)
    lineage = trace(student, teacher_location="/home/alice/secret/minilm", base_model="", store=store)
    assert lineage["teacher"]["name"] == "minilm"
    assert lineage["teacher"]["hub"] == ""
    assert "alice" not in json.dumps(lineage)


def test_trace__does_without_the_captions_record(exported: Exported, tmp_path: Path) -> None:
    store = Store(exported.store)
    for artifact in store.artifacts("encode-teacher"):
        store.remove(artifact.path)
    student = find_checkpoint(None, store=store)
    lineage = trace(student, teacher_location=None, base_model="owner/name", store=store)
    assert lineage["captions"] == {}
    assert lineage["teacher"]["name"] == "owner/name"
    write_card(tmp_path, ExportParams(), lineage=lineage, evaluation=None)
    assert "no longer at hand" in (tmp_path / CARD_NAME).read_text()
