"""The published figures as data: whole, quick, small, and of use where a line of them is broken."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command import bench, complaint

from bench import catalog, published, report
from bench.errors import UsageError
from bench.published import Latency
from bench.report import pages

FILES = ("models.csv", "campaigns.csv", "latency.csv", "figures.csv", "conflicts.csv", "other_figures.csv")


def test_every_table_is_whole():
    tables = (published.models(), published.latencies(), published.campaigns(), published.figures())
    assert [len(table) for table in tables] == [347, 4646, 15, 9426]
    assert [len(published.conflicts()), len(published.others())] == [661, 87]
    assert published.troubles(all_tables=True) == ()


def test_every_model_has_a_document_for_each_of_its_figures():
    for model in published.models().values():
        for field in ("top1", "top5", "flops_g", "params_m", "storage_mb"):
            assert getattr(model, field) is None or field in model.sources, model.model


def test_one_latency_of_a_case_is_canonical():
    canonical = [each for each in published.latencies() if each.canonical]
    cases = {
        (each.model, each.device, each.backend, each.precision, each.batch_size, each.threads) for each in canonical
    }
    assert len(cases) == len(canonical) == 1687


def test_digits_are_kept_as_they_were_printed():
    """10.30 of MobileNetV1.md:64, not 10.3."""
    raws = {each.raw for each in published.latencies() if each.source == "reference/pages/MobileNetV1.md:64"}
    assert raws == {"30.24", "17.86", "10.30"}
    assert all(float(each.raw) == each.latency_ms for each in published.latencies())


def test_reading_the_tables_takes_less_than_a_tenth_of_a_second():
    """In a process of its own, the best of five: what the machine does besides is none of it."""
    code = (
        "import time; from bench import published; begin = time.perf_counter();"
        "published.latencies(), published.figures(), published.models();"
        "print(time.perf_counter() - begin)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    assert min(times) < 0.1


def test_the_tables_are_small_in_a_wheel(tmp_path):
    packed = tmp_path / "published.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in published.FOLDER.iterdir():
            archive.write(file, file.name)
    assert packed.stat().st_size < 300_000


def test_the_readme_of_the_tables_explains_every_file_and_column():
    text = (published.FOLDER / "README.md").read_text(encoding="utf-8")
    for name in FILES:
        assert f"`{name}`" in text
        for column in (published.FOLDER / name).read_text(encoding="utf-8").partition("\n")[0].split(","):
            assert f"`{column}`" in text, f"{name}: {column}"


# Broken lines


LATENCIES = """\
model,device,backend,precision,batch_size,threads,latency_ms,source,campaign,canonical
DPN68,v100,tensorrt,fp32,1,,8.18,a.md:1,v100-gen1,1
{}
DPN92,v100,tensorrt,fp32,1,,12.48,a.md:3,v100-gen1,1
"""
BROKEN = [
    ("DPN68,v100,tensorrt,fp32,4,,fast,a.md:2,v100-gen1,1", "Expected `float`, got `str` - at `$.latency_ms`"),
    ("DPN68,v100,tensorrt,fp32,4,,,a.md:2,v100-gen1,1", "missing required field `latency_ms`"),
    ("DPN68,v100,tensorrt,fp32,4,,nan,a.md:2,v100-gen1,1", "nan ms is no time"),
    ("DPN68,v100,tensorrt,fp32,4,,-1.5,a.md:2,v100-gen1,1", "-1.5 ms is no time"),
    ("DPN68,v100,tensorrt,fp32", "4 cells under 10 columns"),
    ('DPN68,"v100"x,tensorrt,fp32,4,,11.4,a.md:2,v100-gen1,1', "',' expected after '\"'"),
    ('DPN68,"v100,tensorrt,fp32,4,,11.4,a.md:2,v100-gen1,1', "unexpected end of data"),
    ("DPN69,v100,tensorrt,fp32,4,,11.4,a.md:2,v100-gen1,1", "models.csv has no 'DPN69'"),
    ("DPN68,v100,tensorrt,fp32,4,,11.4,a.md:2,v100-gen9,1", "campaigns.csv has no 'v100-gen9'"),
    ("DPN68,v100,tensorrt,FP32,4,,11.4,a.md:2,v100-gen1,1", "no precision is called 'FP32'"),
    ("DPN68,v100,tensorrt,fp32,0,,11.4,a.md:2,v100-gen1,1", "batch size and threads are positive"),
    ("DPN68,v100,tensorrt,fp32,1,,11.4,a.md:2,v100-gen1,1", "another line of this case is canonical"),
]
#: what is wrong with a line that can be read
MEANING = ("csv has no", "no time", "no precision", "positive", "canonical")


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A copy of the tables that may be broken."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((published.FOLDER / name).read_bytes())
    monkeypatch.setattr(published, "FOLDER", folder)
    for cached in (pages.page, pages._documents):
        cached.cache_clear()
    yield folder
    for cached in (pages.page, pages._documents):
        cached.cache_clear()


@pytest.mark.parametrize(("line", "why"), BROKEN)
def test_a_broken_line_is_named_and_the_others_are_used(tables, line, why):
    (tables / "latency.csv").write_text(LATENCIES.format(line))
    assert [each.latency_ms for each in published.latencies()] == [8.18, 12.48]
    (trouble,) = published.troubles()
    assert trouble.startswith("left out: latency.csv:3 is no Latency; ")
    assert why in trouble
    assert trouble.endswith(f"mend {tables / 'latency.csv'}")


@pytest.mark.parametrize("line", [line for line, why in BROKEN if not any(word in why for word in MEANING)])
def test_a_reader_that_wants_all_lines_gets_the_same_one(tables, line):
    (tables / "latency.csv").write_text(LATENCIES.format(line))
    with pytest.raises(UsageError, match=r"^latency.csv:3 is no Latency; "):
        published.read(tables / "latency.csv", Latency)


def test_a_report_has_the_sound_lines_and_warns_of_the_others(tables):
    with (tables / "latency.csv").open("a") as file:
        file.writelines(f"{line}\n" for line, _ in BROKEN)
    for layout in ("default", "paddleclas"):
        built = report.build(Path("results"), source="published", layout=layout, family="DPN")
        assert [re.match(r"left out: latency.csv:(\d+) ", line)[1] for line in built.warnings] == [
            str(4648 + place) for place in range(len(BROKEN))
        ]
        assert {row.model for row in built.rows} == {"DPN68", "DPN92", "DPN98", "DPN107", "DPN131"}


def test_a_broken_figure_leaves_its_cell_empty(tables):
    text = (tables / "figures.csv").read_text(encoding="utf-8")
    line = "DPN68,flops_g,4.03,4.030,G,DPN68,2xMACs,1.714,reference/pages/DPN.md:143,\n"
    assert line in text
    (tables / "figures.csv").write_text(text.replace(line, line.replace("1.714", "twice")), encoding="utf-8")
    built = report.build(Path("results"), source="published", layout="paddleclas", family="DPN")
    assert [row[5] for row in built.tables[0].rows] == ["", "12.540", "22.220", "35.060", "30.510"]
    assert len(built.warnings) == 1


def test_an_unknown_column_is_named(tables):
    (tables / "latency.csv").write_text(LATENCIES.format("").replace("latency_ms", "latency"))
    with pytest.raises(UsageError, match=r"latency.csv:1 has columns that no Latency has; latency; mend "):
        published.latencies()


def test_a_corrected_figure_is_the_one_that_is_reported(tables):
    """One cell says both the number and its digits."""
    path = tables / "latency.csv"
    text = path.read_text(encoding="utf-8")
    line = "DPN107,v100,tensorrt,fp32,1,,19.46,reference/pages/DPN.md:190"
    path.write_text(text.replace(line, line.replace("19.46", "19.60")), encoding="utf-8")
    built = report.build(Path("results"), source="published", layout="paddleclas", family="DPN", device="v100")
    assert built.tables[0].rows[3][:4] == ("DPN107", "224", "256", "19.60")


# Models of which there are figures only


def test_models_with_figures_alone_are_listed_as_such():
    from bench import listing

    rows = {row["name"]: row for row in listing.models()}
    assert set(rows) == {*published.models(), *catalog.cards()}
    assert [row["measurable"] for row in rows.values()] == sorted(
        (name in catalog.cards() for name in rows), reverse=True
    )
    assert rows["ResNet50"]["params_m"] == published.models()["ResNet50"].params_m_counted
    assert (rows["ResNet50"]["top1"], rows["ResNet50"]["input_shape"]) == (0.765, [3, 224, 224])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--model", "ResNet50"), "model ResNet50"),
        (("--model", "DPN92", "--model", "ResNet*"), "model 'ResNet*'"),
        (("--family", "swin_transformer"), "family SwinTransformer"),
    ],
)
def test_a_run_of_them_says_that_there_are_published_figures_only(tmp_path, words, what):
    process = bench(tmp_path / "cache", "run", *words, cwd=tmp_path)
    kind, name = what.split()
    assert complaint(process, 2) == (
        f"{kind} {name.strip(chr(39))} can't be measured; its network is not here, only its published figures; "
        f"see them with: bench report --source published --{kind} {name}"
    )


def test_a_glob_and_all_mean_what_can_be_measured():
    assert [card.name for card in published.select(["all"], [])] == list(catalog.cards())
    assert {card.family for card in published.select(["*x1_0"], [])} <= {
        card.family for card in catalog.cards().values()
    }


def test_an_unknown_model_is_still_unknown():
    with pytest.raises(UsageError, match="no model 'DPN29'"):
        published.select(["DPN29"], [])


def test_a_campaign_says_where_its_interval_is_a_guess():
    campaigns = published.campaigns()
    assert (campaigns["t4-2020"].interval, campaigns["t4-2020"].scope_stated) == ("end_to_end", True)
    assert (campaigns["v100-gen1"].interval, campaigns["v100-gen1"].scope_stated) == ("end_to_end", False)
    assert "(taken for end_to_end)" in report.campaign_line(campaigns["v100-gen1"])
    assert "taken for" not in report.campaign_line(campaigns["sd855-gen1"])
