"""The command ``prompts``: write the texts that evaluate embeds, for another tool to embed them."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands.store_options import store_options
from pipeline.log import log, show_log
from pipeline.options.declaration import check_options, click_options
from pipeline.runner import context_of
from pipeline.stage import Context
from pipeline.store.store import Store
from stages.evaluate.options import EvaluateInputs, EvaluateParams

HEADER = "caption"
_INPUTS = ("class_names", "eval_data_dir", "sts")
_PARAMS = ("template", "prompts", "imagenet_names", "image_key", "caption_key", "separator", "quoting")


def _shared_options() -> list[click.Option]:
    """Take the options that decide which texts there are from evaluate's own."""
    lines = (*click_options(EvaluateInputs), *click_options(EvaluateParams))
    return [line for line in lines if line.name in (*_INPUTS, *_PARAMS)]


@click.command(params=[*_shared_options(), *store_options()])
@click.option(
    "--for",
    "names",
    multiple=True,
    metavar="NAME_OR_PATH",
    help="Set that is to be evaluated: a folder of class folders, images with captions as --retrieval takes them, or "
    "the name of a set below --eval-data-dir; repeatable; NAME=PATH names it.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table to write: tab-separated, the column caption, a text a row.",
)
def prompts(store: Store, names: tuple[str, ...], output: Path, **values: Any) -> None:
    """Write the distinct texts that evaluate embeds: captions, and prompts with the names of classes.

    With vectors of them, by the tool that embedded the captions of the training, evaluate --caption-vectors measures
    without the teacher. Give the same options as to evaluate.
    """
    from data_schemas.files import write_atomic

    show_log()
    inputs = replace(EvaluateInputs(), **{name: values[name] for name in _INPUTS})
    params = replace(EvaluateParams(), **{name: values[name] for name in _PARAMS})
    check_options(params)
    if not names and not inputs.sts:
        raise ProtoRKDError("--for must name a set; got none. Pass one, or scored pairs by --sts.")
    reader = _TextReader(inputs, params, context_of(store))
    found = {argument: tuple(reader.texts_of(argument)) for argument in names}
    found |= {argument: tuple(reader.texts_of_sts(argument)) for argument in inputs.sts}
    for argument, texts in found.items():
        log.info("prompts: %s: %s texts", argument, f"{len(set(texts)):,}")
    distinct = dict.fromkeys(text for texts in found.values() for text in texts)
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow([HEADER])
    writer.writerows([text] for text in distinct)
    write_atomic(output, table.getvalue().encode())
    log.info("prompts: %s distinct texts in %s", f"{len(distinct):,}", output)


@dataclass(frozen=True)
class _TextReader:
    """Reads the texts of sets; images are neither opened nor hashed."""

    inputs: EvaluateInputs
    params: EvaluateParams
    context: Context

    def texts_of(self, argument: str) -> Iterator[str]:
        """Read the texts of a set that lies at a path, or of one that is known by name."""
        from stages.components.inputs.remote_manifest import local_copy
        from stages.evaluate.sets.caption_sets import read_caption_set, split_argument

        name, path, split = split_argument(argument)
        if name is None and split is None and len(path.parts) == 1 and not path.exists() and not path.suffix:
            yield from self._of_known_set(argument)
        elif split is None and _has_class_folders(path):
            yield from self._of_class_folders(argument)
        else:
            file_digests = self.context.file_digests
            pairs = read_caption_set(local_copy(path), split=split, form=self.params, file_digests=file_digests)
            yield from pairs.captions

    @staticmethod
    def texts_of_sts(argument: str) -> Iterator[str]:
        """Read both captions of scored pairs."""
        from stages.evaluate.sets.evaluation_sets import read_sts_set

        pairs = read_sts_set(argument).pairs
        yield from pairs.first
        yield from pairs.second

    def _of_class_folders(self, argument: str) -> Iterator[str]:
        from stages.evaluate.sets.datasets.name_files import name_files
        from stages.evaluate.sets.datasets.names import name_class_folders
        from stages.evaluate.sets.image_folder import read_image_folder, split_name

        name, path = split_name(argument)
        folder = read_image_folder(path, name=name)
        files = name_files(self.inputs.class_names)
        named = name_class_folders(
            folder.classes,
            folder.root,
            file=files.get(folder.name, files.get("")),
            imagenet_names=self.params.imagenet_names,
        )
        return self._prompts(folder.name, tuple(named.by_folder[each] for each in folder.classes))

    def _of_known_set(self, name: str) -> Iterator[str]:
        from stages.evaluate.sets.class_sets import find_named_sets
        from stages.evaluate.sets.datasets.name_files import name_files

        root = self.inputs.eval_data_dir
        if root is None:
            raise ProtoRKDError(
                f"--for must name a file, a folder, or with --eval-data-dir a set that is known by name; got {name!r}, "
                "which is not there. Check the path, or pass the folder that the set is in."
            )
        found, absent = find_named_sets(
            root,
            names=(name,),
            tasks=("zero_shot",),
            imagenet_names=self.params.imagenet_names,
            names_files=name_files(self.inputs.class_names),
        )
        if not found:
            raise ProtoRKDError(f"--for must name a set that is in {root}. {name}: {absent[0].reason}")
        return self._prompts(name, found[0].class_names)

    def _prompts(self, set_name: str, class_names: tuple[str, ...]) -> Iterator[str]:
        from stages.evaluate.sets.prompts import class_prompts, templates_for

        templates = self.params.template or templates_for(set_name, prompts=self.params.prompts)
        return iter(class_prompts(class_names, templates))


def _has_class_folders(path: Path) -> bool:
    """Tell a folder of class folders from the forms of pairs that are folders."""
    from data_schemas.pair_sources.kinds import find_source

    if not path.is_dir() or (path / "annotations").is_dir():
        return False
    try:
        find_source(path)
    except ProtoRKDError:
        return True
    return False
