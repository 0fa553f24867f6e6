import pytest

from stages.draw_scenes.captions import COLOURS, POSITIONS, SIZE_WORDS, Group, plan_groups, write_caption
from stages.draw_scenes.portable_random import PortableRandom
from stages.draw_scenes.word_vectors import split_words

COUNT_WORDS = {1: {"single", "lone"}, 2: {"double", "twice"}, 3: {"triple", "thrice"}}


def _rng(index: int) -> PortableRandom:
    return PortableRandom(seed=0, stream=0, index=index)


@pytest.mark.parametrize("index", range(60))
def test_caption__says_every_attribute_of_a_lone_group_and_no_other(index: int) -> None:
    group = plan_groups(_rng(index))[0]
    words = set(split_words(write_caption([group], background="dark", rng=_rng(index))))
    assert words & set("0123456789") == {str(group.digit)}
    assert words & set(COLOURS) == {group.colour}
    assert len(words & set(SIZE_WORDS[group.is_big])) == 1
    assert not words & set(SIZE_WORDS[not group.is_big])
    assert {count for count, options in COUNT_WORDS.items() if words & options} == {group.count}
    if group.position == "centre":
        assert words & {"centre", "middle"}
    else:
        assert words & {"upper", "lower", "left", "right"} == set(group.position.split())


def test_caption__names_each_group_once() -> None:
    for index in range(200):
        groups = plan_groups(_rng(index))
        words = split_words(write_caption(groups, background="light", rng=_rng(index)))
        assert sorted(word for word in words if word in COLOURS) == sorted(group.colour for group in groups)
        assert sorted(word for word in words if word.isdigit()) == sorted(str(group.digit) for group in groups)


def test_caption__never_calls_the_background_by_its_opposite() -> None:
    captions = [write_caption(plan_groups(_rng(i)), background="dark", rng=_rng(i)) for i in range(100)]
    assert any("dark background" in caption for caption in captions)
    assert not any("light background" in caption for caption in captions)


def test_groups__of_one_scene_differ_in_colour_and_position() -> None:
    seen_counts = set()
    for index in range(300):
        groups = plan_groups(_rng(index))
        seen_counts.add(len(groups))
        assert len({group.colour for group in groups}) == len(groups)
        assert len({group.position for group in groups}) == len(groups)
    assert seen_counts == {1, 2, 3}


def test_groups__take_every_value_of_every_attribute() -> None:
    groups = [group for index in range(300) for group in plan_groups(_rng(index))]
    assert {group.digit for group in groups} == set(range(10))
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.position for group in groups} == set(POSITIONS)
    assert {(group.is_big, group.count) for group in groups} == {(b, c) for b in (True, False) for c in (1, 2, 3)}


def test_caption__attributes_survive_the_stop_words_of_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    said = {"upper", "lower", "left", "right", "centre", "middle", "dark", "light"}
    said |= {word for options in COUNT_WORDS.values() for word in options}
    said |= {word for options in SIZE_WORDS.values() for word in options}
    said |= {*COLOURS, *"0123456789"}
    vocabulary = sorted(said)
    tokenizer = WhitespaceTokenizer(vocabulary)
    for index in range(200):
        caption = write_caption(plan_groups(_rng(index)), background="dark", rng=_rng(index))
        kept = [vocabulary[token] for token in tokenizer.tokenize(caption)]
        assert kept == [word for word in split_words(caption) if word in said]
    assert [vocabulary[token] for token in tokenizer.tokenize(" ".join(vocabulary))] == vocabulary


def test_caption__keeps_numerals_for_digits() -> None:
    group = Group(digit=3, colour="red", is_big=True, count=2, position="upper left")
    caption = write_caption([group], background="dark", rng=_rng(0))
    assert "3" in caption.split()
    assert "three" not in caption
