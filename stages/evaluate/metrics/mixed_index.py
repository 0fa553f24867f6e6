"""Measure one index of images and captions: whether a caption finds its own image there, among captions as well."""

from typing import NamedTuple

import torch
from torch import Tensor

from data_schemas.calibration import ScoreMap
from stages.components.metrics.ranking import TIE_TOLERANCE
from stages.components.metrics.retrieval import Standing
from stages.components.metrics.unit_rows import exact_scores


class MixedStandings(NamedTuple):
    """The result of looking for each query among all images and captions.

    Shapes:
        own_image: standing of the image that each query describes; all captions are wrong answers.
        image_share: (queries,), float64, share of images among the first `k`.
    """

    own_image: Standing
    image_share: Tensor


@exact_scores()
def mixed_standings(
    *,
    queries: Tensor,
    images: Tensor,
    captions: Tensor,
    caption_image: Tensor,
    scores: ScoreMap,
    k: int = 10,
    block: int = 1024,
) -> MixedStandings:
    """Look for each query in one index of images and captions, where the query's own text is one of the captions.

    Args:
        queries: One row for each caption, as a query.
        images: One row for each image.
        captions: One row for each caption, as it is found.
        caption_image: Row of the image that each caption describes.
        scores: Map of images' cosines, before they are compared with captions' cosines.
        k: Number of first places whose images are counted.
        block: Queries compared at a time.

    Shapes:
        queries, captions: (captions, dim); images: (images, dim), float32, of unit length.
        caption_image: (captions,), int64.
    """
    above, level, shares = [], [], []
    for start in range(0, len(queries), block):
        asked = queries[start : start + block]
        own_rows = caption_image[start : start + block]
        of_images = scores.slope * (asked @ images.T) + scores.offset
        both = torch.cat([of_images, asked @ captions.T], dim=1)  # (block, images + captions)
        own = of_images.gather(1, own_rows[:, None])
        above.append((both > own + TIE_TOLERANCE).sum(dim=1))
        level.append((both >= own - TIE_TOLERANCE).sum(dim=1))
        first = both.topk(min(k, both.shape[1]), dim=1).indices
        shares.append((first < len(images)).double().mean(dim=1))
    greater = torch.cat(above)
    ones = torch.ones_like(greater)
    standing = Standing(greater=greater, tied=(torch.cat(level) - greater - ones).clamp_min(0), positives=ones)
    return MixedStandings(standing, torch.cat(shares))
