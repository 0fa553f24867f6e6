"""The command ``search``: show what is nearest to words or an image, as lines, JSON or a page, or by a server."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands.store_options import store_options
from pipeline.log import show_log
from pipeline.options.declaration import click_options, take
from pipeline.runner import context_of
from pipeline.store.store import Store
from pipeline.terminal import echo, printable_line
from stages.components.embeddings.searchable import find_searchable
from stages.search.options import SearchOptions

if TYPE_CHECKING:
    from stages.search.engine import Search, SearchResult
    from stages.search.searched import Hit


@click.command(params=[*click_options(SearchOptions), *store_options()])
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object on stdout.")
def search(store: Store, as_json: bool, **values: Any) -> None:
    """Find the images or captions that are nearest to words or to an image.

    Images are those of an artifact of embed, captions those of encode-teacher: text that you have embedded can be
    searched by image, and images by text.
    """
    show_log()
    options = take(SearchOptions, values)
    if not (options.text or options.picture or options.page or options.serve):
        raise ProtoRKDError(
            "One of --text, --picture, --page and --serve must be given; got none. Say what to look for."
        )
    from stages.search.engine import open_search  # keeps numpy out of --help

    context = context_of(store, stages=click.get_current_context().obj or ())
    artifacts = [find_searchable(each, store=context.store) for each in options.searched or (None,)]
    opened = open_search(artifacts, options, context)
    asked = _ask(opened, options)
    if options.page is not None:
        from stages.search.page import write_page

        write_page(opened, options, asked, context=context)
    if as_json:
        echo(json.dumps(_as_json(opened, asked), ensure_ascii=False))
    elif asked and options.page is None:
        echo("\n\n".join("\n".join(_lines(each)) for each in asked))
    if options.serve:
        from stages.search.server import serve

        serve(opened, asked, top=options.top, port=options.port)


def _ask(opened: "Search", options: SearchOptions) -> "list[SearchResult]":
    return [
        *(opened.ask_text(text, top=options.top) for text in options.text),
        *(opened.ask_file(path, top=options.top) for path in options.picture),
    ]


def _as_json(opened: "Search", asked: "Sequence[SearchResult]") -> dict[str, Any]:
    sets = [
        {
            "stage": each.artifact.record.stage,
            "fingerprint": each.artifact.record.fingerprint,
            "finder": each.finder.description,
        }
        for each in opened.sets
    ]
    return {
        "in": sets[0] if len(sets) == 1 else sets,
        "queries": [
            {
                each.kind: each.name,
                "seconds": round(each.seconds, 4),
                "results": [_hit(hit, opened) for hit in each.hits],
            }
            for each in asked
        ],
    }


def _hit(hit: "Hit", opened: "Search") -> dict[str, Any]:
    name, others = ("image", "also") if hit.is_image else ("caption", "images")
    place, row = opened.searched.locate(hit.row)
    within = {"in": opened.sets[place].artifact.record.fingerprint} if len(opened.sets) > 1 else {}
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        **within,
        "row": row,
        name: hit.name,
        others: list(hit.others),
    }


def _lines(asked: "SearchResult") -> list[str]:
    lines = [f"{hit.rank:>4}  {hit.score:6.3f}  {printable_line(hit.name)}" for hit in asked.hits]
    return [printable_line(asked.name), *lines]
