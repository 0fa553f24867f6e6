"""How pages are rendered: everything escaped, nothing left out silently, templates beside the stage that has them."""

from collections.abc import Callable, Mapping
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

_SHARED = __package__


def page_template(package: str, name: str, filters: Mapping[str, Callable[..., object]]) -> Template:
    """Open a page's template; it includes files of its own package, or those that pages share.

    Args:
        package: of the stage.
        name: of the file.
        filters: that the template uses, by name.
    """

    def load(wanted: str) -> str | None:
        found = [
            place for place in (files(package).joinpath(wanted), files(_SHARED).joinpath(wanted)) if place.is_file()
        ]
        return found[0].read_text("utf-8") if found else None

    environment = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    return environment.get_template(name)
