import numpy as np

from stages.draw_scenes.glyphs import glyph, instance_rows


def test_instances__of_the_two_splits_are_disjoint_and_cover_all() -> None:
    train = {row for rows in instance_rows("train") for row in rows}
    test = {row for rows in instance_rows("test") for row in rows}
    assert not train & test
    assert len(train) + len(test) == 1797


def test_instances__are_many_of_every_digit() -> None:
    assert min(len(rows) for rows in instance_rows("train")) >= 120
    assert min(len(rows) for rows in instance_rows("test")) == 41


def test_glyph__is_a_read_only_mask_of_the_height_asked_for() -> None:
    for row in range(0, 1797, 100):
        for height in (6, 13, 40):
            mask = glyph(row, height)
            assert mask.dtype == np.float32
            assert mask.shape[0] == height
            assert mask.shape[2] == 1
            assert mask.shape[1] <= height
            assert mask.min() >= 0
            assert 0.5 < mask.max() <= 1
            assert not mask.flags.writeable
