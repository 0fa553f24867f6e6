"""The files beside modules that the package needs when it is installed, and not only run from its folder."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_schemas", "pipeline", "stages")
IS_CODE = {".py", ".pyc"}

DATA_FILES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if path.is_file() and path.suffix not in IS_CODE
)


@pytest.mark.parametrize("path", DATA_FILES, ids=str)
def test_package_data__names_every_file_that_is_no_module(path: Path) -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    parents = {".".join(parent.parts): path.relative_to(parent) for parent in path.parents if parent.parts}
    assert any(
        fnmatch(str(parents[package]), pattern)
        for package, patterns in named.items()
        if package in parents
        for pattern in patterns
    )
