"""Metrics of a record with their confidence intervals: as a Markdown table and as the hub's `model-index`."""

import math
from typing import NamedTuple

from huggingface_hub import EvalResult

from data.modalities import load_modality
from data.tasks.problem_types import ProblemType, load_problem_type

DEFAULT_METRICS = ("accuracy", "f1_macro")
"""Metrics reported for a run without a list of its own in its record."""
METRIC_TITLES_AND_HUB_NAMES = {
    "f1_macro": ("macro F1", "f1"),
    "f1_micro": ("micro F1", "f1"),
    "f1": ("entity F1", "f1"),
    "auroc": ("AUROC", "roc_auc"),
    "recall_at_5_fpr": ("found at 5% false alarms", "recall"),
    "recall": ("found at the threshold", "recall"),
    "false_alarm_rate": ("false alarms", "false_alarm_rate"),
    "spearman": ("Spearman", "spearmanr"),
    "pearson": ("Pearson", "pearsonr"),
    "rmse": ("RMSE", "rmse"),
    "loss": ("masked-token loss", "cross_entropy"),
    "retrieval_acc@1": ("retrieval accuracy@1", "accuracy"),
}
MAX_LABELS = 20  # listed in one line
MIN_WIDTH_SHOWN = 0.1  # of an interval of the accuracy, below which it is not described in words
MAX_NEAR_DUPLICATES = 0.03  # of the test rows, before the metrics may be too high
MAX_STS_LOSS = 0.005  # of pretraining, above which it has lost general quality
MIN_AGREEMENT = 0.9  # with the initial encoder, below which it has, where no STS is measured
MIN_CANDIDATES = 50  # of retrieval, below which a gain or a loss is chance
LOST_QUALITY = (
    "this run lost general quality and gained nothing on its own corpus; keep its init, or train less (train.lr,"
    " train.steps) or with a higher init_fraction"
)
Z_95 = 1.959964  # 95% of a standard normal distribution lies within this many standard deviations


class Metric(NamedTuple):
    """One metric of an encoder or model, and of its baselines."""

    name: str
    value: float
    confidence_interval: tuple[float, float] | None
    """95% interval over the examples; None where it does not follow from their number alone."""
    num_rows: int
    baselines: dict[str, float]
    """Values by name of the baseline."""


def find_problem_type(metrics: dict) -> ProblemType:
    """Return the problem type of a model's record, or of its metrics."""
    return load_problem_type(metrics.get("problem_type", "single_label_classification"))


def metric_title(metric: str) -> str:
    """Return the name of a metric for readers."""
    return METRIC_TITLES_AND_HUB_NAMES.get(metric, (metric.replace("_", " "), metric))[0]


def confidence_interval(metric: str, value: float, num_rows: int) -> tuple[float, float] | None:
    """Compute the 95% interval of a share (Wilson 1927) or correlation (Fisher 1921, Bonett and Wright 2000)."""
    if metric in ("accuracy", "retrieval_acc@1") and num_rows:
        center, scale = value + Z_95**2 / (2 * num_rows), 1 + Z_95**2 / num_rows
        half = Z_95 * math.sqrt(value * (1 - value) / num_rows + (Z_95 / num_rows) ** 2 / 4)
        return (center - half) / scale, (center + half) / scale
    if metric in ("spearman", "pearson") and num_rows > 3 and abs(value) < 1:
        half = Z_95 * math.sqrt((1 + (value**2 / 2 if metric == "spearman" else 0)) / (num_rows - 3))
        return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return None


def collect_metrics(record: dict) -> list[Metric]:
    """Collect the metrics of a model on its test set, or of an encoder on its held-out text."""
    if record["kind"] == "model":
        test, metrics = record["metrics"]["test"], []
        baselines = {entry["name"]: entry["test"] for entry in record["baselines"].values() if "test" in entry}
        for name in record.get("report_metrics", DEFAULT_METRICS):
            # The accuracy of token classification is over words, not over rows.
            by_row = not load_problem_type(record["problem_type"]).labels_words
            interval = confidence_interval(name, test[name], test["n"]) if by_row else None
            others = {baseline: values[name] for baseline, values in baselines.items() if name in values}
            metrics.append(Metric(name, test[name], interval, test["n"], others))
        return metrics
    held_out, rows = record["eval"], record["config"]["eval_rows"]
    if "shards_manifest" in record:
        rows = min(rows, record["shards_manifest"]["held_out"]["rows"])
    return [
        Metric(name, held_out[name], confidence_interval(name, held_out[name], count), count, {})
        for name, count in (("loss", rows), ("retrieval_acc@1", held_out.get("num_candidates", 0)))
        if name in held_out
    ]


def with_interval(value: float, interval: tuple[float, float] | None, decimals: int) -> str:
    """Format a value and its interval."""
    bounds = f" ({interval[0]:.{decimals}f} to {interval[1]:.{decimals}f})" if interval else ""
    return f"{value:.{decimals}f}{bounds}"


def metrics_table(record: dict) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows): a column for each metric, a row for this encoder or model and for each baseline."""
    metrics = collect_metrics(record)
    own = [with_interval(metric.value, metric.confidence_interval, 3) for metric in metrics]
    rows = [[f"this {record['kind']}", *own]]
    for name in dict.fromkeys(name for metric in metrics for name in metric.baselines):
        rows.append(
            [name, *(f"{metric.baselines[name]:.3f}" if name in metric.baselines else "" for metric in metrics)]
        )
    return ["", *(metric_title(metric.name) for metric in metrics)], rows


def describe_evaluation(metrics: dict) -> list[str]:
    """Describe on how many rows, and for how long, a model was evaluated. metrics: of metrics.json."""
    evaluation = metrics.get("evaluation") or {}
    if not evaluation:
        return []
    num_rows, parts = evaluation["rows"], []
    if evaluation.get("evaluations"):
        rows, total = evaluation["rows_per_evaluation"], num_rows["validation"]
        of_total = f" of {total:,}" * (rows < total)
        times, seconds = evaluation["evaluations"], evaluation.get("seconds_per_evaluation")
        duration = "" if seconds is None else f" ({seconds:.1f} s each)"
        parts.append(f"{times:,} time{'s' * (times > 1)} on {rows:,}{of_total} validation rows{duration}")
    splits = " and ".join(f"{num_rows[split]:,} {split}" for split in ("validation", "test") if split in num_rows)
    parts.append(f"at the end on {splits} rows ({evaluation['final_seconds']:.1f} s)")
    return [f"evaluated {', '.join(parts)}"]


def describe_truncated(metrics: dict) -> list[str]:
    """Describe the texts that were cut at the maximum length. metrics: or the record."""
    evaluation = metrics.get("evaluation") or {}
    counts = [
        f"{count:,} of {evaluation['rows'][split]:,} {'training' if split == 'train' else split}"
        for split, count in evaluation.get("truncated", {}).items()
        if count
    ]
    return [f"cut at {evaluation['max_length']:,} tokens: {', '.join(counts)} texts"] if counts else []


def interval_width(accuracy: float, num_rows: int) -> float:
    """Return the width of the interval of an accuracy."""
    low, high = confidence_interval("accuracy", accuracy, num_rows)
    return high - low


def count_more_rows(accuracy: float, num_rows: int) -> int:
    """Return how many more test rows halve the interval of an accuracy, if it stays the same."""
    more, half = num_rows, interval_width(accuracy, num_rows) / 2
    while interval_width(accuracy, num_rows + more) > half:
        more += 1
    return more


def describe_interval(metrics: dict) -> list[str]:
    """Describe how well the test rows measure the accuracy of one class per input, if that is little known.

    metrics: or the record. Rows that were drawn at random for it are always described.
    """
    test = metrics.get("metrics", metrics).get("test", {})
    if metrics.get("problem_type") != "single_label_classification" or not test.get("n"):
        return []
    accuracy, num_rows, is_random = test["accuracy"], test["n"], metrics.get("test_rows", {}).get("random", False)
    low, high = confidence_interval("accuracy", accuracy, num_rows)
    if not is_random and high - low < MIN_WIDTH_SHOWN:
        return []
    rows = f"{num_rows:,} {'random ' * is_random}row{'s' * (num_rows > 1)}"
    more = f"{count_more_rows(accuracy, num_rows):,} more rows would halve the interval"
    return [f"measured on {rows}: accuracy {100 * low:.0f} to {100 * high:.0f}% (95% interval); {more}"]


def describe_test_rows(metrics: dict) -> list[str]:
    """Describe the labels without a test row, and the rows also trained on or cut. metrics: or the record."""
    lines, test_rows = describe_interval(metrics), metrics.get("test_rows", {})
    if unseen := test_rows.get("unseen_labels"):
        shown = ", ".join(f"{name} ({count:,})" for name, count in list(unseen.items())[:MAX_LABELS])
        more = f" and {len(unseen) - MAX_LABELS:,} more" if len(unseen) > MAX_LABELS else ""
        lines.append(f"counted as errors, because no training row has their class: test rows of {shown}{more}")
    if absent := test_rows.get("absent_labels"):
        more = f" and {len(absent) - MAX_LABELS:,} more" if len(absent) > MAX_LABELS else ""
        lines.append(f"no test row of: {', '.join(absent[:MAX_LABELS])}{more}")
    if overlap := test_rows.get("overlap"):
        exact, near, num_rows = overlap["exact"], overlap["near"], overlap["num_rows"]
        consequence = "; the metrics may be too high" if near > MAX_NEAR_DUPLICATES * num_rows else ""
        consequence = "; the metrics are too high" if exact else consequence
        counts = f"near duplicates of training or validation rows: {near:,} of {num_rows:,} test rows"
        if exact:
            also = f"{exact:,} of {num_rows:,} test rows also occur in the training or validation rows"
            counts = f"{also}; {near:,} more {'is a near duplicate' if near == 1 else 'are near duplicates'}"
        lines.append(f"{counts}{consequence}")
    return lines + describe_threshold(metrics) + describe_truncated(metrics)


def describe_threshold(metrics: dict) -> list[str]:
    """Describe what exceeds the threshold of a detector. metrics: or the record."""
    found = (metrics.get("evaluation") or {}).get("threshold")
    if not found:
        return []
    kinds = {"anomalous": found.get("recall"), "normal": found.get("false_alarm_rate")}
    shares = [f"{share:.1%} of the {kind}" for kind, share in kinds.items() if share is not None]
    aim = f"threshold {found['value']:.4g}, for at most {found['false_alarms']:.1%} false alarms"
    return [f"{aim}: {' and '.join(shares)} test rows exceed it"]


def describe_quality(metrics: dict) -> list[tuple[str, str]]:
    """Describe what pretraining changed as (title, sentence): in general, on its own corpus, and a warning if it lost.

    metrics: of a run, or its record; nothing for one without `init`.
    """
    before, after = (metrics.get("quality", {}).get(when, {}) for when in ("before", "after"))
    pairs = {name: (before[name], after[name]) for name in before if name in after}
    texts = {name: "{:.3f} before, {:.3f} after".format(*pair) for name, pair in pairs.items()}
    general, lines = [], []
    if "agreement" in pairs:
        general.append(f"similarity agreement with init: {after['agreement']:.3f} (1 = unchanged)")
    if "sts_spearman" in pairs:
        general.append(f"STS {texts['sts_spearman']}")
    if general:
        lines.append(("general quality", ", ".join(general)))
    if "retrieval_acc@1" in pairs:
        count = after.get("num_candidates", 0)
        views = f"{describe_views(metrics.get('modality', 'text'))} ({count:,} candidates"
        views += ")" if count >= MIN_CANDIDATES else ", too few to compare)"
        lines.append(("own corpus", f"retrieval accuracy@1, {views}: {texts['retrieval_acc@1']}"))
    probed = [(name.partition("@")[2], text) for name, text in texts.items() if name.startswith("probe_auroc@")]
    if probed:
        lines.append(("probe", "AUROC on validation rows " + "; ".join(f"at {n} labels {text}" for n, text in probed)))
    if has_lost_quality(pairs):
        lines.append(("warning", LOST_QUALITY))
    return lines


def describe_views(modality: str) -> str:
    """Return what is retrieved for an input of a modality, in a sentence."""
    return "held-out second halves" if modality == "text" else "other views of held-out inputs"


def has_lost_quality(pairs: dict[str, tuple[float, float]]) -> bool:
    """Return whether training lost general quality and did not gain on its own corpus; pairs: before and after."""
    (share, gained), (count, _) = pairs.get("retrieval_acc@1", (0.0, 0.0)), pairs.get("num_candidates", (0, 0))
    if count < MIN_CANDIDATES:
        return False
    standard_error = math.sqrt(share * (1 - share) / count)
    if "sts_spearman" in pairs:
        first, last = pairs["sts_spearman"]
        lost = first - last > MAX_STS_LOSS
    else:
        lost = pairs.get("agreement", (1.0, 1.0))[1] < MIN_AGREEMENT
    return lost and gained - share <= standard_error


def study_table(study: dict) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows): a column for each number of labels, a row for each variant; means, 95% intervals."""
    sizes = sorted({point["num_examples"] for points in study["curve"].values() for point in points})
    rows = []
    for variant, points in study["curve"].items():
        cells = {}
        for point in points:
            interval = (100 * point["low"], 100 * point["high"]) if point["low"] is not None else None
            cells[point["num_examples"]] = with_interval(100 * point["mean"], interval, 1)
        rows.append([study["variants"][variant], *(cells.get(size, "") for size in sizes)])
    return [f"{study['metric']}, %", *(f"{size:,} labels" for size in sizes)], rows


def eval_results(record: dict, task_type: str, study: dict | None) -> list[EvalResult]:
    """Return the entries of `model-index`: metrics, with interval, rows and baselines as the `args` of each."""
    model = record["kind"] == "model"
    dataset = record["config"].get("task" if model else "corpus", {}).get("name", record["run"])

    entries = []
    for name, value, interval, rows, baselines in collect_metrics(record):
        args = {"rows": rows, "interval_95": interval, "baselines": baselines}
        split = "test" if model else "held_out"
        entries.append((task_type, dataset, split, name, metric_title(name), value, args))
    classification = load_modality(record.get("modality", "text")).pipeline_task(find_problem_type({}))
    for point in study["curve"]["ours"] if study else []:
        size, metric = point["num_examples"], study["metric"]
        baselines = {
            study["variants"][variant]: other["mean"]
            for variant, points in study["curve"].items()
            for other in points
            if variant != "ours" and other["num_examples"] == size
        }
        interval = (point["low"], point["high"]) if point["low"] is not None else None
        args = {"labels": size, "interval_95": interval, "baselines": baselines}
        title = f"{metric_title(metric)} when fine-tuned with {size:,} labels"
        entries.append((classification, study["task"], "test", metric, title, point["mean"], args))
    return [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            dataset_split=split,
            metric_name=title,
            metric_type=METRIC_TITLES_AND_HUB_NAMES.get(metric, (metric, metric))[1],
            metric_value=round(value, 6),
            metric_args={key: round_values(value) for key, value in args.items() if value},
        )
        for task, data, split, metric, title, value, args in entries
    ]


def round_values(values: int | tuple | dict) -> int | list | dict:
    """Round numbers to six decimals."""
    if isinstance(values, dict):
        return {key: round(value, 6) for key, value in values.items()}
    return [round(value, 6) for value in values] if isinstance(values, tuple) else values
