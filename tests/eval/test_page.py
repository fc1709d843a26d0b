import csv
import html.parser
import re

import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from optformer.eval.report.page import (
    Code,
    Figure,
    Heading,
    Interval,
    Page,
    Table,
    Text,
    duration,
    named,
    number,
    render,
    rounded,
    values,
    write_page,
)

PNG = b"\x89PNG\r\n\x1a\n"


def page(**fields):
    sections = (
        Heading(title="A < B"),
        Text(paragraphs=("<script>alert(1)</script>", "two & three")),
        Table(
            caption="Scores <i>",
            header=("name", "score"),
            rows=(("<b>", 1 / 3), ("a [1]", None), ("x", "0.5 [0.4, 0.6]")),
            name="scores",
        ),
        Figure(
            caption='a "quoted" caption',
            picture=PNG,
            name="picture",
            data=Table(caption="", header=("x",), rows=((0.1,),)),
        ),
        Code(text="a < b"),
    )
    return Page(**{"title": "T & T", "lead": "l<e>ad", "sections": sections} | fields)


class Checker(html.parser.HTMLParser):
    """Fails on tags that are closed in another order than they were opened."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pages_are_well_formed_and_take_nothing_from_elsewhere():
    checker = Checker()
    text = render(page())
    checker.feed(text)
    assert checker.open == []
    assert all(source.startswith(("data:image/png", "#")) for source in checker.sources)
    assert not {"script", "link", "iframe", "b"} & set(checker.tags)
    assert "url(" not in text and "@import" not in text


def test_words_are_words():
    text = render(page())
    assert "&lt;script&gt;alert(1)" in text and "<script" not in text
    assert "T &amp; T" in text and "l&lt;e&gt;ad" in text
    assert "&#34;quoted&#34;" in text


def test_headings_can_be_reached_from_the_top():
    text = render(page())
    (anchor,) = re.findall(r'<nav><a href="#([^"]+)">A &lt; B</a></nav>', text)
    assert f'<h2 id="{anchor}">A &lt; B</h2>' in text


def test_pictures_and_tables_are_also_files(tmp_path):
    write_page(page(), tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "picture.png").read_bytes() == PNG
    with (tmp_path / "new" / "scores.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "score"]
    assert float(rows[1][1]) == 1 / 3  # every digit, though the page shows four
    assert (tmp_path / "new" / "picture.csv").read_text().split() == ["x", "0.1"]


def test_intervals_times_and_names_are_words_on_the_page_and_values_in_the_file():
    gap = Interval(mean=-1 / 3, low=-0.5, high=0.1, signed=True)
    made = Table(
        caption="",
        header=("optimizer", "A − B", "time", "p", "flat"),
        rows=(
            (named("gp_ucb"), gap, duration(0.0102), rounded(0.012345, 2), Interval(mean=0.5)),
            (named("random_search"), None, None, None, Interval(mean=float("nan"))),
        ),
        columns=("optimizer", "a − b", "time", "p", "flat"),
    )
    assert values(made) == [
        ["optimizer", "a - b", "a - b, low", "a - b, high", "time, seconds", "p", "flat"],
        ["gp_ucb", -1 / 3, -0.5, 0.1, 0.0102, 0.012345, 0.5],
        ["random_search", "", "", "", "", "", ""],
    ]
    text = render(page(sections=(made,)))
    for cell in ("gp ucb", "−0.333 <small>[−0.500, +0.100]</small>", "10.2 ms", "0.012", "0.500"):
        assert f">{cell}</td>" in text
    assert text.count(">–</td>") == 4


def test_what_rounds_to_nothing_has_no_minus():
    assert str(Interval(mean=-1e-9, low=-0.01, high=0.0, digits=2)) == "0.00 [−0.01, 0.00]"
    assert str(Interval(mean=-1e-9, signed=True)) == "+0.000"


def test_figures_give_the_same_bytes_every_time():
    def drawn():
        figure = MatplotlibFigure(figsize=(1, 1))
        figure.add_subplot().plot([0, 1], [0, 1])
        return Figure(caption="", picture=figure).png()

    assert drawn() == drawn()
    assert drawn().startswith(PNG)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.987654, "0.9877"),
        (-0.5, "−0.5"),
        (12345.6, "12,346"),
        (1234.0, "1,234"),
        (1.5e-7, "1.5e-07"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (3e12, "3e+12"),  # commas would need thirteen digits
    ],
)
def test_numbers_are_shown_for_people(value, shown):
    assert number(value) == shown


def test_columns_of_numbers_are_aligned_right_and_words_left():
    text = render(page())
    assert "<td>x</td><td class=n>0.5 <small>[0.4, 0.6]</small></td>" in text
    assert "<td>a [1]</td><td class=n>–</td>" in text
