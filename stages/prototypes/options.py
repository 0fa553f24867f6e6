"""Options of prototypes: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass

from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Input
from pipeline.store.store import Artifact


@dataclass(frozen=True)
class PrototypesInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(
        None,
        help="Artifact of encode-teacher, by fingerprint or path. Default: the newest.",
        metavar="REF",
        artifact="encode-teacher",
    )


@dataclass(frozen=True)
class PrototypesSources:
    """What the inputs lead to, identified by content."""

    embeddings: Input[Artifact]


@dataclass(frozen=True)
class PrototypesParams:
    """What changes the output."""

    num_prototypes: int = option(1024, help="Number of prototypes; at most one a caption.", check=POSITIVE)
    iterations: int = option(20, help="Rounds of k-means; it stops before where nothing moves.", check=POSITIVE)
    restarts: int = option(1, help="Fits from different starts, of which the best is kept.", check=POSITIVE)
    captions_per_prototype: int = option(
        0,
        help="Fit on this many captions a prototype, drawn at random, and assign all: less memory and time, rougher "
        "centroids. 0: fit on all.",
        check=NOT_NEGATIVE,
    )
    seed: int = option(
        0,
        help="Seed of the starts, and of the captions that are drawn.",
        check=Check("lie between 0 and 2147483647", lambda seed: 0 <= seed < 1 << 31),
    )
    method: str = option(
        "auto",
        help="Library that computes: torch, which auto means, too.",
        choices=("auto", "torch"),
    )


@dataclass(frozen=True)
class PrototypesRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where k-means runs: auto, cpu, cuda, ...")
