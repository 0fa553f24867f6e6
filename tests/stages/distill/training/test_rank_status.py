"""What ranks tell one another of a micro-batch: the same on all of them."""

import torch
from workbench import on_ranks

from stages.components.compute.distributed import Ranks
from stages.components.loading.batch import Batch
from stages.distill.training.rank_status import RankStatus, exchange_status


def batch_of(num_images: int, rejected: dict[int, str]) -> Batch:
    images = torch.empty(num_images, 3, 4, 4, dtype=torch.uint8)
    return Batch(rows=torch.arange(num_images), images=images, rejected=rejected)


def test_exchange_status__of_one_rank_is_what_it_says() -> None:
    status = exchange_status(Ranks(), batch_of(3, {7: "no image"}), stop=False, save=True)
    assert status == RankStatus(counts=[3], rejected={7: "no image"}, stop=False, save=True)


def test_exchange_status__stops_for_any_rank_and_saves_for_the_first() -> None:
    def work(ranks: Ranks) -> RankStatus:
        rejected = {ranks.rank: "no image"} if ranks.rank else {}
        return exchange_status(ranks, batch_of(4 - ranks.rank, rejected), stop=ranks.rank == 1, save=ranks.rank == 1)

    expected = RankStatus(counts=[4, 3], rejected={1: "no image"}, stop=True, save=False)
    assert on_ranks(2, work) == [expected] * 2
