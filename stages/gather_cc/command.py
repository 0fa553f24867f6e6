"""The command ``gather-cc``: download the images of a table of captions and URLs into a folder with a manifest."""

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.log import log, show_log
from pipeline.options.declaration import click_options, take
from pipeline.terminal import echo
from stages.gather_cc.options import GatherParams, GatherRuntime

if TYPE_CHECKING:
    from stages.gather_cc.run import Gathered


@click.command("gather-cc", params=[*click_options(GatherParams), *click_options(GatherRuntime)])
@click.argument("table", metavar="TSV", type=click.Path(path_type=Path))
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for images and manifest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as one JSON object on stdout.")
def gather_cc(table: Path, output: Path, as_json: bool, **values: Any) -> None:
    """Gather the images of a table of captions and URLs, such as Conceptual Captions, into a folder and a manifest.

    TSV has a caption and a URL in each line and no header; name columns with --caption-key and --url-key if it has one.
    A call that is stopped or killed goes on when it is given again, and asks nothing twice.
    """
    show_log()
    params, runtime = take(GatherParams, values), take(GatherRuntime, values)
    if importlib.util.find_spec("aiohttp") is None:
        raise ProtoRKDError("gather-cc must have aiohttp; it is not installed. Run pip install 'protorkd[download]'.")
    from data_schemas.images.gathered_folder import MANIFEST_NAME, STATUS_NAME
    from stages.gather_cc.run import gather

    start = time.monotonic()
    gathered = gather(table, output, params, runtime)
    log.info("%s", "\n".join(summary(gathered)))
    log.info(
        "gather-cc %s: %s, and %s says what became of each row", gathered.status, output / MANIFEST_NAME, STATUS_NAME
    )
    if as_json:
        reasons: dict[str, dict[str, int]] = {}
        for (status, reason), count in gathered.reasons.items():
            reasons.setdefault(status, {})[reason or status] = count
        echo(
            json.dumps(
                {
                    "command": "gather-cc",
                    "manifest": str(output / MANIFEST_NAME),
                    "status_table": str(output / STATUS_NAME),
                    **asdict(gathered),
                    "reasons": reasons,
                    "seconds": round(time.monotonic() - start, 3),
                }
            )
        )


def summary(gathered: "Gathered") -> list[str]:
    """Format the outcomes of rows, and the rate, as lines."""
    total = sum(gathered.statuses.values())
    lines = [
        f"{count:>12,}  {100 * count / total:5.1f} %  {status + ': ' + reason if reason else status}"
        for (status, reason), count in gathered.reasons.items()
    ]
    rate = f", {gathered.asked / gathered.seconds:.0f} rows/s" if gathered.asked else ""
    return [*lines, f"{total:>12,}  100.0 %  rows; {gathered.asked:,} asked now in {gathered.seconds:.1f} s{rate}"]
