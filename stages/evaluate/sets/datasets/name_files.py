"""Files that name classes, whose folders are called by codes: read one, or find it beside the folders."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.text.text_file import BOM, open_text
from stages.evaluate.sets.datasets.folder_names import SYNSET, match_folders, names_from_folders
from stages.evaluate.sets.image_folder import SPLIT_NAMES, split_name

FOUND_NAMES = ("classnames.txt", "words.txt")
"""Names of the files that are looked for beside class folders, or beside their split."""

_CODE_AND_NAME = re.compile(r"(n\d{8}|\d+)\s+(\S.*)")
_FORMS = 'Write "folder<TAB>name" in every line, one name a line in the order of the folders, or {"folder": "name"}.'

_Entries = list[tuple[str, str]]
"""Names, each with the code that it stands for, or with "" where it stands for none."""


def name_files(arguments: Iterable[str]) -> dict[str, Path]:
    """Take the arguments ``FILE`` and ``SET=FILE`` apart.

    Returns:
        The file of each set; that without a set under "".

    Raises:
        ProtoRKDError: a set is named twice.
    """
    files: dict[str, Path] = {}
    for argument in arguments:
        name, path = split_name(argument)
        if (name or "") in files:
            whose = f"of {name}" if name else "without a set's name"
            raise ProtoRKDError(f"--class-names must come once for a set; got two {whose}. Write SET=FILE.")
        files[name or ""] = path
    return files


def find_name_file(place: Path) -> Path | None:
    """Find a file that names the class folders of a place: beside them, or above where the place is a split."""
    folders = (place, place.parent) if place.name in SPLIT_NAMES else (place,)
    return next((path for folder in folders for name in FOUND_NAMES if (path := folder / name).is_file()), None)


def names_by_file(folders: Sequence[str], path: Path) -> dict[str, str]:
    """Name class folders by a file.

    A JSON file holds names by folder, ImageNet's class index (``{"0": ["n01440764", "tench"]}``) or a list of names.
    Any other file is text, with a tab (a comma in ``.csv``, a blank after WordNet ids and numbers) between folder and
    name, or with one name a line. Names without folders go by the folders' numbers, or by their spelling, or stand in
    the order of the sorted folders. Of the synonyms of a WordNet id the first is taken.

    Args:
        folders: Names of all class folders of a set; the file may name others, too.
        path: File with the names.

    Raises:
        ProtoRKDError: the file cannot be read, or does not name every folder.
    """
    entries = _read_json(path) if path.suffix.lower() == ".json" else _read_text(path)
    names = _by_folder(sorted(folders), entries, path)
    names = {folder: name.partition(",")[0] if SYNSET.fullmatch(folder) else name for folder, name in names.items()}
    named = dict(zip(names, names_from_folders(list(names.values())), strict=True))
    nameless = [folder for folder, name in named.items() if not name]
    if nameless:
        raise ProtoRKDError(f"{path} must name every class folder; got an empty name for {nameless[0]!r}. {_FORMS}")
    return named


def _by_folder(folders: Sequence[str], entries: _Entries, path: Path) -> dict[str, str]:
    by_code = dict(entries)
    twice = [code for code, name in entries if code in folders and by_code[code] != name]
    if twice:
        raise ProtoRKDError(f"{path} must give each class folder one name; got several for {twice[0]!r}. {_FORMS}")
    if set(folders) <= by_code.keys():
        return {folder: by_code[folder] for folder in folders}
    if all(code.isdecimal() for code, _ in entries):
        names = [name for _, name in sorted(entries, key=lambda entry: int(entry[0]))]
    elif not any(code for code, _ in entries):
        names = [name for _, name in entries]
    else:
        missing = [folder for folder in folders if folder not in by_code]
        raise ProtoRKDError(
            f"{path} must name every class folder; got {len(entries):,} names, none for {missing[0]!r}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}. {_FORMS}"
        )
    places = match_folders(folders, names)
    if places is None and len(names) != len(folders):
        raise ProtoRKDError(
            f"{path} must have one name for each class folder; got {len(names):,} for {len(folders):,}. {_FORMS}"
        )
    return {folder: names[places[folder] if places else order] for order, folder in enumerate(folders)}


def _read_json(path: Path) -> _Entries:
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise ProtoRKDError(f"{path} must be JSON, as its suffix says; {error}. {_FORMS}") from None
    if isinstance(values, list) and all(isinstance(name, str) for name in values):
        return [("", name) for name in values]
    if not isinstance(values, dict):
        raise ProtoRKDError(f"{path} must be an object or a list of names; got {str(values)[:60]}. {_FORMS}")
    return [entry for code, value in values.items() for entry in _json_entries(code, value, path)]


def _json_entries(code: str, value: Any, path: Path) -> _Entries:
    """Read one member of an object: a name, or ImageNet's pair of WordNet id and name."""
    match value:
        case str(name):
            return [(code, name)]
        case [str(synset), str(name)]:
            return [(code, name), (synset, name)]
    raise ProtoRKDError(f"{path} must give a name for {code!r}; got {str(value)[:60]}. {_FORMS}")


def _read_text(path: Path) -> _Entries:
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    separator = "\t" if any("\t" in line for line in lines) else "," if path.suffix.lower() == ".csv" else None
    if separator is None:
        pairs = [_CODE_AND_NAME.fullmatch(line) for line in lines]
        return [(pair[1], pair[2]) for pair in pairs if pair] if all(pairs) else [("", line) for line in lines]
    rows = [next(csv.reader([line])) if separator == "," else line.split("\t", 1) for line in lines]
    short = [line for line, row in zip(lines, rows, strict=True) if len(row) < 2]
    if short:
        raise ProtoRKDError(f"{path} must have a folder and a name in every line; got {short[0][:60]!r}. {_FORMS}")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def _text(path: Path) -> str:
    return open_text(path)[:].removeprefix(BOM).decode()
