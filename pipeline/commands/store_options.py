"""``--store``, the same for every command: a folder, or the URL of an object store and how to work on it."""

import os
from pathlib import Path
from typing import Any

import click

from pipeline.remote.object_store import url_of
from pipeline.store.store import Store

_CACHE_VARIABLE = "PROTORKD_STORE_CACHE"
_CACHE_KEY = "protorkd.store-cache"
_SINGLE_KEY = "protorkd.single-writer"


class _Place(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    name = "folder_or_url"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Path | str:
        if url := url_of(value):
            return url
        folder: Path = click.Path(path_type=Path, file_okay=False).convert(value, param, context)
        return folder


class _StoreOption(click.Option):
    """An option for which the file of ``--config`` overrides the environment, which click asks first."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        return None if self.name in (ctx.default_map or {}) else super().value_from_envvar(ctx)


def store_options() -> list[click.Option]:
    """Make the options that name a command's ``store``; the command receives it opened."""
    return [
        _StoreOption(
            ["--store"],
            type=_Place(),
            default="store",
            show_default=True,
            envvar="PROTORKD_STORE",
            show_envvar=True,
            callback=_open,
            help="Folder of all artifacts, or the URL of one in an object store, such as s3://bucket/prefix.",
        ),
        click.Option(
            ["--store-cache"],
            type=click.Path(path_type=Path, file_okay=False),
            envvar=_CACHE_VARIABLE,
            show_envvar=True,
            expose_value=False,
            is_eager=True,
            callback=_note(_CACHE_KEY),
            help="Folder in which a store with a URL is worked on. Default: one of its own in the user's cache.",
        ),
        click.Option(
            ["--single-writer"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_note(_SINGLE_KEY),
            help="Use an object store that cannot tell writers apart; nobody else may write there meanwhile.",
        ),
    ]


def open_store(place: Path | str, *, cache: Path | None = None, single_writer: bool = False) -> Store:
    """Open a store without any request to it yet.

    Args:
        place: Folder or URL of the store.
        cache: Folder in which a store with a URL is worked on; None takes what PROTORKD_STORE_CACHE names, or a folder
            in the user's cache.
        single_writer: Whether nobody else writes to the URL.

    Raises:
        ProtoRKDError: the URL is not one that can be opened.
    """
    url = url_of(place)
    if url is None:
        return Store(Path(place))
    from pipeline.remote.remote_store import RemoteStore, default_cache

    named = cache or os.environ.get(_CACHE_VARIABLE)
    return RemoteStore(url, Path(named) if named else default_cache(url), single_writer=single_writer)


def _note(key: str) -> Any:
    def note(context: click.Context, _param: click.Parameter, value: Any) -> None:
        context.meta[key] = value

    return note


def _open(context: click.Context, _param: click.Parameter, value: Path | str) -> Store:
    cache, single = context.meta.get(_CACHE_KEY), context.meta.get(_SINGLE_KEY, False)
    return open_store(value, cache=cache, single_writer=single)
