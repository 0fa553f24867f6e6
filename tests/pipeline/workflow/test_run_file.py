"""Files of several stages: what they ask for, and what is refused before anything runs."""

import pytest
from toy_stage import CHILD, TOY

from data_schemas.errors import ProtoRKDError
from pipeline.options.values import options_of
from pipeline.workflow.run_file import read_run_file

STAGES = (TOY, CHILD)


@pytest.fixture
def read(tmp_path):
    def read(text, name="run.toml"):
        path = tmp_path / name
        path.write_text(text)
        return read_run_file(path, stages=STAGES)

    return read


def test_run_file__passes_artifacts_on_to_the_steps_that_name_none(read):
    file = read("store = 'there'\n[toy]\nsource = 's'\n[child]\n")
    toy, child = file.steps
    assert str(file.store) == "there"
    assert (toy.name, toy.values["source"].name, toy.sources) == ("toy", "s", {})
    assert child.sources == {"toy": ("toy",)}
    assert file.combinations == ({},)
    [_, child] = read("[toy]\nsource = 's'\n[child]\ntoy = 'abc'\n").steps
    assert child.sources == {}
    assert read("[child]\n[toy]\nsource = 's'\n").steps[0].sources == {}  # what comes later is not there yet


def test_run_file__takes_a_stage_twice_from_a_list(read):
    text = (
        "[[stage]]\nrun = 'toy'\nas = 'small'\nsource = 's'\n[[stage]]\nrun = 'toy'\nas = 'large'\nsource = 's'\n"
        "[[stage]]\nrun = 'child'\n"
    )
    small, large, child = read(text).steps
    assert [step.name for step in (small, large, child)] == ["small", "large", "child"]
    assert child.sources == {"toy": ("large",)}


def test_run_file__reads_the_same_from_yaml(read):
    yaml = "toy:\n  source: s\nchild:\nsweep:\n  toy:\n    scale: [1, 2e0]\n"
    assert (
        read(yaml.replace("child:", "child: {}"), "run.yaml").combinations
        == read("[toy]\nsource = 's'\n[child]\n[sweep.toy]\nscale = [1.0, 2.0]\n").combinations
    )
    assert len(read(yaml, "run.yaml").steps) == 2  # an empty table of YAML is null


def test_sweep__is_every_combination_unless_it_is_zipped(read):
    lists = "[sweep.toy]\nscale = [1, 2]\nword = ['a', 'b']\n"
    file = read(f"[toy]\nsource = 's'\n{lists}")
    assert [tuple(each.values()) for each in file.combinations] == [(1.0, "a"), (1.0, "b"), (2.0, "a"), (2.0, "b")]
    assert list(file.combinations[0]) == [("toy", "scale"), ("toy", "word")]
    file = read(f"[toy]\nsource = 's'\n[sweep]\ncombine = 'zip'\n{lists}")
    assert [tuple(each.values()) for each in file.combinations] == [(1.0, "a"), (2.0, "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tyo]\nsource = 's'", "must name stages, store or sweep; got 'tyo'. Did you mean 'toy'?"),
        ("toy = 3", "toy in {path} must be a table of options; got 3."),
        ("[toy]\nsorce = 's'", "{path} [toy] must name an option of toy; got 'sorce'. Did you mean 'source'?"),
        ("[toy]\nsource = 's'\nscale = [1, 2]", "scale in {path} [toy] must be a number; got [1, 2]."),
        ("store = 'there'", "must have a table for each stage that is to run; got none"),
        ("[toy]\nsource='s'\n[[stage]]\nrun='toy'", "must list its stages one way; got [[stage]] and toy."),
        ("[[stage]]\nsource='s'", "must say which stage it runs"),
        (
            "[[stage]]\nrun='toy'\nsource='s'\n[[stage]]\nrun='toy'\nsource='s'",
            "got 'toy' twice. Tell them apart by as",
        ),
        ("[toy]\nsource='s'\n[sweep.child]\na=[1]", "must name a step of this run; got 'child'"),
        ("[toy]\nsource='s'\n[sweep.toy]\nscal=[1]", "must name an option of toy; got 'scal'. Did you mean 'scale'?"),
        (
            "[toy]\nsource='s'\n[sweep.toy]\nscale=1",
            "scale in {path} [sweep.toy] must be a list of values to try; got 1.",
        ),
        ("[toy]\nsource='s'\n[sweep.toy]\nscale=[]", "must be a list of values to try; got []."),
        ("[toy]\nsource='s'\n[sweep.toy]\nscale=[1, 0]", "scale in {path} [sweep.toy] must be above 0; got 0.0."),
        ("[toy]\nsource='s'\n[sweep]\ntoy=[1]", "must be a table of options, each with a list of values; got [1]."),
        ("sweep=1\n[toy]\nsource='s'", "sweep in {path} must hold a table for each stage"),
        ("[toy]\nsource='s'\n[sweep]\ncombine='all'", "combine in {path} [sweep] must be product or zip; got 'all'."),
        (
            "[toy]\nsource='s'\n[sweep]\ncombine='zip'\ntoy={scale=[1,2],word=['a']}",
            "must be of one length for combine = 'zip'; got scale 2, word 1.",
        ),
    ],
)
def test_run_file__refuses_what_it_does_not_know(read, tmp_path, text, message):
    with pytest.raises(ProtoRKDError) as caught:
        read(text)
    assert message.format(path=tmp_path / "run.toml") in str(caught.value)


def test_stages__have_no_option_that_a_list_of_stages_needs_for_itself():
    from stages import STAGES as REAL

    assert not [
        name for stage in REAL for name in options_of(stage) if name in ("run", "as", "stage", "sweep", "store")
    ]
