from xml.etree import ElementTree

from benchmarks.plot import line_plot
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report

SVG = "{http://www.w3.org/2000/svg}"
sizes = st.floats(min_value=1e-3, max_value=1e9)


def test_a_table_lines_up_in_plain_text() -> None:
    text = report.table(("a", "long head"), [("longer", "x"), ("y", "")])
    assert len({len(line) for line in text.splitlines()}) == 1
    assert text.splitlines()[1].strip("|- ") == ""


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=8))
def test_every_point_of_a_plot_lies_inside_its_frame(points: list[tuple[float, float]]) -> None:
    root = ElementTree.fromstring(line_plot("a < b", "x", "y", {"one & only": points}))  # noqa: S314
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == len(points)
    for circle in circles:
        assert 64 <= float(circle.attrib["cx"]) <= 544
        assert 36 <= float(circle.attrib["cy"]) <= 272


def test_a_bigger_value_lies_higher_and_further_right() -> None:
    root = ElementTree.fromstring(line_plot("t", "x", "y", {"s": [(10, 1), (1_000, 50)]}))  # noqa: S314
    small, big = root.findall(f"{SVG}circle")
    assert float(small.attrib["cx"]) < float(big.attrib["cx"])
    assert float(small.attrib["cy"]) > float(big.attrib["cy"])


def test_a_curve_shows_the_median_and_the_spread_of_each_size() -> None:
    text = report.curve("plugins", {"off": {10: [3.0, 1.0, 2.0], 1_000: [4.0]}})
    assert "2.0 (1.0 .. 3.0)" in text
    assert "| 1,000" in text
