"""Paddle Lite in this process, on this machine's x86 CPU: the same .nb format and API as on a phone."""

import ctypes
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import Session
from bench.backends.paddle_lite import nb
from bench.errors import Failed

if TYPE_CHECKING:
    from bench.backends import Arrays


class LocalSession(Session):
    """A predictor with tensors of its own, into which inputs are copied.

    Raises Failed for an engine that is damaged or made for another CPU: the runtime would abort on the one, and
    give garbage for the other.
    """

    def __init__(self, engine: Path, threads: int) -> None:
        from paddlelite import lite

        self._facts = nb.read(engine)
        if self._facts.targets != {"x86"}:
            made_for = ", ".join(sorted(self._facts.targets)) or "no CPU in particular"
            raise Failed(f"{engine.name} can't run on this CPU", f"it is made for {made_for}, not for x86")
        config = lite.MobileConfig()
        config.set_model_from_file(str(engine))
        self._predictor = lite.create_paddle_predictor(config)
        self._pools = Pools()
        self._pools.resize(threads)
        self._arrays: Arrays = []

    def feed(self, inputs: "Arrays") -> None:
        self._arrays = inputs
        self._copy_in()

    def _copy_in(self) -> None:
        for index, array in enumerate(self._arrays):
            self._predictor.get_input(index).from_numpy(array)

    def run(self) -> None:
        self._predictor.run()

    def fetch(self) -> "Arrays":
        """Copies, since `numpy()` is a view of memory that the next run writes to."""
        count = len(self._predictor.get_output_names())
        return [self._predictor.get_output(index).numpy().copy() for index in range(count)]

    def end_to_end(self) -> "Arrays":
        self._copy_in()
        self._predictor.run()
        return self.fetch()

    def effective(self) -> dict[str, Any]:
        """Threads by what the two pools say, precision by the kernels that opt chose, which the .nb names."""
        kernels = Counter(f"{kernel.operator} {kernel.precision}" for kernel in self._facts.kernels)
        return {
            **self._pools.sizes(),
            "precision": ", ".join(self._facts.precisions) or "none",
            "kernels": dict(sorted(kernels.items())),
            "opt": self._facts.opt,
        }

    def close(self) -> None:
        del self._predictor
        self._arrays = []


class Pools:
    """The threads of matrix products (MKL) and of other kernels (OpenMP), in the libraries that the wheel brings.

    Python's MobileConfig can't set them in 2.13, and creating a predictor sets MKL's to 1 whatever the environment
    says: with OMP_NUM_THREADS and MKL_NUM_THREADS at 2, one thread does it all. So it is done after that, and here.
    """

    def __init__(self) -> None:
        import paddlelite

        libraries = Path(paddlelite.__file__).parent / "libs"
        self._openmp = ctypes.CDLL(str(libraries / "libiomp5.so"))
        self._mkl = ctypes.CDLL(str(libraries / "libmklml_intel.so"))

    def resize(self, threads: int) -> None:
        self._openmp.omp_set_num_threads(threads)
        self._mkl.MKL_Set_Num_Threads(threads)

    def sizes(self) -> dict[str, int]:
        """MKL's is at most the number of CPUs, of whatever was asked."""
        return {"threads": self._mkl.MKL_Get_Max_Threads(), "openmp_threads": self._openmp.omp_get_max_threads()}
