import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import data_schemas.images.packed_images
from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_json
from data_schemas.images.packed_images import (
    CONFIG_NAME,
    INDEX_SCHEMA,
    PackedImages,
    Record,
    index_path,
    read_index,
    shard_path,
    write_config,
    write_shard,
)

RECORDS = [Record(b"first", 2, 3), "missing file", Record(b"", 0, 0), Record(b"the second", 40, 50)]


@pytest.fixture
def pack(tmp_path: Path) -> PackedImages:
    """Two shards: the first with three images and one that was rejected, the second with one image."""
    write_config(tmp_path, format_="jpeg")
    write_shard(tmp_path, 0, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], RECORDS)
    write_shard(tmp_path, 1, ["é/e.jpg"], [Record(b"third", 1, 1)])
    return PackedImages(tmp_path)


def test_packed_images__reads_what_was_written(pack: PackedImages) -> None:
    assert (len(pack), pack.format) == (5, "jpeg")
    assert pack.paths.to_pylist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "é/e.jpg"]
    assert pack.reasons == {1: "missing file"}
    for row, data in [(0, b"first"), (3, b"the second"), (4, b"third")]:
        record = pack.read(row)
        assert (record.tobytes(), record.dtype, record.shape) == (data, np.uint8, (len(data),))
        assert not record.flags.writeable
        assert not record.flags.owndata
    assert (pack.size(0), pack.size(3)) == ((2, 3), (40, 50))


def test_packed_images__finds_rows_by_path(pack: PackedImages) -> None:
    rows = pack.find(["é/e.jpg", "none.jpg", "b.jpg", "é/e.jpg"])
    assert (rows.tolist(), rows.dtype) == ([4, -1, 1, 4], np.int32)
    assert pack.find([]).tolist() == []


def test_packed_images__lists_what_lies_where(pack: PackedImages) -> None:
    table = read_index(pack.root)
    assert table.schema == INDEX_SCHEMA
    assert table["shard"].to_pylist() == [0, 0, 0, 0, 1]
    assert table["offset"].to_pylist() == [0, 5, 5, 5, 0]
    assert table["length"].to_pylist() == [5, 0, 0, 10, 5]


def test_packed_images__is_handed_on_as_a_path(pack: PackedImages) -> None:
    pack.read(0)
    pack.find(["a.jpg"])
    handed = pickle.dumps(pack)
    assert len(handed) < 1000
    assert pickle.loads(handed).read(3).tobytes() == b"the second"


def test_packed_images__maps_a_few_shards_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_schemas.images.packed_images, "_MAX_OPEN", 2)
    for number in range(5):
        write_shard(tmp_path, number, [f"{number}.jpg"], [Record(b"%d" % number, 1, 1)])
    pack = PackedImages(tmp_path)
    records = [pack.read(number) for number in (0, 1, 2, 3, 4, 0)]
    assert [record.tobytes() for record in records] == [b"0", b"1", b"2", b"3", b"4", b"0"]
    assert pack._map.cache_info().currsize == 2


@pytest.mark.parametrize("change", ["a flipped bit", "a cut file", "no file"])
def test_packed_images__refuses_a_record_that_was_altered(change: str, pack: PackedImages) -> None:
    shard = pack.root / shard_path(0)
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    if change == "no file":
        shard.unlink()
    else:
        shard.write_bytes(data if change == "a flipped bit" else data[:7])
    with pytest.raises(ProtoRKDError) as caught:
        pack.read(3)
    assert str(caught.value) == (
        f"{shard} must be as it was written; the record of d.jpg has other bytes. Run pack again with the same options "
        "and --force."
    )
    if change != "no file":
        assert pack.read(0).tobytes() == b"first"


def test_packed_images__refuses_lists_that_are_damaged(pack: PackedImages) -> None:
    path = pack.root / index_path(1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ProtoRKDError, match=r"index must hold whole parquet files; .* Run pack again"):
        len(pack)


def test_packed_images__refuses_a_newer_kind(pack: PackedImages) -> None:
    write_json(pack.root / CONFIG_NAME, {"format": "jpeg", "schema_version": 2})
    with pytest.raises(ProtoRKDError, match="must be of version 1 or older; use a newer protorkd"):
        _ = pack.format


def test_write_shard__keeps_no_record_that_is_written(tmp_path: Path) -> None:
    alive: list[weakref.ref[Record]] = []

    def records() -> Iterator[Record]:
        for number in range(20):
            assert sum(reference() is not None for reference in alive) <= 1
            record = Record(b"%d" % number, 1, 1)
            alive.append(weakref.ref(record))
            yield record

    write_shard(tmp_path, 0, [f"{number}.jpg" for number in range(20)], records())
    assert len(alive) == 20
