"""Line charts as SVG: distinguishable in black and white, text kept as text, no scripts or external files."""

import html
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from engine.html import declutter

WIDTH, HEIGHT = 760, 230
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 58, 30, 34
BASELINE = HEIGHT - MARGIN_BOTTOM
CHAR_WIDTH = 6.2  # of a name, in the same units
MAX_NAME_CHARS = 26
MAX_POINTS = 120  # of a line; more are averaged
STROKES = (
    ("#000", 2.2, ""),
    ("#000", 1.6, "7 4"),
    ("#000", 1.8, "1.5 3.5"),
    ("#000", 1.6, "10 3 2 3"),
    ("#888", 2.4, ""),
    ("#555", 1.6, "4 3"),
    ("#777", 1.8, "1.5 6"),
    ("#555", 1.6, "14 3 2 3 2 3"),
)
STYLE = """svg text{font:11px Helvetica,Arial,sans-serif;fill:#111}svg .title{font-size:13px;font-weight:bold}
svg .tick{fill:#444}"""


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: list[tuple[float, float]]
    """(step, value), by increasing step."""


class Axes(NamedTuple):
    """Ranges of the axes, and the positions of steps and values in the SVG."""

    first: float
    last: float
    low: float
    high: float
    right: float
    """x of the right end."""

    def x(self, step: float) -> float:
        """Return the position of a step."""
        return MARGIN_LEFT + (step - self.first) / (self.last - self.first) * (self.right - MARGIN_LEFT)

    def y(self, value: float) -> float:
        """Return the position of a value."""
        return BASELINE - (value - self.low) / (self.high - self.low) * (BASELINE - MARGIN_TOP)


def ticks(low: float, high: float, target_count: int = 5) -> list[tuple[float, str]]:
    """Return (value, text) of round numbers between low and high: spaced by a power of ten times 1, 2 or 5."""
    rough = (high - low) / target_count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    counts = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(step * count, f"{step * count:,.{decimals if count else 0}f}") for count in counts]


def downsample(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average successive points, so that at most MAX_POINTS are left."""
    count = min(MAX_POINTS, len(points))
    cuts = [round(index * len(points) / count) for index in range(count + 1)] if count else []
    parts = [points[start:end] for start, end in itertools.pairwise(cuts)]
    return [tuple(sum(column) / len(part) for column in zip(*part, strict=True)) for part in parts]


def stroke_attributes(index: int) -> str:
    """Return the SVG attributes of the line with this index."""
    color, width, dashes = STROKES[index % len(STROKES)]
    return f'fill="none" stroke="{color}" stroke-width="{width}"' + f' stroke-dasharray="{dashes}"' * bool(dashes)


def legend_key(index: int) -> str:
    """Return a short sample of the line with this index, for a table."""
    return (
        f'<svg viewBox="0 0 44 8" style="display:inline-block;width:44px;height:8px;margin:0 .5rem 0 0">'
        f'<line x1="0" y1="4" x2="44" y2="4" {stroke_attributes(index)}/></svg>'
    )


def line_chart(title: str, lines: list[Line]) -> str:
    """Return an SVG of the lines over steps, with names at their ends if there are several; "" without finite points.

    The stroke of a line depends on its index in `lines`, so that a run looks the same in all charts of a page.
    """
    finite = {index: [point for point in line.points if math.isfinite(point[1])] for index, line in enumerate(lines)}
    finite = {index: points for index, points in finite.items() if points}
    if not finite:
        return ""
    named = len(lines) > 1
    margin = 44 + CHAR_WIDTH * min(MAX_NAME_CHARS, max(len(line.name) for line in lines)) if named else 20
    curves = {index: downsample(points) for index, points in finite.items()}
    steps, values = zip(*itertools.chain(*curves.values()), strict=True)
    low, high = min(values), max(values)
    slack = (high - low) * 0.06 if high - low > 1e-6 * abs(high) else abs(high) * 0.05 or 1  # less is rounding
    low, high = (0 if 0 <= low < 0.3 * high else low - slack), high + slack
    axes = Axes(min(0, *steps), max(steps) or 1, low, high, WIDTH - margin)
    parts = [f'<text class="title" x="0" y="14">{html.escape(title)}</text>', *draw_axes(axes)]
    for index, points in curves.items():
        if not named and len(finite[index]) > MAX_POINTS:  # the points that are averaged
            parts.append(draw_curve(axes, finite[index], 'fill="none" stroke="#bbb" stroke-width="0.6"'))
        parts.append(draw_curve(axes, points, stroke_attributes(index)))
        if len(points) < 15:
            style = f'r="2.6" fill="{STROKES[index % len(STROKES)][0]}"'
            parts += [f'<circle cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" {style}/>' for step, value in points]
    if named:
        parts += draw_names(axes, {index: lines[index].name for index in curves}, curves)
    label = f"{html.escape(title)} by step"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def draw_axes(axes: Axes) -> Iterator[str]:
    """Yield the grid, the tick labels and the horizontal axis."""

    def tick(x: float, y: float, anchor: str, text: str) -> str:
        return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'

    def rule(y: float, color: str) -> str:
        return f'<line x1="{MARGIN_LEFT}" y1="{y:.1f}" x2="{axes.right:.1f}" y2="{y:.1f}" stroke="{color}"/>'

    for value, text in ticks(axes.low, axes.high):
        yield rule(axes.y(value), "#ddd") + tick(MARGIN_LEFT - 6, axes.y(value) + 4, "end", text)
    for step, text in ticks(axes.first, axes.last, 6):
        yield tick(axes.x(step), BASELINE + 16, "middle", text)
    yield rule(BASELINE, "#111") + tick(axes.right, HEIGHT - 4, "end", "step")


def draw_curve(axes: Axes, points: list[tuple[float, float]], attributes: str) -> str:
    """Return a polyline of the points, clipped to the range of values."""
    clipped = ((step, min(max(value, axes.low), axes.high)) for step, value in points)
    positions = " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in clipped)
    return f'<polyline points="{positions}" {attributes} stroke-linejoin="round"/>'


def draw_names(axes: Axes, names: dict[int, str], curves: dict[int, list[tuple[float, float]]]) -> Iterator[str]:
    """Yield the names of the lines, each with a sample of its stroke and a leader from the end of the line."""
    ends, edge = [points[-1] for points in curves.values()], axes.right
    heights = [axes.y(value) for _, value in ends]
    label_heights = declutter(heights, 13, MARGIN_TOP, BASELINE)
    for (index, name), (step, _), height, y in zip(names.items(), ends, heights, label_heights, strict=True):
        leader = f"{axes.x(step) + 3:.1f},{height:.1f} {edge + 4:.1f},{y:.1f}"
        yield f'<polyline points="{leader}" fill="none" stroke="#bbb" stroke-width="0.7"/>'
        yield f'<line x1="{edge + 6:.1f}" y1="{y:.1f}" x2="{edge + 30:.1f}" y2="{y:.1f}" {stroke_attributes(index)}/>'
        shown = name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"
        yield f'<text x="{edge + 35:.1f}" y="{y + 4:.1f}">{html.escape(shown)}</text>'
