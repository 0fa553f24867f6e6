"""What an export says of how images are prepared is what evaluation does."""

import pytest

from data_schemas.images.student_checkpoint import Preprocessing
from stages.export.formats.preprocessing import describe


@pytest.mark.parametrize(
    ("preprocessing", "size", "words"),
    [
        (
            Preprocessing(224),
            {"shortest_edge": 224},
            "resize the short side to 224 pixels, the long side in proportion",
        ),
        (Preprocessing(224, resize_size=256), {"shortest_edge": 256}, "resize the short side to 256 pixels"),
        (
            Preprocessing(224, resize="squash"),
            {"height": 224, "width": 224},
            "resize to 224 x 224 pixels, whatever the ratio of the sides, by bicubic",
        ),
    ],
)
def test_describe__tells_of_the_size_before_the_crop(
    preprocessing: Preprocessing, size: dict[str, int], words: str
) -> None:
    described = describe(preprocessing)
    assert described["size"] == size
    assert described["crop_size"] == {"height": 224, "width": 224}
    assert described["steps"][1].startswith(words)
