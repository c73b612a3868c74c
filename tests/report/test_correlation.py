"""Rank correlation: coefficients known from SciPy, and the tables on rows with a known order."""

import msgspec
import pytest

from bench import catalog, published, stats
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


def printed(device):
    """Published rows of networks with a card, of one point."""
    latencies = [each for each in published.latencies() if each.device == device and each.canonical]
    found = [row for row in quoted(latencies) if (row.batch_size, row.threads, row.precision) == (1, 1, "fp32")]
    return [row for row in found if row.model in catalog.cards()]


def measured(theirs):
    """Records of the same models, twice as slow."""
    records = tuple(ok(case(row.model, device=row.device), ms=2 * row.latency_ms) for row in theirs)
    return rows([Run(path="a.jsonl", headers=(header(),), records=records)], catalog.cards())


def test_our_ranking_beside_the_published_one_of_the_device():
    theirs = list({row.gmacs: row for row in printed("sd855")}.values())
    slower = measured(theirs)
    sizes, ranking = correlation.tables([*slower, *theirs])
    assert [line[0] for line in sizes.rows] == ["measured", "published"]
    ((*words, networks, rho, p),) = ranking.rows
    assert words == ["sd855", "onnxruntime", "paddle_lite", "fp32", "1", "1", "compute"]
    assert (int(networks), rho, p) == (len(theirs), "1.00", "<0.001")
    assert len(ranking.align) == len(ranking.columns)
    elsewhere = [msgspec.structs.replace(row, device="cpu") for row in slower]
    assert len(correlation.tables([*elsewhere, *theirs])) == 1


def test_figures_that_are_known_to_be_wrong_count_for_nothing():
    five = [sized(float(n), gmacs=n / 10, params_m=float(n), source="published") for n in range(1, 6)]
    assert correlation.tables(five)
    wrong = msgspec.structs.replace(five[0], validity=("transcription_error",))
    assert correlation.tables([wrong, *five[1:]]) == []


def test_machines_of_one_name_are_not_correlated_together():
    five = [sized(float(n), gmacs=n / 10, params_m=float(n)) for n in range(1, 6)]
    apart = [*five[:4], msgspec.structs.replace(five[4], environment_id="e2")]
    machines = {("cpu", "e1"): "run1", ("cpu", "e2"): "run2"}
    assert correlation.tables(apart, machines) == []
    both = [*five, *(msgspec.structs.replace(row, environment_id="e2") for row in five)]
    (table,) = correlation.tables(both, machines)
    assert [line[1] for line in table.rows] == ["cpu (machine of run1)", "cpu (machine of run2)"]


def test_one_of_several_machines_still_stands_beside_the_published_ranking():
    theirs = printed("sd855")
    _, ranking = correlation.tables([*measured(theirs), *theirs], {("sd855", "e1"): "run1"})
    assert ranking.rows[0][0] == "sd855 (machine of run1)"
