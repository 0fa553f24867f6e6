"""The command ``search``: what is nearest to words or to a picture, as lines, as JSON, as a page, or by a server."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.log import show_log
from pipeline.options import NOT_NEGATIVE, POSITIVE, click_options, option, take
from pipeline.runner import context_of
from pipeline.store import Store
from pipeline.store_options import store_options
from stages.searchable import find_searchable
from stages.teacher_identity import trust_option

if TYPE_CHECKING:
    from stages.search.engine import Asked, Search
    from stages.search.searched import Hit


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, for what, and how it is shown."""

    searched: str | None = option(
        None,
        flag="in",
        help="Artifact of embed (pictures) or encode-teacher (captions), by fingerprint or path. Default: the newest "
        "of embed, or else of encode-teacher.",
        metavar="REF",
        artifact="embed",
    )
    text: tuple[str, ...] = option((), help="Words to look for; repeatable.", metavar="WORDS")
    picture: tuple[Path, ...] = option((), help="Picture to look for the like of; repeatable.", metavar="FILE")
    top: int = option(10, help="How many are shown of each query.", check=POSITIVE)
    student: str | None = option(
        None,
        help="Embeds pictures. Default: the one that embedded the set, or the newest of the captions' teacher.",
        metavar="REF",
        artifact="distill",
    )
    teacher: str | None = option(
        None, help="Embeds words. Default: the set's own, where encode-teacher found it.", metavar="NAME_OR_PATH"
    )
    trust_remote_code: bool = trust_option()
    image_root: Path | None = option(
        None, help="Folder of the set's pictures. Default: where they were when they were embedded.", metavar="FOLDER"
    )
    device: str = option("auto", help="Where student and teacher run: auto, cpu, cuda, ...")
    page: Path | None = option(
        None, help="Write a page with pictures into this file, to be searched without a server.", metavar="FILE"
    )
    page_rows: int = option(
        2000, help="Pictures or captions on the page at most; of more, an even sample.", check=POSITIVE
    )
    captions: str | None = option(
        None,
        help="Artifact of encode-teacher whose captions can be typed on the page. Default: the newest of the teacher.",
        metavar="REF",
        artifact="encode-teacher",
    )
    serve: bool = option(False, help="Answer a page in the browser, on this machine alone, until Ctrl-C.")
    port: int = option(0, help="Of --serve. 0: any that is free.", check=NOT_NEGATIVE)


@click.command(params=[*click_options(SearchOptions), *store_options()])
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object on stdout.")
def search(store: Store, as_json: bool, **values: Any) -> None:
    """Find the pictures or captions that are nearest to words or to a picture.

    Pictures are those of an artifact of embed, captions those of encode-teacher: text that you have embedded can be
    searched by picture, and pictures by text.
    """
    show_log()
    options = take(SearchOptions, values)
    if not (options.text or options.picture or options.page or options.serve):
        raise ProtoRKDError(
            "One of --text, --picture, --page and --serve must be given; got none. Say what to look for."
        )
    from stages.search.engine import open_search  # keeps numpy out of --help

    context = context_of(store, stages=click.get_current_context().obj or ())
    opened = open_search(find_searchable(options.searched, store=context.store), options, context)
    asked = _ask(opened, options)
    if options.page is not None:
        from stages.search.page import write_page

        write_page(opened, options, asked, context=context)
    if as_json:
        click.echo(json.dumps(_as_json(opened, asked), ensure_ascii=False))
    elif asked and options.page is None:
        click.echo("\n\n".join("\n".join(_lines(each)) for each in asked))
    if options.serve:
        from stages.search.server import serve

        serve(opened, asked, top=options.top, port=options.port)


def _ask(opened: "Search", options: SearchOptions) -> "list[Asked]":
    return [
        *(opened.ask_text(text, top=options.top) for text in options.text),
        *(opened.ask_file(path, top=options.top) for path in options.picture),
    ]


def _as_json(opened: "Search", asked: "Sequence[Asked]") -> dict[str, Any]:
    record = opened.searched.artifact.record
    return {
        "in": {"stage": record.stage, "fingerprint": record.fingerprint, "finder": opened.finder.description},
        "queries": [
            {
                each.kind: each.name,
                "seconds": round(each.seconds, 4),
                "results": [_hit(hit, opened) for hit in each.hits],
            }
            for each in asked
        ],
    }


def _query(asked: "Asked", opened: "Search") -> dict[str, Any]:
    results = [_hit(hit, opened) for hit in asked.hits]
    return {asked.kind: asked.name, "seconds": round(asked.seconds, 4), "results": results}


def _hit(hit: "Hit", opened: "Search") -> dict[str, Any]:
    name, others = ("image", "also") if opened.searched.is_pictures else ("caption", "images")
    return {"rank": hit.rank, "score": round(hit.score, 6), "row": hit.row, name: hit.name, others: list(hit.others)}


def _lines(asked: "Asked") -> list[str]:
    lines = [f"{hit.rank:>4}  {hit.score:6.3f}  {hit.name}" for hit in asked.hits]
    return [asked.name, *lines]
