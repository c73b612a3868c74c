"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere, nothing when quiet."""

import contextlib
import sys
from types import TracebackType
from typing import Any, Self


class Quiet:
    """Shows nothing."""

    def begin(self, steps: int) -> None:
        pass

    def step(self, what: str) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Lines(Quiet):
    """A line a thing, for logs."""

    def step(self, what: str) -> None:
        self.say(what)

    def say(self, line: str) -> None:
        # A log that can't be written to, as on a full disk or when its reader has gone, is no reason to stop measuring.
        with contextlib.suppress(OSError):
            print(f"bench: {line}", file=sys.stderr, flush=True)


class Bar(Quiet):
    """A bar on the terminal. It is drawn between repetitions only, so that it takes no CPU from a timed one."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task: Any = None
        self._begun = 0

    def begin(self, steps: int) -> None:
        self._task = self._bar.add_task("preparing", total=steps)
        self._bar.refresh()

    def step(self, what: str) -> None:
        if self._task is None:
            self.begin(0)
        # The steps begun before this one are done. Their number was an estimate, and may have been short.
        total = max(self._bar.tasks[self._task].total or 0, self._begun + 1)
        self._bar.update(self._task, completed=self._begun, total=total, description=what)
        self._begun += 1
        self._bar.refresh()

    def say(self, line: str) -> None:
        self._bar.console.print(f"bench: {line}", highlight=False, markup=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def choose(quiet: bool) -> Quiet:
    """What fits standard error: a bar on a terminal, lines in a log, silence where that was asked."""
    if quiet or sys.stderr is None:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()
