"""Note what transformers does not find in files of weights, and refuse a network that would be random in part."""

import contextlib
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class WeightFaults:
    """How a network's weights differ from those that its files hold.

    Args:
        network: Class of the network; "" if there is no fault.
        missing: Names of weights that captions pass through, and that no file holds in their shape.
        surplus: Names of weights in the files that belong to more layers than the configuration names.
    """

    network: str = ""
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)


class NotedLoads:
    """The networks that transformers has loaded, with the names that it did not find, or did not expect."""

    def __init__(self) -> None:
        self._notes: list[tuple[nn.Module, dict[str, Any]]] = []

    def note(self, network: nn.Module, report: dict[str, Any]) -> None:
        """Keep what ``from_pretrained`` reports of a network."""
        self._notes.append((network, report))

    def faults(self, model: SentenceTransformer) -> WeightFaults:
        """Return the first faults of a network of the model; what no caption passes through may be missing.

        A pooler or an image tower, say, is random in many sound folders: neither has a part in the embedding.
        """
        parts = {id(module) for module in model.modules()}
        for network, report in self._notes:
            if id(network) not in parts:
                continue
            absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
            missing = _used(absent, network, model) if absent else []
            surplus = _of_more_layers(report["unexpected_keys"], network)
            if missing or surplus:
                return WeightFaults(type(network).__name__, missing, surplus)
        return WeightFaults()


@contextlib.contextmanager
def noted_loads() -> Iterator[NotedLoads]:
    """Note the networks that this thread loads meanwhile.

    Transformers reports what it did not find if ``from_pretrained`` is asked to (``output_loading_info``), but
    sentence-transformers takes no report: asked for one, it fails on the pair that it gets. So the report is asked for,
    and kept, on its way. Names in files cannot take its place, for transformers renames and joins many on loading.
    """
    notes, own_thread = NotedLoads(), threading.get_ident()
    original = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() != own_thread:
            return original.__func__(cls, *args, **options)
        wants_report = options.pop("output_loading_info", False)
        options["ignore_mismatched_sizes"] = True  # they are reported, too
        network, report = original.__func__(cls, *args, output_loading_info=True, **options)
        notes.note(network, report)
        return (network, report) if wants_report else network

    with _ONE_AT_A_TIME:
        PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[method-assign, assignment]
        try:
            yield notes
        finally:
            PreTrainedModel.from_pretrained = original  # type: ignore[method-assign]


def _used(names: Collection[str], network: nn.Module, model: SentenceTransformer) -> list[str]:
    """Return those names whose part of the network, by the first word of the name, a caption passes through."""
    try:
        reached = _reached_parts(network, model)
    except Exception:  # of any type: a network may be of any kind
        reached = set()
    return sorted(name for name in names if not reached or _part(name) in reached)


def _reached_parts(network: nn.Module, model: SentenceTransformer) -> set[str]:
    """Embed a caption, and return the parts of the network to which its embedding has a gradient."""
    with torch.enable_grad():
        features = {
            name: value.to(model.device) if isinstance(value, Tensor) else value
            for name, value in model.preprocess(["a red circle"]).items()
        }
        model(features)["sentence_embedding"].sum().backward()
    reached = {
        _part(name)
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return reached


def _part(name: str) -> str:
    return name.partition(".")[0]


def _of_more_layers(names: Collection[str], network: nn.Module) -> list[str]:
    """Return names that are a layer's of the network but for its number."""
    own = {_NUMBER.sub("*", name) for name in network.state_dict()}
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    return sorted(name for name in names if _NUMBER.sub("*", name.removeprefix(prefix)) in own)
