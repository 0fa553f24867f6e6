"""The steps of a GPU day, the most wanted first, and how long each may take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step, which runs as a process of its own.

    Args:
        name: Name of its record and on the command line.
        call: Function ``module:function`` that yields its figures.
        limit_s: Seconds after which it is killed; its figures up to then count.
        needs: Names of the steps whose data it works on.
    """

    name: str
    call: str
    limit_s: float
    needs: tuple[str, ...] = ()


Group = tuple[Step, ...]

_HERE = "benchmarks.gpu"
_TRAINING = ("packs", "cache")

# Steps of a group run side by side: a step that measures is alone in its group.
GROUPS: tuple[Group, ...] = (
    (Step("environment", f"{_HERE}.environment:environment", 45),),
    (
        Step("images", f"{_HERE}.data:images", 60),
        Step("teacher-models", f"{_HERE}.data:teacher_models", 45),
        Step("exactness", f"{_HERE}.exactness:exactness", 45),
    ),
    (
        Step("packs", f"{_HERE}.data:packs", 60, needs=("images",)),
        Step("cache", f"{_HERE}.data:cache", 60, needs=("images", "teacher-models")),
    ),
    (Step("bare", f"{_HERE}.student:bare", 60),),
    (Step("training", f"{_HERE}.training:training", 90, needs=_TRAINING),),
    (Step("loader", f"{_HERE}.loader:loader", 35, needs=("packs",)),),
    (Step("teachers", f"{_HERE}.teachers:teachers", 75, needs=("images", "teacher-models")),),
    (Step("objectives", f"{_HERE}.objectives:objectives", 30),),
    (Step("prototypes", f"{_HERE}.prototypes:prototypes", 100),),
    (Step("targets", f"{_HERE}.targets:targets", 25),),
    (Step("embed", f"{_HERE}.embed:embed", 40, needs=_TRAINING),),
    (
        Step("gpu-tests", f"{_HERE}.commands:gpu_tests", 150),
        Step("resume", f"{_HERE}.commands:resume", 60, needs=_TRAINING),
        Step("ranks", f"{_HERE}.ranks:two_on_one_gpu", 90, needs=_TRAINING),
        Step("nccl", f"{_HERE}.ranks:alone_by_nccl", 45),
        Step("waits", f"{_HERE}.waits:waits", 90, needs=_TRAINING),
        Step("evaluate", f"{_HERE}.commands:evaluate", 60, needs=_TRAINING),
    ),
    (Step("deterministic", f"{_HERE}.training:deterministic", 60, needs=_TRAINING),),
    (Step("preparation", f"{_HERE}.loader:preparation", 15),),
    (Step("compile", f"{_HERE}.student:compiled", 90),),
    (Step("compiled-training", f"{_HERE}.training:compiled", 90, needs=_TRAINING),),
)


def names_of(groups: Sequence[Group]) -> list[str]:
    """List the names of all steps, in their order."""
    return [step.name for group in groups for step in group]


def choose(groups: Sequence[Group], wanted: Sequence[str], is_done: Callable[[str], bool]) -> list[Group]:
    """Keep some steps, and those that make the data they need where that has not been done."""
    needs = {step.name: step.needs for group in groups for step in group}
    chosen, left = set(wanted), list(wanted)
    while left:
        missing = {name for name in needs[left.pop()] if not is_done(name)} - chosen
        chosen |= missing
        left += missing
    kept = (tuple(step for step in group if step.name in chosen) for group in groups)
    return [group for group in kept if group]
