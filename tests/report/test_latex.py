"""LaTeX without TeX: environments, cells and characters. `nox -s latex` compiles pages and foreign strings."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import formats, report
from bench.report import Report, Table, latex

ASCII = "".join(map(chr, range(0x20, 0x7F)))
EVIL = rf"{ASCII} \end{{longtable}} \input{{x}} ^^41 -- --- ,, ?` !` '' `` << >> [1]* 我的 é ŉ 😀 ‮ \\"
ESCAPED = re.compile(r"\\[&%$#_{}]|\\text[a-z]+\{\}|\{[][*]\}|\{\}")
SPECIAL = set("\\&%$#_{}~^<>|\"'`[]*")


def page(text, language="en"):
    line = (text, "b")
    table = Table(text, ("a", text), (line, (text, text), ("[1]", "*")), "lr", (text,), frozenset({(0, 1)}))
    built = Report([], {}, notes=(text,), environment=(text,), command=text, language=language)
    built.__dict__["tables"] = [table]
    return latex.render(built)


@settings(deadline=None)
@given(st.text(max_size=60))
@example(EVIL)
@example("")
@example("\\")
@example("--,,-,")
def test_nothing_special_is_left_of_a_foreign_string(text):
    left = ESCAPED.sub("", latex._escaped(text))
    assert not SPECIAL & set(left)
    assert left.replace(" ", "") == "".join(char for char in formats.one_line(text) if char not in {*SPECIAL, " "})
    assert not re.search(r"--|,,", latex._escaped(text))
    assert all(char.isprintable() for char in left)


def test_two_dashes_stay_two():
    assert latex._escaped("--source a,,b") == "-{}-source a,{},b"


@pytest.mark.parametrize("text", ["plain", EVIL, "", "[x]", "*"])
def test_environments_braces_and_cells_balance(text):
    found = page(text)
    plain = ESCAPED.sub("", found)
    opened = []
    for verb, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if verb == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    assert plain.count("{") == plain.count("}")
    rows = [line for line in plain.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 4
    assert {line.count("&") for line in rows} == {1}
    assert plain.count("\\end{document}") == 1


def test_no_row_begins_with_what_the_end_of_the_last_would_take():
    """`\\\\` looks for a star and a bracket, over the end of its line."""
    lines = page("[1]*").splitlines()
    behind = [after for line, after in pairwise(lines) if line.endswith(r" \\")]
    assert len(behind) == 4
    assert not any(line.startswith(("[", "*")) for line in behind)


def test_what_pdflatex_has_no_character_for_is_declared():
    found = page("我 é – 😀")
    assert re.findall(r"DeclareUnicodeCharacter\{(\w+)\}", found) == ["6211", "1F600"]
    assert "\\DeclareUnicodeCharacter" not in page("é – ×")


def test_a_chinese_page_names_its_engine_and_package():
    found = page("我", "zh")
    assert found.startswith("% Compile with xelatex")
    assert "\\usepackage{ctex}" in found
    assert "\\usepackage{fontspec}" in page("a")


def test_the_page_is_as_wide_as_its_widest_table():
    assert "paperwidth=297mm" in page("a")
    wide = int(re.search(r"paperwidth=(\d+)mm", page("m" * 300))[1])
    assert 300 * latex.CHARACTER < wide < 5000
    assert "paperwidth=5000mm" in page("m" * 9000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [EVIL, "[1]*", "".join(map(chr, range(0xA1, 0x250)))], ids=["evil", "brackets", "latin"]
)
def test_pdflatex_compiles_foreign_strings(tmp_path, text):
    compile_(tmp_path, page(text))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"family": "DPN"}, {"device": "sd855"}, {"layout": "paddleclas", "family": "DPN"}])
def test_pdflatex_compiles_published_pages(tmp_path, options):
    built = report.build(tmp_path, source="published", **options)
    assert ") in alignment" not in compile_(tmp_path, latex.render(built)), "no table runs off its page"


def compile_(tmp_path, text):
    """What pdflatex says."""
    assert shutil.which("pdflatex"), "install it: texlive-latex-base and texlive-latex-recommended on Debian"
    (tmp_path / "page.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    return done.stdout
