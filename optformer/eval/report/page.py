"""One self-contained HTML page from typed pieces: no scripts, no fonts or pictures from elsewhere.

    page = Page(
        title="Random search against Eagle",
        lead="After 100 trials, Eagle scores 0.91 and random search 0.78.",
        sections=(
            Heading(title="Summary"),
            Text(paragraphs=("Four functions, five seeds each.",)),
            Table(caption="Final scores", header=("optimizer", "score"), rows=(("eagle", 0.91),)),
            Figure(caption="Score by trial.", picture=figure, name="curves"),
            Code(text="optformer evaluate bbob --seeds 5"),
        ),
    )
    write_page(page, Path("report.html"))

All text is escaped: pieces hold words, not markup. Each figure is embedded in the page and also
written beside it as `<name>.png`, each table with a name as `<name>.csv`, for programs: there, a
number with an interval has three columns, and names are identifiers.

    Interval(mean=0.85801, low=0.8174, high=0.8969)  ->  page: 0.858 [0.817, 0.897]
    score,"score, low","score, high"                     CSV:  0.85801,0.8174,0.8969
"""

import base64
import csv
import dataclasses
import functools
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the interval it lies in; bounds that are NaN: none is known.

    Shown as `0.912 [0.881, 0.940]`, or `signed`, as differences are: `+0.912 [+0.881, +0.940]`.

    Attributes:
      digits: after the point, on the page.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    digits: int = 3
    signed: bool = False

    @classmethod
    def of(
        cls, found: tuple[float, float, float], *, digits: int = 3, signed: bool = False
    ) -> "Interval":
        """From mean, low and high, as a bootstrap returns them."""
        mean, low, high = found
        return cls(mean=mean, low=low, high=high, digits=digits, signed=signed)

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        if math.isnan(self.low):
            return self._text(self.mean)
        return f"{self._text(self.mean)} [{self._text(self.low)}, {self._text(self.high)}]"

    def _text(self, value: float) -> str:
        # Plus zero: what rounds to nothing has no minus.
        rounded, sign = round(value, self.digits) + 0.0, "+" if self.signed else ""
        return f"{rounded:{sign}.{self.digits}f}".replace("-", "−")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A text for the page, and the values that the CSV file has in its place.

    Attributes:
      values: by the suffix of their column's name in the file, "" or such as ", seconds".
    """

    text: str
    values: Mapping[str, str | int | float]

    def __str__(self) -> str:
        return self.text


Cell = str | int | float | Interval | Shown | None


def named(identifier: str) -> Shown:
    """An optimizer's name: "gp_ucb" in files, "gp ucb" for people."""
    return Shown(text=identifier.replace("_", " "), values={"": identifier})


def rounded(value: float, digits: int) -> Shown:
    """A number, of which the page has so many significant digits."""
    return Shown(text=number(value, digits), values={"": value})


def share(value: float) -> Shown:
    """A part of a whole: 0.123 -> "12%"."""
    return Shown(text=f"{value:.0%}", values={"": value})


def duration(seconds: float) -> Shown:
    """A time with its unit: 0.0123 -> "12.3 ms"; seconds in files."""
    return Shown(text=seconds_shown(seconds), values={", seconds": seconds})


def seconds_shown(seconds: float) -> str:
    """A time with its unit: 0.0123 -> "12.3 ms"."""
    # Half a step below the next unit's 1, so that 999.9 µs is 1 ms.
    if seconds < 0.995e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.995 else f"{seconds:.3g} s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """Starts a part of the page. The parts are listed at its top."""

    title: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs in plain words."""

    paragraphs: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Code:
    """Commands or output, in a fixed-width font as they are."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words and numbers; floats are shown with four significant digits, None as a dash.

    `name` is the stem of the CSV file beside the page, which keeps every digit; no name, no file.
    `columns` are the header in that file, where it is not the page's.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    columns: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """A picture: PNG bytes or a matplotlib figure. `name` is the stem of the file beside the page.

    `alt` says in words what the picture shows, for those who cannot see it; the caption if empty.
    `data` are the numbers that are drawn: not on the page, but in `<name>.csv` beside it.
    """

    caption: str
    picture: "bytes | MatplotlibFigure"
    name: str = ""
    alt: str = ""
    data: Table | None = None

    def png(self) -> bytes:
        """The picture as PNG bytes, twice the size that it is shown at."""
        if isinstance(self.picture, bytes):
            return self.picture
        buffer = io.BytesIO()
        # No software name or date: the same figure gives the same bytes.
        self.picture.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        return buffer.getvalue()


Section = Heading | Text | Code | Table | Figure


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """A page: its title, the result in one or two sentences, and its pieces in order."""

    title: str
    lead: str
    sections: Sequence[Section]


def write_page(page: Page, path: Path) -> Path:
    """Writes the page to `path`, and its pictures and tables beside it. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    for section in page.sections:
        if not isinstance(section, Figure | Table) or not section.name:
            continue
        if isinstance(section, Figure):
            (path.parent / f"{section.name}.png").write_bytes(section.png())
        table = section.data if isinstance(section, Figure) else section
        if table is not None:
            csv_path = path.parent / f"{section.name}.csv"
            with csv_path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(values(table))
    return path


def values(table: Table) -> list[list[str | int | float]]:
    """The rows of the table's file, its header first: numbers with all digits, and words."""
    header: list[str | int | float] = []
    rows: list[list[str | int | float]] = [[] for _ in table.rows]
    for place, title in enumerate(table.columns or table.header):
        parts = [_parts(row[place]) for row in table.rows]
        # Each part that any row has is a column; without rows, the column is as it is named.
        endings = list(dict.fromkeys(ending for part in parts for ending in part)) or [""]
        header += [_ascii(title + ending) for ending in endings]
        for row, part in zip(rows, parts, strict=True):
            row += [_ascii(part.get(ending, "")) for ending in endings]
    return [header, *rows]


def _parts(cell: Cell) -> Mapping[str, str | int | float]:
    """The cell's values by the suffix of their column's name; none if nothing is known."""
    match cell:
        case None:
            return {}
        case Shown(values=values):
            return values
        case Interval(mean=mean, low=low, high=high):
            return {"": mean} | ({} if math.isnan(low) else {", low": low, ", high": high})
        case _:
            return {"": cell}


def _ascii(value: str | int | float) -> str | int | float:
    """Dashes and minus signs of typesetters as programs write them; NaN as an empty cell."""
    if isinstance(value, str):
        return value.replace("−", "-").replace("–", "-")
    return "" if math.isnan(value) else value


def render(page: Page) -> str:
    """The page as one HTML document."""
    anchors = {
        section.title: re.sub(r"\W+", "-", section.title.lower()).strip("-")
        for section in page.sections
        if isinstance(section, Heading)
    }
    style = (_HERE / "page.css").read_text("utf-8")
    template = _environment().get_template("page.html.jinja")
    return template.render(page=page, anchors=anchors, style=Markup(style)) + "\n"


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    """Escapes all text of a page."""
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True)
    environment.filters |= {
        "kind": lambda section: type(section).__name__,
        "png": lambda figure: base64.b64encode(figure.png()).decode("ascii"),
        "numeric": _numeric,
        "cell": _marked,
    }
    return environment


def number(value: float, digits: int = 4) -> str:
    """A number for people: significant digits, no exponent where a plain number is short.

    0.98765 -> "0.9877", 12345.6 -> "12,346", 1.5e-7 -> "1.5e-07", -0.5 -> "−0.5"
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits}g}"
    elif value and abs(value) < 1e-4:
        text = f"{value:.{max(digits - 2, 1)}g}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers only."""
    return [
        all(_looks_numeric(row[column]) for row in table.rows)
        for column in range(len(table.header))
    ]


def _marked(cell: Cell) -> Markup:
    """The cell's text as HTML; an interval after a number is smaller: 0.91 [0.85, 0.96]."""
    text = str(escape(shown(cell)))
    return Markup(re.sub(r"(?<=\d )(\[[^\]]*\d\])$", r"<small>\1</small>", text))


def _looks_numeric(cell: Cell) -> bool:
    """Whether a cell is a number, or words that are one with its interval or unit."""
    text = str(cell) if isinstance(cell, str | Interval | Shown) else ""
    return text == "" or text[0] in "0123456789−–+±<"


def shown(cell: Cell) -> str:
    """A cell's text for people."""
    if cell is None:
        return "–"
    if isinstance(cell, str | Interval | Shown):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else number(cell)
