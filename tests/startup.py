"""How long the light commands take: `nox -s startup` prints medians of 20 and fails above the limits."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMITS_S = {("--help",): 0.15, ("list", "models"): 0.25}


def median_s(arguments: tuple[str, ...], count: int = 20) -> float:
    command = [str(Path(sys.executable).with_name("bench")), *arguments]
    times = []
    for _ in range(count):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    slow = False
    for arguments, limit in LIMITS_S.items():
        median = median_s(arguments)
        slow |= median > limit
        print(f"bench {' '.join(arguments)}: {median * 1e3:.0f} ms (limit {limit * 1e3:.0f} ms)")
    sys.exit("too slow" if slow else 0)


if __name__ == "__main__":
    main()
