"""Foreign tables → cells: pipe tables of Markdown, several a file, and CSV with a header.

A broken line makes a finding, and the others are read all the same.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.errors import UsageError
from bench.lint.cells import ACCURACIES, Cell, Finding, Severity
from bench.lint.columns import CONTEXT, Column, Context, column, context_of, plain, scale_of
from bench.lint.sources import step

LARGEST = 64 * 2**20
RULER = re.compile(r"^\s*:?-+:?\s*$")
HEADING = re.compile(r"^#{1,6}\s")
NUMBER = re.compile(
    r"^(?P<number>[-+]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?)\s*(?P<unit>%|[a-zμµ]{0,3})\s*"
    r"(?:\[(?P<low>\d+(?:\.\d+)?), (?P<high>\d+(?:\.\d+)?)\])?(?:[^\w.].*)?$",
    re.IGNORECASE,
)
COUNT = re.compile(r"^\d{1,6}$")
#: words in place of a number that say why there is none
ABSENT = re.compile(
    r"[-–—/.?\s]*$|(?:n/?a|none|nan|null|tbd|failed|unsupported|unavailable|not measured|no number|暂无|无)\b",
    re.IGNORECASE,
)
Kind = tuple[str, Severity, str]
COUNTS: Kind = ("header-count", "error", "the header has not as many columns as every line, so none is known for sure")
BROKEN: Kind = ("broken-row", "error", "the line has not as many cells as the header")
NO_NUMBER: Kind = ("no-number", "warning", "a number is expected here")
NO_UNIT: Kind = ("no-unit", "warning", "the header names no unit")
USUAL = {"latency": "ms", "flops_g": "G", "params_m": "M", "storage_mb": "MB"}


@dataclass(frozen=True)
class Raw:
    """A table as it stands: its lines with their numbers, the header first; `around` is the text of its section."""

    document: str
    line: int
    header: list[str]
    rows: list[tuple[int, list[str]]]
    around: str = ""


@dataclass
class Read:
    tables: list[Raw] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read(path: Path) -> Read:
    """The tables of a file. Raises UsageError for one that can't be read."""
    text = _text(path)
    raw = _csv(str(path), text) if path.suffix.casefold() == ".csv" else list(_markdown(str(path), text))
    found = Read(tables=raw)
    for table in raw:
        _interpret(table, found)
    return found


def _text(path: Path) -> str:
    do = "name a Markdown or CSV file in UTF-8"
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is too large for a table", f"{path.stat().st_size / 1e6:.0f} MB", do)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}", f"not UTF-8 at byte {error.start}", do) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), do) from error


# Finding tables


def _csv(document: str, text: str) -> list[Raw]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UsageError(f"cannot read {document}", str(error), "mend its quotes, or name another file") from error
    return [Raw(document, lines[0][0], lines[0][1], lines[1:])] if lines else []


def _markdown(document: str, text: str) -> Iterator[Raw]:
    """Pipe tables with or without pipes at their ends. Lines of pipes alone, which some exporters leave, are none."""
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), start=1) if not line.strip() or line.strip("| ")
    ]
    place = start = 0
    while place < len(lines):
        if not _is_ruler(lines, place):
            place += 1
            continue
        stop = place + 1
        while stop < len(lines) and "|" in lines[stop][1]:
            stop += 1
        number, header = lines[place - 1]
        rows = [(number, _cells(line)) for number, line in lines[place + 1 : stop]]
        yield Raw(document, number, _cells(header), rows, _section(lines, start, place - 1, stop))
        place = start = stop


def _is_ruler(lines: Sequence[tuple[int, str]], place: int) -> bool:
    above, line = lines[place - 1][1] if place else "", lines[place][1]
    return "|" in line and "|" in above and all(map(RULER.match, _cells(line)))


def _cells(line: str) -> list[str]:
    r"""The cells between pipes; `\|` is none, and those at the ends of the line enclose nothing."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())]
    return cells[not cells[0] : len(cells) - (not cells[-1])]


def _section(lines: Sequence[tuple[int, str]], start: int, header: int, stop: int) -> str:
    """The heading above a table, and the text between it and the next heading or table."""
    before = header
    while before > start and not HEADING.match(lines[before - 1][1]):
        before -= 1
    after = stop
    while after < len(lines) and not HEADING.match(lines[after][1]) and "|" not in lines[after][1]:
        after += 1
    return "\n".join(line for _, line in (*lines[max(start, before - 1) : header], *lines[stop:after]))


# Reading a table


def _interpret(table: Raw, found: Read) -> None:
    columns = _columns(table.header)
    counts = {len(cells) for _, cells in table.rows}
    if len(counts) == 1 and counts != {len(columns)}:
        found.findings.append(_count_finding(table, counts.pop()))
        return
    for each in columns:
        if each.scale is None and not _units_in_cells(table, columns.index(each)):
            found.findings.append(_finding(NO_UNIT, table, table.line, "", each, f"{USUAL[each.field]} assumed"))
    heading, _, text = table.around.partition("\n")
    around = context_of(plain(heading)).over(context_of(plain(text)))
    for line, cells in table.rows:
        if len(cells) == len(columns):
            _interpret_line(table, columns, around, line, cells, found)
        else:
            values = f"{len(cells)} cells under {len(columns)} headers"
            found.findings.append(_finding(BROKEN, table, line, cells[0] if cells else "", None, values))


def _columns(header: Sequence[str]) -> list[Column]:
    """The headers understood; where none says model, it is the first that says nothing else."""
    columns = [column(text) for text in header]
    if "model" not in {each.field for each in columns} and columns and not columns[0].field:
        columns[0] = msgspec.structs.replace(columns[0], field="model")
    return columns


def _count_finding(table: Raw, count: int) -> Finding:
    cells = tuple(_unknown(table, line, cells) for line, cells in table.rows)
    values = f"{len(table.header)} headers over {count} cells in each of {len(table.rows)} lines"
    return _finding(COUNTS, table, table.line, "", None, values, cells)


def _unknown(table: Raw, line: int, cells: Sequence[str]) -> Cell:
    return Cell(
        document=table.document,
        line=line,
        table=str(table.line),
        record=str(line),
        model=cells[0] if cells else "",
        column="",
        field="",
        text=" | ".join(cells[1:]),
    )


def _units_in_cells(table: Raw, place: int) -> bool:
    """Whether the cells of a column name the unit that its header doesn't."""
    shown = [NUMBER.match(_bare(cells[place])) for _, cells in table.rows if len(cells) > place]
    return all(match["unit"] for match in shown if match) and any(shown)


def _interpret_line(
    table: Raw, columns: Sequence[Column], around: Context, line: int, cells: Sequence[str], found: Read
) -> None:
    said: dict[str, str] = {}
    for each, text in zip(columns, cells, strict=True):
        if each.field in CONTEXT:
            said[each.field] = f"{said.get(each.field, '')} {_bare(text)}".strip()
    wide = not {"batch_size", "threads", "precision"} & set(said)
    for each, text in zip(columns, cells, strict=True):
        if each.field in CONTEXT or not each.field or ABSENT.match(_bare(text)):
            continue
        match = NUMBER.match(_bare(text))
        if match:
            record = str(line) if wide else f"table {table.line}"
            found.cells.append(_cell(table, each, said, around, line, record, match))
        else:
            found.findings.append(_finding(NO_NUMBER, table, line, said.get("model", ""), each, text))


def _bare(text: str) -> str:
    """Without emphasis, code marks, links and escapes."""
    text = re.sub(r"<[^>]*>|\*\*|`|\\(?=[^\w\s])", " ", text).strip()
    return re.sub(r"^\[([^\]]*)\]\([^)]*\)$", r"\1", text).strip()


def _said(said: Mapping[str, str]) -> Context:
    """What the line says of the case in columns of its own."""
    batch_size, threads = (said.get(name, "") for name in ("batch_size", "threads"))
    return Context(
        device=said.get("device", ""),
        backend=said.get("backend", ""),
        precision=said.get("precision", ""),
        batch_size=int(batch_size) if COUNT.match(batch_size) else 0,
        threads=int(threads) if COUNT.match(threads) else 0,
        campaign=said.get("campaign", "").replace("_", " "),
    )


def _cell(
    table: Raw, each: Column, said: Mapping[str, str], around: Context, line: int, record: str, match: re.Match[str]
) -> Cell:
    number = match["number"].replace(",", "")
    printed, scale = float(number), _scale(each, match)
    # The header's word on a figure counts before that of its line, and both before the text around the table.
    context = each.context.over(_said(said)).over(around)
    return Cell(
        document=table.document,
        line=line,
        table=f"{table.document}:{table.line}",
        record=record,
        model=said.get("model", ""),
        column=each.text,
        field=each.field,
        text=match[0],
        value=printed * scale,
        printed=printed,
        step=step(number) * scale,
        statistic=each.statistic,
        low=float(match["low"]) * scale if match["low"] else None,
        high=float(match["high"]) * scale if match["high"] else None,
        device=context.device,
        backend=context.backend,
        precision=context.precision,
        batch_size=context.batch_size,
        threads=context.threads,
        campaign=context.campaign,
    )


def _scale(each: Column, match: re.Match[str]) -> float:
    """The factor to the field's unit: of the cell's own unit, else of the header's. Percentages may go unsaid."""
    unit = match["unit"].casefold()
    if each.field in ACCURACIES:
        return 0.01 if each.percent or unit == "%" or float(match["number"].replace(",", "")) > 1 else 1.0
    return (scale_of(each.field, unit) if unit else None) or each.scale or 1.0


def _finding(
    kind: Kind,
    table: Raw,
    line: int,
    row: str,
    each: Column | None,
    values: str,
    cells: tuple[Cell, ...] = (),
) -> Finding:
    rule, severity, why = kind
    return Finding(rule, severity, table.document, line, row, each.text if each else "", values, why, cells)
