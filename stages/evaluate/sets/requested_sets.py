"""Read the sets that options request, each with its tasks, and report those that are absent or cannot be read."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.stage import Context
from stages.components.images.packed_image_set import Pack, PackedImageSet
from stages.evaluate.sets.class_sets import ClassSetReader, find_named_sets, merge_class_sets, possible_tasks
from stages.evaluate.sets.datasets import Absent, download
from stages.evaluate.sets.datasets.folder_names import SYNSET, code_names
from stages.evaluate.sets.datasets.name_files import name_files
from stages.evaluate.sets.evaluation_sets import (
    ClassSet,
    RequestedSet,
    RetrievalSet,
    STSSet,
    UnreadSet,
    check_names,
    read_retrieval_set,
    read_sts_set,
)
from stages.evaluate.sets.prompts import fill, templates_for
from stages.evaluate.task_names import CLASS_TASKS, OPTION_TASKS, STS_TASKS, choose, retrieval_tasks, wanted_tasks

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateInputs, EvaluateParams

_UNPACKED = ".unpacked"  # hidden, so that the store does not take it for a stage

S = TypeVar("S", RetrievalSet, ClassSet, STSSet)

ClassSets = list[tuple[ClassSet, tuple[str, ...]]]
"""Class sets, each with the tasks that it is for."""


@dataclass(frozen=True)
class RequestedSets:
    """The sets that an evaluation is asked for: those that it can read, and the others.

    Args:
        readable: The sets that could be read and allow a task, under names such as ``classes cifar10``.
        unread: The sets that could not be read, under names such as ``unread cifar10``.
        absent: The known sets that are not below ``--eval-data-dir``.
    """

    readable: Mapping[str, RequestedSet]
    unread: Mapping[str, UnreadSet]
    absent: tuple[Absent, ...]


def read_requested_sets(inputs: "EvaluateInputs", params: "EvaluateParams", context: Context) -> RequestedSets:
    """Read every set that is asked for.

    Raises:
        ProtoRKDError: no set is given, none allows a task, two have one name, or a template has no place for a name.
    """
    _check_given(inputs, params)
    wanted = wanted_tasks(params.task)
    captioned_tasks = retrieval_tasks(wanted, params.calibrate)
    packs = [Pack.open(context.store.resolve(name, stage="pack", flag="--packed")) for name in inputs.packed]

    def read_captioned(argument: str) -> RetrievalSet:
        return read_retrieval_set(
            argument,
            form=params,
            file_digests=context.file_digests,
            image_root=inputs.image_root,
            image_identity=inputs.image_identity,
            allow_outside=inputs.allow_outside,
            packs=packs,
        )

    retrieval, unread_retrieval = _read_all(inputs.retrieval, read_captioned)
    classes, unread_classes, absent = _class_sets(inputs, params, context, packs)
    sts, unread_sts = _read_all(inputs.sts, read_sts_set)
    unread = [*unread_retrieval, *unread_classes, *unread_sts]
    merged = merge_class_sets(classes)
    names = [[each.name for each in retrieval], [each.name for each, _ in merged], [each.name for each in sts]]
    check_names([name for kind in names for name in kind])
    if not unread_classes:
        _check_names_files(inputs, names[1])
    readable = {f"retrieval {each.name}": RequestedSet(each, captioned_tasks) for each in retrieval}
    readable |= _requested_classes(merged, params, wanted)
    readable |= {f"sts {each.name}": RequestedSet(each, choose(STS_TASKS, wanted)) for each in sts}
    readable = {name: each for name, each in readable.items() if each.tasks}
    if not readable and not unread:
        raise ProtoRKDError(
            f"The sets must allow a task; got none for --task {', '.join(params.task) or 'all'}. "
            "Look at --task, --dataset and --eval-data-dir."
        )
    if not unread:
        _check_served(packs, readable.values())
    return RequestedSets(readable, {f"unread {each.name}": each for each in unread}, tuple(absent))


def _requested_classes(
    class_sets: ClassSets, params: "EvaluateParams", wanted: frozenset[str]
) -> dict[str, RequestedSet]:
    """Choose tasks and prompts of class sets, and say what their figures may hide."""
    requested: dict[str, RequestedSet] = {}
    for class_set, tasks in class_sets:
        if len(class_set.class_names) == 1:
            log.warning(
                "evaluate: %s has one class, %r, so every answer is right. Are its images in folders by class?",
                class_set.name,
                class_set.class_names[0],
            )
        chosen = choose(tasks, wanted)
        templates = params.template or templates_for(class_set.name, prompts=params.prompts)
        if "zero_shot" in chosen:
            _tell_of_names(class_set, templates)
        requested[f"classes {class_set.name}"] = RequestedSet(
            class_set, chosen, templates=templates if "zero_shot" in chosen else ()
        )
    return requested


def _tell_of_names(class_set: ClassSet, templates: Sequence[str]) -> None:
    """Say where class names come from, and warn of those that prompts cannot ask for: codes, and one name for two."""
    names = class_set.class_names
    if class_set.names_origin:
        log.info(
            "evaluate: %s: classes have the names %s, such as %r", class_set.name, class_set.names_origin, names[0]
        )
    codes = code_names(names)
    if 2 * len(codes) >= len(names) or any(SYNSET.match(name) for name in codes):
        log.warning(
            "evaluate: %s: %d of %d classes are called by a code, so that prompts ask for %r. Pass --class-names with "
            "a file that says what they show; --template changes the words around.",
            class_set.name,
            len(codes),
            len(names),
            fill(next((each for each in templates if each != "{}"), "{}"), codes[0]),
        )
    [(name, times)] = Counter(names).most_common(1)
    if times > 1:
        log.warning(
            "evaluate: %s: %d classes are called %r, so that no prompt tells them apart. Name them by --class-names.",
            class_set.name,
            times,
            name,
        )


def _check_names_files(inputs: "EvaluateInputs", names: Sequence[str]) -> None:
    """Refuse a file of class names that no set has use for."""
    unused = sorted(name_files(inputs.class_names).keys() - {"", *names})
    if unused:
        raise ProtoRKDError(
            f"--class-names must name a set of class folders that is measured; got {unused[0]!r}. "
            f"Sets: {', '.join(names) or 'none'}."
        )


def _check_served(packs: Sequence[Pack], requested: Iterable[RequestedSet]) -> None:
    needed = [images.value for each in requested for images in each.images()]
    served = {images.pack.root for images in needed if isinstance(images, PackedImageSet)}
    for pack in packs:
        if pack.images.root not in served:
            raise ProtoRKDError(
                f"--packed must name a pack that has all images of a set; got {pack.artifact.path}, made from "
                f"{pack.artifact.record.inputs['pictures'].location}, which serves none. Leave it out, or pack the set."
            )


def _check_given(inputs: "EvaluateInputs", params: "EvaluateParams") -> None:
    named = (inputs.retrieval, inputs.zero_shot, inputs.knn, inputs.linear_probe, inputs.sts)
    if not any(named) and inputs.eval_data_dir is None:
        raise ProtoRKDError(
            "evaluate must be given a set; got none. Pass --retrieval, --zero-shot, --knn, --linear-probe, --sts or "
            "--eval-data-dir."
        )
    if inputs.eval_data_dir is None and (inputs.dataset or inputs.download):
        raise ProtoRKDError("--dataset and --download must go with --eval-data-dir; got none. Pass the folder.")
    if inputs.download and not inputs.dataset:
        raise ProtoRKDError("--download must go with --dataset, which says what to fetch; got none. Name the sets.")
    if "" in name_files(inputs.class_names) and not (inputs.zero_shot or inputs.knn or inputs.linear_probe):
        raise ProtoRKDError(
            "--class-names FILE must go with --zero-shot, --knn or --linear-probe; got none. Write SET=FILE for a set "
            "of --eval-data-dir."
        )
    if params.calibrate and not (inputs.retrieval and "retrieval" in wanted_tasks(params.task)):
        raise ProtoRKDError(
            f"--calibrate must go with --retrieval, whose scores it changes; got {params.calibrate[0]} without. Pass a "
            "set, or leave it out."
        )
    for template in params.template:
        fill(template, "")


def _class_sets(
    inputs: "EvaluateInputs", params: "EvaluateParams", context: Context, packs: Sequence[Pack]
) -> tuple[ClassSets, list[UnreadSet], list[Absent]]:
    """Read the class sets; return those that could be read, those that could not, and those that are not there."""
    reader = ClassSetReader(
        context.file_digests,
        inputs.image_identity,
        context.store.root / _UNPACKED,
        packs,
        names_files=name_files(inputs.class_names),
        imagenet_names=params.imagenet_names,
    )
    by_option = {
        "zero_shot": (inputs.zero_shot, reader.test_folder),
        "knn": (inputs.knn, reader.splits_folder),
        "linear_probe": (inputs.linear_probe, reader.splits_folder),
    }
    sets: ClassSets = []
    unread: list[UnreadSet] = []
    for name, (arguments, read) in by_option.items():
        found, failed = _read_all(arguments, read)
        sets += [(each, OPTION_TASKS[name]) for each in found]
        unread += failed
    if inputs.eval_data_dir is None:
        return sets, unread, []
    known, failed, absent = _known_sets(inputs.eval_data_dir, inputs, params, reader)
    return sets + [(each, possible_tasks(each, CLASS_TASKS)) for each in known], unread + failed, absent


def _known_sets(
    root: Path, inputs: "EvaluateInputs", params: "EvaluateParams", reader: ClassSetReader
) -> tuple[list[ClassSet], list[UnreadSet], list[Absent]]:
    """Read the sets of --eval-data-dir that are there; a named set that is not there counts as unread."""
    if inputs.download:
        for name in inputs.dataset:
            download(name, root)
    tasks = choose(CLASS_TASKS, wanted_tasks(params.task))
    found, absent = find_named_sets(
        root,
        names=inputs.dataset,
        tasks=tasks,
        imagenet_names=params.imagenet_names,
        names_files=reader.names_files,
    )
    untested = [each for each in found if each.test is None]
    absent += [Absent(each.name, (each.place,), "It holds training images alone.") for each in untested]
    by_name = {each.name: each for each in found if each.test is not None}
    sets, unread = _read_all(tuple(by_name), lambda name: reader.named_set(by_name[name]))
    if inputs.dataset:
        missed = [UnreadSet(each.name, f"{each.reason} Looked at {_places(each)}.") for each in absent]
        return sets, unread + missed, []
    log.info("evaluate: %d known sets are not in %s: %s", len(absent), root, ", ".join(each.name for each in absent))
    return sets, unread, absent


def _read_all(arguments: tuple[str, ...], read: Callable[[str], S]) -> tuple[list[S], list[UnreadSet]]:
    """Read each argument; one that cannot be read is noted, and the others are still read."""
    sets: list[S] = []
    unread: list[UnreadSet] = []
    for argument in arguments:
        try:
            sets.append(read(argument))
        except ProtoRKDError as error:
            unread.append(UnreadSet(argument, str(error)))
    return sets, unread


def _places(absent: Absent) -> str:
    return ", ".join(map(str, absent.places))
