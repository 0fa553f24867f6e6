"""The presets of distill: they hold values that the stage takes, and give way to what the user says."""

import pytest

from pipeline.options.values import build, options_of, read_values
from stages.distill.checks import check_objectives
from stages.distill.presets import FINETUNE, FROZEN, PRESETS
from stages.distill.stage import STAGE

FEATURES = {"features": "5c1d0f6a2b7e"}


def params(**given):
    return build(STAGE, {**FEATURES, **given}, place="here")["params"]


@pytest.mark.parametrize("name", PRESETS.sets)
def test_preset__holds_values_that_the_stage_takes(name):
    values = PRESETS.sets[name].values
    assert read_values(STAGE, values, place="here") == values
    assert all(options_of(STAGE)[option].kind == "params" for option in values)
    check_objectives(build(STAGE, {"preset": name}, place="here")["params"])


def test_frozen__is_the_default_where_a_head_is_trained_on_features():
    assert params().head == PRESETS.sets[FROZEN].values["head"]
    assert build(STAGE, {}, place="here")["params"] == STAGE.params()
    assert params(preset="plain") == STAGE.params()


def test_frozen__leaves_out_what_belongs_to_another_head():
    linear = params(head="linear")
    assert (linear.head, linear.head_width, linear.head_dropout) == ("linear", 0, 0.0)
    assert linear.feature_noise == PRESETS.sets[FROZEN].values["feature_noise"]


def test_frozen__fills_options_of_an_objective_one_by_one():
    own = params(loss_option=("infonce.temperature=0.1",)).loss_option
    assert "infonce.temperature=0.1" in own
    assert len(own) == len(PRESETS.sets[FROZEN].values["loss_option"])


def test_frozen__leaves_out_options_of_an_objective_that_is_not_trained_on():
    assert params(loss=("simreg=1",)).loss_option == ()
    both = params(loss=("simreg=1", "infonce=0.5"))
    assert both.loss_option == params().loss_option


def test_finetune__is_the_default_where_a_part_of_a_student_is_to_train():
    student = {"from_student": "5c1d0f6a2b7e"}
    assert build(STAGE, {**student, "unfreeze": "all"}, place="here")["runtime"].preset == FINETUNE
    assert build(STAGE, student, place="here")["params"] == STAGE.params()  # refused later, for want of a part


def test_finetune__names_no_blocks_beside_adapters():
    tuned = build(STAGE, {"from_student": "5c1d0f6a2b7e", "preset": FINETUNE, "lora": 8}, place="here")["params"]
    assert (tuned.lora, tuned.unfreeze, tuned.epochs) == (8, "", PRESETS.sets[FINETUNE].values["epochs"])
