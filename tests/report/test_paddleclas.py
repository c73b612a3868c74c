"""The published pages regenerated, against the tables of five of them, and filled with what was measured."""

import json
import re
from pathlib import Path

import pytest

from bench import report
from bench.catalog import fold
from bench.errors import UsageError
from bench.report import pages

from . import bad, case, header, measurement, ok, write

# The tables of the reference pages as they stand there: number of the line, a tab, the line.
PAGES = Path(__file__).resolve().parent.parent / "data" / "published_pages"
FAMILIES = ["DPN", "MobileNetV1", "MobileNetV2", "MobileOne", "PP-LCNetV2"]
# Copied from a page without its rules: names and digits stand together. The first line of each table heads it.
GLUED = {
    "MobileOne": (
        (r"(.+ Latency)(\d\.\d\d) (\d\.\d\d)(\d\.\d\d) (\d\.\d\d)", 4),
        (r"(MobileOne-S\d)(\d\d\.\d)(\d\.\d\d)", 2),
    )
}


def page_tables(family):
    """The tables of a reference page: the header as words, and for each line its number and its cells."""
    blocks = (PAGES / f"{family}.txt").read_text(encoding="utf-8").strip().split("\n\n")
    tables = [[line.split("\t") for line in block.splitlines()] for block in blocks]
    if family in GLUED:
        found = zip(tables, GLUED[family], strict=True)
        return [([], glued(table, pattern)) for table, (pattern, _) in found]
    return [
        (cells(heads), [(int(number), cells(line)) for number, line in table if not re.match(r"[|: -]+$", line)])
        for (_, heads), *table in tables
    ]


def glued(table, pattern):
    found = ((number, re.fullmatch(pattern, line)) for number, line in table)
    return [(int(number), list(match.groups())) for number, match in found if match]


def cells(line):
    """The cells of a line of Markdown; a line break in one is a blank."""
    return [re.sub(r"<br/?>", " ", cell).replace("\\", "").strip() for cell in line.strip().strip("|").split("|")]


def regenerated(family, results=Path("results"), **asked):
    """The tables of our page, read from its Markdown: headers, and the cells of each line."""
    built = report.build(results, layout="paddleclas", family=family, **{"source": "published", **asked})
    text = report.get("markdown").render(built)
    tables = re.findall(r"^## .*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    lines = [[cells(line) for line in table.splitlines()] for table in tables]
    return [(table[0], table[2:]) for table in lines]


def figures(line):
    """The figures of a line by column: neither its name nor a link's text nor an empty cell."""
    return {column: cell for column, cell in enumerate(line[1:], 1) if re.fullmatch(r"[\d.]+", cell)}


def compared(family, language="zh"):
    """Each figure of the page, with what the regenerated page has in the same table, row and column."""
    for (_, printed), (_, ours) in zip(page_tables(family), regenerated(family, language=language), strict=True):
        assert len(printed) == len(ours)
        for (number, line), our_line in zip(printed, ours, strict=True):
            for column, figure in figures(line).items():
                yield number, line[0], figure, our_line[0], our_line[column]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_297_figures_stand_in_the_same_row_and_column(language):
    """297 = every figure of the tables, sizes of inputs included.

    DPN 30 + 25 + 35; MobileNetV1 24 + 20 + 25; MobileNetV2 34 + 28 + 28; MobileOne 8 correlations and p-values + 10;
    PP-LCNetV2 10 + 20.
    """
    found = {family: list(compared(family, language)) for family in FAMILIES}
    assert {family: len(each) for family, each in found.items()} == {
        "DPN": 90,
        "MobileNetV1": 69,
        "MobileNetV2": 90,
        "MobileOne": 18,
        "PP-LCNetV2": 30,
    }
    assert sum(map(len, found.values())) == 297
    wrong = [each for family in FAMILIES for each in found[family] if each[1:3] != each[3:5]]
    assert wrong == []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in GLUED])
def test_headers_are_those_of_the_chinese_pages(family):
    for (printed, lines), (ours, _) in zip(page_tables(family), regenerated(family, language="zh"), strict=True):
        if len(printed) == len(lines[0][1]):
            assert ours == printed
        else:  # the T4 table of DPN, which heads three of its six columns
            assert (family, len(printed), len(lines[0][1])) == ("DPN", 5, 8)
            times = [f"Latency(ms) {precision} bs={size}" for precision in ("FP16", "FP32") for size in (1, 4, 8)]
            assert ours == [*printed[:2], *times]


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_cells_stay_empty(family):
    for (_, printed), (_, ours) in zip(page_tables(family), regenerated(family), strict=True):
        assert [[not cell for cell in line] for _, line in printed] == [[not cell for cell in line] for line in ours]


def test_provenance_names_document_and_line_of_every_figure():
    """The lines are those that the reference pages have."""
    for family in FAMILIES:
        built = report.build(Path("results"), source="published", layout="paddleclas", family=family, provenance=True)
        printed = [line for _, lines in page_tables(family) for line in lines]
        ours = {(each.row, each.value, each.source) for each in built.origins}
        assert ours >= {
            (line[0], figure, f"reference/pages/{family}.md:{number}")
            for number, line in printed
            for figure in figures(line).values()
        }


def test_english_pages_have_english_words():
    built = report.build(Path("results"), source="published", layout="paddleclas", family="dpn")
    assert [table.title for table in built.tables] == [
        "DPN: Accuracy, FLOPs and Parameters",
        "DPN: Inference speed based on V100 GPU",
        "DPN: Inference speed based on T4 GPU",
    ]
    assert built.tables[2].columns[1:3] == ("Crop Size", "FP16 Batch Size=1 (ms)")


# Other families


def test_every_model_with_a_figure_is_on_a_page():
    shown = {line.model for family in pages.families() for grid in pages.page(family).grids for line in grid.lines}
    assert {"ResNet50", "SwinTransformer_tiny_patch4_window7_224", "StarNet_S1", "AlexNet"} <= shown
    assert len(pages.families()) == 56


def test_a_family_without_a_page_has_its_own_lines_of_the_shared_one():
    tables = regenerated("DarkNet")
    assert [[line[0] for line in lines] for _, lines in tables] == [["DarkNet53"]] * 3
    assert tables[1][1][0] == ["DarkNet53", "256", "2.79", "6.42", "10.89"]


def test_figures_of_other_documents_make_up_for_a_table_that_the_page_lacks():
    built = report.build(Path("results"), source="published", layout="paddleclas", family="GhostNet", device="t4")
    (table,) = built.tables
    assert table.rows[0][:2] == ("GhostNet_x0_5", "2.64492")
    assert "the family's page lacks this table" in table.notes


def test_figures_under_the_wrong_device_stand_under_the_right_one():
    """The page says Xeon of them."""
    table = report.build(Path("results"), source="published", layout="paddleclas", family="PP-LCNet").tables[0]
    assert table.title == "PP-LCNet: Accuracy, latency and weights on V100 GPU"
    assert any("page context says Intel CPU" in note for note in table.notes)


def test_all_families_are_sections_of_one_page():
    built = report.build(Path("results"), source="published", layout="paddleclas", language="zh")
    titles = [table.title for table in built.tables]
    assert titles[0] == "AlexNet 系列：模型指标"
    families = [title.partition(" 系列：")[0] for title in titles]
    assert list(dict.fromkeys(families)) == list(pages.families())
    assert len(set(titles)) == len(titles)


def test_a_terminal_shows_chinese_columns_below_each_other():
    built = report.build(Path("results"), source="published", layout="paddleclas", family="PP-LCNetV2", language="zh")
    lines = report.get("text").render(built).splitlines()
    header_, first, second = lines[1:4]
    for line in (first, second):
        start = line.index("https")
        assert report.width(header_[: header_.index("预训练")]) == start


# What was measured


def measured(**changed):
    return {"device": "sd855", "backend": "paddle_lite", **changed}


def results(folder):
    """A phone and a GPU that measured some of MobileNetV1, and a CPU that measured DPN92."""
    small = "MobileNetV1_x0_25"
    phone = [
        *(ok(case(small, threads=1, **measured()), i, 3.168) for i in range(5)),
        *(ok(case(small, threads=2, **measured()), i, 1.5, 1, validity=("contended",)) for i in range(3)),
        bad(case(small, threads=4, **measured()), "failed", "the phone went away", 2),
    ]
    gpu = measured(device="v100", backend="paddle_tensorrt")
    also = measured(device="v100", backend="tensorrt")
    intervals = ("compute", "end_to_end")
    cards = [
        *(ok(case(small, **gpu), i, 0.5, 3, measurement=measurement(0.5, intervals)) for i in range(5)),
        *(ok(case(small, **also), i, 0.1, 4, measurement=measurement(0.1, intervals)) for i in range(5)),
        *(ok(case(small, batch_size=4, **also), i, 0.8, 5, measurement=measurement(0.8, intervals)) for i in range(5)),
    ]
    elsewhere = [ok(case("DPN92", "onnxruntime"), i, 57.0, 6) for i in range(5)]
    write(folder, [*phone, *cards, *elsewhere], header())
    return folder


def table(built, words):
    (found,) = [each for each in built.tables if words in each.title]
    return found


def test_measured_pages_have_the_columns_and_rounding_of_the_published(tmp_path):
    built = report.build(results(tmp_path), layout="paddleclas", family="MobileNetV1")
    published = report.build(tmp_path, source="published", layout="paddleclas", family="MobileNetV1")
    phone = table(built, "SD855")
    assert [each.columns for each in built.tables] == [each.columns for each in published.tables]
    assert [row[0] for row in phone.rows] == [row[0] for row in table(published, "SD855").rows]
    assert phone.rows[0] == ("MobileNetV1_x0_25", "3.17", "1.50 [1]", "failed [2]", "1.927")
    assert phone.rows[1][1:] == ("–", "–", "–", "–")
    assert phone.notes == (
        "[1] contended 3/3 repetitions",
        "[2] the phone went away",
        "measured: paddle_lite, compute, threads 1, 2, run run1, 8 records",
        "– not measured",
    )


def test_a_gpu_page_takes_end_to_end_and_prefers_the_runtime_of_the_page(tmp_path):
    built = report.build(results(tmp_path), layout="paddleclas", family="MobileNetV1")
    assert table(built, "V100").rows[0] == ("MobileNetV1_x0_25", "224", "256", "0.55", "0.88", "–")


def test_counts_are_in_the_convention_of_the_page(tmp_path):
    """41.03 M multiply-accumulates are 0.082 GFLOPs as this page counts them."""
    row = report.build(results(tmp_path), layout="paddleclas", family="MobileNetV1").tables[0].rows[0]
    assert row == ("MobileNetV1_x0_25", "–", "–", "–", "–", "0.082", "0.470")


def test_both_stand_side_by_side_with_their_ratio_where_there_are_two(tmp_path):
    phone = table(report.build(results(tmp_path), source="both", layout="paddleclas", family="MobileNetV1"), "SD855")
    one = "SD855 time(ms) bs=1, thread=1"
    assert phone.columns[1:4] == (one, f"{one} measured", f"{one} measured/published")
    assert phone.rows[0][1:4] == ("2.88", "3.17", "1.10")
    assert phone.rows[1][1:4] == ("8.74", "–", "–")


def test_both_has_but_the_published_column_where_nothing_was_measured(tmp_path):
    gpu = table(report.build(results(tmp_path), source="both", layout="paddleclas", family="MobileNetV1"), "V100")
    assert gpu.columns[-1] == "FP32 Batch Size=8 (ms)"
    assert len(gpu.columns) == 3 + 3 * 2 + 1


def test_another_device_never_stands_under_the_name_of_the_page(tmp_path):
    """DPN92 was measured on a CPU, which its page doesn't have: a line says so."""
    built = report.build(results(tmp_path), layout="paddleclas", family="DPN")
    (only,) = built.tables
    assert only.title == "Families not measured on the devices of their pages"
    assert only.rows == (("DPN", "V100 GPU, T4 GPU", "cpu"),)


def test_models_without_a_network_say_so(tmp_path):
    write(tmp_path, [ok(case("MobileNetV3_large_x1_0", threads=1, **measured()), i) for i in range(3)])
    built = report.build(tmp_path, layout="paddleclas", family="MobileNetV3")
    phone = table(built, "SD855")
    (quoted,) = (row for row in phone.rows if row[0] == "MobileNetV3_large_x1_0_ssld_int8")
    assert quoted[1:] == ("– [1]",) * 4
    assert phone.notes[0] == "[1] its network is not here, only its published figures"


def test_provenance_of_measured_figures_is_run_and_records_or_the_reason(tmp_path):
    built = report.build(results(tmp_path), layout="paddleclas", family="MobileNetV1", source="both", provenance=True)
    found = {(each.row, each.column): each.source for each in built.origins if "SD855" in each.table}
    small, words = "MobileNetV1_x0_25", "SD855 time(ms) bs=1, thread="
    assert found[small, f"{words}1"] == "reference/pages/MobileNetV1.md:61"
    assert found[small, f"{words}1 measured"] == "run run1, 5 records"
    assert found[small, f"{words}4 measured"] == "failed: the phone went away (run run1)"
    assert found["MobileNetV1", f"{words}1 measured"] == "not measured"
    counted = [each.source for each in built.origins if each.column == "FLOPs (G) counted"]
    assert counted[0] == "counted by bench from models.mobilenet_v1:MobileNetV1_x0_25"


def xeon(model, threads=10):
    """On the CPU of the page of PP-LCNetV2, which doesn't say with how many threads."""
    return case(model, "openvino", threads=threads, device="xeon-6271c")


def test_provenance_of_counts_is_the_network_though_the_model_was_measured(tmp_path):
    write(tmp_path, [ok(xeon("PPLCNetV2_base"), i, 5.0) for i in range(5)], header())
    built = report.build(tmp_path, layout="paddleclas", family="PP-LCNetV2", source="both", provenance=True)
    found = {each.column: each.source for each in built.origins if each.row == "PPLCNetV2_base"}
    assert found["Latency(ms) measured"] == "run run1, 5 records"
    network = "counted by bench from models.pplcnet_v2:PPLCNetV2_base"
    assert {found["FLOPs(M) counted"], found["Params(M) counted"]} == {network}


def test_provenance_of_a_size_is_the_run_whose_file_it_is(tmp_path):
    """The first time of the line failed, and the second is of a run that kept no file."""
    small = "MobileNetV1_x0_25"
    one, two, four = (case(small, threads=threads, **measured()) for threads in (1, 2, 4))
    kept = [ok(four, i, day=2) for i in range(3)]
    write(tmp_path, [bad(one, artifact=kept[0].artifact), *(ok(two, i, artifact=None) for i in range(5))], header())
    write(tmp_path, kept, header(2))
    built = report.build(tmp_path, layout="paddleclas", family="MobileNetV1", provenance=True)
    (size,) = (each for each in built.origins if each.row == small and each.column.startswith("Storage"))
    assert (size.value, size.source) == ("1.927", "run run2, 3 records")


def test_a_family_is_its_page_with_the_models_of_others_that_stand_there(tmp_path):
    """The page of PP-LCNetV2 compares it with two models of other families."""
    beside = {"MobileNetV3_large_x1_25": 6.0, "PPLCNet_x2_5": 8.0}
    others = {"PPLCNet_x1_0": 3.0, "DPN92": 57.0}
    records = [ok(xeon(model), i, ms) for model, ms in {**beside, **others}.items() for i in range(5)]
    write(tmp_path, records, header())
    built = report.build(tmp_path, layout="paddleclas", family="PP-LCNetV2", source="both")
    rows = {row[0]: row[-3:] for row in table(built, "Beside other models").rows}
    assert rows["MobileNetV3_Large_x1_25"] == ("5.19", "6.00", "1.16")
    assert rows["PPLCNetV1_x2_5"] == ("7.25", "8.00", "1.10")
    assert {row.model for row in built.rows if row.source == "measured"} == set(beside)


def test_the_rows_of_a_page_are_those_of_all_its_models():
    built = report.build(Path("results"), source="published", layout="paddleclas", family="PP-LCNetV2")
    rows = json.loads(report.get("json").render(built))
    assert sorted({row["latency_ms"] for row in rows}) == [4.32, 5.19, 7.25]


def test_the_default_layout_takes_a_family_alone(tmp_path):
    write(tmp_path, [ok(xeon(model), i) for model in ("PPLCNetV2_base", "PPLCNet_x2_5") for i in range(3)], header())
    assert {row.model for row in report.build(tmp_path, family="PP-LCNetV2").rows} == {"PPLCNetV2_base"}


@pytest.mark.parametrize(
    ("language", "runs", "unstated"),
    [
        (
            "en",
            "measured: openvino, compute, threads 10, run run1, 5 records",
            "threads not stated on the page: of the measured ones the most are taken",
        ),
        (
            "zh",
            "实测：后端 openvino，口径 compute，线程数 10，运行 run1，5 条记录",
            "该页未注明线程数：实测取线程数最多者",
        ),
    ],
    ids=["en", "zh"],
)
def test_a_page_without_threads_says_so_and_which_were_taken(tmp_path, language, runs, unstated):
    model = "PPLCNetV2_base"
    records = [ok(xeon(model, threads), i, 9.0 / threads, threads) for threads in (1, 10) for i in range(5)]
    write(tmp_path, records, header())
    built = report.build(tmp_path, layout="paddleclas", family="PP-LCNetV2", source="both", language=language)
    notes = built.tables[0].notes
    assert notes[notes.index(runs) + 1] == unstated


def test_a_gpu_has_no_threads_to_state(tmp_path):
    built = report.build(results(tmp_path), layout="paddleclas", family="MobileNetV1")
    assert "threads 1" in " ".join(table(built, "V100").notes)
    assert not any("threads not stated" in note for each in built.tables for note in each.notes)


@pytest.mark.parametrize("name", report.formats())
def test_provenance_is_in_every_format(name):
    built = report.build(Path("results"), source="published", layout="paddleclas", family="DPN", provenance=True)
    assert re.search(r"reference/pages/DPN\S*md:143", report.get(name).render(built).replace("\\", ""))


def test_json_of_a_page_has_the_rows_of_that_page():
    built = report.build(Path("results"), source="published", layout="paddleclas", family="DPN")
    rows = json.loads(report.get("json").render(built))
    assert {row["document"].rpartition(":")[0] for row in rows} == {"reference/pages/DPN.md"}
    assert {row["campaign"] for row in rows} == {"v100-gen1", "t4-2020"}


# What is asked for


def test_a_model_and_a_device_can_be_asked_for():
    built = report.build(Path("results"), source="published", layout="paddleclas", model="MobileNetV?", device="sd855")
    assert [(each.title, [row[0] for row in each.rows]) for each in built.tables] == [
        (f"{family}: Inference speed and storage size based on SD855", [family])
        for family in ("MobileNetV1", "MobileNetV2")
    ]


def test_a_family_with_accuracies_alone_has_a_page():
    ((_, lines),) = regenerated("StarNet")
    assert lines[0][:3] == ["StarNet_S1", "0.736", "0.918"]


def test_what_no_page_has_is_said_in_a_line():
    with pytest.raises(UsageError, match=r"no results of device 'cpu'; .*v100"):
        report.build(Path("results"), source="published", layout="paddleclas", family="DPN", device="cpu")


def test_families_are_found_in_any_spelling():
    assert fold("pp_lcnetv2") == fold("PP-LCNetV2")
    assert regenerated("pp_lcnetv2") == regenerated("PP-LCNetV2")
