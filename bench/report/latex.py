"""A document of long tables with the rules of booktabs, for pdflatex; for other scripts xelatex or lualatex."""

import re
from collections.abc import Iterable, Iterator

from bench.formats import one_line
from bench.report import Report, Table, width

suffix = ".tex"

ESCAPES = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    # Behind the end of a row these two would be its options.
    **{char: f"{{{char}}}" for char in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
}
SPECIAL = re.compile("[" + re.escape("".join(ESCAPES)) + "]")
#: what fonts join to another character: two dashes, or two commas
LIGATURES = re.compile(r"(?<=[-,])(?=[-,])")
#: what pdflatex has in its fonts; others it shows as their number
KNOWN = frozenset("–—…‘’“”" + "".join(chr(code) for code in range(0xA1, 0x100) if code != 0xAD))

#: in mm: of a character of \scriptsize, between columns, of a sheet of A4 on its side, and the most that TeX can
CHARACTER, GAP, SHEET, MOST = 1.5, 2.2, 297, 5000

PREAMBLE = r"""\documentclass{article}
\usepackage{iftex}
\usepackage[paperwidth=%(width)dmm,paperheight=210mm,margin=12mm]{geometry}
\usepackage{booktabs,longtable}
\ifPDFTeX
  \usepackage[T1]{fontenc}
  \usepackage{textcomp}
  \IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
%(fallback)s\else
  \usepackage{%(fonts)s}
\fi
\setlength{\tabcolsep}{3pt}
\setlength{\LTleft}{0pt}
\sloppy
\begin{document}
\scriptsize
\section*{Latency report}"""


def render(report: Report) -> str:
    sections: list[Iterable[str]] = [_list(report.notes)]
    sections += [_section(table) for table in report.tables]
    command = _escaped(f"{report.command} --format latex")
    sections += [
        [r"\subsection*{Environment}", *_list(report.environment)],
        [r"\subsection*{How to make this page again}", rf"\texttt{{{command}}}", r"\end{document}"],
    ]
    body = "\n".join(line for section in sections for line in section) + "\n"
    return f"{_preamble(report, body)}\n{body}"


def _preamble(report: Report, body: str) -> str:
    """The page is as wide as the widest table: what ran off it would be lost."""
    chinese = report.language == "zh"
    foreign = sorted({char for char in body if ord(char) > 0x7E} - KNOWN)
    values = {
        "width": min(MOST, max(SHEET, *map(_width, report.tables))),
        "fallback": "".join(
            f"  \\DeclareUnicodeCharacter{{{ord(char):04X}}}{{U+{ord(char):04X}}}\n" for char in foreign
        ),
        "fonts": "ctex" if chinese else "fontspec",
    }
    engine = "xelatex, with the package ctex and a Chinese font" if chinese else "pdflatex"
    return f"% Compile with {engine}, twice for the widths of the tables.\n{PREAMBLE % values}"


def _width(table: Table) -> float:
    widest = (max(map(width, column)) for column in zip(table.columns, *table.rows, strict=True))
    return 24 + sum(CHARACTER * characters + GAP for characters in widest)


def _section(table: Table) -> Iterator[str]:
    yield rf"\subsection*{{{_escaped(table.title)}}}"
    yield rf"\begin{{longtable}}{{{table.align}}}"
    yield r"\toprule"
    yield _row(map(_escaped, table.columns))
    yield r"\midrule"
    yield r"\endhead"
    yield r"\bottomrule"
    yield r"\endlastfoot"
    for index, line in enumerate(table.rows):
        yield _row(
            rf"\textbf{{{_escaped(cell)}}}" if (index, column) in table.bold else _escaped(cell)
            for column, cell in enumerate(line)
        )
    yield r"\end{longtable}"
    yield from _list(table.notes)


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _list(notes: Iterable[str]) -> Iterator[str]:
    items = [rf"\item {_escaped(note)}" for note in notes]
    if items:
        yield from (r"\begin{itemize}", *items, r"\end{itemize}")


def _escaped(text: str) -> str:
    return SPECIAL.sub(lambda found: ESCAPES[found[0]], LIGATURES.sub("\0", one_line(text))).replace("\0", "{}")
