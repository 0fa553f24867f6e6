"""Exchange the status of every micro-batch between ranks, so that all of them do the same."""

from dataclasses import dataclass

from stages.components.compute.distributed import Ranks
from stages.components.loading.batch import Batch


@dataclass(frozen=True)
class RankStatus:
    """Status of a micro-batch that all ranks share.

    Args:
        counts: Number of images that each rank could read.
        rejected: Reason why an example, by its number, has no image, over all ranks.
        stop: Whether any rank was asked to stop.
        save: Whether the first rank finds it time to save.
    """

    counts: list[int]
    rejected: dict[int, str]
    stop: bool
    save: bool


def exchange_status(ranks: Ranks, batch: Batch, *, stop: bool, save: bool) -> RankStatus:
    """Send this rank's part of a micro-batch's status, and return the status over all ranks.

    Args:
        ranks: Ranks that train together; every one must come here once a micro-batch.
        batch: This rank's part.
        stop: Whether this rank was asked to stop.
        save: Whether this rank finds it time to save.
    """
    words = ranks.exchange([len(batch.rows), len(batch.rejected), stop, save])
    counts, num_rejected, stops, saves = zip(*words, strict=True)
    rejected: dict[int, str] = {}
    if any(num_rejected):
        for part in ranks.gather_objects(batch.rejected):
            rejected |= part
    return RankStatus(counts=list(counts), rejected=rejected, stop=any(stops), save=bool(saves[0]))
