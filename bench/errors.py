"""What can go wrong, as far as a user must know: one line each, and an exit code.

A message has up to three parts, joined by "; ": what was wrong, what was found, what to do next.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self  # which Python 3.10, that some workers run under, lacks


class BenchError(Exception):
    """Something a user can act on. `str(error)` is the one line that `bench` prints, `log` what a worker left."""

    exit_code = 1

    def __init__(self, what: str, found: str = "", do: str = "", log: str = "") -> None:
        super().__init__("; ".join(part for part in (what, found, do) if part))
        self.log = log

    def after(self, warnings: Iterable[str]) -> "Self":
        """The same, with what a user had better read before it."""
        for line in warnings:
            self.add_note(line)
        return self


GPU_LOST = "the GPU was lost"
RESET_GPU = "reset the GPU or restart the machine, and look into the kernel's log: dmesg"
SMALLER_BATCH = "take a smaller batch, or close what else uses the GPU; see: nvidia-smi"
BUILD_AGAIN = "remove it from bench's cache (BENCH_CACHE); the next run builds it again"
EXPORT_AGAIN = "export the model again, or name another file"


def last_line(error: BaseException) -> str:
    """Vendors' messages run over many lines, stack first; the last one says what it was."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


class UsageError(BenchError):
    """Wrong command line or unreadable input: nothing was measured."""

    exit_code = 2


class Unavailable(BenchError):
    """This machine lacks the device or the runtime."""

    exit_code = 3


class Unsupported(BenchError):
    """This combination of model, backend, precision and device cannot be, anywhere."""


class Failed(BenchError):
    """A job was tried and went wrong."""


class Stale(Failed):
    """An engine is not for what is here, or not what was built: it is thrown away and made again, once."""


def unknown(kind: str, name: str, known: list[str], do: str) -> UsageError:
    """`name` is no `kind`: says the closest known ones, or all of them where they are few."""
    import difflib

    folded = {other.casefold(): other for other in known}
    close = [folded[match] for match in difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.5)]
    if close:
        return UsageError(f"no {kind} {name!r}", f"closest: {', '.join(close)}", do)
    few = f"known: {', '.join(known)}" if len(known) <= 12 else f"{len(known)} are known"
    return UsageError(f"no {kind} {name!r}", few, do)
