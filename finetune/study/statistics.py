"""Means and intervals over seeds, ours against each other way seed by seed, and what follows from it in words.

Intervals are those of Student's t, 95 %. A way is held against ours on the same labels and the same seeds, so that what
is tested is the mean of the differences (the paired t-test), not the difference of two means.
"""

from __future__ import annotations

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
    """{"mean", "low", "high", "n"}; one value has no interval."""
    values = np.array(values, float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, n - 1) * values.std(ddof=1) / n**0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def paired_difference(ours: dict[int, float], other: dict[int, float]) -> dict | None:
    """The mean difference over the seeds both have, its interval, p of the paired t-test; none without such seeds."""
    gains = np.array([ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())])
    if not len(gains):
        return None
    told, p = estimate_mean(gains.tolist()), None
    if len(gains) > 1:
        # Differences all alike have no spread to test against.
        p = float(stats.ttest_1samp(gains, 0).pvalue) if np.ptp(gains) > 1e-12 else float(abs(gains[0]) < 1e-12)
    return {"difference": told.pop("mean"), **told, "p": p}


def build_curves(results: list[dict], trained_variants: tuple[str, ...]) -> dict[str, list[dict]]:
    """{way: its points, fewest labels first} of finished cells.

    A linear model on all labels is the same for every seed: its one figure stands against each of ours.
    """
    found: dict[str, dict[int, dict]] = {}
    for cell in results:
        point = found.setdefault(cell["way"], {}).setdefault(
            cell["labels"], {"size": cell["size"], "labels": cell["labels"], "scores": {}}
        )
        point["scores"][cell["seed"]] = cell["score"]
    return {
        way: [
            {
                **point,
                **estimate_mean(list(point["scores"].values())),
                "certain": point["size"] == "all" and way not in trained_variants,
            }
            for _, point in sorted(points.items())
        ]
        for way, points in found.items()
    }


def paired_against(ours: dict, other: dict) -> dict | None:
    """`paired_difference` of two points."""
    scores = other["scores"]
    if other["certain"]:
        scores = dict.fromkeys(ours["scores"], *scores.values())
    return paired_difference(ours["scores"], scores)


def paired_differences(ours: list[dict], other: list[dict]) -> list[dict]:
    """Ours against another way at every size both have."""
    by_labels = {point["labels"]: point for point in other}
    return [
        {"size": point["size"], "labels": point["labels"], **told}
        for point in ours
        if point["labels"] in by_labels and (told := paired_against(point, by_labels[point["labels"]]))
    ]


def find_label_savings(ours: list[dict], other: list[dict]) -> tuple[dict, dict] | None:
    """(our point with the fewest labels, the other's with the most) where ours reaches, in the mean, all that the other
    reached up to there, with fewer labels; none if there is no such pair.
    """
    for number in range(len(other) - 1, -1, -1):
        reached = max(point["mean"] for point in other[: number + 1])
        for point in ours:
            if point["labels"] < other[number]["labels"] and point["mean"] >= reached:
                return point, other[number]
    return None


def pooled_difference(ours: list[dict], other: list[dict]) -> dict | None:
    """`paired_difference` of each seed's mean over the sizes that the most seeds were measured at: one test instead of many."""
    by_labels = {point["labels"]: point for point in other if not point["certain"]}
    both = [(point, by_labels[point["labels"]]) for point in ours if point["labels"] in by_labels]
    seeds = [point["scores"].keys() & beside["scores"].keys() for point, beside in both]
    most = max(map(len, seeds), default=0)
    if not most:
        return None
    both = [pair for pair, own in zip(both, seeds) if len(own) == most]
    shared = set.intersection(*(own for own in map(set, seeds) if len(own) == most))
    means = [
        {seed: float(np.mean([pair[side]["scores"][seed] for pair in both])) for seed in shared} for side in (0, 1)
    ]
    told = paired_difference(*means)
    return told and {**told, "sizes": len(both), "fewest": both[0][0]["labels"], "most": both[-1][0]["labels"]}


def format_percent(value: float) -> str:
    """A share as a person reads it."""
    return f"{100 * value:.1f} %"


def format_points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def describe_interval(difference: dict) -> str:
    """The interval of a difference."""
    if difference["low"] is None:
        return "one seed: no interval"
    return f"95 % interval {format_points(difference['low'])} to {format_points(difference['high'])}"


def match_sentence(ours: list[dict], other: list[dict], ours_phrase: str, other_phrase: str) -> str | None:
    """What fewer labels of ours do that more of the other's do; none when they never do."""
    found = find_label_savings(ours, other)
    if not found:
        return None
    less, more = found
    told = paired_against(less, more)
    surely = told and told["low"] is not None and told["low"] > 0
    does = "beat" if surely else "match"
    sentence = (
        f"{less['labels']:,} labels {ours_phrase} {does} {more['labels']:,} {other_phrase}:"
        f" {format_percent(less['mean'])} against {format_percent(more['mean'])}"
    )
    if not told or told["low"] is None:
        return f"{sentence}, in the mean; too few seeds for an interval."
    chance = "" if surely else ", so which is better cannot be told"
    return f"{sentence} ({format_points(told['difference'])} points, {describe_interval(told)}{chance})."


def gain_sentence(ours: list[dict], other: list[dict], ours_phrase: str, other_phrase: str, has_match: bool) -> str:
    """What ours gains with the same labels; and that there is nothing, where there is nothing."""
    told = pooled_difference(ours, other)
    if not told:
        return f"Nothing was measured both {ours_phrase} and {other_phrase}."
    span = (
        f"with {told['fewest']:,} labels"
        if told["sizes"] == 1
        else f"in the mean of {told['sizes']} sizes from {told['fewest']:,} to {told['most']:,} labels"
    )
    size = f"{100 * abs(told['difference']):.1f} points"
    no_match = "" if has_match else f"; at no size do fewer labels {ours_phrase} reach what more do {other_phrase}"
    if told["low"] is None:
        how = "no difference" if not told["difference"] else f"{size} {'more' if told['difference'] > 0 else 'less'}"
        return f"With the same labels, {how} {ours_phrase} than {other_phrase} {span} ({describe_interval(told)}){no_match}."
    if told["low"] > 0:
        return f"With the same labels, {size} more {ours_phrase} than {other_phrase} {span} ({describe_interval(told)}){no_match}."
    if told["high"] < 0:
        return (
            f"No gain: with the same labels, {size} less {ours_phrase} than {other_phrase} {span}"
            f" ({describe_interval(told)}){no_match}."
        )
    return (
        f"No gain can be told: with the same labels, {format_points(told['difference'])} points {ours_phrase} over those"
        f" {other_phrase} {span} ({describe_interval(told)}){no_match}."
    )


def build_sentences(curve: dict[str, list[dict]], ours_phrase: str, phrases: dict[str, str]) -> dict[str, dict]:
    """{way: {"match": or none, "gain"}} for each way that ours is held against, the one that matters first."""
    found = {}
    for way, with_other in phrases.items():
        if way in curve and "ours" in curve:
            match = match_sentence(curve["ours"], curve[way], ours_phrase, with_other)
            gain = gain_sentence(curve["ours"], curve[way], ours_phrase, with_other, bool(match))
            found[way] = {"match": match, "gain": gain}
    return found


def headline(sentences: dict[str, dict]) -> str:
    """The sentence that matters: against the first way, what is matched, else what is gained."""
    first = next(iter(sentences.values()), None)
    return "Nothing was measured to hold ours against." if first is None else first["match"] or first["gain"]


def summarize_mistakes(
    result: dict, labels: np.ndarray, texts: list[str], label_names: list[str], max_mistakes: int
) -> dict:
    """The confusion matrix (rows: what is true) and the most confident mistakes of a cell that kept its predictions."""
    said, sure = np.array(result["predicted"].split(), int), np.array(result["confidence"].split(), float)
    matrix = np.zeros((len(label_names), len(label_names)), int)
    np.add.at(matrix, (labels, said), 1)
    wrong = np.flatnonzero(said != labels)
    wrong = wrong[np.lexsort((wrong, -sure[wrong]))][:max_mistakes]
    return {
        "labels": result["labels"],
        "seed": result["seed"],
        "names": label_names,
        "confusion_matrix": matrix.tolist(),
        "mistakes": [
            {
                "text": texts[place],
                "true": label_names[labels[place]],
                "said": label_names[said[place]],
                "confidence": float(sure[place]),
            }
            for place in wrong.tolist()
        ],
    }
