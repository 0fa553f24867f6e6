import csv
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_sources.text import delimited, text_file
from data_schemas.pair_sources.text.manifest_table import read_manifest

HEADER = "filepath\ttitle\n"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def manifest(tmp_path):
    """Write a file and read it."""

    def read(text, **options):
        return read_manifest(write(tmp_path / "pairs.tsv", text), **options)

    return read


@pytest.fixture
def error(manifest):
    """Read a file that must be refused and return the message."""

    def read(text, **options):
        with pytest.raises(ProtoRKDError) as caught:
            manifest(text, **options)
        return str(caught.value)

    return read


@pytest.fixture(params=[1, 7, 64], ids="blocks of {}".format)
def small_blocks(request, monkeypatch):
    """Cut files into many blocks, as a file of gigabytes is."""
    monkeypatch.setattr(delimited, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(text_file, "BLOCK_BYTES", request.param)


def pairs(manifest):
    return list(zip(manifest.table["image"].to_pylist(), manifest.table["caption"].to_pylist(), strict=True))


def rejected(manifest):
    return [(rejection.row, rejection.reason) for rejection in manifest.rejections]


def test_read_manifest__gives_rows_images_and_captions(tmp_path):
    path = write(tmp_path / "pairs.tsv", HEADER + "a.jpg\ta cat\nb.jpg\ta dog\n")
    manifest = read_manifest(str(path))
    assert manifest.path == path
    assert manifest.table.schema == pa.schema(
        {"row": pa.int64(), "image": pa.large_string(), "caption": pa.large_string()}
    )
    assert manifest.table.to_pydict() == {
        "row": [2, 3],
        "image": ["a.jpg", "b.jpg"],
        "caption": ["a cat", "a dog"],
    }
    assert manifest.rejections == ()
    assert manifest.quoting == "none"
    manifest.table.validate(full=True)


def test_read_manifest__takes_columns_by_name(manifest):
    read = manifest("id,text,url,file\n1,a cat,x,a.jpg\n", image_key="file", caption_key="text", separator=",")
    assert pairs(read) == [("a.jpg", "a cat")]


def test_read_manifest__takes_labels_where_asked_for_and_null_for_blank_ones(manifest, small_blocks):
    text = "kind\tfilepath\ttitle\ncat\ta\tone\n\tb\ttwo\nbad\n \tc\tthree\ncat\td\t\nNA\te\tfour\n"
    read = manifest(text, label_column="kind", max_bad_fraction=0.5)
    assert read.table.schema.names == ["row", "image", "caption", "label"]
    assert read.table["image"].to_pylist() == ["a", "b", "c", "e"]
    assert read.table["label"].to_pylist() == ["cat", None, None, "NA"]
    read.table.validate(full=True)
    assert manifest(text, label_column="kind", limit=2).table["label"].to_pylist() == ["cat", None]


def test_read_manifest__takes_captions_as_labels_too(manifest):
    assert manifest(HEADER + "a\tcat\n", label_column="title").table["label"].to_pylist() == ["cat"]


def test_read_manifest__takes_a_separator_as_a_shell_passes_it(manifest):
    assert pairs(manifest(HEADER + "a.jpg\ta cat\n", separator=r"\t")) == [("a.jpg", "a cat")]


@pytest.mark.parametrize("separator", [",", "|", "^", "]", "-", "\\", ";", " "])
def test_read_manifest__takes_any_ascii_separator(manifest, separator):
    text = f"filepath{separator}title\na.jpg{separator}cat\nb.jpg{separator}" + f'"a ""big""{separator}dog"\n'
    assert pairs(manifest(text, separator=separator)) == [("a.jpg", "cat"), ("b.jpg", f'a "big"{separator}dog')]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("quoted", [True, False])
def test_read_manifest__takes_every_kind_of_line_end_and_beginning(manifest, end, bom, last, quoted):
    rows = [["filepath", "title"], ["a.jpg", "a cat"], ["b.jpg", "a dog"]]
    lines = ["\t".join(f'"{field}"' if quoted else field for field in row) for row in rows]
    read = manifest(bom + (end.join(lines) + end * last).encode())
    assert pairs(read) == [("a.jpg", "a cat"), ("b.jpg", "a dog")]
    assert read.quoting == ("csv" if quoted else "none")


@pytest.mark.parametrize(
    "caption",
    [
        "NA",
        "null",
        "NaN",
        "12",
        "1e5",
        "true",
        "2020-01-01",
        " spaces  around ",
        "naïve 猫 🐈",
        "e\u0301",
        "a\rb",
        "-",
        "\u200b",
    ],
)
def test_read_manifest__keeps_captions_as_they_are(manifest, caption):
    read = manifest(HEADER + f"a.jpg\t{caption}\n")
    assert pairs(read) == [("a.jpg", caption)]


def test_read_manifest__passes_over_blank_lines_and_counts_them(manifest):
    read = manifest(HEADER + "\na.jpg\ta cat\r\n\r\n\nb.jpg\ta dog\n\n\n")
    assert read.table["row"].to_pylist() == [3, 6]
    assert read.rejections == ()


def test_read_manifest__takes_a_quote_within_a_caption_as_text(manifest):
    read = manifest(HEADER + 'a.jpg\ta 5" pipe\nb.jpg\tsaid "yes"\n')
    assert pairs(read) == [("a.jpg", 'a 5" pipe'), ("b.jpg", 'said "yes"')]
    assert read.quoting == "none"


@pytest.mark.parametrize(
    "captions",
    [
        ['"Cool picture', "plain", "other"],
        ['"Cool" image', "plain", "other"],
        ['"Cool picture"', "plain", '""'],
        ['"Look at this', "plain", 'and that"'],
        ['"Look at this', 'and that"', "plain"],
        ['"', "plain", '"'],
        ['"', '"', '"'],
        ['"""', "plain", "other"],
        ['""doubled"" without need', "plain", "other"],
    ],
)
def test_read_manifest__never_swallows_rows_after_a_caption_that_opens_with_a_quote(manifest, captions):
    rows = [(f"{i}.jpg", caption) for i, caption in enumerate(captions)]
    read = manifest(HEADER + "".join(f"{image}\t{caption}\n" for image, caption in rows))
    assert pairs(read) == rows
    assert read.quoting == "none"


@pytest.mark.parametrize(
    ("field", "caption"),
    [
        ('"a ""big"" cat"', 'a "big" cat'),
        ('"""Cool"""', '"Cool"'),
        ('""""', '"'),
        ('"a\tcat"', "a\tcat"),
        ('"a\ncat"', "a\ncat"),
        ('"a\r\ncat\n\nand ""dog"""', 'a\r\ncat\n\nand "dog"'),
        ('"\t\n"""', '\t\n"'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_manifest__reads_csv_quoting_where_a_field_needs_it(manifest, small_blocks, field, caption, end):
    text = f'filepath\ttitle{end}a.jpg\t{field}{end}b.jpg\tafter{end}c.jpg\t"whole"{end}'
    read = manifest(text)
    assert pairs(read) == [("a.jpg", caption), ("b.jpg", "after"), ("c.jpg", "whole")]
    assert read.quoting == "csv"
    lines = 2 + field.count("\n")
    assert read.table["row"].to_pylist() == [2, 1 + lines, 2 + lines]


def test_read_manifest__reads_csv_quoting_in_a_first_column_over_lines(manifest, small_blocks):
    read = manifest('title\tfilepath\n"a\ncat"\ta.jpg\nb\tb.jpg\n')
    assert pairs(read) == [("a.jpg", "a\ncat"), ("b.jpg", "b")]


def test_read_manifest__reads_csv_quoting_behind_a_quoted_header(manifest):
    assert pairs(manifest('"filepath","title"\n"a.jpg","NA"\n', separator=",")) == [("a.jpg", "NA")]
    assert pairs(manifest('filepath,"title"\na.jpg,"cat"\n', separator=",")) == [("a.jpg", "cat")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_manifest__reads_csv_quoting_behind_a_plain_header(manifest, small_blocks, end):
    read = manifest(end.join(["filepath,title", '"a.jpg","cat"', '"b.jpg","dog"', ""]), separator=",")
    assert pairs(read) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert read.quoting == "csv"


def test_read_manifest__reads_csv_quoting_of_captions_alone(manifest, small_blocks):
    read = manifest(HEADER + 'a.jpg\t"cat"\nb.jpg\t\n\nc.jpg\t"dog"\n', max_bad_fraction=0.5)
    assert pairs(read) == [("a.jpg", "cat"), ("c.jpg", "dog")]
    assert rejected(read) == [(3, "empty caption")]


def test_read_manifest__rejects_a_malformed_field_of_a_quoted_column(manifest, small_blocks):
    read = manifest(HEADER + 'a.jpg\t"cat"\nb.jpg\t"a "big" dog"\nc.jpg\t"dog"\n', max_bad_fraction=0.5)
    assert pairs(read) == [("a.jpg", "cat"), ("c.jpg", "dog")]
    assert rejected(read) == [(3, "malformed quoted field")]


def test_read_manifest__takes_quotes_around_some_captions_as_text(manifest, small_blocks):
    read = manifest(HEADER + 'a.jpg\t"cat"\nb.jpg\tdog\n')
    assert pairs(read) == [("a.jpg", '"cat"'), ("b.jpg", "dog")]


def test_read_manifest__obeys_the_quoting_that_it_is_told(manifest):
    text = HEADER + 'a.jpg\t"a cat"\nb.jpg\t"a ""b"""\n'
    assert pairs(manifest(text, quoting="csv")) == [("a.jpg", "a cat"), ("b.jpg", 'a "b"')]
    assert pairs(manifest(text, quoting="none")) == [("a.jpg", '"a cat"'), ("b.jpg", '"a ""b"""')]
    read = manifest('"filepath"\t"title"\n"a"\t"b"\n', quoting="none", image_key='"filepath"', caption_key='"title"')
    assert pairs(read) == [('"a"', '"b"')]


@pytest.mark.parametrize("order", [1, -1])
def test_read_manifest__refuses_quotes_that_contradict_each_other(error, order):
    rows = ['a.jpg\t"a ""big"" cat"\n', "b.jpg\tplain\n", 'c.jpg\t"Cool" image\n'][::order]
    message = error(HEADER + "".join(rows))
    csv_line, text_line = (2, 4) if order == 1 else (4, 2)
    assert f"line {csv_line}, which only csv quoting explains" in message
    assert f"line {text_line}, which only plain text explains" in message
    assert "--quoting csv or --quoting none" in message


def test_read_manifest__refuses_to_guess_about_a_quote_around_rows_and_scraps(error):
    message = error(HEADER + 'a.jpg\t"Look\nb.jpg\tplain\nscrap\nc.jpg\tand that"\n')
    assert "line 2, which only csv" in message
    assert "line 5, which only plain text" in message


def test_read_manifest__rejects_malformed_quoted_fields_under_csv_and_swallows_nothing(manifest, small_blocks):
    rows = ['a\t"good"', 'b\t"bad" one', 'c\t"never closed', "d\tfine", 'e\t"good ""too"""', '"f\tx\ty', 'g\tin "it"']
    read = manifest(HEADER + "\n".join(rows), quoting="csv", max_bad_fraction=0.5)
    assert pairs(read) == [("a", "good"), ("d", "fine"), ("e", 'good "too"'), ("g", 'in "it"')]
    assert rejected(read) == [(row, "malformed quoted field") for row in (3, 4, 7)]


def test_read_manifest__counts_rejected_rows_with_line_and_reason(manifest, small_blocks):
    lines = ["a\tcat", "b", "c\tcat\tdog", "d\t", "e\t \u3000", "\tcat", " \tcat", "f\tdog", "\t"]
    read = manifest(HEADER + "\n".join(lines) + "\n", max_bad_fraction=0.8)
    assert pairs(read) == [("a", "cat"), ("f", "dog")]
    assert read.table["row"].to_pylist() == [2, 9]
    assert read.rejections == (
        Rejection(3, "too few fields", "b"),
        Rejection(4, "too many fields", "c\tcat\tdog"),
        Rejection(5, "empty caption", "d\t"),
        Rejection(6, "empty caption", "e\t \u3000"),
        Rejection(7, "empty image path", "\tcat"),
        Rejection(8, "empty image path", " \tcat"),
        Rejection(10, "empty image path", "\t"),
    )


def test_read_manifest__rejects_a_caption_that_is_empty_within_its_quotes(manifest):
    assert rejected(manifest('"filepath"\t"title"\n"a"\t""\n"b"\t"x"\n', max_bad_fraction=0.5)) == [
        (2, "empty caption")
    ]


def test_read_manifest__names_the_line_of_a_rejection_below_a_field_over_lines(manifest, small_blocks):
    read = manifest(HEADER + 'a\t"one\ntwo\nthree"\nb\nc\tcat\n', max_bad_fraction=0.5)
    assert rejected(read) == [(5, "too few fields")]
    assert read.table["row"].to_pylist() == [2, 6]


@pytest.mark.parametrize("letter", ["x", "é", "猫", "🐈"])
def test_read_manifest__shortens_what_it_shows_of_a_rejected_row(manifest, letter):
    (rejection,) = manifest(HEADER + f"a\tcat\n{letter * 1000}\n", max_bad_fraction=0.5).rejections
    assert rejection.value == letter * 200


def test_read_manifest__allows_rejections_up_to_the_fraction_and_no_further(manifest, error):
    rows = "".join(f"{i}.jpg\tcat {i}\n" for i in range(71))
    text = HEADER + rows + "b\n" * 20 + "c\t\n" * 9
    assert len(manifest(text, max_bad_fraction=0.29).rejections) == 29
    message = error(text, max_bad_fraction=0.28)
    assert "at most a share of 0.28; got 29 of 100 (20 too few fields, 9 empty caption)" in message
    assert message.count("pairs.tsv:") == 3
    assert "pairs.tsv:73: too few fields: 'b'" in message
    assert "pairs.tsv:75:" in message
    assert "Mend the file or raise --max-bad-fraction" in message


def test_read_manifest__refuses_a_file_without_one_good_pair(error):
    message = error(HEADER + "a\nb\n", max_bad_fraction=1)
    assert "must be not all; got 2 of 2" in message


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_read_manifest__stops_after_the_first_good_pairs(manifest, small_blocks, limit):
    read = manifest(HEADER + "a\tcat\nbad\nb\tdog\nc\tcow\nbad\n", limit=limit, max_bad_fraction=0.5)
    assert pairs(read) == [("a", "cat"), ("b", "dog"), ("c", "cow")][:limit]
    assert rejected(read) == [(3, "too few fields"), (6, "too few fields")][: [0, 1, 1, 2][limit - 1]]


def test_read_manifest__refuses_what_is_no_file(tmp_path):
    with pytest.raises(ProtoRKDError, match=r"none.tsv must be a file; got nothing there"):
        read_manifest(tmp_path / "none.tsv")
    with pytest.raises(ProtoRKDError, match="must be a file; got a folder"):
        read_manifest(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProtoRKDError, match="must be a file; got no regular file"):
        read_manifest(tmp_path / "pipe")
    with pytest.raises(ProtoRKDError, match="must be readable; got File name too long"):
        read_manifest(tmp_path / ("a" * 300))


@pytest.mark.parametrize("text", [HEADER, HEADER.strip(), HEADER + "\n\r\n"])
def test_read_manifest__refuses_a_file_without_rows(error, text):
    assert "must hold rows of pairs; got only a header" in error(text)


def test_read_manifest__refuses_an_empty_file(error):
    assert "got an empty file" in error("")
    assert "must have a column 'filepath' (--image-key); got columns ''" in error(b"\xef\xbb\xbf")


def test_read_manifest__names_the_columns_and_the_flag_where_one_is_missing(error):
    message = error("file\ttitle\na\tb\n")
    assert "must have a column 'filepath' (--image-key); got columns 'file', 'title'" in message
    assert "--separator" not in message
    assert "must have a column 'text' (--caption-key)" in error(HEADER + "a\tb\n", caption_key="text")
    message = error(HEADER + "a\tb\n", label_column="kind")
    assert "must have a column 'kind' (--label-column); got columns 'filepath', 'title'" in message


def test_read_manifest__asks_for_the_separator_where_there_is_one_column(error):
    assert r"It has one column only: is '\t' the right --separator?" in error("filepath,title\na,b\n", separator="\t")


def test_read_manifest__refuses_columns_of_one_name(error):
    message = error("filepath\ttitle\ttitle\na\tb\tc\n")
    assert "must have different names; got 'filepath', 'title', 'title'" in message


def test_read_manifest__refuses_one_column_for_both(error):
    assert "must name two columns; got 'title' for both" in error(HEADER + "a\tb\n", image_key="title")


def test_read_manifest__refuses_a_header_with_malformed_quotes(error):
    assert "Header of" in error('"filepath"\t"title\na\tb\n')


def test_read_manifest__names_line_and_byte_of_what_is_not_utf8(error, small_blocks):
    message = error(HEADER.encode() + b"a\tcat\nb\tna\xefve\n")
    assert "must be UTF-8 text; got byte 0xef at line 3, byte offset 25" in message
    assert "iconv" in message


def test_read_manifest__names_the_line_of_a_nul_byte(error, small_blocks):
    assert "got a NUL byte at line 3, byte offset 23" in error(HEADER.encode() + b"a\tcat\nb\t\0\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": ""}, "--separator must be one ASCII character"),
        ({"separator": ",,"}, "--separator must be one ASCII character"),
        ({"separator": "·"}, "--separator must be one ASCII character"),
        ({"separator": '"'}, "--separator must be one ASCII character"),
        ({"separator": "\n"}, "--separator must be one ASCII character"),
        ({"quoting": "maybe"}, "--quoting must be one of auto, csv, none; got 'maybe'"),
        ({"limit": -1}, "--limit must be 0 or more; got -1"),
        ({"max_bad_fraction": 1.1}, "--max-bad-fraction must be from 0 to 1; got 1.1"),
        ({"max_bad_fraction": float("nan")}, "--max-bad-fraction must be from 0 to 1; got nan"),
    ],
)
def test_read_manifest__refuses_arguments_out_of_range(error, options, message):
    assert message in error(HEADER + "a\tb\n", **options)


def random_text(generator, alphabet):
    return "x" + "".join(generator.choices(alphabet, k=generator.randrange(12)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_read_manifest__reads_back_what_csv_writes(tmp_path, monkeypatch, seed, quoting, separator):
    generator = random.Random(seed)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", generator.choice([1, 50, 10_000]))
    alphabet = ['"', '"', "\t", ",", "\n", "\r\n", "\r", "a", "é", "猫", "🐈", " "]
    rows = [
        (random_text(generator, alphabet), random_text(generator, alphabet)[generator.randrange(2) :] + ".")
        for _ in range(50)
    ]
    with (tmp_path / "pairs.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=generator.choice(["\n", "\r\n"]))
        writer.writerows([("filepath", "title"), *rows])
    # With commas, a line within a quoted field may look like a row, which auto refuses to guess about.
    read = read_manifest(tmp_path / "pairs.tsv", separator=separator, quoting="csv")
    assert pairs(read) == rows
    assert read.rejections == ()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_read_manifest__finds_out_that_csv_wrote_a_file(tmp_path, seed, quoting):
    generator = random.Random(seed)
    alphabet = ['"', '"', "\n", ",", "a", "é", "猫", "🐈", " "]
    rows = [(f"images/{i}.jpg", random_text(generator, alphabet)) for i in range(50)]
    with (tmp_path / "pairs.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting).writerows([("filepath", "title"), *rows])
    read = read_manifest(tmp_path / "pairs.tsv")
    assert pairs(read) == rows
    assert read.quoting == "csv"


@pytest.mark.parametrize("seed", range(20))
def test_read_manifest__reads_back_plain_lines(tmp_path, monkeypatch, seed):
    generator = random.Random(seed)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", generator.choice([1, 50, 10_000]))
    alphabet = ['"', '"', ",", "a", "é", "猫", "🐈", " "]
    rows = [(f"{i}.jpg", random_text(generator, alphabet)[generator.randrange(2) :] + ".") for i in range(50)]
    write(tmp_path / "pairs.tsv", HEADER + "".join(f"{image}\t{caption}\n" for image, caption in rows))
    read = read_manifest(tmp_path / "pairs.tsv", quoting="none")
    assert pairs(read) == rows
    assert read.table["row"].to_pylist() == list(range(2, 52))


def test_read_manifest__names_carriage_returns_that_end_lines_alone(error):
    message = error("filepath\ttitle\r" + "a.jpg\ta cat\r" * 9000)
    assert "got carriage returns alone in its header. Convert it, for instance with tr '\\r' '\\n' < " in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("codec", "name"),
    [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16BE"), ("utf-16-le", "UTF-16LE"), ("utf-32", "UTF-32")],
)
def test_read_manifest__names_a_wide_encoding(error, codec, name):
    message = error((HEADER + "a.jpg\ta cat\n").encode(codec))
    assert f"must be UTF-8 text; got {name}. Save it as UTF-8, for instance with iconv -f {name} -t UTF-8." in message


def test_read_manifest__shows_the_first_of_many_columns(error):
    message = error("\t".join(["x" * 5000, *map(str, range(1000))]) + "\n")
    assert "'18' and 981 more." in message
    assert len(message) < 1000


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
def test_read_manifest__agrees_with_the_csv_module_on_coco():
    path = Path(os.environ["PROTORKD_TEST_DATA"]) / "coco22k" / "train.tsv"
    with path.open(newline="", encoding="utf-8") as file:
        expected = [(row["filepath"], row["title"]) for row in csv.DictReader(file, delimiter="\t")]
    read = read_manifest(path)
    assert len(expected) == 20_000
    assert pairs(read) == expected
    assert read.quoting == "csv"
    assert read.rejections == ()
