"""Render the page of a search: one HTML file, which holds its rows or asks the server that sent it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from data_schemas.pair_index import read_captions
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.embeddings.searchable import ENCODE_TEACHER, read_rows
from stages.components.images.lazy_image import open_lazily, to_image
from stages.components.report.even_sample import choose_queries
from stages.components.report.html import page_template
from stages.components.report.thumbnails import thumbnail, thumbnail_or_stand_in

if TYPE_CHECKING:
    from stages.search.engine import Search, SearchResult
    from stages.search.options import SearchOptions

NUM_START = 24
_THUMBNAIL_SIZE = 128
_MAX_CAPTIONS = 2000
_THREADS = 4


def write_page(
    opened: "Search", options: "SearchOptions", asked: "Sequence[SearchResult]", *, context: Context
) -> None:
    """Write a page that searches without a server: it holds thumbnails and 8-bit embeddings.

    Captions of encode-teacher, embedded by the teacher of the rows' space, can be typed on it.

    Raises:
        ProtoRKDError: the file cannot be written, or captions of another teacher are named.
    """
    assert options.page is not None
    searched, rows = opened.searched, read_rows(opened.searched.artifact)
    chosen = choose_queries(options.page_rows, len(rows.numbers))
    dim = rows.values.shape[1]
    artifact = _captions_artifact(opened, options.captions, dim, context)
    names, vectors = _captions(artifact) if artifact else ([], np.empty((0, 0), np.float32))
    data = {
        "live": False,
        "noun": searched.noun,
        "top": max(options.top, NUM_START),
        "items": _items(opened, rows.numbers[chosen].tolist()),
        "codes": _codes(rows.values[chosen]),
        "queries": [_query(each) for each in asked],
        "query_codes": _codes(np.array([each.vector for each in asked], np.float32).reshape(-1, dim)),
        "captions": [{"name": name} for name in names],
        "caption_codes": _codes(vectors),
        "start": choose_queries(NUM_START, len(chosen)),
    }
    html = render(opened, data, num_shown=len(chosen))
    write_atomic(options.page, html.encode())
    log.info("search: wrote %s, %s of %d, %.1f MB", options.page, searched.noun + "s", len(chosen), len(html) / 1e6)


def render(opened: "Search", data: Mapping[str, Any], *, num_shown: int) -> str:
    """Render the page; its policy allows only its own script and style, and loads nothing from elsewhere.

    Args:
        opened: Search of the set.
        data: Data of the page's script.
        num_shown: Number of rows that the page can show.
    """
    style, script = _style_and_script()
    filters = {"thousands": "{:,}".format, "plural": lambda num, noun: f"{num:,} {noun}{'' if num == 1 else 's'}"}
    return page_template(__package__, "page.html", filters).render(
        policy=policy_of(live=data["live"]),
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704 - likewise
        live=data["live"],
        data=data,
        noun=opened.searched.noun,
        num_rows=len(opened.searched.rows),
        num_shown=num_shown,
        num_captions=len(data["captions"]),
        facts=facts(opened),
    )


def policy_of(*, live: bool) -> str:
    """Return the page's content security policy: only its own script may run, and ask only the live server."""
    style, script = _style_and_script()
    images = "'self' data: blob:" if live else "data:"
    return "; ".join(
        [
            "default-src 'none'",
            f"img-src {images}",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            *(["connect-src 'self'"] if live else []),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def facts(opened: "Search") -> str:
    """Return a line that names the set, its student and its teacher."""
    record = opened.searched.artifact.record
    parts = [f"{record.stage} {record.fingerprint[:12]}"]
    try:
        config = opened.queries.student.config
        parts.append(f"images by {config.backbone} at {config.preprocessing.image_size} px")
    except ProtoRKDError:
        parts.append("no student that could embed images")
    return " · ".join([*parts, f"teacher {opened.queries.teacher_identity[:12]}"])


def _items(opened: "Search", rows: Sequence[int]) -> list[dict[str, Any]]:
    searched = opened.searched
    items: list[dict[str, Any]] = [{"name": searched.name(row), "others": list(searched.others(row))} for row in rows]
    if not searched.is_images:
        return items
    images = searched.images(rows)
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress("shrinking images", total=len(rows), unit="images", done=0) as advance,
    ):
        thumbs = pool.map(lambda number: thumbnail_or_stand_in(images, number, size=_THUMBNAIL_SIZE), range(len(rows)))
        for item, thumb in zip(items, thumbs, strict=True):
            item["thumb"] = thumb
            advance(1)
    return items


def _query(asked: "SearchResult") -> dict[str, Any]:
    if asked.kind == "text":
        return {"name": asked.name, "thumb": None}
    image = thumbnail(to_image(open_lazily(asked.name)), size=_THUMBNAIL_SIZE)
    return {"name": Path(asked.name).name, "thumb": image}


def _captions(artifact: Artifact) -> tuple[list[str], NDArray[np.float32]]:
    """Return captions that can be typed, evenly sampled if there are many, and their embeddings."""
    rows = read_rows(artifact)
    chosen = choose_queries(_MAX_CAPTIONS, len(rows.numbers))
    captions = read_captions(artifact.path)
    return [captions[int(rows.numbers[place])].as_py() for place in chosen], rows.values[chosen]


def _captions_artifact(opened: "Search", reference: str | None, dim: int, context: Context) -> Artifact | None:
    identity = opened.queries.teacher_identity

    def fits(artifact: Artifact) -> bool:
        same = artifact.record.inputs["teacher"].digest == identity
        return same and EmbeddingArray.open(artifact.path).dim == dim

    if reference is not None:
        artifact = context.store.resolve(reference, stage=ENCODE_TEACHER, flag="--captions")
        if not fits(artifact):
            raise ProtoRKDError(
                f"--captions must be of the teacher in whose space the set lies ({identity[:12]}), and as wide; got "
                f"{reference}. Name another, or leave it out."
            )
        return artifact
    if opened.searched.artifact.record.stage == ENCODE_TEACHER:
        return opened.searched.artifact
    known = context.store.artifacts(ENCODE_TEACHER)
    newest = next((each for each in reversed(known) if fits(each)), None)
    return newest and context.store.fetch(newest)


def _codes(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Encode rows in 8 bits a number, so that the largest of each row becomes 127."""
    scales = np.abs(vectors).max(axis=1, initial=0) / 127
    codes = np.rint(vectors / np.maximum(scales, np.finfo(np.float32).tiny)[:, None]).astype(np.int8)
    return {
        "dim": vectors.shape[1],
        "values": base64.b64encode(codes.tobytes()).decode(),
        "scales": base64.b64encode(scales.astype("<f4").tobytes()).decode(),
    }


def _style_and_script() -> tuple[str, str]:
    style = page_template(__package__, "page_style.html", {}).render()
    return style, files(__package__).joinpath("page.js").read_text("utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
