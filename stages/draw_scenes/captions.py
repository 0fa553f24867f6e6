"""Plan the contents of a scene, and describe them in words.

Word-embedding teachers read a caption through sentence-transformers' WhitespaceTokenizer, which drops English stop
words, among them "one" to "six", "eight", "nine", "once", "top" and "bottom". Captions therefore write digits as
numerals and say single, twice, thrice, upper and lower: every attribute reaches the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.draw_scenes.portable_random import PortableRandom

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
# Where a group sits: 0 is left or upper, 1 is right or lower.
POSITIONS: dict[str, tuple[float, float]] = {
    "upper left": (0.0, 0.0),
    "upper right": (1.0, 0.0),
    "lower left": (0.0, 1.0),
    "lower right": (1.0, 1.0),
    "centre": (0.5, 0.5),
}
SIZE_WORDS = {True: ("big", "large"), False: ("small", "tiny")}
COUNT_PHRASES = {
    1: ("a single {}", "a lone {}"),
    2: ("a double {}", "a {} drawn twice"),
    3: ("a triple {}", "a {} drawn thrice"),
}

_DIGIT_PHRASES = ("{size} {colour} {digit}", "{size} {colour} digit {digit}", "{size} handwritten {digit} in {colour}")
_CORNER_PHRASES = ("at the {}", "in the {} corner")
_CENTRE_PHRASES = ("in the centre", "in the middle")
_OPENINGS = ("", "", "a picture of ", "a drawing of ")
_ENDINGS = ("", " on a {} background")
_GROUP_NUMBERS = (1, 1, 2, 2, 2, 3)


@dataclass(frozen=True)
class Group:
    """One to three drawings of the same digit, side by side.

    Args:
        digit: Digit from 0 to 9.
        colour: Colour, one of ``COLOURS``.
        is_big: Whether the digit is big, about 1.5 times as tall as a small one.
        count: Number of drawings, from 1 to 3.
        position: Position, a key of ``POSITIONS``.
    """

    digit: int
    colour: str
    is_big: bool
    count: int
    position: str


def plan_groups(rng: PortableRandom) -> tuple[Group, ...]:
    """Choose one to three groups that differ in colour and in position."""
    num_groups = rng.pick(_GROUP_NUMBERS)
    colours = rng.sample(COLOURS, num_groups)
    positions = rng.sample(tuple(POSITIONS), num_groups)
    return tuple(
        _plan_group(rng, colour=colour, position=position, is_alone=num_groups == 1)
        for colour, position in zip(colours, positions, strict=True)
    )


def _plan_group(rng: PortableRandom, *, colour: str, position: str, is_alone: bool) -> Group:
    digit, count = rng.below(10), 1 + rng.below(3)
    # Three big digits fill more than half the width, so that they would cover a neighbouring group.
    is_big = rng.pick((True, False)) and (is_alone or count < 3)
    return Group(digit=digit, colour=colour, is_big=is_big, count=count, position=position)


def write_caption(groups: Sequence[Group], *, background: str, rng: PortableRandom) -> str:
    """Describe a scene in one of many wordings.

    Each group's digit, colour, size, count and position is always named; the background only in some captions.

    Args:
        groups: Groups in the scene, at least one.
        background: Background of the scene: "dark" or "light".
        rng: Random choices of the wording.
    """
    phrases = [_describe(group, rng) for group in groups]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    return rng.pick(_OPENINGS) + listed + rng.pick(_ENDINGS).format(background)


def _describe(group: Group, rng: PortableRandom) -> str:
    size = rng.pick(SIZE_WORDS[group.is_big])
    digit = rng.pick(_DIGIT_PHRASES).format(size=size, colour=group.colour, digit=group.digit)
    counted = rng.pick(COUNT_PHRASES[group.count]).format(digit)
    if group.position == "centre":
        return f"{counted} {rng.pick(_CENTRE_PHRASES)}"
    return f"{counted} {rng.pick(_CORNER_PHRASES).format(group.position)}"
