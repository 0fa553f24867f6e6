"""Render the page of a search: one HTML file, which holds its rows or asks the server that sent it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from data_schemas.calibration import ScoreMap
from data_schemas.embedding_array import EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from data_schemas.pair_index import read_captions
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.calibration.extended_vectors import IMAGE, TEXT
from stages.components.embeddings.searchable import ENCODE_TEACHER, read_rows
from stages.components.images.image_set import ImageSet
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
    rows = _Rows.of(opened)
    chosen = choose_queries(options.page_rows, len(rows.numbers))
    dim = rows.values.shape[1]
    artifact = _captions_artifact(opened, options.captions, dim, context)
    names, vectors = _captions(artifact) if artifact else ([], np.empty((0, 0), np.float32))
    noun = opened.searched.noun
    data = {
        "live": False,
        "noun": noun,
        "top": max(options.top, NUM_START),
        "items": _items(opened, rows.numbers[chosen].tolist()),
        "codes": _codes(rows.values[chosen]),
        "added": rows.added[chosen].round(6).tolist() if rows.added.any() else [],
        "maps": [{kind: _pair(each.map_scores(kind)) for kind in (TEXT, IMAGE)} for each in opened.sets],
        "queries": [_query(each) for each in asked],
        "query_codes": _codes(np.array([each.vector for each in asked], np.float32).reshape(-1, dim)),
        "captions": [{"name": name} for name in names],
        "caption_codes": _codes(vectors),
        "start": choose_queries(NUM_START, len(chosen)),
    }
    html = render(opened, data, num_shown=len(chosen))
    write_atomic(options.page, html.encode())
    log.info("search: wrote %s, %s of %d, %.1f MB", options.page, noun + "s", len(chosen), len(html) / 1e6)


@dataclass(frozen=True)
class _Rows:
    """Rows of all sets, without calibration.

    Shapes:
        values: (rows, dim), float32, of unit length; numbers: (rows,), int64, as `JointSet` has them.
        added: (rows,), float32, to scores with words.
    """

    values: NDArray[np.float32]
    numbers: NDArray[np.int64]
    added: NDArray[np.float32]

    @classmethod
    def of(cls, opened: "Search") -> "_Rows":
        read = [each.plain_rows() for each in opened.sets]
        starts = opened.searched.starts
        return cls(
            np.concatenate([values for values, _, _ in read]),
            np.concatenate([start + numbers for start, (_, numbers, _) in zip(starts, read, strict=True)]),
            np.concatenate([added for _, _, added in read]),
        )


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
        is_calibrated=opened.is_calibrated,
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
    """Return a line that names the sets, their student and their teacher."""
    parts = [each.artifact.name for each in opened.sets]
    try:
        config = opened.queries.student.config
        parts.append(f"images by {config.backbone} at {config.preprocessing.image_size} px")
    except ProtoRKDError:
        parts.append("no student that could embed images")
    return " · ".join([*parts, f"teacher {opened.queries.teacher_identity[:12]}"])


def _items(opened: "Search", rows: Sequence[int]) -> list[dict[str, Any]]:
    searched = opened.searched
    items: list[dict[str, Any]] = [{**searched.describe(row), "set": searched.locate(row)[0]} for row in rows]
    thumbs: list[tuple[dict[str, Any], ImageSet, int]] = []
    for place, found in enumerate(searched.sets):
        if found.is_images:
            own = [(item, row) for item, row in zip(items, rows, strict=True) if item["set"] == place]
            images = found.images([row - searched.starts[place] for _, row in own])
            thumbs += [(item, images, number) for number, (item, _) in enumerate(own)]
    if not thumbs:
        return items
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress("shrinking images", total=len(thumbs), unit="images", done=0) as advance,
    ):
        shrunk = pool.map(lambda each: thumbnail_or_stand_in(each[1], each[2], size=_THUMBNAIL_SIZE), thumbs)
        for (item, _, _), thumb in zip(thumbs, shrunk, strict=True):
            item["thumb"] = thumb
            advance(1)
    return items


def _pair(scores: ScoreMap) -> list[float]:
    return [scores.slope, scores.offset]


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
    for each in opened.sets:
        if each.artifact.record.stage == ENCODE_TEACHER:
            return each.artifact
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
