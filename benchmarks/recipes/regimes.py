"""The recipes that are compared, and what all of a regime share; values are options of distill."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True)
class Regime:
    """Trainings that differ in one thing.

    Args:
        shared: Options that all of them have.
        recipes: Options of each, by its name in tables; the first is what the others are compared with.
        on_features: Whether a head is trained on cached features, rather than a network on images.
        seeds: Seeds that each is trained with.
    """

    shared: Values
    recipes: Mapping[str, Values]
    on_features: bool
    seeds: tuple[int, ...]


def _infonce(*options: str) -> Values:
    return {"loss_option": tuple(f"infonce.{option}" for option in options)}


_LEARNT: Values = {"loss": ("infonce=1",)}
_FIXED = "learn-temperature=false"
_NOISE: Values = {"feature_noise": 1.0}
_MLP: Values = {"head": "mlp", "head_width": 2048, "head_dropout": 0.7}
_SOFT = _infonce(_FIXED, "temperature=0.07")
_SHARP = _infonce(_FIXED, "temperature=0.05")
_HARD = _infonce(_FIXED, "temperature=0.05", "hard-negatives=1")

FROZEN = Regime(
    shared={"epochs": 20, "batch_size": 512, "lr": 2e-3, "warmup_steps": 50},
    recipes={
        "linear, infonce 0.07": _SOFT,
        "linear, simreg": {"loss": ("simreg=1",)},
        "linear, infonce learnt": _LEARNT,
        "linear, noise 1": _NOISE | _SOFT,
        "linear, noise 1, 0.05": _NOISE | _SHARP,
        "linear, noise 1, 0.035": _NOISE | _infonce(_FIXED, "temperature=0.035"),
        "linear, noise 1, 0.07, hard 1": _NOISE | _infonce(_FIXED, "temperature=0.07", "hard-negatives=1"),
        "linear, noise 1, 0.05, hard 1": _NOISE | _HARD,
        "linear, noise 1, siglip": _NOISE | Values(loss=("siglip=1",)),
        "linear, noise 1, 0.05, structure": _NOISE | _SHARP | Values(loss=("infonce=1", "structure=1")),
        "linear, noise 1, 0.05, hard 1, proto-rkd 0.3": _NOISE | _HARD | Values(loss=("infonce=1", "proto-rkd=0.3")),
        "linear, noise 1, 0.05, hard 1, balance 0.5": _NOISE | _HARD | Values(balance=0.5),
        "mlp, infonce 0.07": Values(head="mlp", head_width=2048) | _SOFT,
        "mlp, dropout, noise 1, 0.05": _MLP | _NOISE | _SHARP,
        "mlp, dropout, noise 1, 0.07, hard 1": _MLP | _NOISE | _infonce(_FIXED, "temperature=0.07", "hard-negatives=1"),
        "mlp, dropout, noise 1, 0.05, hard 1": _MLP | _NOISE | _HARD,
        "gated, noise 1, 0.05, hard 1": Values(head="gated") | _NOISE | _HARD,
        "residual, dropout, noise 1, 0.05, hard 1": Values(head="residual", head_dropout=0.7) | _NOISE | _HARD,
    },
    on_features=True,
    seeds=(0, 1, 2),
)
SMALL = Regime(
    shared={"batch_size": 256, "lr": 2e-3, "warmup_steps": 20, "feature_noise": 1.0},
    recipes={
        "infonce 0.07": _SOFT,
        "infonce 0.1": _infonce(_FIXED, "temperature=0.1"),
        "infonce 0.05": _SHARP,
        "infonce 0.05, hard 1": _HARD,
        "infonce 0.07, structure": _SOFT | Values(loss=("infonce=1", "structure=10")),
        "infonce 0.07, proto-rkd 0.5": _SOFT | Values(loss=("infonce=1", "proto-rkd=0.5")),
        "proto-rkd": {"loss": ("proto-rkd=1",)},
        "simreg": {"loss": ("simreg=1",)},
    },
    on_features=True,
    seeds=(0, 1, 2),
)
SCRATCH = Regime(
    shared={
        "student": "resnet18",
        "image_size": 64,
        "projection_layers": 2,
        "epochs": 4,
        "batch_size": 128,
        "lr": 2e-3,
        "warmup_steps": 50,
    },
    recipes={
        "infonce": {"loss": ("infonce=1",)},
        "simreg": {"loss": ("simreg=1",)},
        "rkd": {"loss": ("rkd=1",)},
        "seed": {"loss": ("seed=1",)},
        "compress-1q": {"loss": ("compress-1q=1",)},
        "proto-rkd": {"loss": ("proto-rkd=1",)},
        "simreg+proto-rkd": {"loss": ("simreg=1", "proto-rkd=1")},
        "infonce+proto-rkd": {"loss": ("infonce=1", "proto-rkd=0.5")},
        "infonce, smoothed": {"loss": ("infonce=1",), "target_smoothing": 0.5},
        "infonce 0.05": _SHARP,
        "infonce 0.05, hard 1": _HARD,
        "infonce 0.05, hard 1, light": _HARD | Values(augmentation="light"),
        "infonce, light": {"augmentation": "light"},
    },
    on_features=False,
    seeds=(0, 1),
)
REGIMES = {"frozen": FROZEN, "small": SMALL, "scratch": SCRATCH}
