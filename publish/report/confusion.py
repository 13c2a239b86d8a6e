"""The confusion matrix of a classifier as a picture."""

from markupsafe import Markup

from engine import charts

MAX_CLASSES = 20
CELL, MARGIN = 34, 110  # points


def confusion_chart(matrix: dict) -> Markup:
    """Return an SVG of {"label_names", "counts"}, rows are true classes; "" for too many classes."""
    names, counts = matrix["label_names"], matrix["counts"]
    if len(names) > MAX_CLASSES:
        return Markup("")
    from matplotlib.figure import Figure

    title = "Confusion matrix: rows are labels, columns predictions; shade: share of the label's rows"
    size = MARGIN + CELL * len(names)
    with charts.settings(title):
        figure = Figure(figsize=(charts.WIDTH / 72, (size + 24) / 72), dpi=72)
        side = CELL * len(names)
        axes = figure.add_axes((MARGIN / charts.WIDTH, 8 / (size + 24), side / charts.WIDTH, side / (size + 24)))
        figure.text(0, 1 - 4 / (size + 24), title, va="top", weight="bold", size=charts.FONT_SIZE + 1)
        shares = [[count / (sum(row) or 1) for count in row] for row in counts]
        axes.pcolormesh(shares, cmap="Greys", vmin=0, vmax=1.2, edgecolors="white")
        axes.invert_yaxis()
        axes.xaxis.tick_top()
        short = [charts.shorten_name(name)[:14] for name in names]
        places = [index + 0.5 for index in range(len(names))]
        axes.set_xticks(places, short, rotation=45, ha="left")
        axes.set_yticks(places, short)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, values in enumerate(counts):
            for column, count in enumerate(values):
                color = "white" if shares[row][column] > 0.55 else "black"
                axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center", color=color)
        return charts.to_svg(figure, title)
