"""The HTML page as a reader has it: in Chromium, opened from disk."""

import random
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from report import CARDS, bad, case, header, measurement, ok

from bench import pareto
from bench import report as reports
from bench.report import Report, html
from bench.report.rows import rows
from bench.store import Run

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<b>bold</b>&lt;i&gt;<br>%{x}",
    "\"'><svg onload=alert(3)>",
    '<a href="javascript:alert(4)">a</a>',
)
CHOICES = ("device", "backend", "precision", "batch size", "threads", "interval")


@pytest.fixture(scope="module")
def published() -> Report:
    return reports.build(Path("nowhere"), source="published")


def measured(*records, **fields) -> Report:
    run = Run(path=Path("a.jsonl"), headers=(header(),), records=records)
    return Report(rows([run], CARDS), CARDS, command="bench report", **fields)


def repeated(case_, ms, **fields):
    return [ok(case_, number, ms + 0.01 * number, **fields) for number in range(5)]


SMALL, LARGE = "MobileNetV1_x0_25", "DPN92"
DOUBTED = {"validity": ("contended",)}


@pytest.fixture
def two() -> Report:
    """Two models, one of them doubted at batch size 4, where another failed."""
    return measured(
        *repeated(case(SMALL), 0.5),
        *repeated(case(LARGE), 57.0),
        *repeated(case(SMALL, batch_size=4), 1.9, **DOUBTED),
        bad(case(LARGE, batch_size=4), reason="out of memory"),
    )


def cells(page, field):
    """What stands in a column, of those lines that are drawn."""
    return page.locator(f"#rows .tabulator-row [tabulator-field={field}]").all_inner_texts()


def front_of(page):
    return page.locator("#front tr td:first-child").all_inner_texts()


def offered(page, label):
    return page.get_by_label(label, exact=True).locator("option").all_inner_texts()


def choices(page):
    return tuple(page.locator("#choices option:checked").all_inner_texts()[: len(CHOICES)])


def choose(page, **choices):
    for label, value in choices.items():
        page.get_by_label(label.replace("_", " "), exact=True).select_option(value)


def filter_by(page, column, text):
    field = page.get_by_label(f"filter: {column}", exact=True)
    field.press("Control+a")
    field.press_sequentially(text) if text else field.press("Delete")


def hover_over(page, place=0):
    """What is shown when the mouse is on a point, the places in the order in which they are drawn."""
    box = page.locator(".scatterlayer .points path").nth(place).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return "\n".join(page.locator(".hovertext .nums tspan, .hovertext .nums:not(:has(tspan))").all_text_contents())


# All that was published


def test_choosing_a_device_redraws_the_plot_and_its_front(opened, published):
    page = opened(published)
    assert page.locator("#count").inner_text() == f"{len(published.rows)} of {len(published.rows)} rows"
    before = front_of(page)
    choose(page, device="sd855")
    assert choices(page) == ("sd855", "paddle_lite", "fp32", "1", "1", "compute")
    drawn = group(published.rows, "sd855", 1)
    assert page.locator("#caption").inner_text().startswith(f"Drawn: {len(drawn)} of ")
    assert page.locator(".scatterlayer .points path").count() == len(drawn) + len(front_of(page))
    assert set(front_of(page)) == front(drawn)
    choose(page, threads="4")
    assert set(front_of(page)) == front(group(published.rows, "sd855", 4))
    choose(page, device="v100")
    assert front_of(page) == before


def group(of, device, threads):
    return [
        row
        for row in of
        if (row.device, row.precision, row.batch_size, row.threads) == (device, "fp32", 1, threads) and row.top1
    ]


def front(of):
    stands = pareto.front([pareto.Choice(row.latency_ms, row.latency_ms, row.top1) for row in of])
    return {row.model for row, on in zip(of, stands, strict=True) if on}


def test_only_combinations_that_exist_are_offered(opened, published):
    page = opened(published)
    there = {
        (row.device, row.backend, row.precision, str(row.batch_size), str(row.threads or "–"), row.interval)
        for row in published.rows
    }
    assert offered(page, "device") == list(dict.fromkeys(row.device for row in published.rows))
    for device in offered(page, "device"):
        choose(page, device=device)
        assert choices(page) in there
        for label in CHOICES[1:]:
            for value in offered(page, label)[1:]:
                choose(page, **{label: value})
                assert choices(page) in there


def test_text_and_numbers_filter_the_table(opened, published):
    page = opened(published)
    filter_by(page, "model", "dpn92")
    wanted = [row for row in published.rows if "dpn92" in row.model.lower()]
    shown(page, len(wanted), published)
    assert set(cells(page, "model")) == {"DPN92"}
    filter_by(page, "batch", "4")
    shown(page, len([row for row in wanted if row.batch_size == 4]), published)
    assert set(cells(page, "batch_size")) == {"4"}
    filter_by(page, "batch", "")
    filter_by(page, "median [low, high], ms", "10..20")
    shown(page, len([row for row in wanted if 10 <= row.latency_ms <= 20]), published)
    filter_by(page, "model", "no such model")
    shown(page, 0, published)
    assert "no row fits the filters" in page.locator("#rows").inner_text()


def shown(page, count, report):
    page.wait_for_function(
        "wanted => document.getElementById('count').textContent === wanted", arg=f"{count} of {len(report.rows)} rows"
    )


def test_the_table_can_be_held_to_what_the_plot_shows(opened, published):
    page = opened(published)
    page.get_by_label("only what the plot shows").check()
    choose(page, device="xeon-6148")
    wanted = [row for row in published.rows if row.device == "xeon-6148"]
    shown(page, len(wanted), published)
    assert set(cells(page, "device")) == {"xeon-6148"}


def test_a_heading_sorts_by_mouse_and_by_key(opened, published):
    page = opened(published)
    latencies = [row.latency_ms for row in published.rows]
    heading = page.locator("#rows .tabulator-col[tabulator-field=latency_ms]")
    heading.locator(".tabulator-col-title").click()
    assert float(cells(page, "latency_ms")[0]) == pytest.approx(min(latencies), rel=0.005)
    heading.focus()
    page.keyboard.press("Enter")
    assert float(cells(page, "latency_ms")[0]) == pytest.approx(max(latencies), rel=0.005)
    assert heading.get_attribute("aria-sort") == "descending"


def test_a_narrow_screen_needs_no_scrolling_sideways(opened, published):
    page = opened(published, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    for lid in page.locator("summary").all()[:3]:
        lid.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_paper_gets_every_table(opened, published):
    page = opened(published)
    lids = page.locator("details")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details[open]").count() == lids.count()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    assert not page.locator("#rows").is_visible()


def test_without_scripts_the_tables_are_there(opened, published):
    page = opened(published, java_script_enabled=False)
    assert page.locator("noscript").is_visible()
    assert not page.locator("#plot").is_visible()
    assert page.locator("details table").count() == len(published.tables)


def test_a_chinese_page(opened):
    page = opened(reports.build(Path("nowhere"), source="published", device="sd855", language="zh"))
    assert page.locator("html").get_attribute("lang") == "zh"
    assert page.locator("h1").inner_text() == "延迟报告"
    choose(page, 纵轴="Top-5 准确率")
    assert "Top-5 准确率" in page.locator(".ytitle").text_content()
    assert page.locator(".modebar-btn").first.get_attribute("data-title") == "将图保存为 PNG"
    assert "行" in page.locator("#count").inner_text()


# What was measured


def test_hovering_shows_the_record(opened, two):
    page = opened(two)
    text = hover_over(page, 2)
    assert "MobileNetV1_x0_25 · MobileNetV1" in text
    assert "0.520 [0.500, 0.540] ms · p90 0.5" in text
    assert "batch 1 · threads 1 · compute" in text
    assert "measured · run run1" in text


def test_a_doubt_is_in_the_plot_and_the_table_and_may_be_left_out(opened, two):
    page = opened(two)
    choose(page, batch_size="4")
    assert page.locator("#caption").inner_text() == (
        "Drawn: 1 of 2 rows of this group. Without a number for these axes: 1. Pale: doubtful."
    )
    assert "contended 5/5; contended: evidence of contended" in hover_over(page, 1)
    page.get_by_label("without doubtful figures").check()
    assert page.locator(".scatterlayer .points path").count() == 0
    assert "Hidden as doubtful: 1." in page.locator("#caption").inner_text()
    assert "failed: out of memory" in cells(page, "doubts")


def test_throughput_is_better_to_the_right(opened, two):
    page = opened(two)
    cheapest_first = front_of(page)
    choose(page, horizontal_axis="throughput, images/s")
    assert front_of(page) == cheapest_first == [SMALL, LARGE]
    assert page.locator(".xtitle").text_content() == "throughput, images/s"
    page.get_by_label("logarithmic").uncheck()
    assert page.evaluate("document.getElementById('plot').layout.xaxis.type") == "linear"


def test_measured_and_published_stand_apart(opened, two):
    quoted = reports.build(Path("nowhere"), source="published", model="MobileNetV1*").rows
    both = Report([*two.rows, *quoted], CARDS, source="both", command="bench report --source both")
    page = opened(both)
    assert page.locator("#caption").inner_text().endswith("Hollow: published; filled: measured.")
    filter_by(page, "source", "measured")
    shown(page, len(two.rows), both)


def test_one_row_without_accuracy_is_in_the_table_alone(opened):
    page = opened(measured(ok(case("mine"))))
    assert page.locator("#caption").inner_text().startswith("Drawn: 0 of 1 rows")
    assert cells(page, "model") == ["mine"]


@pytest.mark.parametrize("kind", ["picture", "zoom"])
def test_the_buttons_of_the_plot_need_no_network_either(opened, two, kind):
    page = opened(two)
    if kind == "zoom":
        page.locator("[data-title='Reset axes']").click()
        return
    with page.expect_download() as download:
        page.locator("[data-title='Download plot as a PNG']").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_elsewhere_are_text(opened, name):
    cards = {name: msgspec.structs.replace(CARDS[SMALL], name=name, family=name)}
    records = (*repeated(case(name), 0.5, validity=(name,)), bad(case(name, batch_size=4), reason=name))
    run = Run(path=Path("a.jsonl"), headers=(header(),), records=records)
    page = opened(Report(rows([run], cards), cards, notes=(name,), environment=(name,), command=name))
    assert set(cells(page, "model")) == {name}
    assert f"failed: {name}" in cells(page, "doubts")
    assert front_of(page) == [name]
    assert name in page.locator(".legend").text_content()
    assert name in hover_over(page, 1)
    assert name in page.locator("header > ul li").inner_text()
    assert page.locator("img, header svg, script[src], a[href^=javascript]").count() == 0


def test_the_front_is_that_of_the_other_formats(opened, two):
    """On a coarse grid, for the sake of ties and touching intervals, and on a fine one."""
    draw = random.Random(4)
    problems = []
    for number in range(300):
        step = 6 if number % 2 else 10**6
        count = draw.randrange(0, 40)
        lows = [draw.randrange(step) for _ in range(count)]
        spread = [draw.randrange(1 + step // 3) * draw.randrange(2) for _ in range(count)]
        problems.append(
            [pareto.Choice(low, low + width, draw.randrange(step)) for low, width in zip(lows, spread, strict=True)]
        )
    page = opened(two)
    given = [[asdict(choice) for choice in choices] for choices in problems]
    assert page.evaluate("problems => problems.map(front)", given) == [pareto.front(each) for each in problems]


def test_five_thousand_measured_rows(opened):
    """As many as all published figures, each with an interval; the page stays small and can be used."""
    cases = [
        case(name, batch_size=batch_size, threads=threads)
        for name in (SMALL, LARGE)
        for batch_size in range(1, 501)
        for threads in range(1, 6)
    ]
    report = measured(
        *(
            ok(case_, repetition, ms, measurement=measurement(ms, count=5))
            for number, case_ in enumerate(cases)
            for repetition, ms in enumerate((1 + number / 997, 1.1 + number / 997))
        )
    )
    assert len(html.render(report).encode()) < 5_000_000
    page = opened(report)
    shown(page, len(report.rows), report)
    filter_by(page, "batch", "7")
    shown(page, sum(row.batch_size == 7 for row in report.rows), report)
