"""One set of images with captions, written in every form in which people have them."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from workbench import make_manifest

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Imaged:
    """An image and its caption.

    Args:
        key: Name of the image without a suffix.
        data: Bytes of the image, a JPEG.
        caption: Caption of the image.
    """

    key: str
    data: bytes
    caption: str


def read_imaged(root: Path, images: Sequence[str], captions: Sequence[str]) -> list[Imaged]:
    """Take JPEG files and their captions; keys are as img2dataset counts them."""
    pairs = zip(images, captions, strict=True)
    return [Imaged(f"{row:09}", (root / image).read_bytes(), caption) for row, (image, caption) in enumerate(pairs)]


def write_files(folder: Path, pairs: Sequence[Imaged]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / f"{pair.key}.jpg").write_bytes(pair.data)
    return [f"{pair.key}.jpg" for pair in pairs]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write members in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tsv(root: Path, pairs: Sequence[Imaged]) -> Path:
    images = write_files(root / "images", pairs)
    captions = [pair.caption for pair in pairs]
    return make_manifest(root / "pairs.tsv", [f"images/{image}" for image in images], captions)


def csv_quoted(root: Path, pairs: Sequence[Imaged]) -> Path:
    write_files(root, pairs)
    rows = "".join(f'{pair.key}.jpg,"{pair.caption}"\r\n' for pair in pairs)
    (root / "pairs.csv").write_text(f"filepath,title\r\n{rows}", newline="")
    return root / "pairs.csv"


def tsv_gz(root: Path, pairs: Sequence[Imaged]) -> Path:
    plain = tsv(root, pairs)
    with pa.CompressedOutputStream(str(root / "pairs.tsv.gz"), "gzip") as out:
        out.write(plain.read_bytes())
    return root / "pairs.tsv.gz"


def json_lines(root: Path, pairs: Sequence[Imaged]) -> Path:
    write_files(root, pairs)
    lines = [json.dumps({"file_name": f"{pair.key}.jpg", "text": pair.caption, "x": float("nan")}) for pair in pairs]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root / "metadata.jsonl"


def json_lines_zst(root: Path, pairs: Sequence[Imaged]) -> Path:
    plain = json_lines(root, pairs)
    with pa.CompressedOutputStream(str(root / "pairs.jsonl.zst"), "zstd") as out:
        out.write(plain.read_bytes())
    return root / "pairs.jsonl.zst"


def coco(root: Path, pairs: Sequence[Imaged]) -> Path:
    write_files(root / "train2017", pairs)
    content = {
        "images": [{"id": row, "file_name": f"{pair.key}.jpg"} for row, pair in enumerate(pairs)],
        "annotations": [{"id": row, "image_id": row, "caption": pair.caption} for row, pair in enumerate(pairs)],
    }
    (root / "annotations").mkdir()
    path = root / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps(content))
    return path


def parquet_paths(root: Path, pairs: Sequence[Imaged]) -> Path:
    images = write_files(root, pairs)
    table = pa.table({"image_path": images, "caption": [pair.caption for pair in pairs]})
    pq.write_table(table, root / "pairs.parquet", row_group_size=5)
    return root / "pairs.parquet"


def parquet_bytes(root: Path, pairs: Sequence[Imaged]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table({"jpg": [pair.data for pair in pairs], "TEXT": [pair.caption for pair in pairs]})
    pq.write_table(table, root / "pairs.parquet", row_group_size=5)
    return root / "pairs.parquet"


def parquet_shards(root: Path, pairs: Sequence[Imaged]) -> Path:
    """Write shards as the hub has them: structures of bytes and path, in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(halves(pairs)):
        images = [{"bytes": pair.data, "path": f"{pair.key}.jpg"} for pair in some]
        columns = {"image": pa.array(images, IMAGE), "caption": [pair.caption for pair in some]}
        pq.write_table(pa.table(columns), root / f"train-{number:05}-of-00002.parquet", row_group_size=3)
    return root


def saved_dataset(root: Path, pairs: Sequence[Imaged]) -> Path:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    columns = {
        "image": [{"bytes": pair.data, "path": None} for pair in pairs],
        "caption": [pair.caption for pair in pairs],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root / "saved"), num_shards=2)
    return root / "saved"


def webdataset(root: Path, pairs: Sequence[Imaged]) -> Path:
    return write_tar(root / "00000.tar", samples(pairs))


def webdataset_shards(root: Path, pairs: Sequence[Imaged]) -> Path:
    for number, some in enumerate(halves(pairs)):
        write_tar(root / "shards" / f"{number:05}.tar", samples(some, in_json=True))
    return root / "shards" / "{00000..00001}.tar"


def img2dataset_files(root: Path, pairs: Sequence[Imaged]) -> Path:
    return _img2dataset(root, pairs, "files")


def img2dataset_webdataset(root: Path, pairs: Sequence[Imaged]) -> Path:
    return _img2dataset(root, pairs, "webdataset")


def img2dataset_parquet(root: Path, pairs: Sequence[Imaged]) -> Path:
    return _img2dataset(root, pairs, "parquet")


def _img2dataset(root: Path, pairs: Sequence[Imaged], layout: str) -> Path:
    """Lay shards out as img2dataset 1.47 does: a list per shard, with a status of failed images."""
    root.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(halves(pairs)):
        rows: list[dict[str, Any]] = [_fact(pair, "success") for pair in some]
        rows.insert(1, _fact(Imaged(f"{number}99999999", b"", "a lost one"), "failed_to_download"))
        list_of_shard = root / f"{number:05}.parquet"
        if layout == "parquet":
            for row, pair in zip([row for row in rows if row["status"] == "success"], some, strict=True):
                row["jpg"] = pair.data
            rows[1]["jpg"] = None
        pq.write_table(pa.Table.from_pylist(rows), list_of_shard, row_group_size=4)
        (root / f"{number:05}_stats.json").write_text("{}")
        if layout == "webdataset":
            write_tar(list_of_shard.with_suffix(".tar"), samples(some, in_json=True))
        elif layout == "files":
            write_files(list_of_shard.with_suffix(""), some)
            for pair in some:
                (list_of_shard.with_suffix("") / f"{pair.key}.txt").write_text(pair.caption)
    return root


def _fact(pair: Imaged, status: str) -> dict[str, Any]:
    error = None if status == "success" else "HTTP Error 404: Not Found"
    url = f"http://example.org/{pair.key}.jpg"
    return {"url": url, "caption": pair.caption, "key": pair.key, "status": status, "error_message": error}


def halves(pairs: Sequence[Imaged]) -> tuple[Sequence[Imaged], Sequence[Imaged]]:
    middle = len(pairs) // 2
    return pairs[:middle], pairs[middle:]


def samples(pairs: Sequence[Imaged], *, in_json: bool = False) -> list[tuple[str, bytes]]:
    members: list[tuple[str, bytes]] = []
    for pair in pairs:
        members.append((f"{pair.key}.jpg", pair.data))
        members.append((f"{pair.key}.json", json.dumps({"caption": pair.caption, "width": 3}).encode()))
        if not in_json:
            members.append((f"{pair.key}.txt", f"{pair.caption}\n".encode()))
    return members


FORMS: dict[str, Callable[[Path, Sequence[Imaged]], Path]] = {
    make.__name__: make
    for make in (
        tsv,
        csv_quoted,
        tsv_gz,
        json_lines,
        json_lines_zst,
        coco,
        parquet_paths,
        parquet_bytes,
        parquet_shards,
        saved_dataset,
        webdataset,
        webdataset_shards,
        img2dataset_files,
        img2dataset_webdataset,
        img2dataset_parquet,
    )
}


def write_form(form: str, root: Path, pairs: Sequence[Imaged]) -> Path:
    """Write pairs in a form, in a folder that is made anew; return the path that a user would name."""
    if root.exists():
        shutil.rmtree(root)
    return FORMS[form](root, pairs)
