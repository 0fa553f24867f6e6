"""Run several stages for several combinations of options: shared work is done once, and failures stay separate."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_schemas.errors import PartialError, ProtoRKDError, StopRequestedError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import line_of
from pipeline.options.values import build, options_of
from pipeline.runner import StageOutcome, run_stage
from pipeline.stage import Context
from pipeline.workflow.run_file import RunFile, Step, Swept


@dataclass(frozen=True)
class Node:
    """A step with all its options settled; combinations that agree in these share it.

    Args:
        step: Step of the run.
        values: Options of the step, swept ones included.
        sources: Nodes whose artifacts it takes, by the option that names them.
        swept: Swept options of this node and of the nodes before it, by step and option.
        key: Hash of all this.
    """

    step: Step
    values: Mapping[str, Any]
    sources: Mapping[str, tuple["Node", ...]]
    swept: Swept
    key: str = field(compare=False)

    @property
    def name(self) -> str:
        """Name of its step, and what tells it apart from other nodes of that step."""
        own = self.named_sweep().items()
        shorter = {name.removeprefix(f"{self.step.name}."): value for name, value in own}
        return " ".join([self.step.name, *(f"{name}={shown(value)}" for name, value in shorter.items())])

    def named_sweep(self) -> dict[str, Any]:
        """Return the swept values by name: step and option, as in ``distill.lr``."""
        return {f"{step}.{option.replace('_', '-')}": value for (step, option), value in self.swept.items()}

    def needs(self) -> list["Node"]:
        """List the nodes whose artifacts it takes."""
        return [node for nodes in self.sources.values() for node in nodes]

    def options(self, references: Mapping[str, str]) -> dict[str, Any]:
        """Build its three dataclasses, once the artifacts that it takes have names.

        Args:
            references: Fingerprint of each needed node's artifact, by the node's key.

        Raises:
            ProtoRKDError: an option that has no default is not given, or options do not go together.
        """
        taken: dict[str, Any] = {}
        for option, nodes in self.sources.items():
            names = tuple(references[node.key] for node in nodes)
            taken[option] = names if len(nodes) > 1 or self.takes_several(option) else names[0]
        return build(self.step.stage, {**self.values, **taken}, place=f"[{self.step.name}]")

    def takes_several(self, option: str) -> bool:
        """Tell whether an option takes a list."""
        return options_of(self.step.stage)[option].is_repeatable


@dataclass(frozen=True)
class Failure:
    """Why a node has no artifact.

    Args:
        reason: The error, or which earlier node failed.
        found: Part of its work that can still be looked at.
    """

    reason: str
    found: Mapping[str, Any] = field(default_factory=dict)


Ending = StageOutcome | Failure


def nodes_of(file: RunFile) -> list[list[Node]]:
    """Return the nodes of each combination, in the order of the steps; what combinations share is one node.

    Raises:
        ProtoRKDError: an option that has no default is not given, or options do not go together.
    """
    known: dict[str, Node] = {}
    combinations = []
    for swept in file.combinations:
        nodes: dict[str, Node] = {}
        for step in file.steps:
            node = _node(step, swept, nodes)
            nodes[step.name] = known.setdefault(node.key, node)
        combinations.append(list(nodes.values()))
    return combinations


def distinct(combinations: list[list[Node]]) -> list[Node]:
    """List each node once, in the order in which they run."""
    return list({node.key: node for nodes in combinations for node in nodes}.values())


def run_nodes(nodes: list[Node], context: Context, *, tell: Callable[[Node, Ending], None]) -> dict[str, Ending]:
    """Run nodes one after the other, each after those that it needs; nodes that need a failed one are skipped.

    Args:
        nodes: Nodes in the order in which they run.
        context: The store, and what else a stage needs.
        tell: Called with each node and its ending, as soon as that is known.

    Returns:
        The ending of each node, by its key.

    Raises:
        StopRequestedError: the user asked to stop, in a stage or too late for it: nothing more is begun.
    """
    endings: dict[str, Ending] = {}
    for node in nodes:
        endings[node.key] = _run(node, endings, context)
        tell(node, endings[node.key])
    return endings


def shown(value: Any) -> str:
    """Format a value for plans and tables."""
    return "+".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _run(node: Node, endings: Mapping[str, Ending], context: Context) -> Ending:
    references = {}
    for needed in node.needs():
        ending = endings[needed.key]
        if isinstance(ending, Failure):
            return Failure(f"{needed.name} failed")
        references[needed.key] = ending.artifact.record.fingerprint
    try:
        return run_stage(node.step.stage, **node.options(references), context=context)
    except StopRequestedError:
        raise
    except PartialError as error:
        return Failure(str(error), error.found)
    except ProtoRKDError as error:
        return Failure(str(error))


def _node(step: Step, swept: Swept, earlier: Mapping[str, Node]) -> Node:
    own_swept = {place: value for place, value in swept.items() if place[0] == step.name}
    own = {option: value for (_, option), value in own_swept.items()}
    values = {**step.values, **own}
    sources = {
        option: tuple(earlier[name] for name in names) for option, names in step.sources.items() if option not in own
    }
    asked = Node(step, values, sources, {}, "")
    options = asked.options(dict.fromkeys([each.key for each in asked.needs()], ""))  # tells of mistakes
    sources = {option: nodes for option, nodes in sources.items() if _is_read(step, option, options["params"])}
    said = {place: value for node in _flat(sources) for place, value in node.swept.items()} | own_swept
    needed = {option: [node.key for node in nodes] for option, nodes in sources.items()}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    key = hash_json({"step": step.name, "stage": step.stage.name, "values": plain, "sources": needed})
    return Node(step, values, sources, said, key)


def _is_read(step: Step, option: str, params: Any) -> bool:
    is_read = line_of(options_of(step.stage)[option].field).is_read
    return is_read is None or is_read(params)


def _flat(sources: Mapping[str, tuple[Node, ...]]) -> Iterator[Node]:
    return (node for nodes in sources.values() for node in nodes)
