"""What the replay must show, whether it does, and the replay as plain text.

A target is judged on every condition by itself, and its row names the worst one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.selfcheck.replay import OURS, SHORT, SLOWDOWNS, HistoryResult, PairResult, Replay, StoredResult


@dataclass(frozen=True)
class Target:
    """A limit, and the value found under each condition. Shares and slowdowns in percent.

    `at_most` says which way the limit points. `units` are the distinct recorded pairs behind each condition's value,
    where that is what limits it.
    """

    name: str
    limit: float
    at_most: bool
    values: Mapping[str, float]
    units: Mapping[str, int]

    @property
    def worst(self) -> str:
        """The condition that is closest to the limit, or furthest beyond it."""
        return (max if self.at_most else min)(self.values, key=self.values.__getitem__)

    @property
    def missed(self) -> tuple[str, ...]:
        """The conditions beyond the limit."""
        return tuple(name for name, value in self.values.items() if not self._holds(value))

    def _holds(self, value: float) -> bool:
        return value <= self.limit + 1e-9 if self.at_most else value >= self.limit - 1e-9


UNPINNED = ("live wild+busy", "live quiet", "live bg+burst")
KNOWN: dict[str, tuple[str, ...]] = {
    # Unpinned, these pairs scatter by 1.0 to 1.3 %, pinned ones by 0.1 to 0.4 %: four can't both tell 2 % and keep a
    # bound of 1 %. `bench compare` pins; and its default plan of up to 16 pairs sees the 2 %. Two of the three
    # conditions have three recorded pairs, of which no job can tell an error of 1 %.
    "power at 2 %, 4 pairs": UNPINNED,
    "smallest slowdown seen, 4 pairs": UNPINNED,
    "smallest slowdown seen, 12 pairs": UNPINNED,
    "error of the 1 % bound": UNPINNED,
    "wrong PASS at the tolerance": UNPINNED,
    # Of four pairs off by 5 %, one (6.3 %) had probes 4.3 % apart: inside the guard. `bench compare` alternates.
    "guard, were pairs run concurrently": ("concurrent",),
    # The processes of this setting scatter by 1.8 % after normalising, those of the other calm ones by 1.0 to 1.4 %.
    "stored baseline, smallest slowdown": ("calm, then burst",),
}


def unexpected(replay: Replay) -> list[str]:
    """Targets missed under a condition that is not `KNOWN` to miss them, in words."""
    return [
        f"{target.name}: {target.values[name]:.2f} under {name}, limit {target.limit:g}"
        for target in check(replay)
        for name in target.missed
        if name not in KNOWN.get(target.name, ())
    ]


def check(replay: Replay) -> list[Target]:
    """Every target of the design, in its order, against what the replay found; none on which it found nothing."""
    targets = [
        *_pair_targets(replay.pairs), *_guard_targets(replay), *_stored_targets(replay.stored), *_history(replay)
    ]  # fmt: skip
    return [target for target in targets if target.values]


def _pair_targets(results: Sequence[PairResult]) -> Iterable[Target]:
    def target(name: str, limit: float, at_most: bool, values: Mapping[str, float]) -> Target:
        return Target(name, limit, at_most, values, {one.condition: one.units for one in results})

    def each(value: str) -> dict[str, float]:
        return {one.condition: 100 * getattr(one, value) for one in results}

    pinned = {one.condition: 100 * one.power[0.02] for one in results if one.condition.startswith("pinned")}
    yield target("false alarms, unchanged build", 1, True, each("false_alarm"))
    yield target("power at 2 %, 4 pairs", 90, False, {one.condition: 100 * one.power[0.02] for one in results})
    yield target("power at 2 %, 4 pairs, pinned", 98, False, pinned)
    yield target("power at 3 %, 4 pairs", 99, False, {one.condition: 100 * one.power[0.03] for one in results})
    yield target("power at 5 %, 12 pairs", 100, False, each("power_long"))
    yield target("smallest slowdown seen, 4 pairs", 2.0, True, each("mde_short"))
    yield target("smallest slowdown seen, 12 pairs", 1.5, True, each("mde_long"))
    worst = {one.condition: 100 * max(one.bound_error.values()) for one in results}
    yield target("error of the 1 % bound", 2, True, worst)
    errors = [sum(one.bound_error.values()) / len(one.bound_error) for one in results]
    mean = {"all conditions": 100 * sum(errors) / len(errors)} if errors else {}
    yield Target("error of the 1 % bound, mean", 0.3, False, mean, {})
    yield target("pairs to PASS, median", 4, True, {one.condition: one.pairs_to_pass for one in results})
    yield target("wrong PASS at the tolerance", 1, True, each("wrong_pass"))
    busy = {name: value for name, value in each("inconclusive").items() if name.endswith("wild+busy")}
    calmer = {name: value for name, value in each("inconclusive").items() if name not in busy}
    yield target("INCONCLUSIVE, unchanged build", 2, True, calmer)
    yield target("INCONCLUSIVE, wild+busy", 15, True, busy)


def _guard_targets(replay: Replay) -> Iterable[Target]:
    """A mode in which nothing was off has nothing to catch, and counts as caught."""
    caught = {one.mode: 100 * one.caught / one.off if one.off else 100.0 for one in replay.guards}
    off = {one.mode: one.off for one in replay.guards}
    alternating = {mode: share for mode, share in caught.items() if mode != "concurrent"}
    yield Target("guard catches pairs off by 5 %", 100, False, alternating, off)
    concurrent = {mode: share for mode, share in caught.items() if mode == "concurrent"}
    yield Target("guard, were pairs run concurrently", 100, False, concurrent, off)


def _stored_targets(results: Iterable[StoredResult]) -> Iterable[Target]:
    calm = {one.name: 100 * one.mde for one in results if one.calm}
    yield Target("stored baseline, smallest slowdown", 4, True, calm, {})


def _history(replay: Replay) -> Iterable[Target]:
    ours = {one.stored: one for one in replay.histories if one.detector == OURS}
    if normalised := ours.get("normalised"):
        yield _single("history, normalised: alarms / 100", 0.5, True, normalised, normalised.false_alarms)
        yield _single("history, normalised: 3 % in 5 points", 70, False, normalised, 100 * normalised.found[0.03][1])
    if reference := ours.get("reference"):
        yield _single("history, reference: alarms / 100", 0.2, True, reference, reference.false_alarms)
        yield _single("history, reference: 2 % in 3 points", 95, False, reference, 100 * reference.found[0.02][0])


def _single(name: str, limit: float, at_most: bool, result: HistoryResult, value: float) -> Target:
    return Target(name, limit, at_most, {result.stored: value}, {})


# Plain text


def render(replay: Replay) -> str:
    """The replay as text: targets first, then what is behind them, then the anchors. What found nothing says so."""
    half = {True: "even-numbered recorded units", False: "odd-numbered recorded units", None: "all recorded units"}
    parts = [
        f"Replay of {half[replay.even]}, seed {replay.seed}. Percent, unless a unit is named.",
        *_section("Targets.", TARGET_HEADER, map(_target_row, check(replay))),
        *_section(
            f"Live pairs. Power and MDE {SHORT} with {SHORT} pairs (20 s on a machine that isn't oversubscribed). "
            f"{_skipped(replay)}",
            PAIR_HEADER,
            map(_pair_row, replay.pairs),
        ),
        f"Without drawing any pair twice: {replay.disjoint.alarms} alarms in {replay.disjoint.jobs} jobs of {SHORT} "
        f"pairs, so at most {_pc(replay.disjoint.upper)} % with 95 % confidence.",
        *_section(
            "Guard: pairs of identical programs that were off by more than 5 %.",
            ["mode", "pairs", "off", "caught", "dropped"],
            ([one.mode, str(one.pairs), str(one.off), str(one.caught), str(one.dropped)] for one in replay.guards),
        ),
        *_section(
            "A real slowdown: one more layer, 3.5 to 3.9 %.",
            ["setting", "pairs", "verdict", "slower by", "bounds"],
            (
                [one.setting, str(one.pairs), one.outcome, _pc(one.ratio), f"{_pc(one.low)} to {_pc(one.high)}"]
                for one in replay.real
            ),
        ),
        *_section(
            "Stored baseline: five sessions of four processes, then one more.",
            ["sessions", "alarms, margin 0", "margin 5 %", "smallest seen"],
            ([one.name, _pc(one.false_alarm), _pc(one.false_alarm_5), _pc(one.mde)] for one in replay.stored),
        ),
        *_section(
            "Histories: alarms per 100 looks without a step; steps found 3, 5 and 10 points after.",
            ["stored", "detector", "alarms", "found"],
            map(_history_row, replay.histories),
        ),
        *_section(
            "Other tools' rules: alarms by injected slowdown.",
            ["rule", "condition", "s", *(f"{100 * slowdown:g} %" for slowdown in SLOWDOWNS)],
            map(_anchor_row, _anchor_lines(replay)),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A title and its table, or that there is nothing for one."""
    lines = list(rows)
    return [title, _table(header, lines)] if lines else [f"{title} Too few units were recorded for it."]


TARGET_HEADER = ["target", "limit", "worst", "condition", "units", "missed"]
PAIR_HEADER = [
    "condition", "sound", "s/pair", "alarms", "at margin", "1 %", "2 %", "3 %", "5 %", "10 %", "2 % default",
    "MDE 4", "MDE 12", "bound error k=3 4 6 8 12", "pairs to PASS", "wrong PASS", "inconclusive",
]  # fmt: skip


def _pc(share: float) -> str:
    return f"{100 * share:.1f}"


def _skipped(replay: Replay) -> str:
    return f"Too few units to judge: {', '.join(replay.skipped)}." if replay.skipped else ""


def _target_row(target: Target) -> list[str]:
    return [
        target.name,
        f"{'<=' if target.at_most else '>='} {target.limit:g}",
        f"{target.values[target.worst]:.2f}",
        target.worst,
        str(target.units.get(target.worst, "")),
        ", ".join(target.missed) or "-",
    ]


def _pair_row(one: PairResult) -> list[str]:
    return [
        one.condition,
        f"{one.units - one.unsound}/{one.units}",
        f"{one.seconds:.1f}",
        _pc(one.false_alarm),
        _pc(one.at_margin),
        *(f"{100 * share:.0f}" for share in one.power.values()),
        f"{100 * one.power_default:.0f}",
        f"{100 * one.mde_short:.2f}",
        f"{100 * one.mde_long:.2f}",
        " ".join(map(_pc, one.bound_error.values())),
        f"{one.pairs_to_pass:g}",
        _pc(one.wrong_pass),
        _pc(one.inconclusive),
    ]


def _history_row(one: HistoryResult) -> list[str]:
    found = "; ".join(
        f"{100 * step:g} %: {' '.join(f'{100 * share:.0f}' for share in shares)}" for step, shares in one.found.items()
    )
    return [one.stored, one.detector, f"{one.false_alarms:.2f}", found]


def _anchor_lines(replay: Replay) -> Iterable[tuple[str, str, float, Sequence[float]]]:
    """The anchors, and after them our own rule under its worst and best condition."""
    for one in replay.anchors:
        yield one.anchor, one.condition, one.seconds, list(one.alarms.values())
    by_power = sorted(replay.pairs, key=lambda one: one.power[0.02])
    for pair in (*by_power[-1:], *by_power[:1]):
        yield "ours, 4 pairs", pair.condition, SHORT * pair.seconds, [pair.false_alarm, *pair.power.values()]


def _anchor_row(line: tuple[str, str, float, Sequence[float]]) -> list[str]:
    rule, condition, seconds, alarms = line
    return [rule, condition, f"{seconds:.0f}", *(f"{100 * share:.0f}" for share in alarms)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; two spaces between."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
