"""Charts as SVG for HTML pages, drawn by matplotlib: readable without color, with text kept as text."""

import itertools
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from typing import Any, NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 600, 180  # points, as all sizes below
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 58, 30, 34
FONT_SIZE = 9
NAME_HEIGHT, CHAR_WIDTH = 12, 5.1
MAX_NAME_CHARS = 30
MAX_POINTS = 120  # of a line; more are averaged
MAX_MARKERS = 14  # a line with more points has no markers
STROKES = (
    ("0", 2, "-", "o"),
    ("0", 1.3, (0, (5, 3)), "s"),
    ("0", 1.5, (0, (1, 2.2)), "D"),
    ("0", 1.3, (0, (8, 2.5, 1.5, 2.5)), "v"),
    ("0.55", 2.2, "-", "^"),
    ("0.35", 1.3, (0, (3, 2)), "p"),
    ("0.45", 1.6, (0, (1, 4)), "X"),
    ("0.35", 1.3, (0, (10, 2, 2, 2, 2, 2)), "h"),
)
"""Gray level, width, dashes and marker of each line."""


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: list[tuple[float, float]]
    """(step, value), by increasing step."""


@contextmanager
def settings(title: str) -> Iterator[None]:
    """Set matplotlib up so that the bytes and ids of a chart depend on its content and title alone."""
    from matplotlib import rc_context

    options = {
        "font.size": FONT_SIZE,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,  # a dollar sign in a name is text
    }
    with rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has other fonts
        yield


def line_style(index: int, has_marker: bool) -> dict[str, Any]:
    """Return matplotlib's settings of the line with this index."""
    color, width, dashes, marker = STROKES[index % len(STROKES)]
    style = {"color": color, "linewidth": width, "linestyle": dashes, "markersize": 4.5}
    return style | {"marker": marker if has_marker else None, "markerfacecolor": "white" if index else color}


def new_axes(title: str, names: list[str], height: float) -> Any:
    """Return the matplotlib axes of a chart with room on the right for names of lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    right = 42 + CHAR_WIDTH * max(map(len, map(shorten_name, names))) if names else 20
    size = (1 - (MARGIN_LEFT + right) / WIDTH, 1 - (MARGIN_TOP + MARGIN_BOTTOM) / height)
    axes = figure.add_axes((MARGIN_LEFT / WIDTH, MARGIN_BOTTOM / height, *size))
    figure.text(0, 1 - 4 / height, title, va="top", weight="bold", size=FONT_SIZE + 1)
    axes.grid(axis="y", color="0.87", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(length=0, labelcolor="0.25")
    return axes


def ticks(low: float, high: float, target_count: int = 5, integer: bool = False) -> tuple[list[float], list[str]]:
    """Return round numbers between low and high, and their texts."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(target_count, steps=[1, 2, 5, 10], integer=integer).tick_values(low, high).tolist()
    slack = 1e-9 * (high - low)
    values = [value for value in found if low - slack <= value <= high + slack]
    decimals = max(0, -math.floor(math.log10(found[1] - found[0]) + 1e-9))
    short = decimals > 6 or max(abs(low), abs(high)) >= 1e8
    return values, [f"{value:g}" if short else f"{value:,.{decimals}f}" if value else "0" for value in values]


def downsample(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average successive points, so that at most MAX_POINTS are left."""
    import numpy as np

    parts = np.array_split(np.array(points), min(MAX_POINTS, len(points))) if points else []
    return [tuple(part.mean(0).tolist()) for part in parts]


def line_chart(title: str, lines: list[Line]) -> Markup:
    """Return an SVG of the lines over steps, with names at their ends if there are several; "" without finite points.

    The stroke of a line depends on its index in `lines`, so that a run looks the same in all charts of a page.
    """
    finite = {index: [point for point in line.points if math.isfinite(point[1])] for index, line in enumerate(lines)}
    curves = {index: downsample(points) for index, points in finite.items() if points}
    if not curves:
        return Markup("")
    steps, values = zip(*itertools.chain(*curves.values()), strict=True)
    low, high = min(values), max(values)
    slack = (high - low) * 0.06 if high - low > 1e-6 * abs(high) else abs(high) * 0.05 or 1  # less is rounding
    names = [line.name for line in lines] if len(lines) > 1 else []
    with settings(title):
        axes = new_axes(title, names, max(HEIGHT, MARGIN_TOP + MARGIN_BOTTOM + NAME_HEIGHT * len(names)))
        first, last = min(0, *steps), max(steps) or 1
        axes.set(xlim=(first, last + 0.01 * (last - first)), xlabel="step")  # with room for half a marker
        axes.set_ylim(0 if 0 <= low < 0.3 * high else low - slack, high + slack)
        axes.set_xticks(*ticks(*axes.get_xlim(), 6, integer=True))
        axes.set_yticks(*ticks(*axes.get_ylim()))
        for index, points in curves.items():
            if not names and len(finite[index]) > MAX_POINTS:  # the points that are averaged
                axes.plot(*zip(*finite[index], strict=True), color="0.75", linewidth=0.5)
            axes.plot(*zip(*points, strict=True), **line_style(index, len(points) <= MAX_MARKERS))
        if names:
            label_ends(axes, {index: (names[index], points[-1]) for index, points in curves.items()})
        return to_svg(axes.figure, f"{title} by step")


def histogram(title: str, bins: list[str], counts: list[int]) -> Markup:
    """Return an SVG of a bar for each bin, with the text of the bin, which may be empty, at its left edge."""
    with settings(title):
        axes = new_axes(title, [], HEIGHT)
        axes.set(xlim=(0, len(counts)), ylim=(0, max(counts) * 1.06))
        axes.bar(range(len(counts)), counts, width=0.92, align="edge", color="0.35")
        axes.set_xticks(range(len(counts)), bins)
        axes.set_yticks(*ticks(*axes.get_ylim(), integer=True))
        return to_svg(axes.figure, title)


def shorten_name(name: str) -> str:
    """Return the name of a line, cut to MAX_NAME_CHARS."""
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"


def declutter(heights: list[float], min_gap: float, low: float, high: float) -> list[float]:
    """Move heights of labels apart by `min_gap`, as little as possible, in order and between `low` and `high`."""
    order, moved = sorted(range(len(heights)), key=heights.__getitem__), list(heights)
    for _ in range(200):
        for below, above in itertools.pairwise(order):
            overlap = min_gap - (moved[above] - moved[below])
            if overlap > 1e-9:
                moved[below], moved[above] = moved[below] - overlap / 2, moved[above] + overlap / 2
        moved = [min(max(height, low), high) for height in moved]
    return moved


def label_ends(axes: Any, ends: dict[int, tuple[str, tuple[float, float]]], has_marker: bool = False) -> None:
    """Write each line's name, with a sample of its stroke, next to its end.

    ends: (name, last point) by the index of the line.
    """
    to_axes, point = axes.transData + axes.transAxes.inverted(), 1 / axes.bbox.width
    last = [to_axes.transform(end).tolist() for _, end in ends.values()]
    heights = declutter([y for _, y in last], NAME_HEIGHT / axes.bbox.height, 0, 1)
    draw = partial(axes.plot, transform=axes.transAxes, clip_on=False)
    for (index, (name, _)), (x, y), height in zip(ends.items(), last, heights, strict=True):
        draw([x + 3 * point, 1 + 4 * point], [y, height], color="0.7", linewidth=0.6)  # the name may be far away
        draw([1 + part * point for part in (7, 19, 31)], [height] * 3, markevery=[1], **line_style(index, has_marker))
        position = {"xy": (1 + 36 * point, height), "xycoords": "axes fraction", "annotation_clip": False}
        axes.annotate(shorten_name(name), **position, va="center_baseline")


def to_svg(figure: Any, label: str) -> Markup:
    """Return a figure as the SVG element of a page."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(file.getvalue(), label)


def inline_svg(svg: str, label: str) -> Markup:
    """Turn a file of matplotlib into an element of a page: without its header, fixed size and repeated ids."""
    root, content = re.search(r"<svg ([^>]*)>(.*)", svg, re.DOTALL).groups()
    content = re.sub(r'(?s)<metadata>.*</metadata>|(?<=<g) id="[^"]*"', "", content)
    view_box = Markup(re.search(r'viewBox="[^"]*"', root)[0])
    return Markup('<svg {} role="img" aria-label="{}">').format(view_box, label) + Markup(content)
