"""What is printed at the end of a run: the scores, then the output files."""

from collections.abc import Sequence

from engine.files import read_json
from engine.runs.run import Run
from publish.card.card import DEFAULT_METRICS, describe_evaluation, describe_test_rows, find_problem_type, metric_title


class ScoreTable:
    """The table of scores on the test set, line by line: a baseline can take as long as the training.

    metrics: content of metrics.json. later_names: of rows that are measured after the first lines are printed.
    """

    def __init__(self, metrics: dict, later_names: Sequence[str] = ()):
        self.metrics, self.problem_type = metrics, find_problem_type(metrics)
        self.rows = [(f"{metrics['encoder']}, {self.problem_type.fitted}", metrics["test"])]
        self.rows += [(baseline["name"], baseline.get("test")) for baseline in metrics["baselines"].values()]
        self.name_width = max(map(len, [*(name for name, _ in self.rows), *later_names])) + 4
        names = metrics.get("report_metrics", DEFAULT_METRICS)
        self.widths = {metric: max(8, len(metric_title(metric))) for metric in names}

    def format(self) -> str:
        """Return the numbers of rows, the titles and the rows that are in the metrics."""
        metrics, problem_type = self.metrics, self.problem_type
        titles = "   ".join(f"{metric_title(metric):>{width}}" for metric, width in self.widths.items())
        lines = [
            "",
            f"  {metrics['task']}: {metrics['num_train_examples']:,} {problem_type.rows_noun} of"
            f" {metrics['num_available_examples']:,}, {metrics['test']['n']:,} test rows",
            *(f"  {line}" for line in describe_test_rows(metrics) + describe_evaluation(metrics)),
            "",
            f"  {'on the test set':<{self.name_width}}{titles}",
            *(self.format_row(name, test) for name, test in self.rows),
        ]
        return "\n".join(lines)

    def format_row(self, name: str, test: dict | None) -> str:
        """Return the line of a name and its test metrics, None if they were not measured."""
        known, widths = test or {}, self.widths.items()
        cells = (f"{known[key]:>{width}.3f}" if key in known else f"{'-':>{width}}" for key, width in widths)
        return f"  {name:<{self.name_width}}{'   '.join(cells)}"


def format_scores(run: Run) -> str:
    """Return the table of a finished run."""
    return ScoreTable(read_json(run.folder / "metrics.json")).format()


def format_outputs(run: Run) -> str:
    """Return the paths of the output files and an example command."""
    metrics, folder = read_json(run.folder / "metrics.json"), run.folder
    lines = ["", f"  model   {folder / 'model'}"]
    if (folder / "report.html").is_file():
        lines.append(f"  report  {folder / 'report.html'}")
    if metrics.get("test_rows", {}).get("random") and find_problem_type(metrics).has_single_class:  # labeled in rounds
        lines.append(f"  label   make explore MODEL={folder}  chooses the rows to label next")
    if (folder / "adapter").is_dir():
        lines.append(f"  adapter {folder / 'adapter'} on {folder / 'base'}, for peft")
    return "\n".join([*lines, f"  next    make predict MODEL={folder} FILE=FILE"])
