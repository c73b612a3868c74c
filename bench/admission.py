"""Whether the machine is calm enough to begin: waits a while for others' work to end, and then goes on anyway.

Measurements bear some load, and say so (`contended`); a compiler that is done in twenty seconds is worth waiting for.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping

from bench import backends
from bench.environment import OTHERS_CORES, load_now
from bench.schema import Case

#: the environment variable that, unless empty or 0, leaves the waiting out
VARIABLE = "BENCH_NO_WAIT"
LONGEST_S = 60.0
# A quarter of a core is 12 ticks of the kernel's clock in half a second.
LOOK_S = 0.5

Look = Callable[[], Mapping[str, float | None]]


def _look() -> Mapping[str, float | None]:
    return load_now(seconds=LOOK_S)


def wait(
    cases: Iterable[Case],
    say: Callable[[str], None],
    look: Look = _look,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when others use less than a quarter of a core, or after a minute. `say` is told why it takes so long.

    Where none of `cases` computes anything, or nobody can tell what others use, there is nothing to wait for. Call it
    while no worker of ours runs: `look` counts all work as others'.
    """
    if os.environ.get(VARIABLE, "") not in ("", "0") or not any(backends.get(case.backend).computes for case in cases):
        return
    start = clock()
    cores = look().get("busy_cores") or 0.0
    if cores < OTHERS_CORES:
        return
    say(f"others use {cores:.1f} cores (limit {OTHERS_CORES}); waiting up to {LONGEST_S:.0f} s for them to end")
    while cores >= OTHERS_CORES and clock() - start < LONGEST_S:
        cores = look().get("busy_cores") or 0.0
    waited = f"after {clock() - start:.0f} s"
    calm = cores < OTHERS_CORES
    say(f"calm {waited}" if calm else f"others still use {cores:.1f} cores {waited}; measuring all the same")
