"""Say which pairs of a batch share their target, and which are no negatives of one another."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import full_precision

_BLOCK = 1 << 23  # elements of a mask that are held at once


def same_captions(teacher: Tensor, rows: Tensor | None) -> Tensor:
    """Say which pairs have the same caption: by corpus row, or where those are unknown, by equal embeddings.

    Shapes:
        teacher: (batch, dim).
        rows: (batch,), int64.
        returns: (batch, batch), bool; the diagonal is true.
    """
    numbers = caption_numbers(teacher, rows)
    return numbers[:, None] == numbers


def caption_numbers(teacher: Tensor, rows: Tensor | None) -> Tensor:
    """Number the captions of a batch, equal ones alike: (batch, dim) to (batch,), int64; corpus rows do where known."""
    if rows is None:
        _, rows = torch.unique(full_precision(teacher.detach()), dim=0, return_inverse=True)
    return rows


def even_shares(mask: Tensor, dtype: torch.dtype, counts: Tensor | None = None) -> Tensor:
    """Share each row out evenly among its true columns, or each column among its true rows.

    Args:
        mask: Rows of a mask.
        dtype: Type of the shares.
        counts: Number of true rows of each column, of all the mask; None shares out rows.

    Shapes:
        mask: (rows, columns), bool.
        counts: (columns,), int64.
        returns: (rows, columns).
    """
    return mask.to(dtype) / (mask.sum(dim=1, keepdim=True) if counts is None else counts)


@dataclass(frozen=True)
class PairRules:
    """Rules of which pairs of a batch are positives of one another.

    Args:
        merge_duplicates: Pairs with the same caption are.
        merge_images: Pairs with the same image are.
        spare_above: Pairs whose captions have a cosine above it are no negatives of one another; 1 spares none.
    """

    merge_duplicates: bool = False
    merge_images: bool = False
    spare_above: float = 1.0

    def check(self, objective: str) -> None:
        """Refuse a cosine that is out of range.

        Raises:
            ProtoRKDError: If spare_above is not above 0 and at most 1.
        """
        if not 0 < self.spare_above <= 1:
            raise ProtoRKDError(
                f"spare_above of {objective} must be above 0 and at most 1; got {self.spare_above}. "
                "It is a cosine of captions, such as 0.9; 1 spares none."
            )

    def among(self, captions: Tensor, *, teacher: Tensor, rows: Tensor | None, images: Tensor | None) -> "PairMarks":
        """Apply the rules to a batch.

        Raises:
            ProtoRKDError: If pairs of one image are to be merged and the images are not known.

        Shapes:
            captions: (batch, dim), unit rows.
            teacher: (batch, dim), any scale: equal rows are equal captions where rows are not known.
            rows: (batch,), int64: the corpus row of each caption.
            images: (batch,), int64: equal for equal images.
        """
        if self.merge_images and images is None:
            raise ProtoRKDError("images must be given where merge_images is true; got none. Pass images=.")
        return PairMarks(
            captions=captions,
            numbers=caption_numbers(teacher, rows) if self.merge_duplicates else None,
            images=images if self.merge_images else None,
            rows=rows,
            spare_above=self.spare_above,
        )


@dataclass(frozen=True)
class PairMarks:
    """Which pairs of a batch are positives of one another, and which are not compared; by rows, as they are needed.

    Shapes:
        captions: (batch, dim), unit rows.
        numbers, images: (batch,), int64: equal for pairs that share their target; None where none do.
        rows: (batch,), int64: the corpus row of each caption; None where it is not known.
    """

    captions: Tensor
    numbers: Tensor | None
    images: Tensor | None
    rows: Tensor | None
    spare_above: float

    @property
    def is_identity(self) -> bool:
        """Whether each pair is its only positive."""
        return self.numbers is None and self.images is None

    @property
    def spares(self) -> bool:
        """Whether near captions are not compared."""
        return self.spare_above < 1

    @property
    def is_even(self) -> bool:
        """Whether pairs that are positives of one another have equally many: by two rules, one may have more."""
        return self.numbers is None or self.images is None

    def positives(self, part: slice) -> Tensor:
        """Find the positives of some rows: (rows, batch), bool; a row's own place is one."""
        if self.is_identity:
            return _equal(torch.arange(len(self.captions), device=self.captions.device), part)
        return reduce(
            torch.logical_or, [_equal(numbers, part) for numbers in (self.numbers, self.images) if numbers is not None]
        )

    def spared(self, part: slice) -> Tensor | None:
        """Find the pairs that some rows are not told from, for their captions are near: (rows, batch), bool."""
        if not self.spares:
            return None
        return (self.captions[part] @ self.captions.T > self.spare_above) & ~self.positives(part)

    def compared(self, part: slice) -> Tensor:
        """Find the pairs that some rows are told from, or belong to: (rows, batch), bool."""
        spared = self.spared(part)
        return torch.ones_like(self.positives(part)) if spared is None else ~spared

    def spared_of_all(self, keys: Tensor, key_rows: Tensor, part: slice) -> Tensor | None:
        """Find what some rows are not told from, in the batch and among captions of the corpus.

        Of the corpus these are a row's own caption, those of its image that the batch has, and near ones.

        Shapes:
            keys: (negatives, dim), unit rows.
            key_rows: (negatives,), int64: their corpus rows, all different.
            returns: (rows, batch + negatives), bool.
        """
        found = [] if self.rows is None else [self._has_caption(self.rows, key_rows, part)]
        if self.spares:
            found.append(self.captions[part] @ keys.T > self.spare_above)
        if not found:
            return None
        beyond, spared = reduce(torch.logical_or, found), self.spared(part)
        return pad(beyond, (len(self.captions), 0)) if spared is None else torch.cat([spared, beyond], dim=1)

    def count(self, mask: Callable[[slice], Tensor]) -> Tensor:
        """Count the true columns of each row of a mask, made by blocks of rows: (batch,), int64."""
        batch = len(self.captions)
        size = max(1, _BLOCK // batch)
        return torch.cat([mask(slice(start, start + size)).sum(dim=1) for start in range(0, batch, size)])

    def _has_caption(self, rows: Tensor, key_rows: Tensor, part: slice) -> Tensor:
        """Find the captions, by their corpus rows, of some rows or of their images: (rows, negatives), bool."""
        if self.images is None:
            return rows[part, None] == key_rows
        num_rows = torch.maximum(rows.max(), key_rows.max()) + 1
        pairs = (self.images * num_rows + rows).sort().values  # a number for each image and caption of the batch
        asked = self.images[part, None] * num_rows + key_rows  # (rows, negatives)
        return pairs[torch.searchsorted(pairs, asked).clamp_(max=len(pairs) - 1)] == asked


def _equal(numbers: Tensor, part: slice) -> Tensor:
    return numbers[part, None] == numbers
