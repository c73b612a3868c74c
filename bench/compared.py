"""What a comparison leaves behind: a record of each live pair, and the verdict on each case.

A is the baseline, B the contender; log-ratios are natural logarithms of B over A, ratios B over A.
"""

from typing import Any, Literal

from bench.schema import SCHEMA, Artifact, Case, Frozen, Parity, Status, Validity
from bench.verdict import Outcome

#: both processes alive and timed in turn, block by block; or, where memory is too small for both, one after the other
Manner = Literal["live pairs", "alternating processes"]


class SideRecord(Frozen, frozen=True):
    """One process of a pair, in integer nanoseconds; of each block the minimum and the median of its iterations.

    Both sides load at the same time on the same CPUs, so `load_ns` and `first_ns` are no latencies to report.
    `idle_cpu_ns` is the CPU time that the process took while the other was timed, over the whole pair.
    """

    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    steady: bool
    block_min_ns: tuple[int, ...] = ()
    block_median_ns: tuple[int, ...] = ()
    probe_ns: tuple[int, ...] = ()
    median_ns: int = 0
    median_cpu_ns: int = 0
    idle_cpu_ns: int | None = None
    involuntary_switches: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    peak_memory_bytes: int | None = None
    version: str = ""
    effective: dict[str, Any] = {}
    parity: Parity | None = None


class PairRecord(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """One attempt at a live pair. `dropped` says why it does not count, and is "" for one that does.

    `first` is the side that was started first and leads the blocks, `cpus` those of both. `stage` is 2 for the fresh
    pairs that confirm a REGRESSION. `facts` are of the time when both were timed, or, one at a time, the second.
    """

    schema: int = SCHEMA
    run_id: str = ""
    key: str
    stage: int
    attempt: int
    started_at: str
    spent_s: float
    first: str
    sampling: Manner = "live pairs"
    cpus: tuple[int, ...] = ()
    dropped: str = ""
    blocks: int = 0
    iterations: int = 0
    fastest: float | None = None
    middle: float | None = None
    cpu: float | None = None
    guard: float | None = None
    a: SideRecord | None = None
    b: SideRecord | None = None
    same: Parity | None = None
    facts: dict[str, Any] = {}
    validity: tuple[Validity, ...] = ()


class Comparison(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """What is known of one case. `outcome` is None where there is no verdict, and `reason` says why.

    `status` is "ok" for every comparison that was made, INCONCLUSIVE ones included; "failed" also where the outputs
    of A and B differ. `low` and `high` bound the ratio, all looks together; None is unbounded. `detectable` is the
    slowdown that this evidence would have called REGRESSION nine times in ten; `needed` how many pairs a verdict would
    take, 0 where there is one. `drops` has a line for each of the `dropped` pairs. `repeated` marks a REGRESSION that
    fresh pairs confirmed. Medians are of a process while paired, which is not what `bench run` calls the latency.
    """

    schema: int = SCHEMA
    run_id: str = ""
    key: str
    label_a: str
    label_b: str
    case_a: Case
    case_b: Case
    status: Status = "ok"
    outcome: Outcome | None = None
    reason: str = ""
    log: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    cpu_ratio: float | None = None
    margin: float = 0.0
    tolerance: float = 0.0
    error: float = 0.0
    sampling: Manner = "live pairs"
    statistic: str = ""
    sd: float = 0.0
    pairs: int = 0
    dropped: int = 0
    drops: tuple[str, ...] = ()
    detectable: float | None = None
    needed: int = 0
    repeated: bool = False
    paired_median_a_ms: float | None = None
    paired_median_b_ms: float | None = None
    spent_s: float = 0.0
    pair_s: float = 0.0
    version_a: str = ""
    version_b: str = ""
    settings_a: dict[str, str] = {}
    settings_b: dict[str, str] = {}
    artifact_a: Artifact | None = None
    artifact_b: Artifact | None = None
    parity_a: Parity | None = None
    parity_b: Parity | None = None
    same: Parity | None = None
    validity: tuple[Validity, ...] = ()
    evidence: dict[str, Any] = {}
