"""Means over seeds and test rows with their intervals, comparisons with our encoder, and sentences that describe them.

Comparisons are paired: both variants have the same labels, seeds and test rows.
"""

from itertools import compress

import numpy as np
from scipy import stats

CONFIDENCE_LEVEL = 0.95
VARIANT_PHRASES = {
    "plain": "without it",
    "random": "from random weights",
    "probe": "with a linear probe of the same encoder",
}
"""What each variant is called in a sentence, except for those of features, which are named after the texts."""


def estimate_mean(results: np.ndarray, level: float = CONFIDENCE_LEVEL) -> dict:
    """Return {"mean", "low", "high", "n"} of results (seeds, test rows); low and high are None for a single seed.

    The interval covers other samples of labels, other seeds and other test rows: Student's t over seeds and a normal
    interval over rows, combined by their squares (Howe 1974), since all seeds share the rows.
    """
    mean, (n, num_rows), quantile = float(results.mean()), results.shape, (1 + level) / 2
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    over_seeds = stats.t.ppf(quantile, n - 1) * results.mean(1).std(ddof=1) / n**0.5
    # Plus 1, as if two more rows differed: a few rows that all agree are no certainty (Agresti and Min 2005).
    over_rows = stats.norm.ppf(quantile) * (results.mean(0).var() * num_rows + 1) ** 0.5 / num_rows
    half = float(np.hypot(over_seeds, over_rows))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def paired_difference(
    ours: dict[int, np.ndarray], other: dict[int, np.ndarray], level: float = CONFIDENCE_LEVEL
) -> dict | None:
    """Return the mean difference over shared seeds with its interval; None without such seeds.

    ours, other: by seed, whether each test row is correct, or a mean of that over trials, (test rows,).
    """
    if not (seeds := sorted(ours.keys() & other.keys())):
        return None
    estimate = estimate_mean(np.stack([ours[seed].astype(float) - other[seed] for seed in seeds]), level)
    return {"difference": estimate.pop("mean"), **estimate}


def build_curves(results: list[dict], trained_variants: tuple[str, ...]) -> dict[str, list[dict]]:
    """Return {variant: points in order of labels}, with `correct` bool (test rows,) by seed.

    A linear model on all labels is deterministic.
    """
    points: dict[str, dict[int, dict]] = {}
    for result in results:
        count = result["num_examples"]
        empty = {"shots": result["shots"], "num_examples": count, "scores": {}, "correct": {}}
        point = points.setdefault(result["variant"], {}).setdefault(count, empty)
        point["scores"][result["seed"]] = result["score"]
        point["correct"][result["seed"]] = np.frombuffer(result["correct"].encode(), np.uint8) == ord("1")

    def summarize(variant: str, point: dict) -> dict:
        deterministic = point["shots"] == "all" and variant not in trained_variants
        return {**point, **estimate_mean(np.stack([*point["correct"].values()])), "deterministic": deterministic}

    return {
        variant: [summarize(variant, point) for _, point in sorted(by_count.items())]
        for variant, by_count in points.items()
    }


def pair_correct(ours: dict, other: dict) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return `correct` of two points; a deterministic result is paired with every seed."""
    correct = other["correct"]
    if other["deterministic"]:
        correct = dict.fromkeys(ours["correct"], *correct.values())
    return ours["correct"], correct


def match_points(ours: list[dict], other: list[dict]) -> list[tuple[dict, dict]]:
    """Return the pairs of points with the same number of labels."""
    by_count = {point["num_examples"]: point for point in other}
    return [(point, by_count[point["num_examples"]]) for point in ours if point["num_examples"] in by_count]


def paired_differences(ours: list[dict], other: list[dict]) -> list[dict]:
    """Return the paired difference at every number of labels that both curves have."""
    return [
        {"shots": point["shots"], "num_examples": point["num_examples"], **difference}
        for point, reference in match_points(ours, other)
        if (difference := paired_difference(*pair_correct(point, reference)))
    ]


def find_label_savings(ours: list[dict], other: list[dict]) -> tuple[dict, dict, dict] | None:
    """Return our first and the other's last point where fewer of our labels reach its best mean so far, or None.

    The third is their paired difference; points without one that has an interval are left out.
    """
    for index in range(len(other) - 1, -1, -1):
        best = max(point["mean"] for point in other[: index + 1])
        for point in ours:
            if point["num_examples"] < other[index]["num_examples"] and point["mean"] >= best:
                difference = paired_difference(*pair_correct(point, other[index]))
                if difference and difference["low"] is not None:
                    return point, other[index], difference
    return None


def pooled_difference(ours: list[dict], other: list[dict], level: float = CONFIDENCE_LEVEL) -> dict | None:
    """Return one `paired_difference` of the seeds' means over the label counts that have the most shared seeds.

    Deterministic results of the other curve have a part only if it has no others.
    """
    drawn = [point for point in other if not point["deterministic"]]
    pairs = match_points(ours, drawn) or match_points(ours, other)
    correct = [pair_correct(*pair) for pair in pairs]
    seeds = [first.keys() & second.keys() for first, second in correct]
    most = max(map(len, seeds), default=0)
    if not most:
        return None
    is_used = [len(shared) == most for shared in seeds]
    pairs, correct = list(compress(pairs, is_used)), list(compress(correct, is_used))
    shared = set.intersection(*compress(seeds, is_used))
    means = [{seed: np.mean([pair[i][seed] for pair in correct], 0) for seed in shared} for i in (0, 1)]
    first, last = pairs[0][0]["num_examples"], pairs[-1][0]["num_examples"]
    difference = paired_difference(*means, level)
    return difference and {**difference, "num_sizes": len(pairs), "min_examples": first, "max_examples": last}


def format_percent(value: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * value:.1f}%"


def format_points(value: float) -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def describe_interval(difference: dict) -> str:
    """Describe the interval of a difference."""
    if difference["low"] is None:
        return "one seed, no interval"
    return f"95% interval {format_points(difference['low'])} to {format_points(difference['high'])}"


def match_sentence(ours: list[dict], other: list[dict], ours_phrase: str, other_phrase: str) -> str | None:
    """Describe how few of our labels match more labels of the other variant; None if they never do."""
    savings = find_label_savings(ours, other)
    if not savings:
        return None
    less, more, difference = savings
    verb, note = ("beat", "") if difference["low"] > 0 else ("match", "; the difference is not significant")
    return (
        f"{less['num_examples']:,} labels {ours_phrase} {verb} {more['num_examples']:,}"
        f" {other_phrase}: {format_percent(less['mean'])} vs. {format_percent(more['mean'])}"
        f" ({format_points(difference['difference'])} points, {describe_interval(difference)}{note})."
    )


def gain_sentence(ours: list[dict], other: list[dict], ours_phrase: str, other_phrase: str, has_match: bool) -> str:
    """Describe the gain with the same labels, or its absence."""
    pooled = pooled_difference(ours, other)
    if not pooled:
        return f"No seed was measured both {ours_phrase} and {other_phrase}."
    fewest, value = f"{pooled['min_examples']:,}", pooled["difference"]
    span = f"with {fewest} labels"
    if pooled["num_sizes"] > 1:
        span = f"averaged over {pooled['num_sizes']} label counts from {fewest} to {pooled['max_examples']:,}"
    how = f"{100 * abs(value):.1f} points {'higher' if value > 0 else 'lower'} {ours_phrase} than {other_phrase}"
    if not value:
        how = f"the same {ours_phrase} and {other_phrase}"
    start, no_match = "With", ""
    if pooled["low"] is None:
        start = "Too few seeds for a conclusion: with"
    elif pooled["low"] <= 0:
        start = "No gain: with" if pooled["high"] < 0 else "No significant gain: with"
    if pooled["low"] is not None and not has_match:
        no_match = f"; at no label count with several seeds do fewer labels {ours_phrase} match more {other_phrase}"
    return f"{start} the same labels, the score is {how}, {span} ({describe_interval(pooled)}){no_match}."


def build_sentences(curve: dict[str, list[dict]], ours_phrase: str, phrases: dict[str, str]) -> dict[str, dict]:
    """Return {variant: {"match": sentence or None, "gain"}} for each measured variant, in the order of `phrases`."""
    sentences = {}
    for variant, phrase in phrases.items():
        if variant in curve and "ours" in curve:
            match = match_sentence(curve["ours"], curve[variant], ours_phrase, phrase)
            gain = gain_sentence(curve["ours"], curve[variant], ours_phrase, phrase, bool(match))
            sentences[variant] = {"match": match, "gain": gain}
    return sentences


def headline(sentences: dict[str, dict]) -> str:
    """Return the main result, which compares with the first variant: the label savings if any, else the gain."""
    first = next(iter(sentences.values()), None)
    return "No baseline was measured." if first is None else first["match"] or first["gain"]


def summarize_mistakes(
    result: dict, labels: np.ndarray, texts: list[str], label_names: list[str], max_mistakes: int
) -> dict:
    """Return a trial's confusion matrix (rows are labels, columns predictions) and its most confident mistakes."""
    predictions, confidence = (
        np.array(result["predictions"].split(), int),
        np.array(result["confidence"].split(), float),
    )
    matrix = np.zeros((len(label_names), len(label_names)), int)
    np.add.at(matrix, (labels, predictions), 1)
    wrong = np.flatnonzero(predictions != labels)
    wrong = wrong[np.lexsort((wrong, -confidence[wrong]))][:max_mistakes]
    mistakes = [
        {
            "text": texts[row],
            "label": label_names[labels[row]],
            "prediction": label_names[predictions[row]],
            "confidence": float(confidence[row]),
        }
        for row in wrong.tolist()
    ]
    trial = {"num_examples": result["num_examples"], "seed": result["seed"], "label_names": label_names}
    return {**trial, "confusion_matrix": matrix.tolist(), "mistakes": mistakes}
