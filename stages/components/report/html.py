"""Render pages from a stage's templates: everything is escaped, and undefined names are errors."""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

_SHARED = __package__


def page_template(
    package: str, name: str, filters: Mapping[str, Callable[..., object]], *, also: Sequence[str] = ()
) -> Template:
    """Open a page's template; it may include files of its own package, and those that all pages share.

    Args:
        package: Package of the stage.
        name: File of the template.
        filters: Filters of the template, by name.
        also: Other packages whose files the template may include.
    """

    def load(wanted: str) -> str | None:
        places = (files(folder).joinpath(wanted) for folder in (package, *also, _SHARED))
        return next((place.read_text("utf-8") for place in places if place.is_file()), None)

    environment = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    return environment.get_template(name)
