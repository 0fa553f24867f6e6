import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_index import (
    CAPTIONS_NAME,
    PAIRS_NAME,
    read_captions,
    read_labels,
    read_pairs,
    read_rejected,
    write_captions,
    write_pairs,
    write_rejected,
)

PAIRS = pa.table({"manifest_row": [0, 1, 3], "image": ["a.jpg", "ü.jpg", "a.jpg"], "caption_row": [0, 1, 0]})


def test_pairs__come_back_as_written(tmp_path):
    write_pairs(tmp_path, PAIRS)
    assert read_pairs(tmp_path).to_pydict() == PAIRS.to_pydict()


def test_pairs__come_back_with_the_labels_they_were_written_with(tmp_path):
    labelled = PAIRS.append_column("label", pa.array(["dog", None, "cat"]))
    write_pairs(tmp_path, labelled)
    assert read_pairs(tmp_path).to_pydict() == labelled.to_pydict()


@pytest.mark.parametrize(
    ("labels", "names", "places"),
    [
        (["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
        (["b", None, "B"], ["B", "b"], [1, -1, 0]),
        (["é", "", "z"], ["z", "é"], [1, -1, 0]),
        ([None, None, None], [], [-1, -1, -1]),
    ],
)
def test_labels__are_numbered_by_sorted_name(tmp_path, labels, names, places):
    write_pairs(tmp_path, PAIRS.append_column("label", pa.array(labels, pa.large_string())))
    found, numbers = read_labels(tmp_path)
    assert (found, numbers.tolist(), numbers.dtype) == (names, places, np.int64)


def test_labels__are_none_where_pairs_have_none(tmp_path):
    write_pairs(tmp_path, PAIRS)
    names, numbers = read_labels(tmp_path)
    assert (names, numbers.tolist(), numbers.dtype) == ([], [-1, -1, -1], np.int64)


def test_pairs__are_readable_by_plain_pyarrow(tmp_path):
    write_pairs(tmp_path, PAIRS)
    assert pq.read_table(tmp_path / PAIRS_NAME).to_pydict() == PAIRS.to_pydict()


@pytest.mark.parametrize("captions", [[], ["a cat", "", "ein Käfig\nmit Zeilen"]])
def test_captions__come_back_in_row_order(tmp_path, captions):
    write_captions(tmp_path, pa.array(captions, pa.large_string()))
    assert read_captions(tmp_path).to_pylist() == captions
    assert pq.read_table(tmp_path / CAPTIONS_NAME)["caption_row"].to_pylist() == list(range(len(captions)))


@pytest.mark.parametrize("rejections", [[], [Rejection(4, "empty caption", "a.jpg")]])
def test_rejected__come_back_as_written(tmp_path, rejections):
    write_rejected(tmp_path, rejections)
    assert read_rejected(tmp_path) == rejections


def test_read_pairs__refuses_or_reads_right_whichever_byte_is_flipped(tmp_path):
    write_pairs(tmp_path, PAIRS)
    path = tmp_path / PAIRS_NAME
    good = path.read_bytes()
    messages = []
    for position in range(0, len(good), 3):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        try:
            assert read_pairs(tmp_path).to_pydict() == PAIRS.to_pydict()
        except ProtoRKDError as error:
            messages.append(str(error))
    assert len(messages) > len(good) / 6
    assert all(message.startswith(f"{path} must ") for message in messages)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_read_pairs__refuses_a_cut_file(tmp_path, size):
    write_pairs(tmp_path, PAIRS)
    path = tmp_path / PAIRS_NAME
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ProtoRKDError, match="must be a whole parquet file"):
        read_pairs(tmp_path)


def test_read_pairs__refuses_a_missing_file(tmp_path):
    with pytest.raises(ProtoRKDError, match=r"pairs\.parquet must be a whole parquet file"):
        read_pairs(tmp_path)


def test_read_pairs__refuses_other_columns(tmp_path):
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / PAIRS_NAME)
    with pytest.raises(ProtoRKDError, match=r"must have the columns .*caption_row.*; got \['image'\]"):
        read_pairs(tmp_path)
