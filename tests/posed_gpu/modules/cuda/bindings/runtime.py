"""The CUDA runtime of the posed machine: the fake of tests/fakes on the clock of this world."""

import sys
import time

from fakes.cuda import Broken, FakeCuda
from posed import LOST, MACHINE, load, take, visible

load("cuda")

SPIN_NS = 300_000
LOST_NUMBERS = (46, 63, 999)


class PosedCuda(FakeCuda):
    """`machine.json` has under `errors` the calls that fail and how; under `breaks`, for the process's synchronising of
    that number, the error that comes instead; under `forgets` how often synchronising waits, before it no longer does.
    """

    def __init__(self):
        self.gpus = visible()
        gpu = self.gpus[0] if self.gpus else {"name": "", "capability": (0, 0), "memory_bytes": 0}
        super().__init__(
            driver=MACHINE["cuda"],
            runtime=MACHINE["runtime"],
            name=gpu["name"],
            capability=gpu["capability"],
            errors=MACHINE["errors"],
        )
        self.properties.totalGlobalMem = gpu["memory_bytes"]
        self.copy_ns = MACHINE["copy_ns"]
        self.synchronised = 0

    @property
    def now_ns(self):
        return time.monotonic_ns()

    @now_ns.setter
    def now_ns(self, until_ns):
        """Whoever sets the clock waits until it is so late."""
        while (left := until_ns - time.monotonic_ns()) > 0:
            if left > SPIN_NS:
                time.sleep((left - SPIN_NS) / 1e9)

    def _cudaGetDeviceCount(self):
        if not self.gpus or LOST.exists():
            raise Broken(100)
        return len(self.gpus)

    def _cudaSetDevice(self, device):
        super()._cudaSetDevice(device)
        take(self.gpus[0])

    def _cudaStreamSynchronize(self, stream):
        self.synchronised += 1
        if str(self.synchronised) in MACHINE["breaks"]:
            self._break(MACHINE["breaks"][str(self.synchronised)])
        self.waits = MACHINE["forgets"] is None or self.synchronised <= MACHINE["forgets"]
        if not self.waits or self.captured is not None:
            super()._cudaStreamSynchronize(stream)
            return
        end_ns = self._queue(stream).free_at_ns
        working = end_ns > self.now_ns
        self._work(stream, end_ns)  # before waiting: what really computes it takes its time, too
        self.now_ns = end_ns + working * MACHINE["waking_ns"]

    def _break(self, error):
        if error == "hang":
            time.sleep(3600)
        if error in LOST_NUMBERS:
            LOST.touch()
        raise Broken(error)


library = PosedCuda()
library.__spec__ = __spec__
sys.modules[__name__] = library
