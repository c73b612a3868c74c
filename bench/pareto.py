"""Which of several choices are not beaten by another: a Pareto front that knows how sure its costs are."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A cost, known to lie from `low` to `high` (equal where nothing is known of its spread), and what it buys."""

    low: float
    high: float
    worth: float


def dominates(one: Choice, other: Choice) -> bool:
    """Whether one is worth no less and surely costs less, or costs surely no more and is worth more."""
    cheaper = one.high < other.low
    return (one.worth >= other.worth and cheaper) or (one.worth > other.worth and one.high <= other.low)


def front(choices: Sequence[Choice]) -> list[bool]:
    """For each choice whether none of the others dominates it. Twins both stand."""
    cheapest_first = sorted(choices, key=lambda choice: choice.high)
    return [not any(dominates(one, other) for one in _cheaper(cheapest_first, other)) for other in choices]


def _cheaper(cheapest_first: Sequence[Choice], other: Choice) -> Sequence[Choice]:
    """Those that can dominate it: their highest cost is within its lowest."""
    return cheapest_first[: bisect_right(cheapest_first, other.low, key=lambda choice: choice.high)]
