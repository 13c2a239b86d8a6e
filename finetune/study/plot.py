"""Plot the metric against the number of labels; lines differ in dash and marker and are labeled at their ends."""

from pathlib import Path
from typing import Any

from engine import charts

VARIANTS = ("ours", "plain", "probe", "tfidf", "random", "onehot")
X_OFFSET = 0.013  # horizontal distance of points with the same x, as a fraction of the axis, so that bars stay apart
Y_MARGIN = 12  # most points of the y axis below the lowest mean and above the highest
HEIGHT = 320


def plot_curves(
    curve: dict[str, list[dict]], titles: dict[str, str], metric: str, num_test_rows: int, folder: Path
) -> None:
    """Write study.png and study.svg to `folder`."""
    variants = {index: variant for index, variant in enumerate(VARIANTS) if variant in curve}
    title = describe_plot(metric, num_test_rows)
    with charts.settings(title):
        figure = draw_curves(curve, titles, title, variants)
        for path in (folder / "study.png", folder / "study.svg"):
            temporary = path.with_name(f".unfinished-{path.name}")
            # Without a date, so that the same study writes the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, dpi=180 if path.suffix == ".png" else 72, metadata=metadata)
            temporary.replace(path)


def describe_plot(metric: str, num_test_rows: int) -> str:
    """Return the title of a plot."""
    return f"{metric} on {num_test_rows:,} test rows, %  ·  bars: 95% intervals over seeds and rows"


def draw_curves(curve: dict[str, list[dict]], titles: dict[str, str], title: str, variants: dict[int, str]) -> Any:
    """Return a figure of matplotlib; call it within `charts.settings`. variants: by the index of their stroke."""
    from matplotlib.ticker import FixedLocator, NullLocator

    numbers = sorted({point["num_examples"] for variant in variants.values() for point in curve[variant]})
    # A logarithmic axis has no zero: it gets the place of a quarter of the next size.
    positions = {number: number or max(1, *numbers[:2]) / 4 for number in numbers}
    sizes = list(positions.values())
    means = {variant: [100 * point["mean"] for point in curve[variant]] for variant in variants.values()}
    width = max(2.0, sizes[-1] / sizes[0])
    axes = charts.new_axes(title, [titles[variant] for variant in variants.values()], HEIGHT)
    for place, (index, variant) in enumerate(variants.items()):
        points = curve[variant]
        offset = width ** (X_OFFSET * (place - (len(variants) - 1) / 2))
        x = [positions[point["num_examples"]] * offset for point in points]
        errors = [100 * (point["high"] - point["mean"]) if point["high"] is not None else 0 for point in points]
        style = charts.line_style(index, has_marker=True)
        axes.errorbar(x, means[variant], yerr=errors, capsize=2.5, elinewidth=0.8, **style)
    axes.set(xscale="log", xlabel="total number of labels (log scale)")
    axes.set_xlim(sizes[0] / width**0.07, sizes[-1] * width**0.07)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{number:,}" for number in numbers])
    # With two seeds an interval can be wider than the whole plot, so long error bars are cut off.
    every = [mean for variant in variants.values() for mean in means[variant]]
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low, min(every) - Y_MARGIN), min(100, high, max(every) + Y_MARGIN))
    axes.set_yticks(*charts.ticks(*axes.get_ylim()))
    ends = {
        index: (titles[variant], (positions[curve[variant][-1]["num_examples"]], means[variant][-1]))
        for index, variant in variants.items()
    }
    charts.label_ends(axes, ends, has_marker=True)
    return axes.figure
