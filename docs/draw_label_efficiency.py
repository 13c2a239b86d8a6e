"""Draw docs/label-efficiency.svg from benchmarks/RESULTS.md:  python -m docs.draw_label_efficiency."""

import re
from pathlib import Path

from matplotlib.ticker import FixedLocator, NullLocator

from engine import charts

DOCS = Path(__file__).parent
RESULTS, PICTURE = DOCS.parent / "benchmarks" / "RESULTS.md", DOCS / "label-efficiency.svg"
SECTION = "## Few labels, compared with SetFit, on a GPU"
METHODS = {"selftrain": "Headstart, selftrain", "fewshot": "Headstart, fewshot", "setfit": "SetFit"}
HEIGHT = 230


def read_accuracies(markdown: str) -> dict[str, dict[int, list[float]]]:
    """Return {method: {labels per class: accuracy of each task}}, of the tasks that have every number of labels."""
    section = markdown.split(SECTION)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    header, *rows = rows
    cells = {}
    for task, labels, *others in rows:
        if re.fullmatch(r"\d+", labels) and not task.startswith("*"):
            cells[task, int(labels)] = dict(zip(header[2:], others, strict=True))
    sizes = sorted({size for _, size in cells})
    tasks = [task for task, size in cells if size == sizes[0] and all((task, other) in cells for other in sizes)]
    return {
        method: {size: [float(cells[task, size][method].split()[0]) for task in tasks] for size in sizes}
        for method in METHODS
    }


def main() -> None:
    """Draw the picture."""
    accuracies = read_accuracies(RESULTS.read_text(encoding="utf-8"))
    sizes = list(accuracies["setfit"])
    num_tasks = len(accuracies["setfit"][sizes[0]])
    title = f"Mean accuracy of {num_tasks} tasks, five samples of labels each, %"
    with charts.settings(title):
        axes = charts.new_axes(title, list(METHODS.values()), HEIGHT)
        ends = {}
        for index, (method, name) in enumerate(METHODS.items()):
            means = [100 * sum(accuracies[method][size]) / num_tasks for size in sizes]
            axes.plot(sizes, means, **charts.line_style(index, has_marker=True))
            ends[index] = name, (sizes[-1], means[-1])
        axes.set(xscale="log", xlabel="labels per class (log scale)")
        axes.set_xlim(sizes[0] * 0.9, sizes[-1] * 1.1)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(list(map(str, sizes)))
        axes.set_yticks(*charts.ticks(*axes.get_ylim()))
        charts.label_ends(axes, ends, has_marker=True)
        axes.figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
