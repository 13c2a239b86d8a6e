"""Means and intervals over seeds (Student's t), paired comparisons with our encoder, and sentences that describe them.

Comparisons use the same labels and seeds, so the paired t-test applies to the mean difference.
"""

import numpy as np
from scipy import stats

CONFIDENCE_LEVEL = 0.95
VARIANT_PHRASES = {
    "plain": "without it",
    "random": "from random weights",
    "probe": "with a linear probe of the same encoder",
    "tfidf": "with TF-IDF + logistic regression",
}


def estimate_mean(values: list[float]) -> dict:
    """Return {"mean", "low", "high", "n"}; low and high are None for a single value."""
    values = np.array(values, float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, n - 1) * values.std(ddof=1) / n**0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def paired_difference(ours: dict[int, float], other: dict[int, float]) -> dict | None:
    """Return the mean difference over shared seeds, its interval and paired t-test p-value; None without such seeds."""
    gains = np.array([ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())])
    if not len(gains):
        return None
    estimate, p = estimate_mean(gains.tolist()), None
    if len(gains) > 1:
        # The t-test is undefined if all differences are equal.
        p = float(stats.ttest_1samp(gains, 0).pvalue) if np.ptp(gains) > 1e-12 else float(abs(gains[0]) < 1e-12)
    return {"difference": estimate.pop("mean"), **estimate, "p": p}


def build_curves(results: list[dict], trained_variants: tuple[str, ...]) -> dict[str, list[dict]]:
    """Return {variant: points in order of labels}. A linear model on all labels is deterministic."""
    points: dict[str, dict[int, dict]] = {}
    for result in results:
        count = result["num_examples"]
        empty = {"shots": result["shots"], "num_examples": count, "scores": {}}
        point = points.setdefault(result["variant"], {}).setdefault(count, empty)
        point["scores"][result["seed"]] = result["score"]

    def summarize(variant: str, point: dict) -> dict:
        deterministic = point["shots"] == "all" and variant not in trained_variants
        return {**point, **estimate_mean(list(point["scores"].values())), "deterministic": deterministic}

    return {
        variant: [summarize(variant, point) for _, point in sorted(by_count.items())]
        for variant, by_count in points.items()
    }


def paired_against(ours: dict, other: dict) -> dict | None:
    """Return `paired_difference` of two points; a deterministic score is paired with every seed."""
    scores = other["scores"]
    if other["deterministic"]:
        scores = dict.fromkeys(ours["scores"], *scores.values())
    return paired_difference(ours["scores"], scores)


def match_points(ours: list[dict], other: list[dict]) -> list[tuple[dict, dict]]:
    """Return the pairs of points with the same number of labels."""
    by_count = {point["num_examples"]: point for point in other}
    return [(point, by_count[point["num_examples"]]) for point in ours if point["num_examples"] in by_count]


def paired_differences(ours: list[dict], other: list[dict]) -> list[dict]:
    """Return the paired difference at every number of labels that both curves have."""
    return [
        {"shots": point["shots"], "num_examples": point["num_examples"], **difference}
        for point, reference in match_points(ours, other)
        if (difference := paired_against(point, reference))
    ]


def find_label_savings(ours: list[dict], other: list[dict]) -> tuple[dict, dict] | None:
    """Return our first and the other's last point where fewer of our labels reach its best mean so far, or None."""
    for index in range(len(other) - 1, -1, -1):
        best = max(point["mean"] for point in other[: index + 1])
        for point in ours:
            if point["num_examples"] < other[index]["num_examples"] and point["mean"] >= best:
                return point, other[index]
    return None


def pooled_difference(ours: list[dict], other: list[dict]) -> dict | None:
    """Return one `paired_difference` of the seeds' means over the label counts that have the most shared seeds."""
    pairs = match_points(ours, [point for point in other if not point["deterministic"]])
    seeds = [point["scores"].keys() & reference["scores"].keys() for point, reference in pairs]
    most = max(map(len, seeds), default=0)
    if not most:
        return None
    pairs = [pair for pair, shared in zip(pairs, seeds, strict=True) if len(shared) == most]
    shared = set.intersection(*(each for each in seeds if len(each) == most))
    means = [{seed: float(np.mean([pair[i]["scores"][seed] for pair in pairs])) for seed in shared} for i in (0, 1)]
    first, last = pairs[0][0]["num_examples"], pairs[-1][0]["num_examples"]
    difference = paired_difference(*means)
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
    less, more = savings
    difference = paired_against(less, more)
    has_interval = difference and difference["low"] is not None
    beats = has_interval and difference["low"] > 0
    sentence = (
        f"{less['num_examples']:,} labels {ours_phrase} {'beat' if beats else 'match'} {more['num_examples']:,}"
        f" {other_phrase}: {format_percent(less['mean'])} vs. {format_percent(more['mean'])}"
    )
    if not has_interval:
        return f"{sentence} on average; too few seeds for an interval."
    note = "" if beats else "; the difference is not significant"
    return f"{sentence} ({format_points(difference['difference'])} points, {describe_interval(difference)}{note})."


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
    no_match = "" if has_match else f"; at no label count do fewer labels {ours_phrase} match more {other_phrase}"
    start = "With"
    if pooled["low"] is not None and pooled["low"] <= 0:
        start = "No gain: with" if pooled["high"] < 0 else "No significant gain: with"
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
