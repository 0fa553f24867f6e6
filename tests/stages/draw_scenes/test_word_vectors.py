from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from data_schemas.errors import ProtoRKDError
from stages.draw_scenes.captions import COLOURS, SIZE_WORDS
from stages.draw_scenes.scenes import draw_scenes
from stages.draw_scenes.word_vectors import format_glove, split_words, word_vectors

DIM = 64
ATTRIBUTES = [*COLOURS, *"0123456789", *SIZE_WORDS[True], *SIZE_WORDS[False]]
ATTRIBUTES += ["upper", "lower", "left", "right", "centre", "middle", "dark", "light"]
ATTRIBUTES += ["single", "lone", "double", "twice", "triple", "thrice"]


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [scene.caption for scene in draw_scenes(split="test", num_scenes=2000, image_size=32, seed=0)]


@pytest.fixture(scope="module")
def vectors(captions: list[str]) -> dict[str, np.ndarray]:
    return word_vectors(captions, dim=DIM)


def test_word_vectors__are_unit_vectors_of_all_words(captions: list[str], vectors: dict[str, np.ndarray]) -> None:
    assert list(vectors) == sorted({word for caption in captions for word in split_words(caption)})
    for vector in vectors.values():
        assert vector.shape == (DIM,)
        assert np.linalg.norm(vector) == pytest.approx(1)


def test_word_vectors__keep_attributes_apart(vectors: dict[str, np.ndarray]) -> None:
    cosines = [float(vectors[left] @ vectors[right]) for left, right in combinations(ATTRIBUTES, 2)]
    assert max(cosines) < 0.9
    assert abs(np.mean(cosines)) < 0.2


def test_word_vectors__put_words_that_keep_company_closer(vectors: dict[str, np.ndarray]) -> None:
    company = {word: vector[: DIM // 4] for word, vector in vectors.items()}
    assert company["drawn"] @ company["twice"] > company["drawn"] @ company["corner"]
    assert company["dark"] @ company["background"] > company["dark"] @ company["red"]


def test_word_vectors__do_not_depend_on_the_order_of_captions(captions: list[str]) -> None:
    forward, backward = word_vectors(captions[:300], dim=DIM), word_vectors(captions[:300][::-1], dim=DIM)
    for word, vector in forward.items():
        np.testing.assert_array_equal(vector, backward[word])


def test_word_vectors__tell_nearly_all_captions_apart(captions: list[str], vectors: dict[str, np.ndarray]) -> None:
    means = [np.mean([vectors[word] for word in split_words(caption)], axis=0) for caption in captions]
    distinct = {tuple(np.round(mean, 6)) for mean in means}
    assert len(distinct) > 0.98 * len(captions)


def test_word_vectors__work_where_the_dimensions_outnumber_the_words() -> None:
    vectors = word_vectors(["Red, seven!", "blue seven"], dim=32)
    assert list(vectors) == ["blue", "red", "seven"]
    assert all(np.isfinite(vector).all() for vector in vectors.values())


def test_word_vectors__refuse_a_dim_that_is_too_small() -> None:
    with pytest.raises(ProtoRKDError, match="dim must be at least 8; got 4"):
        word_vectors(["red"], dim=4)


def test_word_vectors__refuse_captions_without_words() -> None:
    with pytest.raises(ProtoRKDError, match="at least one word"):
        word_vectors(["", "..."], dim=16)


def test_glove__holds_a_word_and_its_numbers_a_line() -> None:
    vectors = {"red": np.array([0.123456789, -1.0]), "7": np.array([0.0, 2e-7])}
    assert format_glove(vectors) == b"red 0.12346 -1\n7 0 2e-07\n"


def test_glove__is_read_by_sentence_transformers(vectors: dict[str, np.ndarray], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import WordEmbeddings

    path = tmp_path / "vectors.txt"
    path.write_bytes(format_glove(vectors))
    embeddings = WordEmbeddings.from_text_file(str(path))
    rows = embeddings.tokenizer.tokenize(" ".join(ATTRIBUTES))
    assert len(rows) == len(ATTRIBUTES)
    weights = embeddings.emb_layer.weight.detach().numpy()
    np.testing.assert_allclose(weights[rows], [vectors[word] for word in ATTRIBUTES], rtol=1e-4, atol=1e-6)
