import numpy as np
import pytest

from data_schemas.errors import ProtoRKDError
from stages.components.embeddings.storage_dtype import store_as

ROWS = np.array([[1, 2], [3, 4]], np.float32)


def stored(rows: np.ndarray, dtype: str) -> np.ndarray:
    return store_as(rows, np.dtype(dtype), model="student", noun="image", name=lambda row: repr(f"{row}.jpg"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_store_as__keeps_numbers_that_fit(dtype: str) -> None:
    assert stored(ROWS, dtype).dtype == dtype
    np.testing.assert_array_equal(stored(ROWS, dtype), ROWS)


def test_store_as__refuses_numbers_that_the_dtype_cannot_hold() -> None:
    with pytest.raises(ProtoRKDError, match=r"float16 cannot hold 300000 \(image '1.jpg'\). Use --embedding-dtype"):
        stored(ROWS * np.array([[1], [75_000]], np.float32), "float16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_store_as__refuses_numbers_that_are_not_finite(value: float) -> None:
    with pytest.raises(ProtoRKDError, match="The student must give finite numbers; it gave NaN or infinity for 1 im"):
        stored(np.array([[1, 2], [value, 4]], np.float32), "float32")
