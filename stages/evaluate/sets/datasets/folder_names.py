"""Names of classes as the names of their folders give them."""

import html
import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote

from data_schemas.errors import ProtoRKDError

SYNSET = re.compile(r"n\d{8}")

_CODE = re.compile(r"n\d{8}\b|\d{2,}$|\d{2,}[. -]\s*[^\W\d]")
_NUMBER_BEFORE = re.compile(r"^\d+[._ -]+")
_CODE_BEFORE = re.compile(r"(?:n\d{8}[._ -]|\d{2,}[._ -]|\d+\.)[._ -]*(?=[^\W\d_])")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(r"&#?\w+;")


def class_name_from_folder(folder_name: str) -> str:
    """Read a class name from its folder's name: underscores are spaces, what is escaped for URLs or HTML is not.

    Example:
        >>> class_name_from_folder("mac_%26_cheese")
        'mac & cheese'
    """
    name = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _unquoted(folder_name))
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def names_from_folders(folders: Sequence[str]) -> list[str]:
    """Read the class names of all folders of a set, in their order.

    Where each folder has a number of its own before a name of its own, as in ``001.Black_footed_Albatross`` or
    ``n02085620-Chihuahua``, the numbers are left out.

    Example:
        >>> names_from_folders(["001.Black_footed_Albatross", "002.Laysan_Albatross"])
        ['Black footed Albatross', 'Laysan Albatross']
    """
    numbers = [match[0] for folder in folders if (match := _CODE_BEFORE.match(folder))]
    names = [class_name_from_folder(folder) for folder in folders]
    if len(set(numbers)) < len(folders):
        return names
    bare = [class_name_from_folder(folder[len(number) :]) for folder, number in zip(folders, numbers, strict=True)]
    return bare if len(set(bare)) == len(folders) else names


def code_names(class_names: Sequence[str]) -> list[str]:
    """List the class names that are codes or carry a number, which no caption does: WordNet ids, ``001.Albatross``.

    Example:
        >>> code_names(("n01440764", "001.Black footed Albatross", "jet plane", "7"))
        ['n01440764', '001.Black footed Albatross']
    """
    return [name for name in class_names if _CODE.match(name)]


def match_folders(folders: Sequence[str], known: Sequence[str]) -> dict[str, int] | None:
    """Find the place of each folder among known names, by its number or by its spelling; None where neither fits.

    Raises:
        ProtoRKDError: the folders are numbers, but count neither from 0 nor from 1 to the last.
    """
    return _places_by_number(folders, len(known)) or _places_by_name(folders, known)


def _places_by_number(folders: Sequence[str], num_known: int) -> dict[str, int] | None:
    if not all(re.fullmatch("[0-9]+", folder) for folder in folders):
        return None
    numbers = {folder: int(folder) for folder in folders}
    first = 0 if 0 in numbers.values() else 1
    last = max(numbers.values())
    # Without class 0 and without the last class, it is unknown where counting starts.
    if len(set(numbers.values())) < len(folders) or last - first >= num_known or (first == 1 and last != num_known):
        raise ProtoRKDError(
            f"Numbered class folders must count from 0, or from 1 to {num_known}; got {len(folders)} of them from "
            f"{min(numbers.values())} to {last}. Name the folders in words."
        )
    return {folder: number - first for folder, number in numbers.items()}


def _places_by_name(folders: Sequence[str], known: Sequence[str]) -> dict[str, int] | None:
    places = {_spelled_alike(name): place for place, name in enumerate(known)}
    found = {folder: places.get(_spelled_alike(_NUMBER_BEFORE.sub("", folder))) for folder in folders}
    complete = {folder: place for folder, place in found.items() if place is not None}
    return complete if len(set(complete.values())) == len(folders) else None


def _spelled_alike(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _unquoted(name: str) -> str:
    """Undo the escapes of URLs, where they are such: ``50%de`` is none."""
    if not _ESCAPED.search(name):
        return name
    try:
        plain = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return plain if plain.isprintable() else name
