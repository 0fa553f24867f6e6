"""Figures as the page writes them: three digits, true minus signs, dashes between the ends of an interval."""

from collections.abc import Callable

Write = Callable[[float], str]


def share(value: float) -> str:
    """Write a percentage so that 0.05 and 98.7 both say something: chance is often far below one percent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"


def rank(value: float) -> str:
    """Write a place among many; half places come from ties."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def figure(value: float) -> str:
    """Write a measure of any scale and sign."""
    size = abs(value)
    text = f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    if 0 < size < 1:
        text = f"{value:.3f}"
    return signed(text)


def precise(value: float) -> str:
    """Write any measure for the list of all measures: with two decimals, or with four below one."""
    return signed(f"{value:.4f}" if 0 < abs(value) < 1 else f"{value:.2f}")


def similarity(value: float) -> str:
    """Write a cosine."""
    return signed(f"{value:.2f}")


def interval(low: float, high: float, write: Write) -> str:
    """Write both ends of an interval: with a dash, or with "to" where an end is negative."""
    between = " to " if low < 0 else "\N{EN DASH}"
    return f"{write(low)}{between}{write(high)}"


def signed(text: str) -> str:
    """Replace the hyphen of a written number by a true minus sign; zero gets no sign."""
    if text.startswith("-") and not text.strip("-0."):
        return text[1:]
    return text.replace("-", "\N{MINUS SIGN}")
