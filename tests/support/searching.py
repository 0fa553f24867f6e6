"""An embedded set, and how a test opens it for search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import Pairs

from pipeline.runner import context_of
from pipeline.store.store import Store
from stages import STAGES
from stages.components.embeddings.searchable import find_searchable
from stages.search.engine import Search, open_search
from stages.search.options import SearchOptions

EMBED = ("embed", "--device", "cpu", "--precision", "fp32", "--workers", 0)


@dataclass(frozen=True)
class Embedded:
    """A store in which 24 images are embedded.

    Args:
        store: Folder of the store.
        images: Images that are embedded, with their manifest.
        outcome: JSON that embed printed.
    """

    store: Path
    images: Pairs
    outcome: dict[str, Any]


def opened_search(store: Path, **options: Any) -> Search:
    context = context_of(Store(store), stages=STAGES)
    chosen = SearchOptions(device="cpu", **options)
    artifacts = [find_searchable(each, store=context.store) for each in chosen.searched or (None,)]
    return open_search(artifacts, chosen, context)
