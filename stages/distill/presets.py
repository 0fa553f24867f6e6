"""Presets of distill: what did best with each kind of training, and on what evidence docs/recipes.md says."""

from typing import Any

from pipeline.options.presets import Preset, Presets, Values
from stages.distill.loss_spec import parse_losses

FROZEN, FINETUNE, PLAIN = "frozen", "finetune", "plain"

_FROZEN = Preset(
    "A head on cached features of a frozen backbone; the default with --features.",
    {
        "head": "mlp",
        "head_width": 2048,
        "head_dropout": 0.7,
        "feature_noise": 1.0,
        "loss": ("infonce=1",),
        "loss_option": ("infonce.hard-negatives=1", "infonce.learn-temperature=false", "infonce.temperature=0.07"),
        "epochs": 20,
        "batch_size": 512,
        "lr": 2e-3,
        "warmup_steps": 50,
    },
)
_FINETUNE = Preset(
    "A student's last blocks, trained on images; the default with --from-student and --unfreeze.",
    {"unfreeze": "last:4", "epochs": 1, "batch_size": 64, "lr": 5e-4, "warmup_steps": 0},
)
_PLAIN = Preset("The declared defaults, whatever the inputs are.", {})


def choose_preset(given: Values) -> str:
    """Name the preset of the inputs: ``frozen`` with features, ``finetune`` with a student's part that is to train."""
    if given.get("features") is not None:
        return FROZEN
    return FINETUNE if given.get("from_student") is not None and given.get("unfreeze") else ""


def fit_preset(values: Values, given: Values) -> dict[str, Any]:
    """Return the values of a preset that go with those that the user gave, and are not among them.

    The width and dropout of a preset's head go with that head alone, and options of an objective with that objective;
    those options that the user leaves out are filled in one by one.
    """
    fitted = {name: value for name, value in values.items() if name not in given and name != "loss_option"}
    if given.get("head", values.get("head")) != values.get("head"):
        fitted.pop("head_width", None)
        fitted.pop("head_dropout", None)
    if given.get("lora"):
        fitted.pop("unfreeze", None)  # adapters train in place of the backbone's weights
    losses = parse_losses(given.get("loss", values.get("loss", ("infonce",))))
    own: tuple[str, ...] = given.get("loss_option", ())
    named = {_setting(each) for each in own}
    added = [
        each
        for each in values.get("loss_option", ())
        if each.partition(".")[0] in losses and _setting(each) not in named
    ]
    return {**fitted, "loss_option": (*own, *added)} if added else fitted


def _setting(loss_option: str) -> str:
    return loss_option.partition("=")[0].strip().replace("_", "-")


PRESETS = Presets("preset", {FROZEN: _FROZEN, FINETUNE: _FINETUNE, PLAIN: _PLAIN}, choose=choose_preset, fit=fit_preset)
