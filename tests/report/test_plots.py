"""Plots: what they show against the data they quote, that nothing on them overlaps, and that bytes repeat."""

import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import matplotlib
import msgspec
import pytest
from matplotlib import font_manager
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bench import published, report
from bench.errors import UsageError
from bench.report import Report, charts, figures, plots, redrawn, rows
from bench.schema import Samples

from . import CARDS, bad, case, header, measurement, ok, write

PLOTS = {plot.name: (group, plot) for group in redrawn.plots().group for plot in group.plots}
T4 = ("DPN", "ResNet", "SeResNeXt", "HRNet", "Inception")
NAMES = {
    "mobile_arm_top1",
    "mobile_arm_storage",
    "t4.fp32.bs4.mobile_trt.flops",
    "t4.fp32.bs4.mobile_trt.params",
    *(f"t4.fp32.bs4.{family}{axis}" for family in T4 for axis in ("", ".flops", ".params")),
    *(f"t4.fp16.bs4.{family}" for family in T4),
    *(f"t4.{rest}" for rest in ("fp32.bs4.EfficientNet.flops", "fp32.bs4.EfficientNet.params")),
    *(f"t4.{rest}" for rest in ("fp32.bs1.EfficientNet", "fp16.bs1.EfficientNet")),
    *(f"v100.fp32.bs1.{family}" for family in (*T4, "EfficientNet")),
    "t4.fp32.bs4.main_fps_top1",
    "t4.fp32.bs1.main_fps_top1",
    "v100.fp32.bs1.main_fps_top1_s",
    "v100.fp32.bs1.visiontransformer",
}


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)


def lines_of(name, measured=(), quoted=True):
    group, plot = PLOTS[name]
    return redrawn.lines(group, plot, quoted, measured)


def points_of(name):
    return {point.model: (point.x, point.y) for line in lines_of(name) for point in line.quoted}


def draw(chart, language="en"):
    pen = figures.pen(language)
    with figures.style(pen.fonts):
        figure = chart.draw(pen)
        figure.draw_without_rendering()
    return figure


def redraw(name, measured=(), quoted=True, language="en"):
    return draw(redrawn.chart(*PLOTS[name], lines_of(name, measured, quoted)), language)


def published_rows(device="sd855", **fields):
    wanted = {"device": device, "canonical": True, **fields}
    return rows.quoted(
        each for each in published.latencies() if all(getattr(each, name) == value for name, value in wanted.items())
    )


def as_measured(row, factor=1.1, **fields):
    ms = row.latency_ms * factor
    return msgspec.structs.replace(
        row, source="measured", latency_ms=ms, ci_low_ms=0.95 * ms, ci_high_ms=1.05 * ms, run_id="run1", **fields
    )


# What the published plots show


def test_the_published_plots_are_all_there():
    assert set(PLOTS) == NAMES


@pytest.mark.parametrize("name", PLOTS)
def test_each_point_lies_where_the_published_picture_ends(name):
    """The limits were read from the pictures: a wrong column or campaign would fall outside of nearly all of them."""
    group, plot = PLOTS[name]
    (left, right), (low, high) = plot.limits, plot.y_limits or group.y_limits
    found = points_of(name)
    assert len(found) == sum(len(series.models) for series in group.series) - len(plot.without)
    assert all(left <= x <= right and low <= y <= high for x, y in found.values())


@pytest.mark.parametrize(
    ("name", "model", "x", "y"),
    [
        ("mobile_arm_top1", "MobileNetV1_x0_25", 2.88, 0.5143),
        ("mobile_arm_top1", "MobileNetV3_large_x1_25", 24.52, 0.7641),
        ("mobile_arm_storage", "MobileNetV3_large_x1_0_ssld_int8", 10, 0.761),
        ("t4.fp32.bs4.mobile_trt.flops", "MobileNetV1_x0_25", 0.07, 0.5143),
        ("t4.fp32.bs4.mobile_trt.params", "MobileNetV1_x0_25", 0.46, 0.5143),
        ("t4.fp32.bs4.DPN", "DPN68", 12.82807, 0.7678),
        ("t4.fp16.bs4.DPN", "DPN68", 13.12652, 0.7678),
        ("t4.fp32.bs4.DPN.flops", "DPN92", 12.54, 0.7985),
        ("t4.fp32.bs4.DPN.params", "DPN92", 36.29, 0.7985),
        ("v100.fp32.bs1.DPN", "DPN68", 11.805, 0.7678),
        ("v100.fp32.bs1.ResNet", "ResNet50_vd_ssld", 3.165, 0.824),
        ("t4.fp32.bs4.ResNet.flops", "ResNet50_vd_v2", 8.67, 0.798),
        ("t4.fp32.bs4.SeResNeXt.flops", "SE_ResNet50_vd", 8.67, 0.7952),
        ("t4.fp32.bs4.HRNet.flops", "HRNet_W18_C", 4.14, 0.7692),
        ("v100.fp32.bs1.visiontransformer", "SwinTransformer_tiny_patch4_window7_224", 6.59, 0.8069),
    ],
)
def test_points_are_the_figures_of_the_documents(name, model, x, y):
    assert points_of(name)[model] == (x, y)


def test_a_model_without_a_figure_is_one_line(monkeypatch):
    group, plot = PLOTS["t4.fp32.bs4.DPN"]
    stranger = redrawn.Series("a", {"a": "NoSuchNet"})
    odd = msgspec.structs.replace(group, series=(stranger,))
    with pytest.raises(UsageError, match=r"NoSuchNet has no published latency for t4\.fp32\.bs4\.DPN"):
        redrawn.lines(odd, plot, True, [])
    with pytest.raises(UsageError, match="NoSuchNet has no published flops_g"):
        redrawn.lines(odd, PLOTS["t4.fp32.bs4.DPN.flops"][1], True, [])


@pytest.mark.parametrize("name", ["mobile_arm_top1", "t4.fp32.bs4.DPN", "t4.fp32.bs4.main_fps_top1"])
def test_what_is_drawn_is_the_data(name):
    axes = redraw(name).axes[0]
    drawn = {line.get_label(): [tuple(spot) for spot in line.get_xydata()] for line in axes.get_lines()}
    for line in lines_of(name):
        assert drawn[line.label] == [(point.x, point.y) for point in line.quoted]
    assert axes.get_xlim() == PLOTS[name][1].limits


def test_series_are_told_apart_by_form_alone():
    most = max(len(group.series) for group in redrawn.plots().group)
    looks = [figures.mark(place) for place in range(most)]
    forms = {(look["marker"], look["markerfacecolor"] == "white") for look in looks}
    assert len(forms) == most == 21


# Published plots from measured records


def test_measured_points_stand_among_the_published():
    measured = [as_measured(row) for row in published_rows(model="DPN68", device="t4", batch_size=4)]
    (line,) = [line for line in lines_of("t4.fp32.bs4.DPN", measured) if line.measured]
    (point,) = line.measured
    assert (point.model, point.x, point.y) == ("DPN68", 1.1 * 12.82807, 0.7678)
    assert (point.low, point.high) == (0.95 * point.x, 1.05 * point.x)
    legends = {text.get_text() for text in redraw("t4.fp32.bs4.DPN", measured).legends[0].get_texts()}
    assert "measured (others: published)" in legends


def test_measured_points_alone_are_of_one_backend_the_published_one_if_there_is_one():
    (row,) = published_rows(model="DPN68", device="t4", batch_size=4, precision="fp32")
    twice = [as_measured(row, 2, backend="onnxruntime"), as_measured(row)]
    (line,) = lines_of("t4.fp32.bs4.DPN", twice, quoted=False)
    assert [point.x for point in line.measured] == [1.1 * 12.82807]
    assert [text.get_text() for text in redraw("t4.fp32.bs4.DPN", twice, quoted=False).axes[0].texts] == ["68"]
    (line,) = lines_of("t4.fp32.bs4.DPN", twice[:1], quoted=False)
    assert [point.x for point in line.measured] == [2 * 12.82807]
    other = [as_measured(row, batch_size=8), as_measured(row, backend="simulated"), row]
    assert lines_of("t4.fp32.bs4.DPN", other, quoted=False) == []


def test_measured_reports_draw_published_plots_where_there_are_records():
    measured = [as_measured(row) for row in published_rows(model="MobileNetV1_x0_25", threads=1)]
    built = Report(measured, {}, layout="paddleclas")
    names = [chart.name for chart in plots._redrawn(built)]
    assert names == ["mobile_arm_top1"]
    elsewhere = [as_measured(row, device="cpu") for row in published_rows("t4", model="DPN68")]
    left_out = plots.notes(Report(elsewhere, {}, layout="paddleclas"))
    assert left_out == ["published plots left out, since no record is of their cases: 2 of t4, 1 of v100"]
    assert list(plots._redrawn(Report(measured, {}))) == []


def test_a_report_on_a_family_has_the_plots_of_its_pages():
    def drawn(found):
        return {chart.name for chart in plots._redrawn(Report(found, {}, source="published"))}

    every = [row for device in ("t4", "v100") for row in published_rows(device, model="DPN68")]
    assert drawn(every) == {name for name in NAMES if ".DPN" in name}
    assert drawn(every[:1]) == {name for name in NAMES if ".DPN" in name and not name.startswith("v100")}
    everything = rows.quoted(each for each in published.latencies() if each.canonical)
    assert drawn(everything) == NAMES


# Our own plots


def spots(figure, label):
    return {
        tuple(spot)
        for axes in figure.axes
        for line in axes.get_lines()
        for spot in line.get_xydata()
        if line.get_label() == label
    }


def test_the_front_is_drawn_with_its_names_and_intervals():
    quoted = published_rows(threads=2)
    measured = [as_measured(row, 1) for row in quoted]
    for found in (quoted, measured):
        (chart,) = charts.fronts(found)
        figure = draw(chart)
        front = charts._Front(found)._split()[0]
        assert spots(figure, "on the Pareto front") == {(row.latency_ms, row.top1) for row in front}
        assert len(spots(figure, "beaten by another")) + len(front) <= len(found)
        written = {text.get_text() for text in figure.axes[0].texts}
        entries = {entry.get_text()[3:] for legend in figure.legends for entry in legend.get_texts()}
        names = {row.model for row in front}
        assert names <= written or (names <= entries and {str(n + 1) for n in range(len(front))} == written)
    # Wide intervals overlap: less is surely beaten.
    assert len(charts._Front(measured)._split()[0]) > len(charts._Front(quoted)._split()[0])
    (bars,) = figure.axes[0].collections
    assert len(bars.get_paths()) == len(measured)


def test_machines_of_one_name_do_not_share_a_chart():
    here = [as_measured(row, 1) for row in published_rows(threads=2)]
    there = [msgspec.structs.replace(row, environment_id="other") for row in here]
    machines = {("sd855", here[0].environment_id): "run1", ("sd855", "other"): "run2"}
    found = list(charts.fronts(plots._told_apart(Report([*here, *there], {}, machines=machines))))
    assert [chart.name.split(".")[1] for chart in found] == ["sd855 (machine of run1)", "sd855 (machine of run2)"]
    assert plots._told_apart(Report(here, {})) == here


def test_models_are_named_beside_their_points_where_there_is_room():
    found = published_rows("xeon-6271c", backend="openvino")
    (chart,) = charts.fronts(found)
    assert {text.get_text() for text in draw(chart).axes[0].texts} == {row.model for row in found}


def test_scaling_has_a_panel_for_each_family_and_the_line_of_proportion():
    (chart,) = charts.threads(published_rows(precision="fp32"))
    figure = draw(chart)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == sorted(titles)
    assert {"MobileNetV1", "PP-LCNet"} <= set(titles)
    panel = next(axes for axes in figure.axes if axes.get_title() == "MobileNetV1")
    ideal, drawn = next(
        pair for pair in zip(panel.lines[::2], panel.lines[1::2], strict=True) if pair[1].get_label() == "MobileNetV1"
    )
    assert [tuple(spot) for spot in drawn.get_xydata()] == [(1, 30.24), (2, 17.86), (4, 10.3)]
    assert [tuple(spot) for spot in ideal.get_xydata()] == [(1, 30.24), (2, 15.12), (4, 7.56)]
    assert max(len(axes.get_legend().get_texts()) for axes in figure.axes) <= charts.LINES


def test_all_batch_sizes_of_many_models_fill_several_pages():
    found = published_rows("v100", precision="fp32")
    pages = list(charts.batches(found))
    assert [chart.name.rpartition(".")[2] for chart in pages] == ["1", "2", "3", "4"]
    panels = [panel for chart in pages for panel in chart.draw.__self__.panels]
    lines = [line for panel in panels for line in panel]
    sizes = Counter(row.model for row in found)
    assert sorted(line[0].model for line in lines) == sorted(model for model, number in sizes.items() if number > 1)
    assert all(len(panel) <= charts.LINES for panel in panels)


def records(number=3):
    slow = Samples(samples_ns=(*range(5_000_000, 5_100_000, 1000), 90_000_000), warmup_ns=(20_000_000, 6_000_000))
    each = msgspec.structs.replace(measurement(), intervals={"compute": slow})
    return [ok(case(), repetition, measurement=each) for repetition in range(number)]


def test_samples_are_drawn_over_time_with_their_warm_up_and_as_a_distribution():
    (row,) = rows.rows([report.Run(Path("a"), (header(),), tuple(records()))], CARDS)
    figure = draw(charts.samples(row, rows.repetitions(records(), "compute")))
    over_time, shares = figure.axes
    counted = [line for line in over_time.get_lines() if line.get_marker() == "."]
    warming = [line for line in over_time.get_lines() if line.get_marker() == "x"]
    assert [len(line.get_xdata()) for line in (*counted, *warming)] == [101] * 3 + [2] * 3
    assert warming[0].get_xydata()[0].tolist() == pytest.approx([0.02, over_time.get_ylim()[1]])
    assert "6 above the axis" in over_time.get_xlabel()
    (together,) = [line for line in shares.get_lines() if line.get_label() == "all samples"]
    assert together.get_xdata()[-1] == 1
    assert min(together.get_ydata()[1:]) == 5
    assert spots(figure, "median of processes") == {(0, row.latency_ms), (1, row.latency_ms)}


# Nothing overlaps or is cut off


def texts(figure):
    """All texts that are drawn: an axis keeps labels of ticks beyond its ends too."""
    beyond = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [text for text in figure.findobj(Text) if text.get_text() and text not in beyond]


def assert_tidy(figure):
    """Texts are on the canvas, legends are clear of axes, and labels of points clear of each other and of points."""
    renderer = figure.canvas.get_renderer()
    for text in texts(figure):
        box = text.get_window_extent(renderer)
        assert figure.bbox.padded(1).containsx(box.x0), text.get_text()
        assert figure.bbox.padded(1).containsx(box.x1), text.get_text()
        assert figure.bbox.padded(1).containsy(box.y0), text.get_text()
        assert figure.bbox.padded(1).containsy(box.y1), text.get_text()
    for axes in figure.axes:
        inside = axes.get_window_extent(renderer)
        assert not any(legend.get_window_extent(renderer).overlaps(inside) for legend in figure.legends)
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        seen = [spot for line in axes.lines if is_marker(line) for spot in axes.transData.transform(line.get_xydata())]
        assert not any(box.contains(*spot) for box in boxes for spot in seen)
        ticks = [label.get_window_extent(renderer) for label in axes.get_xticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for one, other in combinations(ticks, 2))


def is_marker(line: Line2D) -> bool:
    return line.get_marker() not in ("", "None", None)


@pytest.mark.parametrize(
    ("name", "without_room"),
    [
        ("mobile_arm_top1", 0),
        ("t4.fp32.bs4.DPN", 0),
        ("t4.fp32.bs4.main_fps_top1", 0),
        ("v100.fp32.bs1.main_fps_top1_s", 8),
        ("t4.fp32.bs4.EfficientNet.params", 0),
    ],
)
def test_published_plots_are_tidy(name, without_room):
    figure = redraw(name)
    assert_tidy(figure)
    several = [line.quoted for line in lines_of(name) if len(line.quoted) > 1]
    assert len(figure.axes[0].texts) >= sum(map(len, several)) - without_room


def test_our_own_plots_are_tidy():
    found = rows.quoted(each for each in published.latencies() if each.canonical and each.device in ("v100", "sd855"))
    for chart in [*list(charts.fronts(found))[:4:3], *list(charts.batches(found))[:1], *charts.threads(found)]:
        assert_tidy(draw(chart))
    (row,) = rows.rows([report.Run(Path("a"), (header(),), tuple(records()))], CARDS)
    assert_tidy(draw(charts.samples(row, rows.repetitions(records(), "compute"))))
    (single,) = charts.threads(published_rows(model="MobileNetV1_x0_25"))
    assert_tidy(draw(single))


# Fonts


def test_without_a_chinese_font_plots_are_english_and_a_line_says_so(no_fonts):
    figure = redraw("t4.fp32.bs4.DPN", language="zh")
    assert figure.axes[0].get_ylabel() == "ImageNet top-1 accuracy"
    (line,) = plots.notes(Report(published_rows("t4", model="DPN68"), {}, source="published", language="zh"))
    assert "fonts-noto-cjk" in line
    assert plots.notes(Report(published_rows("t4", model="DPN68"), {}, source="published")) == []


def chinese_font(folder):
    """A font with a box for each Chinese character of our source code."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    source = "".join(Path(module.__file__).read_text() for module in (charts, figures, redrawn))
    wanted = sorted({ord(char) for char in source + redrawn.PATH.read_text() if ord(char) > 0x3000})
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for corner in ((50, 800), (950, 800), (950, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "box"])
    builder.setupCharacterMap(dict.fromkeys(wanted, "box"))
    builder.setupGlyf(dict.fromkeys([".notdef", "box"], pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", "box"], (1000, 50)))
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": "Noto Sans SC", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=880, usWinAscent=880, usWinDescent=120)
    builder.setupPost()
    path = folder / "NotoSansSC-Regular.ttf"
    builder.save(path)
    return path


def test_with_a_chinese_font_every_word_is_written(tmp_path, monkeypatch):
    """A character that no font has is a warning, and so an error here."""
    path = str(chinese_font(tmp_path))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["/fonts/NotoSansSC-Bold.ttf", path, "/x/a.ttf"])
    known = list(font_manager.fontManager.ttflist)
    try:
        pen = figures.pen("zh")
        assert pen.fonts == ("DejaVu Sans", "Noto Sans SC")
        figure = redraw("t4.fp32.bs4.DPN", language="zh")
        assert figure.axes[0].get_xlabel() == "每批 4 张的延迟, ms (T4, fp32)"
        assert figure.axes[0].get_title() == "DPN 与 DenseNet (官方公布)"
        assert_tidy(figure)
        found = published_rows("sd855", model="MobileNetV1_x0_25")
        for chart in (*charts.threads(found), *charts.fronts(published_rows("iphone12pro"))):
            assert_tidy(draw(chart, "zh"))
        (row,) = rows.rows([report.Run(Path("a"), (header(),), tuple(records()))], CARDS)
        assert_tidy(draw(charts.samples(row, rows.repetitions(records(), "compute")), "zh"))
    finally:
        font_manager.fontManager.ttflist[:] = known


def test_names_from_elsewhere_are_written_with_what_there_is(no_fonts):
    pen = figures.pen("en")
    assert pen.name("a\n我$b$") == "a �$b$"
    assert pen.name("x" * 30 + "y" * 30, 20) == "x" * 10 + "…" + "y" * 9


# Files


def test_a_report_writes_its_plots_and_leaves_matplotlib_as_it_was(tmp_path, no_fonts):
    evil = "../../我|model\n$x$"
    found = [*records(), *(ok(case(evil, batch_size=size), i, size, size) for size in (1, 4) for i in range(3))]
    write(tmp_path / "results", [*found, bad(case("DPN92"), second=9)])
    before = dict(matplotlib.rcParams)
    built = report.build(tmp_path / "results")
    paths = plots.write(built, tmp_path / "plots")
    assert dict(matplotlib.rcParams) == before
    assert [path.name for path in paths[::2]] == [
        "batch.cpu.onnxruntime.fp32.t1.compute.measured.png",
        "samples.MobileNetV1_x0_25.cpu.onnxruntime.fp32.bs1.t1.compute.run1.png",
        "samples..._..___model__x_.cpu.onnxruntime.fp32.bs1.t1.compute.run1.png",
        "samples..._..___model__x_.cpu.onnxruntime.fp32.bs4.t1.compute.run1.png",
    ]
    assert sorted(tmp_path.rglob("*.*g")) == sorted(paths)
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"<?xm") for path in paths)
    assert plots.notes(built) == []


def test_names_of_files_are_each_others_neither_by_case():
    taken = set()
    assert [plots._stem(name, taken) for name in ("a/b", "a_b", "A_B", "a_b.2")] == ["a_b", "a_b.2", "A_B.3", "a_b.2.2"]
    assert len(plots._stem("x" * 300, taken)) == plots.MOST_LETTERS


def test_records_of_other_files_are_found_where_runs_were_put_together(tmp_path):
    path = write(tmp_path, records())
    path.rename(tmp_path / "merged.jsonl")
    assert [chart.name for chart in plots._samples(report.build(tmp_path))] == [
        "samples.MobileNetV1_x0_25.cpu.onnxruntime.fp32.bs1.t1.compute.run1"
    ]


def test_of_too_many_cases_the_first_are_drawn_and_a_line_says_so(tmp_path):
    write(tmp_path, [ok(case(batch_size=size), second=size) for size in range(1, 11)])
    built = report.build(tmp_path)
    assert len(list(plots._samples(built))) == plots.MOST_CASES == 8
    (line,) = plots.notes(built)
    assert line.startswith("plots of samples: the first 8 of 10")


def test_without_matplotlib_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    built = Report(published_rows("t4", model="DPN68"), {}, source="published")
    for call in (lambda: plots.write(built, tmp_path), lambda: plots.notes(built)):
        with pytest.raises(UsageError, match=r"matplotlib is not installed.*pip install 'bench\[report\]'"):
            call()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "plots").write_text("")
    built = Report(published_rows("t4", model="DPN68"), {}, source="published")
    with pytest.raises(UsageError, match=r"cannot write .*plots"):
        plots.write(built, tmp_path / "plots")


SCRIPT = """
import sys
from pathlib import Path
from bench import report
from bench.report import plots
built = report.build(Path(sys.argv[1]), source="both", family="MobileNetV1", device="sd855")
print(len(plots.write(built, Path(sys.argv[2]))))
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    """The second one with another hash seed, and settings of matplotlib that would change every picture."""
    write(tmp_path / "results", [*records(), *(ok(case(device="sd855"), i) for i in range(3))])
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: red\nsvg.hashsalt: salt\nsavefig.dpi: 50\n")
    variables = [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(tmp_path)}]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "results"), str(tmp_path / str(place))],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
        )
        for place, own in enumerate(variables)
    ]
    assert [process.communicate()[0].strip() for process in running] == [b"18", b"18"]
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()} for place in ("0", "1"))
    assert one == other
