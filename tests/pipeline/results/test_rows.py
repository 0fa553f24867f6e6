"""Rows of what a store holds: options, inputs, and the figures of the newest evaluations."""

from dataclasses import dataclass, replace

import pytest
from toy_stage import CHILD, MEASURED_TOY, MEASURING_CHILD, TOY

from pipeline.options.declaration import option
from pipeline.results.figure import Figure
from pipeline.results.overview import overview_of, overview_text
from pipeline.results.rows import evaluations_by_digest, flat, result_rows
from pipeline.stage import Overview

pytestmark = pytest.mark.usefixtures("quiet_log")


STAGES = (MEASURED_TOY, MEASURING_CHILD)


def test_result_rows__put_options_beside_figures(toy):
    toy.run(word="a")
    child = toy.run_child().artifact
    toy.run(word="b", scale=2.0)
    first, second = result_rows(toy.store, STAGES)
    assert first.options == {"scale": 1.0, "num-parts": 3, "word": "a", "source": first.options["source"], "version": 1}
    assert first.figures["score"].low == 40.0
    assert first.evaluations == (child,)
    assert first.facts["made"] == 3
    assert (second.options["word"], second.figures, second.evaluations) == ("b", {}, ())
    assert flat(first)["score/high"] == 60.0
    assert flat(first)["evaluations"] == [child.record.fingerprint]


def test_result_rows__take_the_newest_evaluation(toy):
    toy.run()
    old = toy.run_child().artifact
    newer = replace(old.record, fingerprint="f" * 32, metrics={"score": 70.0}, created="2999-01-01T00:00:00+00:00")
    copy = old.path.with_name("f" * 32)
    copy.mkdir()
    (copy / "child.txt").write_bytes((old.path / "child.txt").read_bytes())
    newer.write(copy)
    [row] = result_rows(toy.store, STAGES)
    assert row.figures["score"].value == 70.0
    assert len(row.evaluations) == 2


@dataclass(frozen=True)
class ReaderInputs:
    child: str | None = option(None, help="Artifact of child.", artifact="child")


def test_result_rows__call_inputs_by_the_artifacts_that_they_are(toy):
    made = toy.run().artifact
    child = toy.run_child().artifact
    reader = replace(CHILD, name="reader", inputs=ReaderInputs, overview=Overview(measures="child"))
    [row] = result_rows(toy.store, (TOY, CHILD, reader))
    assert row.artifacts == (child,)
    assert row.options["toy"] == made.record.fingerprint[:12]


def test_result_rows__show_what_a_damaged_evaluation_says_in_its_record(toy, caplog):
    toy.run()
    child = toy.run_child().artifact
    (child.path / "child.txt").write_text("other")
    [row] = result_rows(toy.store, STAGES)
    assert row.figures == {"score": Figure(50.0)}
    assert "figures are shown as far as its record has them" in caplog.text
    (child.path / "artifact.json").write_text("{}")
    [row] = result_rows(toy.store, STAGES)
    assert row.figures == {}
    assert f"child {child.path.name[:12]} is left out: " in caplog.text


def test_result_rows__write_nothing(toy):
    toy.run()
    toy.run_child()
    before = {path: path.stat().st_mtime_ns for path in toy.store.root.rglob("*")}
    result_rows(toy.store, STAGES)
    assert {path: path.stat().st_mtime_ns for path in toy.store.root.rglob("*")} == before


def test_overview__says_options_and_the_headline_of_the_newest_evaluation(toy):
    toy.run(word="a")
    toy.run_child()
    bare = toy.run(word="b").artifact
    known = toy.store.artifacts()
    evaluations = evaluations_by_digest(known, STAGES)

    def said(artifact):
        return overview_of(artifact, evaluations.get(artifact.record.digest, ()), STAGES)

    first, child = (artifact for artifact in known if artifact != bare)
    assert said(first) == {"options": {"word": "a"}, "headline": {"metric": "score", "value": 50.0}}
    assert overview_text(said(first)) == "word a, score 50.00  "
    assert overview_text(said(child)) == "score 50.00  "
    assert overview_text(said(bare)) == "word b  "
    assert overview_of(first, (), (TOY, CHILD)) == {}
    assert overview_text({}) == ""
