"""The compute probe: a fixed piece of arithmetic, timed beside inferences to tell how fast the machine is just then.

Matrix products of 64 x 64 in single precision: their 48 KiB stay in the innermost caches, whereas a memory probe
differs by 9 % between two processes of one program and so measures its own layout. OpenBLAS does products of this size
in the calling thread, however many threads it has.
"""

import time
from collections.abc import Callable

from bench.schema import Interval

SIDE = 64
PRODUCTS = 60  # about 0.3 ms


def make() -> Callable[[], int]:
    """A function that fires one shot and returns its wall time in ns. Needs NumPy."""
    import numpy as np

    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    product = np.empty_like(left)

    def shoot() -> int:
        np.matmul(left, right, out=product)  # brings operands and code back into the caches
        start = time.perf_counter_ns()
        for _ in range(PRODUCTS):
            np.matmul(left, right, out=product)
        return time.perf_counter_ns() - start

    return shoot


def program() -> str:
    """What computes it: shots of different ones can't be compared. Raises ImportError without NumPy."""
    import numpy

    return f"NumPy {numpy.__version__}"


class Shots:
    """The shots fired beside each interval, in ns and in order."""

    def __init__(self, shoot: Callable[[], int]) -> None:
        self._shoot = shoot
        self.fired: dict[Interval, list[int]] = {}

    def beside(self, interval: Interval) -> None:
        """Fires one and keeps it."""
        self.fired.setdefault(interval, []).append(self._shoot())
