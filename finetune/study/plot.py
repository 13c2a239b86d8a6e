"""The curve: the figure against the number of labels, told apart by line and marker, named where the lines end."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, NullLocator  # noqa: E402

from engine.html import declutter  # noqa: E402

LINE_STYLES = {
    "ours": {"color": "black", "linestyle": "-", "marker": "o", "linewidth": 2.4, "markersize": 7, "zorder": 5},
    "plain": {"color": "0.25", "linestyle": "--", "marker": "s"},
    "probe": {"color": "0.35", "linestyle": "-.", "marker": "D"},
    "tfidf": {"color": "0.45", "linestyle": (0, (1, 1.2)), "marker": "v"},
    "random": {"color": "0.55", "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "^"},
}
X_OFFSET = 0.013  # how far points of one size stand apart, as a share of the axis: their bars must not cover each other
Y_MARGIN = 12  # points that the axis goes on below the lowest mean and above the highest, at most
LABEL_SPACING = 0.06  # smallest distance of two names, as a share of the height


def marker_fill(variant: str) -> str:
    """The colour inside a marker."""
    return "black" if variant == "ours" else "white"


def plot_curves(
    curve: dict[str, list[dict]], titles: dict[str, str], metric: str, num_test_rows: int, folder: Path
) -> None:
    """study.png and study.svg in `folder`."""
    ways = [way for way in LINE_STYLES if way in curve]
    sizes = sorted({point["labels"] for way in ways for point in curve[way]})
    settings = {"font.size": 11, "font.family": "DejaVu Sans", "svg.hashsalt": "headstart", "svg.fonttype": "path"}
    with plt.rc_context(settings):
        drawing, axes = plt.subplots(figsize=(9, 5), dpi=160)
        drawing.subplots_adjust(left=0.075, right=0.72, top=0.93, bottom=0.13)
        wide = max(2.0, sizes[-1] / sizes[0])
        for number, way in enumerate(ways):
            aside = wide ** (X_OFFSET * (number - (len(ways) - 1) / 2))
            at = [point["labels"] * aside for point in curve[way]]
            means = [100 * point["mean"] for point in curve[way]]
            halves = [100 * (point["high"] - point["mean"]) if point["high"] is not None else 0 for point in curve[way]]
            style = {"linewidth": 1.6, "markersize": 6, **LINE_STYLES[way]}
            axes.errorbar(
                at,
                means,
                yerr=halves,
                capsize=3,
                elinewidth=1,
                markerfacecolor=marker_fill(way),
                markeredgecolor=style["color"],
                **style,
            )
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / wide**0.07, sizes[-1] * wide**0.07)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{size:,}" for size in sizes])
        # Two seeds can have intervals wider than the figure's whole range: such bars run off the edge.
        every = [100 * point["mean"] for way in ways for point in curve[way]]
        low, high = axes.get_ylim()
        low, high = max(0, low, min(every) - Y_MARGIN), min(100, high, max(every) + Y_MARGIN)
        axes.set_ylim(low, high)
        axes.set_xlabel("labels, of all classes together (log scale)")
        title = f"{metric} on {num_test_rows:,} test rows, %  ·  bars: 95 % intervals over seeds"
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        edge = axes.get_xlim()[1]
        ends = [100 * curve[way][-1]["mean"] for way in ways]
        for way, end, height in zip(ways, ends, declutter(ends, LABEL_SPACING * (high - low), low, high)):
            # A thin line from the last point to the name, for a curve that ends early or a name that was moved.
            last, style = curve[way][-1]["labels"], LINE_STYLES[way]
            axes.plot(
                [last * wide**0.02, edge, edge * wide**0.02],
                [end, height, height],
                color="0.7",
                linewidth=0.7,
                linestyle="-",
                clip_on=False,
                zorder=1,
            )
            axes.plot(
                [edge * wide**0.03, edge * wide**0.105],
                [height, height],
                clip_on=False,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=style.get("linewidth", 1.6),
            )
            axes.plot(
                [edge * wide**0.0675],
                [height],
                clip_on=False,
                marker=style["marker"],
                markersize=6,
                linestyle="none",
                markerfacecolor=marker_fill(way),
                markeredgecolor=style["color"],
            )
            axes.annotate(
                titles[way],
                (edge * wide**0.12, height),
                va="center",
                annotation_clip=False,
                fontsize=10.5,
                fontweight="bold" if way == "ours" else "normal",
            )
        for path in (folder / "study.png", folder / "study.svg"):
            beside = path.with_name(f".unfinished-{path.name}")
            # Without a date, so that the same study draws the same file.
            undated = {"Date": None} if path.suffix == ".svg" else None
            drawing.savefig(beside, bbox_inches="tight", pad_inches=0.05, metadata=undated)
            beside.replace(path)
        plt.close(drawing)
