"""Curves as SVG: lines told apart by dashes, named where they end; text that stays text, nothing to fetch, no script."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from typing import NamedTuple

from engine.html import declutter

WIDTH, HEIGHT = 760, 230
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 58, 30, 34
CHAR_WIDTH = 6.2  # of a name's letters, in the same units
MAX_NAME_CHARS = 26  # letters of a name that are shown
MAX_POINTS = 120  # points of a line; more are the means of successive stretches
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
    """One curve."""

    name: str
    points: list[tuple[float, float]]
    """(step, figure), steps rising."""


def ticks(low: float, high: float, target_count: int = 5) -> list[tuple[float, str]]:
    """(value, as it is written) of round numbers between low and high: a power of ten times 1, 2 or 5 apart."""
    rough = (high - low) / target_count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    counts = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(step * count, f"{step * count:,.{decimals if count else 0}f}") for count in counts]


def downsample(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST points, the means of successive stretches."""
    count = min(MAX_POINTS, len(points))
    cuts = [round(place * len(points) / count) for place in range(count + 1)] if count else []
    parts = [points[start:end] for start, end in zip(cuts, cuts[1:])]
    return [tuple(sum(column) / len(part) for column in zip(*part)) for part in parts]


def stroke_attributes(index: int) -> str:
    """How the line of that place is drawn, as SVG's attributes."""
    colour, width, dashes = STROKES[index % len(STROKES)]
    return f'fill="none" stroke="{colour}" stroke-width="{width}"' + f' stroke-dasharray="{dashes}"' * bool(dashes)


def legend_key(index: int) -> str:
    """A short stretch of the line of that place, for a table."""
    return (
        f'<svg viewBox="0 0 44 8" style="display:inline-block;width:44px;height:8px;margin:0 .5rem 0 0">'
        f'<line x1="0" y1="4" x2="44" y2="4" {stroke_attributes(index)}/></svg>'
    )


def line_chart(title: str, lines: list[Line]) -> str:
    """An SVG of the lines over steps, its text in it as text; "" where there is no finite point.

    A line keeps the stroke of its place in `lines`, also where others have no point: so that one run looks the same in all
    charts of a page. Names stand beside the ends where there are several lines.
    """
    drawn = {
        place: finite
        for place, line in enumerate(lines)
        if (finite := [point for point in line.points if math.isfinite(point[1])])
    }
    if not drawn:
        return ""
    named = len(lines) > 1
    right = 24 + CHAR_WIDTH * min(MAX_NAME_CHARS, max(len(line.name) for line in lines)) + 20 if named else 20
    curves = {place: downsample(points) for place, points in drawn.items()}
    steps, heights = zip(*(point for points in curves.values() for point in points))
    first, last = min(0, *steps), max(steps) or 1
    low, high = min(heights), max(heights)
    slack = (high - low) * 0.06 if high - low > 1e-6 * abs(high) else abs(high) * 0.05 or 1  # less is rounding
    low, high = (0 if 0 <= low < 0.3 * high else low - slack), high + slack

    def x(step: float) -> float:
        return MARGIN_LEFT + (step - first) / (last - first) * (WIDTH - MARGIN_LEFT - right)

    def y(height: float) -> float:
        return HEIGHT - MARGIN_BOTTOM - (height - low) / (high - low) * (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM)

    def parts() -> Iterator[str]:
        yield f'<text class="title" x="0" y="14">{html.escape(title)}</text>'
        for at, written in ticks(low, high):
            yield f'<line x1="{MARGIN_LEFT}" y1="{y(at):.1f}" x2="{WIDTH - right:.1f}" y2="{y(at):.1f}" stroke="#ddd"/>'
            yield f'<text class="tick" x="{MARGIN_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{written}</text>'
        for at, written in ticks(first, last, 6):
            yield f'<text class="tick" x="{x(at):.1f}" y="{HEIGHT - MARGIN_BOTTOM + 16}" text-anchor="middle">{written}</text>'
        yield f'<line x1="{MARGIN_LEFT}" y1="{HEIGHT - MARGIN_BOTTOM}" x2="{WIDTH - right:.1f}" y2="{HEIGHT - MARGIN_BOTTOM}" stroke="#111"/>'
        yield f'<text class="tick" x="{WIDTH - right:.1f}" y="{HEIGHT - 4}" text-anchor="end">step</text>'
        for place, points in curves.items():
            if len(lines) == 1 and len(drawn[place]) > MAX_POINTS:  # what the means are of
                yield path(drawn[place], 'fill="none" stroke="#bbb" stroke-width="0.6"')
            yield path(points, stroke_attributes(place))
            if len(points) < 15:
                colour = STROKES[place % len(STROKES)][0]
                yield "".join(
                    f'<circle cx="{x(step):.1f}" cy="{y(height):.1f}" r="2.6" fill="{colour}"/>'
                    for step, height in points
                )
        if named:
            ends = [y(points[-1][1]) for points in curves.values()]
            for (place, points), end, beside in zip(
                curves.items(), ends, declutter(ends, 13, MARGIN_TOP, HEIGHT - MARGIN_BOTTOM)
            ):
                edge, name = WIDTH - right, lines[place].name
                yield (
                    f'<polyline points="{x(points[-1][0]) + 3:.1f},{end:.1f} {edge + 4:.1f},{beside:.1f}" fill="none"'
                    ' stroke="#bbb" stroke-width="0.7"/>'
                )
                yield f'<line x1="{edge + 6:.1f}" y1="{beside:.1f}" x2="{edge + 30:.1f}" y2="{beside:.1f}" {stroke_attributes(place)}/>'
                shown = name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"
                yield f'<text x="{edge + 35:.1f}" y="{beside + 4:.1f}">{html.escape(shown)}</text>'

    def path(points: list[tuple[float, float]], drawn_as: str) -> str:
        inside = " ".join(f"{x(step):.1f},{y(min(max(height, low), high)):.1f}" for step, height in points)
        return f'<polyline points="{inside}" {drawn_as} stroke-linejoin="round"/>'

    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)} by step">{"".join(parts())}</svg>'
