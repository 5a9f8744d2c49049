"""Diagrams inside a page: matplotlib's SVG, with the page's fonts and colours, and a tip on every mark.

A drawing is made once and shown in light and in dark: it is drawn in the colours of the light page, and each of them
is then replaced by a CSS variable (`--c0`...). Tips are SVG `<title>` elements, which every browser shows where there
is a mouse; page.js shows them on touch. Needs matplotlib (extra `plots`), imported only to draw.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from toolchain.report.plots import CHOSEN, COLOURS, GREY, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHOSEN", "COLOURS", "GREY", "INK", "LINE", "PAPER", "figure", "rim", "scaled", "svg"]

WIDTH: Final = 5.2  # inches; 374 CSS pixels, so that text keeps its size on a phone
INK, PAPER, LINE = "#1b1b1c", "#fefefd", "#d5d7db"  # no colour of any series
# Colour as drawn -> CSS variable of report/page.css.
_VARIABLES: Final[Mapping[str, str]] = {
    **{colour.lower(): f"--c{index}" for index, colour in enumerate(COLOURS)},
    INK: "--ink",
    PAPER: "--paper",
    LINE: "--line",
    GREY: "--grey",
}
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_PLACES: Final = {"d", "x", "y", "transform"}  # attributes in which hundredths of a pixel are enough
_MARKS: Final = (f"{{{_SVG}}}use", f"{{{_SVG}}}path")


@contextmanager
def figure(height: float) -> Iterator[Figure]:
    """An empty figure for a page, `height` inches high, on no screen and in nobody's pyplot."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as NewFigure

    settings: dict[Any, Any] = {
        "font.size": 11, "axes.titlesize": 11.5, "axes.labelsize": 11, "xtick.labelsize": 10, "ytick.labelsize": 10,
        "legend.fontsize": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": GREY, "axes.facecolor": "none", "figure.facecolor": "none", "legend.framealpha": 0.85,
        "legend.facecolor": PAPER, "legend.edgecolor": LINE, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": LINE, "grid.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False,
        "svg.hashsalt": "boardfit", "svg.fonttype": "none", "hatch.linewidth": 0.5, "hatch.color": GREY,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        found = NewFigure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(found)
        yield found


def svg(found: Figure, name: str, label: str, tips: Mapping[str, Sequence[str]]) -> str:
    """The figure as an `<svg>` element for a page.

    Args:
        name: of the diagram, unique on the page; its ids begin with it.
        label: what people hear who cannot see it.
        tips: gid of an artist -> one text for each of its marks, in their order.

    Raises:
        ValueError: an artist has another number of marks than there are texts (a bug of the caller).
    """
    buffer = io.StringIO()
    found.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    root = ET.fromstring(buffer.getvalue())
    for child in [c for c in root if c.tag.endswith("metadata")]:
        root.remove(child)
    seen = set()
    for group in root.iter(f"{{{_SVG}}}g"):
        texts = tips.get(group.get("id", ""))
        if texts is not None:
            seen.add(group.get("id", ""))
            _attach(group, texts)
    missing = {gid for gid, texts in tips.items() if texts} - seen
    if missing:
        raise ValueError(f"{name}: no artist has the gid {sorted(missing)[0]!r}")
    _rename(root, name)
    for element in root.iter():
        for key in _PLACES & element.attrib.keys():
            element.set(key, re.sub(r"(\.\d\d)\d+", r"\1", element.get(key, "")))
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("class", "diagram")
    root.set("data-marks", str(sum(map(len, tips.values()))))
    text = ET.tostring(root, encoding="unicode")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own
    return re.sub(r"#[0-9a-fA-F]{6}\b", lambda m: _themed(m.group(0)), text)


def rim(axes: Axes) -> None:
    """Room around the data, and few ticks: a phone is narrow."""
    axes.margins(0.06, 0.1)
    axes.locator_params(axis="x", nbins=5)


def _themed(colour: str) -> str:
    variable = _VARIABLES.get(colour.lower())
    return colour if variable is None else f"var({variable})"


def _attach(group: ET.Element, texts: Sequence[str]) -> None:
    """Give each mark of a group its tip."""
    hidden = {id(inner) for defs in group.iter(f"{{{_SVG}}}defs") for inner in defs.iter()}
    marks = [e for e in group.iter() if e.tag in _MARKS and id(e) not in hidden]
    if len(marks) != len(texts):
        raise ValueError(f"{group.get('id')!r} has {len(marks)} marks, but {len(texts)} tips")
    for mark, text in zip(marks, texts, strict=True):
        title = ET.SubElement(mark, f"{{{_SVG}}}title")
        title.text = text
        mark.set("class", "tip")


def _rename(root: ET.Element, name: str) -> None:
    """Ids that something refers to get the diagram's name, as several diagrams share a page; the others go."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            if key == f"{{{_LINK}}}href":
                used.add(value.removeprefix("#"))
    for element in root.iter():
        own = element.get("id")
        if own is not None and own in used:
            element.set("id", f"{name}-{own}")
        elif own is not None:
            del element.attrib["id"]
        for key, value in list(element.attrib.items()):
            if key == f"{{{_LINK}}}href":
                del element.attrib[key]
                element.set("href", f"#{name}-{value.removeprefix('#')}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value))
