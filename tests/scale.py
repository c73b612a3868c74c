"""How long `bench report` takes over many records, and how much memory: `python tests/scale.py [RECORDS …]`.

The records are of 2000 cases, measured again and again as an archive of nightly runs holds them. Then, without a limit
of time, 100,000 of 20,000 cases, so that every record counts.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import synthetic_records

SIZES = (10_000, 100_000, 1_000_000)
#: what 100,000 records may take, and how much more than ten times as much ten times as many
SECONDS, MEGABYTES = 5.0, 1000.0
LINEAR = 1.3


class Cost(NamedTuple):
    seconds: float
    megabytes: float


def cost(results: Path) -> Cost:
    """Of `bench report` over these records, the whole process, written to a file."""
    command = [sys.executable, "-m", "bench.cli", "report", "--results", str(results)]
    with tempfile.TemporaryFile() as page:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=page)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"bench report ended with {process.returncode}")
    return Cost(took, used.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6)


def measured(records: int, different: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        synthetic_records.write(Path(folder), records, different)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        found = cost(Path(folder))
    costs = f"{found.seconds:5.1f} s, {found.megabytes:5,.0f} MB"
    print(f"{records:>9,} records of {different:>6,} cases, {size:>6,.0f} MB: {costs}", flush=True)
    return found


def beyond(records: int, found: Cost) -> list[str]:
    """What is more than these records may take: as much as 100,000, or in proportion to them."""
    share = max(1.0, records / 100_000 * (LINEAR if records > 100_000 else 1))
    limits = Cost(SECONDS * share, MEGABYTES * share)
    return [
        f"{records:,} records took {value:,.1f} {name}, more than {limit:,.1f}"
        for name, value, limit in zip(Cost._fields, found, limits, strict=True)
        if value > limit
    ]


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    trouble = [line for records in sizes for line in beyond(records, measured(records, synthetic_records.CASES_A_RUN))]
    trouble += beyond(100_000, measured(100_000, 20_000)._replace(seconds=0.0))
    if trouble:
        sys.exit("\n".join(trouble))


if __name__ == "__main__":
    main()
