"""Rank correlation: coefficients known from SciPy, and the tables on rows with a known order."""

import msgspec
import pytest

from bench import published, stats
from bench.report import correlation
from bench.report.rows import quoted, rows
from bench.store import Run

from . import CARDS, case, header, ok


@pytest.mark.parametrize(
    ("xs", "ys", "rho", "p"),
    [
        # scipy.stats.spearmanr of SciPy 1.17.1; up to 8 pairs p of permutation_test over all pairings
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233, 0.13333333333333333),
        ([3.1, 1.2, 5, 4, 9, 2], [3, 1, 4, 2, 6, 5], 0.6, 0.24166666666666667),
        ([1, 2, 2, 3, 5, 8, 9, 9, 10, 4], [3, 3, 1, 4, 6, 5, 9, 8, 7, 7], 0.8558282208588958, 0.00158239199627964),
        (range(20), [i * 7 % 20 for i in range(20)], 0.3684210526315789, 0.10996436611637704),
    ],
)
def test_spearman_as_scipy_has_it(xs, ys, rho, p):
    assert stats.spearman(xs, ys) == pytest.approx((rho, p), rel=1e-9)


def test_perfect_orders():
    assert stats.spearman([1, 2, 3], [2, 4, 9]) == (1.0, pytest.approx(2 / 6))
    assert stats.spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (-1.0, pytest.approx(2 / 120))
    assert stats.spearman(range(9), range(9)) == (1.0, 0.0)


@pytest.mark.parametrize(("xs", "ys"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_nothing_to_correlate(xs, ys):
    with pytest.raises(ValueError, match="no rank correlation"):
        stats.spearman(xs, ys)


def sized(latency_ms, gmacs, params_m, **fields):
    (row,) = rows([Run(path="a.jsonl", headers=(header(),), records=(ok(case()),))], CARDS)
    return msgspec.structs.replace(
        row, model=f"net{gmacs}", latency_ms=latency_ms, gmacs=gmacs, params_m=params_m, **fields
    )


def test_a_line_for_each_case_with_five_networks():
    five = [sized(float(n), gmacs=n / 10, params_m=float(-n % 5)) for n in range(1, 6)]
    (table,) = correlation.tables(five)
    assert table.columns[7:] == ("networks", "ρ with MACs", "p", "ρ with parameters", "p")
    assert table.rows == (
        ("measured", "cpu", "onnxruntime", "fp32", "1", "1", "compute", "5", "1.00", "0.017", "-1.00", "0.017"),
    )
    assert len(table.align) == len(table.columns)
    assert correlation.tables(five[:4]) == []


def test_variants_of_one_network_count_once():
    four = [sized(float(n), gmacs=n / 10, params_m=float(n)) for n in range(1, 5)]
    assert correlation.tables([*four, msgspec.structs.replace(four[0], model="net_ssld", latency_ms=1.1)]) == []


def test_our_ranking_beside_the_published_one_of_the_device():
    theirs = [row for row in quoted(published.latencies()) if row.device == "sd855" and row.threads == 1][:40]
    theirs = list({(row.gmacs, row.params_m): row for row in theirs if row.precision == "fp32"}.values())
    slower = [
        msgspec.structs.replace(row, source="measured", backend="onnxruntime", latency_ms=2 * row.latency_ms)
        for row in theirs
    ]
    sizes, ranking = correlation.tables([*slower, *theirs])
    assert [line[0] for line in sizes.rows] == ["measured", "published"]
    ((*words, networks, rho, p),) = ranking.rows
    assert words == ["sd855", "onnxruntime", "paddle_lite", "fp32", "1", "1", "compute"]
    assert (int(networks), rho, p) == (len(theirs), "1.00", "<0.001")
    assert len(ranking.align) == len(ranking.columns)
    elsewhere = [msgspec.structs.replace(row, device="cpu") for row in slower]
    assert len(correlation.tables([*elsewhere, *theirs])) == 1
