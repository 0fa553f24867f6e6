"""Patterns that name several files: braces as shells expand them, and glob's signs."""

import itertools
import re
from pathlib import Path

from data_schemas.errors import ProtoRKDError

_MOST = 1_000_000
_SIGNS = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(path: Path) -> bool:
    """Tell whether a path names several files; a path that exists as written does not."""
    return bool(_SIGNS.search(str(path))) and not path.exists()


def pattern_root(path: Path) -> Path:
    """Return the folder that a pattern starts from, whether or not it exists."""
    return Path(*itertools.takewhile(lambda part: not _SIGNS.search(part), path.parts))


def expand(path: Path) -> list[Path]:
    """List the files of a pattern: braces in the order written, glob's finds sorted.

    Raises:
        ProtoRKDError: it finds no file, or a file that braces name is not there.

    Example:
        >>> expand(Path("shards/{00000..00002}.tar"))  # doctest: +SKIP
        [PosixPath('shards/00000.tar'), PosixPath('shards/00001.tar'), PosixPath('shards/00002.tar')]
    """
    root = pattern_root(path)
    files: list[Path] = []
    for name in _braced(str(path)):
        if _SIGNS.search(name):
            files += sorted(found for found in root.glob(str(Path(name).relative_to(root))) if found.is_file())
        elif Path(name).is_file():
            files.append(Path(name))
        else:
            raise ProtoRKDError(f"{path} must name files that are there; got no {name}. Mend the pattern.")
    if not files:
        raise ProtoRKDError(f"{path} must name files that are there; got none. Mend the pattern, and quote it.")
    return list(dict.fromkeys(files))


def _braced(text: str) -> list[str]:
    pieces, start, total = [], 0, 1
    for match in _BRACES.finditer(text):
        choices = _choices(match[1])
        total *= len(choices)
        if total > _MOST:
            raise ProtoRKDError(f"{text} must name at most {_MOST:,} files; got {total:,} or more.")
        pieces += [[text[start : match.start()]], choices]
        start = match.end()
    return ["".join(parts) for parts in itertools.product(*pieces, [text[start:]])]


def _choices(inner: str) -> list[str]:
    match = _RANGE.fullmatch(inner)
    if match is None:
        return inner.split(",")
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise ProtoRKDError(f"A range must go from the lower to the higher number, at most {_MOST:,}; got {{{inner}}}.")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]
