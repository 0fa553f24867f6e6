"""Options of gather-cc: which images are kept and how, and how they are requested."""

from dataclasses import dataclass

from data_schemas.pair_sources.text.quoting import QUOTINGS
from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, Check, option
from stages.components.inputs.manifest_options import SEPARATORS

_SEPARATORS = tuple(name for name in SEPARATORS if name != "auto")

RESIZES = ("longest-side", "short-side", "none")


@dataclass(frozen=True)
class GatherParams:
    """What is kept of which rows; the same for all calls on a folder."""

    caption_key: str = option(
        "", help="Column of captions where the table has a header. Default: no header, the caption comes first."
    )
    url_key: str = option(
        "", help="Column of addresses where the table has a header. Default: no header, the address comes second."
    )
    separator: str = option("tab", help="Separator of the columns.", choices=_SEPARATORS)
    quoting: str = option(
        "auto",
        help="Whether fields are quoted as csv does it; auto looks at the whole file where it has a header, and takes "
        "quotes as text where it has none.",
        choices=QUOTINGS,
    )
    resize: str = option(
        "longest-side", help="Which side of an image is shrunk to --image-size; none is enlarged.", choices=RESIZES
    )
    image_size: int = option(512, help="Pixels of that side.", check=POSITIVE)
    min_side: int = option(0, help="Pixels that the shorter side must have before it is shrunk.", check=NOT_NEGATIVE)
    max_aspect_ratio: float = option(
        3.0,
        help="How many times as long as the shorter side the longer may be. 0: any.",
        check=Check("be 0, or 1 or more", lambda ratio: ratio == 0 or ratio >= 1),
    )
    quality: int = option(
        90,
        help="JPEG quality, 1 to 100.",
        check=Check("lie between 1 and 100", lambda quality: 1 <= quality <= 100),
    )


@dataclass(frozen=True)
class GatherRuntime:
    """How images are requested, and for which rows; may change between calls."""

    limit: int = option(0, help="Ask for the first so many rows only. 0: for all.", check=NOT_NEGATIVE)
    retry_failed: bool = option(False, help="Ask again for rows that failed in an earlier call.")
    concurrency: int = option(512, help="Requests at a time.", check=POSITIVE)
    per_host: int = option(8, help="Requests at a time to one host.", check=POSITIVE)
    connect_timeout_s: float = option(10.0, help="Seconds for looking up a name, and for connecting.", check=POSITIVE)
    read_timeout_s: float = option(10.0, help="Seconds to wait for the next byte.", check=POSITIVE)
    timeout_s: float = option(30.0, help="Seconds for one request in all.", check=POSITIVE)
    max_bytes: int = option(
        16_000_000, help="A longer answer is not read to its end; counted after decompression.", check=POSITIVE
    )
    max_redirects: int = option(5, help="Redirects that are followed for one row.", check=NOT_NEGATIVE)
    retries: int = option(
        2,
        help="Times that a request is sent again after what may pass: lost connections, timeouts, status 429 and 5xx.",
        check=NOT_NEGATIVE,
    )
    backoff_s: float = option(1.0, help="Seconds before asking again; twice as many each time.", check=NOT_NEGATIVE)
    max_wait_s: float = option(
        60.0, help="Longest wait before asking again. A host that asks for more (Retry-After) is not.", check=POSITIVE
    )
    host_failures: int = option(
        32, help="Give a host up that has not answered so many times in a row. 0: never.", check=NOT_NEGATIVE
    )
    max_silent: int = option(
        1000, help="Stop after so many rows in a row for which no host answered at all. 0: never.", check=NOT_NEGATIVE
    )
    user_agent: str = option("protorkd-gather-cc", help="User-Agent that servers are told.")
    respect_opt_out: bool = option(True, help="Leave out images whose server says noai or noimageai in X-Robots-Tag.")
    proxy: str = option("", help="Address of a proxy. Environment variables are not looked at.", metavar="URL")
    allow_private: bool = option(False, help="Ask private, loopback and link-local addresses, too.")
    workers: int = option(
        -1,
        help="Processes that decode; 0 decodes in this one, -1 takes the machine's cores but one, at most 8.",
        check=Check("be -1 or more", lambda workers: workers >= -1),
    )
