"""Draw docs/label-efficiency.svg from benchmarks/fewshot_trials.jsonl:  python -m docs.draw_label_efficiency."""

import json
import statistics
from pathlib import Path

from matplotlib.ticker import FixedLocator, NullLocator

from engine import charts

DOCS = Path(__file__).parent
TRIALS, PICTURE = DOCS.parent / "benchmarks" / "fewshot_trials.jsonl", DOCS / "label-efficiency.svg"
LINES = {
    "Headstart, with unlabeled text": ("auto_unlabeled",),
    "Headstart, labels only": ("auto",),
    "SetFit": ("setfit", "setfit_templates"),
}
"""Contenders of each line: the second one where the first cannot train, without labels."""
SIZES = (0, 2, 8, 16)
HEIGHT = 230


def read_means() -> tuple[dict[str, dict[int, float]], int]:
    """Return ({line: {labels per class: mean accuracy over the tasks, in %}}, number of tasks with every trial)."""
    accuracies: dict[tuple[str, int], dict[str, list[float]]] = {}
    for line in TRIALS.read_text(encoding="utf-8").splitlines():
        trial = json.loads(line)
        by_task = accuracies.setdefault((trial["contender"], trial["shots"]), {})
        by_task.setdefault(trial["task"], []).append(trial["accuracy"])
    found = {
        (name, size): next((accuracies[key, size] for key in keys if (key, size) in accuracies), None)
        for name, keys in LINES.items()
        for size in SIZES
    }
    tasks = set.intersection(*(set(by_task) for by_task in found.values() if by_task))
    means = {
        name: {
            size: 100 * statistics.mean(statistics.mean(by_task[task]) for task in tasks)
            for size in SIZES
            if (by_task := found[name, size])
        }
        for name in LINES
    }
    return means, len(tasks)


def main() -> None:
    """Draw the picture."""
    means, num_tasks = read_means()
    title = f"Mean accuracy of {num_tasks} tasks, %"
    with charts.settings(title):
        axes = charts.new_axes(title, list(LINES), HEIGHT)
        ends = {}
        for index, (name, points) in enumerate(means.items()):
            axes.plot(list(points), list(points.values()), **charts.line_style(index, has_marker=True))
            ends[index] = name, (max(points), points[max(points)])
        axes.set_xscale("symlog", base=2, linthresh=SIZES[1])
        axes.set_xlabel("labels per class (log scale from 2 on)")
        axes.set_xlim(-0.2, SIZES[-1] * 1.1)
        axes.xaxis.set_major_locator(FixedLocator(SIZES))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(list(map(str, SIZES)))
        axes.set_yticks(*charts.ticks(*axes.get_ylim()))
        charts.label_ends(axes, ends, has_marker=True)
        axes.figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
