"""How plots look: one style, fonts that are there, labels beside points, and files with the same bytes each time."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.formats import one_line, writing
from bench.report import Language

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
#: of Okabe and Ito, for all kinds of colour vision; without their yellow, which white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: a series beyond them has a hollow one: even the largest plot's are told apart by form alone
MARKERS = "os^DvP*X<>pdh+x12"
LATIN = "DejaVu Sans"
#: fonts with Chinese characters, by the start of their file's name, best first
CHINESE = (
    "NotoSansCJKsc",
    "NotoSansSC",
    "NotoSansCJK",
    "SourceHanSansSC",
    "SourceHanSansCN",
    "wqy-zenhei",
    "wqy-microhei",
    "DroidSansFallback",
    "msyh",
    "PingFang",
    "STHeiti",
    "simhei",
)
NO_CHINESE = "no font with Chinese characters is installed: plots have English words; install one: {}"
INSTALL_CHINESE = "apt-get install fonts-noto-cjk"
GREY = "#777777"
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 5,
    "svg.fonttype": "path",
    # Without a salt the ids in a file are random.
    "svg.hashsalt": "bench",
    # Names of models come from anywhere and may hold a dollar.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Pen:
    """What can be written: a language, the fonts in their order, and the characters that these have."""

    language: Language
    fonts: tuple[str, ...]
    characters: frozenset[int]

    def say(self, en: str, zh: str) -> str:
        return zh if self.language == "zh" else en

    def name(self, text: str, most: int = 40) -> str:
        """A text from elsewhere: on one line, its middle left out beyond `most`, no characters that no font has."""
        text = one_line(text)
        if len(text) > most:
            text = f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
        return "".join(char if ord(char) in self.characters else "\N{REPLACEMENT CHARACTER}" for char in text)


@dataclass(frozen=True)
class Chart:
    """A picture to draw: `name` is that of its file, from cases that may have any name."""

    name: str
    draw: Callable[[Pen], "Figure"]
    description: str


def pen(language: Language) -> Pen:
    """The pen for a language, or for English where no font can write it. Raises UsageError without matplotlib."""
    require()
    chinese = chinese_font()
    fonts = (LATIN, *([chinese] if chinese else []))
    return Pen("zh" if language == "zh" and chinese else "en", fonts, _characters(fonts))


def font_warnings(language: Language) -> list[str]:
    """A line that names the font to install, where the language needs one."""
    return [NO_CHINESE.format(INSTALL_CHINESE)] if language == "zh" and not chinese_font() else []


def require() -> None:
    """Raises UsageError where the libraries that draw are missing."""
    try:
        import matplotlib  # noqa: F401
        import textalloc  # noqa: F401
    except ImportError as absent:
        raise UsageError(
            f"{absent.name} is not installed, which draws the plots",
            "",
            "install it with: pip install 'bench[report]', or leave out --output",
        ) from absent


def chinese_font() -> str | None:
    """The family of an installed font with Chinese characters, made known to matplotlib."""
    from matplotlib import font_manager

    # matplotlib keeps a list of its own, in which a font that was installed since is missing.
    files = sorted(Path(file) for file in font_manager.findSystemFonts())
    ranked = [(_rank(file.name), file.name, file) for file in files if _rank(file.name) < len(CHINESE)]
    if not ranked:
        return None
    file = str(min(ranked)[2])
    font_manager.fontManager.addfont(file)
    families = [entry.name for entry in font_manager.fontManager.ttflist if entry.fname == file]
    # A collection has a face for each country; their characters differ in form.
    return next((family for family in families if family.endswith(" SC")), families[0])


def _rank(name: str) -> int:
    """The place among CHINESE; other weights than the regular one don't count."""
    if re.search("bold|light|thin|black|medium|mono", name, re.IGNORECASE):
        return len(CHINESE)
    starts = (place for place, start in enumerate(CHINESE) if name.casefold().startswith(start.casefold()))
    return next(starts, len(CHINESE))


def _characters(fonts: Iterable[str]) -> frozenset[int]:
    from matplotlib import font_manager

    found = (font_manager.get_font(font_manager.findfont(font)) for font in fonts)
    return frozenset(code for font in found for code in font.get_charmap())


@contextlib.contextmanager
def style(fonts: Sequence[str]) -> Iterator[None]:
    """matplotlib as it is by itself and then as STYLE says, whatever the user's own matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", {**STYLE, "font.family": list(fonts)}]):
        yield


def figure(width: float, height: float) -> "Figure":
    """A figure of so many inches, outside pyplot, which would keep it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def freeze(figure: "Figure") -> None:
    """Lays out, once and for all: labels are placed among what is there, which must not move afterwards."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: "Figure", stem: Path, description: str) -> list[Path]:
    """Writes the figure in all formats, without date or version. Raises UsageError where that can't be."""
    written = []
    for suffix in FORMATS:
        path = stem.with_name(f"{stem.name}.{suffix}")
        own: dict[str, str | None] = {"Software": None} if suffix == "png" else {"Date": None, "Creator": "bench"}
        with writing(path, "name another folder"):
            figure.savefig(path, metadata={**own, "Description": description})
        written.append(path)
    return written


def mark(place: int) -> dict[str, Any]:
    """Colour and marker of the series at that place."""
    turn, place_of_form = divmod(place, len(MARKERS))
    marker, colour = MARKERS[place_of_form], COLOURS[place % len(COLOURS)]
    size = 7 if marker in "*+x12" else 5
    return {"color": colour, "marker": marker, "markersize": size, "markerfacecolor": "white" if turn else colour}


def bars(axes: "Axes", spans: Sequence[tuple[float, float, float]], colour: str) -> None:
    """Intervals (y, low, high) as horizontal bars."""
    if spans:
        ys, low, high = (list(part) for part in zip(*spans, strict=True))
        axes.hlines(ys, low, high, color=colour, linewidth=0.8, zorder=1.6)
        axes.plot([*low, *high], [*ys, *ys], "|", color=colour, markersize=4, markeredgewidth=0.8, zorder=1.6)


def label(
    axes: "Axes",
    points: Sequence[tuple[float, float, str]],
    among: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    reach: float = 0.07,
) -> bool:
    """Writes each text beside its point (x, y, text), clear of the points `among`, of lines, and of other labels.

    The first ones have the first choice; one without room within `reach`, a share of the axes, is left out. Returns
    whether there was room for all. The figure must be frozen.
    """
    import textalloc

    if not points:
        return True
    # It prints a line where there is room for none.
    with contextlib.redirect_stdout(None):
        _, _, texts, _ = textalloc.allocate(
            axes,
            *(list(part) for part in zip(*points, strict=True)),
            x_scatter=[x for x, _ in among],
            y_scatter=[y for _, y in among],
            x_lines=[[x for x, _ in line] for line in lines] or None,
            y_lines=[[y for _, y in line] for line in lines] or None,
            textsize=6.5,
            margin=0.009,
            min_distance=0.012,
            max_distance=reach,
            nbr_candidates=400,
            draw_all=False,
            avoid_label_lines_overlap=True,
            linecolor=GREY,
            linewidth=0.4,
        )
    return None not in texts


def round_ticks(axes: "Axes", which: str) -> None:
    """A logarithmic axis with 1, 2, 5, 10, … written out in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
