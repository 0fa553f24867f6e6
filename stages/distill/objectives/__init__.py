"""Distillation objectives by name: one file a family, one line each in `OBJECTIVES`."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from data_schemas.errors import ProtoRKDError
from pipeline.commands.listing import NameGroup
from stages.distill.loss_spec import READ_FEATURES
from stages.distill.objectives.barlow_twins import BarlowTwinsLoss
from stages.distill.objectives.compress import Compress1QLoss, Compress2QLoss
from stages.distill.objectives.dino import DINOLoss
from stages.distill.objectives.infonce import InfoNCELoss
from stages.distill.objectives.parts.corpus import Corpus, PrototypeSource
from stages.distill.objectives.parts.weighted_sum import WeightedObjectives
from stages.distill.objectives.proto import ProtoLoss
from stages.distill.objectives.proto_rkd import ProtoRKDLoss
from stages.distill.objectives.protocpc import ProtoCPCLoss
from stages.distill.objectives.rkd import RKDLoss
from stages.distill.objectives.seed import SEEDLoss
from stages.distill.objectives.siglip import SigLIPLoss
from stages.distill.objectives.simreg import SimRegL1Loss, SimRegLoss, SimRegSmoothL1Loss
from stages.distill.objectives.structure import StructureLoss
from stages.distill.objectives.unicl import CrossEntropyLoss, UniCLLoss
from stages.distill.objectives.vicreg import VICRegLoss

__all__ = ["OBJECTIVES", "WeightedObjectives", "build_objective", "read_options"]

OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "barlow-twins": BarlowTwinsLoss,
    "compress-1q": Compress1QLoss,
    "compress-2q": Compress2QLoss,
    "cross-entropy": CrossEntropyLoss,
    "dino": DINOLoss,
    "infonce": InfoNCELoss,
    "proto": ProtoLoss,
    "proto-rkd": ProtoRKDLoss,
    "protocpc": ProtoCPCLoss,
    "rkd": RKDLoss,
    "seed": SEEDLoss,
    "siglip": SigLIPLoss,
    "simreg": SimRegLoss,
    "simreg-l1": SimRegL1Loss,
    "simreg-smooth-l1": SimRegSmoothL1Loss,
    "structure": StructureLoss,
    "unicl": UniCLLoss,
    "vicreg": VICRegLoss,
}


# Arguments that the engine passes to the constructors that take them; all others are the user's options.
_INJECTED = {"dim", "corpus", "prototypes", "num_labels"}


def objective_groups() -> list[NameGroup]:
    """List the objectives that ``--loss`` takes, by what they look at beside the batch, with their options."""
    groups = {what: NameGroup(title, "--loss NAME=WEIGHT") for what, title in _GROUPS.items()}
    for name, kind in OBJECTIVES.items():
        parameters = _parameters_of(kind)
        reads = {*parameters, *({"features"} if name in READ_FEATURES else ())}
        what = next(what for what in _GROUPS if what in reads or not what)
        summary = (inspect.getdoc(kind) or "").partition("\n")[0]
        options = ", ".join(each.replace("_", "-") for each in _options_of(name))
        groups[what].names[name] = summary + (f" ({options})" if options else "")
    return list(groups.values())


_GROUPS = {
    "prototypes": "relating to prototypes",
    "num_labels": "by labels",
    "features": "keeping what cached features have (--features)",
    "corpus": "looking at the whole cache, if told to",
    "": "within the batch, or with a queue",
}


def build_objective(
    name: str,
    *,
    dim: int,
    corpus: Corpus | None = None,
    prototypes: PrototypeSource | None = None,
    num_labels: int = 0,
    **options: object,
) -> nn.Module:
    """Make the objective called ``name``, to be called as ``objective(student=..., teacher=...)`` for a scalar.

    Args:
        name: A key of `OBJECTIVES`.
        dim: Width of the teacher's embeddings; reaches the objectives that take it, as do the next three.
        corpus: All cached embeddings of the teacher, for objectives that look beyond the batch.
        prototypes: Where centroids come from, for objectives that relate to them.
        num_labels: How many labels the pairs have; 0 where they have none.
        options: The objective's own options; those left out keep their defaults.

    Raises:
        ProtoRKDError: If there is no such objective, or it has no such option.

    Example:
        >>> build_objective("rkd", dim=384, angle_weight=2.0)
        RKDLoss()
    """
    known = _options_of(name)
    for option in options:
        _check_option(name, option, known)
    given = {"dim": dim, "corpus": corpus, "prototypes": prototypes, "num_labels": num_labels}
    taken = {key: value for key, value in given.items() if key in _parameters_of(OBJECTIVES[name])}
    return OBJECTIVES[name](**taken, **options)


def read_options(name: str, texts: Mapping[str, str]) -> dict[str, object]:
    """Turn the texts of ``--loss-option`` into the types of an objective's defaults.

    Raises:
        ProtoRKDError: If there is no such objective or option, or a text is not of its option's type.

    Example:
        >>> read_options("rkd", {"angle_weight": "2"})
        {'angle_weight': 2.0}
    """
    known = _options_of(name)
    values: dict[str, object] = {}
    for option, text in texts.items():
        _check_option(name, option, known)
        kind = type(known[option].default)
        try:
            values[option] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError) as error:
            raise ProtoRKDError(
                f"--loss-option {name}.{option.replace('_', '-')} must be {_KINDS[kind]}; got {text!r}."
            ) from error
    return values


_KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _options_of(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in OBJECTIVES:
        raise ProtoRKDError(_unknown("--loss must name a known objective", name, OBJECTIVES))
    return {key: value for key, value in _parameters_of(OBJECTIVES[name]).items() if key not in _INJECTED}


def _check_option(name: str, option: str, known: Iterable[str]) -> None:
    if option not in known:
        raise ProtoRKDError(_unknown(f"An option of objective {name} must be known", option, known))


def _parameters_of(function: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in variadic}


def _unknown(rule: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{rule}; got {name!r}.{suggestion} Known: {', '.join(names) or 'none'}."
