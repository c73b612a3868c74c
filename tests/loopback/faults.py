"""What goes wrong with a phone: switched on and off while it serves, and bound to a step."""

import re
import threading
from dataclasses import dataclass, fields
from typing import Literal, get_args

#: of one service or transfer
ServiceKind = Literal["drop", "hang", "slow", "no-exit", "disk-full", "corrupt"]
#: of how the phone greets adb's server; its connection is dropped, and the next one meets them
GreetingKind = Literal["unauthorized", "offline", "no-shell-v2"]
#: of the phone's own state
StateKind = Literal["read-only", "overheat", "cores-offline"]
GREETINGS: tuple[str, ...] = get_args(GreetingKind)
STATES: tuple[str, ...] = get_args(StateKind)
KINDS: tuple[str, ...] = (*get_args(ServiceKind), *GREETINGS, *STATES)


@dataclass(frozen=True)
class Fault:
    """Strikes the steps that match; a greeting or a state with neither `command` nor `at` is there as soon as armed.

    `command` is searched for in the step, which is "shell COMMAND", "push PATH", "pull PATH" or "stat PATH"; `at` is
    the number of the first service hit, 1 being the next one opened; `times` is how often, 0 for until it is lifted.
    A drop comes `after_bytes` of output or of the file, and where `times` is 0 the phone is gone for good. `slow` waits
    `seconds`, and a disk is full `after_bytes`. `corrupt` turns a bit of the first byte after them.
    """

    kind: str
    command: str = ""
    at: int = 0
    times: int = 0
    after_bytes: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}; known: {', '.join(KINDS)}")

    @property
    def is_immediate(self) -> bool:
        return self.kind in (*GREETINGS, *STATES) and not self.command and not self.at


def parse(text: str) -> Fault:
    """`drop,command=^push,after_bytes=1000` as a Fault."""
    kind, *settings = text.split(",")
    types = {field.name: field.type for field in fields(Fault)}
    given = dict(setting.split("=", 1) for setting in settings)
    return Fault(kind, **{name: types[name](value) for name, value in given.items()})  # type: ignore[operator]


class Faults:
    """Those that are armed. Services ask at each step which of them strike."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._opened = 0

    def arm(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(_Armed(fault, self._opened))

    def lift(self) -> None:
        with self._lock:
            self._armed.clear()

    def opened(self) -> int:
        """Counts a service that adb has opened; its number."""
        with self._lock:
            self._opened += 1
            return self._opened

    def strike(self, number: int, step: str) -> dict[str, Fault]:
        """Those that hit this step of the service of that number, by kind."""
        with self._lock:
            return {armed.fault.kind: armed.fault for armed in self._armed if armed.strikes(number, step)}


class _Armed:
    def __init__(self, fault: Fault, opened: int) -> None:
        self.fault, self._first, self._struck = fault, opened + fault.at, 0

    def strikes(self, number: int, step: str) -> bool:
        over = self.fault.times and self._struck >= self.fault.times
        if over or number < self._first or not re.search(self.fault.command, step):
            return False
        self._struck += 1
        return True
