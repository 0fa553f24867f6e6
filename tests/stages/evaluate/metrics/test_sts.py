from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.evaluate.metrics.sts import correlations, pair_cosines
from stages.evaluate.sets.scored_pairs import ScoredPairs, read_scored_pairs

EXPECTED = ScoredPairs(('A "girl" sings.', "Two dogs, wet"), ("A girl is singing.", "A plane"), (4.6, 0.0))
PUBLISHED = (
    'main-captions\tMSRvid\t2012test\t0024\t4.600\tA "girl" sings.\tA girl is singing.\n'
    "main-news\theadlines\t2013\t0005\t0\tTwo dogs, wet\tA plane\tlicence\thttp://source\n"
)
GLUE = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    '0\tmain-captions\tMSRvid\t2012test\t0024\tnone\tnone\tA "girl" sings.\tA girl is singing.\t4.600\n'
    "1\tmain-news\theadlines\t2013\t0005\tnone\tnone\tTwo dogs, wet\tA plane\t0.000\n"
)
ALL_SPLITS = (
    'split\tscore\tsentence1\tsentence2\ntest\t4.6\tA "girl" sings.\tA girl is singing.\n'
    "train\t1.0\tnever\tseen\ntest\t0.0\tTwo dogs, wet\tA plane\n"
)
CSV = 'Sentence1,Sentence2,Score\n"A ""girl"" sings.",A girl is singing.,4.6\n"Two dogs, wet",A plane,0\n'


def written(folder: Path, text: str, *, name: str = "sts-test.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def embed_by(table: dict[str, list[float]]) -> Callable[[tuple[str, ...]], Tensor]:
    return lambda captions: torch.tensor([table[caption] for caption in captions])


@pytest.mark.parametrize(
    "text",
    [
        PUBLISHED,
        GLUE,
        ALL_SPLITS,
        CSV,
        CSV.partition("\n")[2],
        '4.6,"A ""girl"" sings.",A girl is singing.\n0,"Two dogs, wet",A plane\n',
        PUBLISHED.replace("\n", "\r\n") + "\r\n",
        "\ufeff" + GLUE,
    ],
    ids=["published", "glue", "all splits", "csv", "headless csv", "score first", "crlf", "byte-order mark"],
)
def test_read_scored_pairs__knows_the_usual_formats(text: str, tmp_path: Path) -> None:
    assert read_scored_pairs(written(tmp_path, text)) == EXPECTED


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a\tb\tc\td\n", r"must have the columns score, sentence1, sentence2; got 'a', .* without score, sentence1"),
        (GLUE.replace("\tscore\n", "\n", 1), r"must have the columns .*, without score\. Give STS-B"),
        (GLUE.replace("4.600", "-"), r"sts-test\.csv:2 must hold a score; got '-'"),
        (GLUE.replace("4.600", "nan"), r"sts-test\.csv:2 must hold a score; got 'nan'"),
        (GLUE.replace("\tA plane\t0.000", ""), r"sts-test\.csv:3 must have at least 10 fields; got 8"),
        (CSV.replace("A plane", " "), r"sts-test\.csv:3 must hold two sentences; got 'Two dogs, wet' and ''"),
        (CSV.replace('"Two dogs, wet"', '"Two dogs, wet'), r"cannot be read at line 3"),
        (GLUE.partition("\n")[0] + "\n", r"at least two pairs; got 0"),
        (ALL_SPLITS.replace("test", "dev"), r"at least two pairs of the split test; got 0"),
        (CSV.replace("4.6", "0"), r"Scores of .* must differ; got 0 in all 2 rows"),
        ("\n\n", r"must have the columns .*; got nothing"),
        ("", "got an empty file"),
    ],
)
def test_read_scored_pairs__says_what_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=complaint):
        read_scored_pairs(written(tmp_path, text))


def test_read_scored_pairs__refuses_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="must be a file; got nothing there"):
        read_scored_pairs(tmp_path / "sts.tsv")


def test_correlations__agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, 8, generator=generator)
    second[:25] += 2 * first[:25]
    scores = torch.cat([torch.full((25,), 3.0), torch.zeros(25)]) + torch.rand(50, generator=generator).round()
    table = {f"{side}{row}": rows[row].tolist() for side, rows in (("a", first), ("b", second)) for row in range(50)}
    pairs = ScoredPairs(
        tuple(f"a{row}" for row in range(50)), tuple(f"b{row}" for row in range(50)), tuple(scores.tolist())
    )
    cosines = torch.nn.functional.cosine_similarity(first.double(), second.double())
    metrics = correlations(*pair_cosines(pairs, embed_by(table)))
    assert metrics["spearman"] == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-6)
    assert metrics["pearson"] == pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-5)


def test_correlations__know_the_limits() -> None:
    pairs = ScoredPairs(("x", "x", "x"), ("x", "z", "y"), (5.0, 2.5, 0.0))
    table = {"x": [1.0, 0.0], "y": [0.0, 9.0], "z": [1.0, 3**0.5]}
    assert correlations(*pair_cosines(pairs, embed_by(table))) == pytest.approx({"spearman": 1.0, "pearson": 1.0})
    alike = {key: [0.1, 0.7] for key in table}
    assert correlations(*pair_cosines(pairs, embed_by(alike))) == {"spearman": 0.0, "pearson": 0.0}


def test_pair_cosines__refuse_embeddings_that_are_not_finite() -> None:
    with pytest.raises(ProtoRKDError, match="Caption embeddings must be finite"):
        pair_cosines(EXPECTED, lambda captions: torch.full((len(captions), 2), torch.nan))
