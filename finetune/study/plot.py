"""Plot the metric against the number of labels; lines differ in dash and marker and are labeled at their ends."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from engine.html import declutter

LINE_STYLES = {
    "ours": {"color": "black", "linestyle": "-", "marker": "o", "linewidth": 2.4, "markersize": 7, "zorder": 5},
    "plain": {"color": "0.25", "linestyle": "--", "marker": "s"},
    "probe": {"color": "0.35", "linestyle": "-.", "marker": "D"},
    "tfidf": {"color": "0.45", "linestyle": (0, (1, 1.2)), "marker": "v"},
    "random": {"color": "0.55", "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "^"},
}
FONT_SETTINGS = {"font.size": 11, "font.family": "DejaVu Sans", "svg.hashsalt": "headstart", "svg.fonttype": "path"}
X_OFFSET = 0.013  # horizontal distance of points with the same x, as a fraction of the axis, so that bars stay apart
Y_MARGIN = 12  # most points of the y axis below the lowest mean and above the highest
LABEL_SPACING = 0.06  # smallest distance of two line labels, as a fraction of the height


def plot_curves(
    curve: dict[str, list[dict]], titles: dict[str, str], metric: str, num_test_rows: int, folder: Path
) -> None:
    """Write study.png and study.svg to `folder`."""
    variants = [variant for variant in LINE_STYLES if variant in curve]
    sizes = sorted({point["num_examples"] for variant in variants for point in curve[variant]})
    means = {variant: [100 * point["mean"] for point in curve[variant]] for variant in variants}
    width = max(2.0, sizes[-1] / sizes[0])
    with rc_context(FONT_SETTINGS):
        figure = Figure(figsize=(9, 5), dpi=160)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.075, right=0.72, top=0.93, bottom=0.13)
        for index, variant in enumerate(variants):
            points = curve[variant]
            offset = width ** (X_OFFSET * (index - (len(variants) - 1) / 2))
            x = [point["num_examples"] * offset for point in points]
            errors = [100 * (point["high"] - point["mean"]) if point["high"] is not None else 0 for point in points]
            style = {"linewidth": 1.6, "markersize": 6, **marker_style(variant), **LINE_STYLES[variant]}
            axes.errorbar(x, means[variant], yerr=errors, capsize=3, elinewidth=1, **style)
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / width**0.07, sizes[-1] * width**0.07)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{size:,}" for size in sizes])
        # With two seeds an interval can be wider than the whole plot, so long error bars are cut off.
        every = [mean for variant in variants for mean in means[variant]]
        low, high = axes.get_ylim()
        axes.set_ylim(max(0, low, min(every) - Y_MARGIN), min(100, high, max(every) + Y_MARGIN))
        axes.set_xlabel("total number of labels (log scale)")
        title = f"{metric} on {num_test_rows:,} test rows, %  ·  bars: 95% intervals over seeds"
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        ends = {variant: (curve[variant][-1]["num_examples"], means[variant][-1]) for variant in variants}
        label_lines(axes, ends, titles, width)
        for path in (folder / "study.png", folder / "study.svg"):
            temporary = path.with_name(f".unfinished-{path.name}")
            # Without a date, so that the same study writes the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, bbox_inches="tight", pad_inches=0.05, metadata=metadata)
            temporary.replace(path)


def marker_style(variant: str) -> dict[str, str]:
    """Return the colors of a marker; only ours is filled."""
    fill = "black" if variant == "ours" else "white"
    return {"markerfacecolor": fill, "markeredgecolor": LINE_STYLES[variant]["color"]}


def label_lines(axes: Axes, ends: dict[str, tuple[int, float]], titles: dict[str, str], width: float) -> None:
    """Write each line's title and style to the right of the plot. ends: x and y of the last points."""
    edge, (low, high) = axes.get_xlim()[1], axes.get_ylim()
    heights = declutter([y for _, y in ends.values()], LABEL_SPACING * (high - low), low, high)
    for (variant, (x, y)), height in zip(ends.items(), heights, strict=True):
        # A thin line connects the last point to its title, which may be far away.
        connector = [x * width**0.02, edge, edge * width**0.02], [y, height, height]
        axes.plot(*connector, color="0.7", linewidth=0.7, linestyle="-", clip_on=False, zorder=1)
        style = {"linewidth": 1.6} | LINE_STYLES[variant]
        line = {key: style[key] for key in ("color", "linestyle", "linewidth")}
        axes.plot([edge * width**0.03, edge * width**0.105], [height, height], clip_on=False, **line)
        marker = {"marker": style["marker"], "markersize": 6, "linestyle": "none", **marker_style(variant)}
        axes.plot([edge * width**0.0675], [height], clip_on=False, **marker)
        weight = "bold" if variant == "ours" else "normal"
        text = {"va": "center", "annotation_clip": False, "fontsize": 10.5, "fontweight": weight}
        axes.annotate(titles[variant], (edge * width**0.12, height), **text)
