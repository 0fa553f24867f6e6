"""Options of search."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, option
from stages.components.calibration.option import calibrate_option
from stages.components.teacher.identity import trust_option
from stages.components.teacher.prompts import query_prompt_option


@dataclass(frozen=True)
class SearchOptions:
    """The set to search, the queries, and how results are shown."""

    searched: tuple[str, ...] = option(
        (),
        flag="in",
        help="Artifact of embed (images) or encode-teacher (captions), by fingerprint or path; repeatable: what is "
        "found in several is one list. Default: the newest of embed, or else of encode-teacher.",
        metavar="REF",
        artifact="embed",
    )
    text: tuple[str, ...] = option((), help="Words to look for; repeatable.", metavar="WORDS")
    picture: tuple[Path, ...] = option((), help="Image to search by; repeatable.", metavar="FILE")
    calibrate: str = calibrate_option(
        "How scores are made comparable: query-bank: images that are near to every caption stand back; mixed: images "
        "and captions that are searched together are standardised by their kind."
    )
    top: int = option(10, help="Results of each query.", check=POSITIVE)
    student: str | None = option(
        None,
        help="Student for images. Default: the one that embedded the set, or the newest of the captions' teacher.",
        metavar="REF",
        artifact="distill",
    )
    teacher: str | None = option(
        None,
        help="Teacher for words. Default: the set's own, where encode-teacher found it.",
        metavar="NAME_OR_PATH",
    )
    trust_remote_code: bool = trust_option()
    query_prompt_name: str | None = query_prompt_option()
    image_root: Path | None = option(
        None, help="Folder of the set's images. Default: where they were when they were embedded.", metavar="FOLDER"
    )
    device: str = option("auto", help="Where student and teacher run: auto, cpu, cuda, ...")
    page: Path | None = option(
        None, help="Write a page with images into this file, to be searched without a server.", metavar="FILE"
    )
    page_rows: int = option(
        2000, help="Images or captions on the page at most; of more, an even sample.", check=POSITIVE
    )
    captions: str | None = option(
        None,
        help="Artifact of encode-teacher whose captions can be typed on the page. Default: the newest of the teacher.",
        metavar="REF",
        artifact="encode-teacher",
    )
    serve: bool = option(False, help="Answer a page in the browser, on this machine alone, until Ctrl-C.")
    port: int = option(0, help="Port of --serve. 0: any that is free.", check=NOT_NEGATIVE)
