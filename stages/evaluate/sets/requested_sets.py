"""From options to sets: what each set is asked, and what is said of those that are not there or cannot be read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.stage import Context
from stages.components.images.packed_image_set import Pack, PackedImageSet
from stages.evaluate.sets.class_sets import ClassSetReader, find_named_sets, merge_class_sets, possible_tasks
from stages.evaluate.sets.datasets import Absent, download
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
from stages.evaluate.task_names import CLASS_TASKS, OPTION_TASKS, RETRIEVAL_TASKS, STS_TASKS, choose, wanted_tasks

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateInputs, EvaluateParams

_UNPACKED = ".unpacked"  # hidden, so that the store does not take it for a stage

S = TypeVar("S", RetrievalSet, ClassSet, STSSet)


def find_entries(
    inputs: "EvaluateInputs", params: "EvaluateParams", context: Context
) -> tuple[dict[str, RequestedSet], list[Absent]]:
    """Read every set that is asked for.

    Returns:
        The sets under names such as ``classes cifar10``, those that cannot be read among them; and the known sets that
        are not below ``--eval-data-dir``.

    Raises:
        ProtoRKDError: no set is given, none allows a task, two have one name, or a template has no place for a name.
    """
    _check_given(inputs, params)
    wanted = wanted_tasks(params.task)
    unread: list[UnreadSet] = []
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

    retrieval = [*_read_all(inputs.retrieval, read_captioned, unread)]
    classes, absent = _class_sets(inputs, params, context, packs, unread)
    sts = [*_read_all(inputs.sts, read_sts_set, unread)]
    merged = merge_class_sets(classes)
    names = [[found.name for found in retrieval], [found.name for found, _ in merged], [found.name for found in sts]]
    check_names([name for kind in names for name in kind])
    entries = {f"retrieval {found.name}": RequestedSet(found, choose(RETRIEVAL_TASKS, wanted)) for found in retrieval}
    for found, tasks in merged:
        chosen = choose(tasks, wanted)
        templates = params.template or templates_for(found.name, prompts=params.prompts)
        entries[f"classes {found.name}"] = RequestedSet(
            found, chosen, templates=templates if "zero_shot" in chosen else ()
        )
    entries |= {f"sts {found.name}": RequestedSet(found, choose(STS_TASKS, wanted)) for found in sts}
    entries = {name: entry for name, entry in entries.items() if entry.tasks}
    entries |= {f"unread {found.name}": RequestedSet(found) for found in unread}
    if not entries:
        raise ProtoRKDError(
            f"The sets must allow a task; got none for --task {', '.join(params.task) or 'all'}. "
            "Look at --task, --dataset and --eval-data-dir."
        )
    if not unread:
        _check_served(packs, entries.values())
    return entries, absent


def _check_served(packs: Sequence[Pack], entries: Iterable[RequestedSet]) -> None:
    needed = [images.value for entry in entries for images in entry.images()]
    served = {found.pack.root for found in needed if isinstance(found, PackedImageSet)}
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
    for template in params.template:
        fill(template, "")


def _class_sets(
    inputs: "EvaluateInputs",
    params: "EvaluateParams",
    context: Context,
    packs: Sequence[Pack],
    unread: list[UnreadSet],
) -> tuple[list[tuple[ClassSet, tuple[str, ...]]], list[Absent]]:
    """The sets of classes with the tasks that each is for, and those of --eval-data-dir that are not there."""
    reader = ClassSetReader(context.file_digests, inputs.image_identity, context.store.root / _UNPACKED, packs)
    by_option = {
        "zero_shot": (inputs.zero_shot, reader.test_folder),
        "knn": (inputs.knn, reader.splits_folder),
        "linear_probe": (inputs.linear_probe, reader.splits_folder),
    }
    given = [
        (found, OPTION_TASKS[name])
        for name, (arguments, read) in by_option.items()
        for found in _read_all(arguments, read, unread)
    ]
    if inputs.eval_data_dir is None:
        return given, []
    known, absent = _known_sets(inputs.eval_data_dir, inputs, params, reader, unread)
    return given + [(found, possible_tasks(found, CLASS_TASKS)) for found in known], absent


def _known_sets(
    root: Path, inputs: "EvaluateInputs", params: "EvaluateParams", reader: ClassSetReader, unread: list[UnreadSet]
) -> tuple[list[ClassSet], list[Absent]]:
    """The sets of --eval-data-dir that are there, and those that are not; one that was named is missed."""
    if inputs.download:
        for name in inputs.dataset:
            download(name, root)
    tasks = choose(CLASS_TASKS, wanted_tasks(params.task))
    found, absent = find_named_sets(root, names=inputs.dataset, tasks=tasks, imagenet_names=params.imagenet_names)
    untested = [each for each in found if each.test is None]
    absent += [Absent(each.name, (each.place,), "It holds training images alone.") for each in untested]
    by_name = {each.name: each for each in found if each.test is not None}
    sets = [*_read_all(tuple(by_name), lambda name: reader.named_set(by_name[name]), unread)]
    if inputs.dataset:
        unread += [UnreadSet(each.name, f"{each.reason} Looked at {_places(each)}.") for each in absent]
        return sets, []
    log.info("evaluate: %d known sets are not in %s: %s", len(absent), root, ", ".join(each.name for each in absent))
    return sets, absent


def _read_all(arguments: tuple[str, ...], read: Callable[[str], S], unread: list[UnreadSet]) -> Iterator[S]:
    """Read each; what cannot be read is noted, and the others are read all the same."""
    for argument in arguments:
        try:
            yield read(argument)
        except ProtoRKDError as error:
            unread.append(UnreadSet(argument, str(error)))


def _places(absent: Absent) -> str:
    return ", ".join(map(str, absent.places))
