"""Nodes of a run: what each combination takes from earlier steps, and what it shares with others."""

from dataclasses import dataclass, replace

import pytest
from toy_stage import CHILD, TOY

from pipeline.options.declaration import option
from pipeline.workflow.graph import distinct, nodes_of
from pipeline.workflow.run_file import read_run_file


@dataclass(frozen=True)
class ChosenInputs:
    toy: str | None = option(None, help="A toy.", artifact="toy", is_read=lambda params: params.word == "toy")


@dataclass(frozen=True)
class ChosenParams:
    word: str = option("toy", help="A word.")


CHOSEN = replace(CHILD, inputs=ChosenInputs, params=ChosenParams)


@pytest.fixture
def nodes(tmp_path):
    def read(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return nodes_of(read_run_file(path, stages=(TOY, CHOSEN)))

    return read


def test_nodes__take_an_artifact_only_where_their_parameters_have_it_read(nodes):
    text = "[toy]\nsource = 's'\n[child]\n[sweep]\ntoy = {scale = [1, 2]}\nchild = {word = ['toy', 'other']}\n"
    combinations = nodes(text)
    assert [[node.name for node in child.needs()] for _, child in combinations] == [
        ["toy scale=1.0"], [], ["toy scale=2.0"], []
    ]  # fmt: skip
    assert combinations[1][1] is combinations[3][1]
    assert combinations[1][1].named_sweep() == {"child.word": "other"}
    assert [node.step.name for node in distinct(combinations)].count("child") == 3


def test_nodes__take_what_the_file_names_whether_it_is_read_or_not(nodes):
    [[_, child]] = nodes("[toy]\nsource = 's'\n[child]\ntoy = 'abc'\nword = 'other'\n")
    assert (child.needs(), child.options({})["inputs"]) == ([], ChosenInputs("abc"))
