"""The league table: means of each row, paired differences from its start, and one sentence of conclusion."""

import math

from finetune.study.statistics import (
    CONFIDENCE_LEVEL,
    describe_interval,
    format_percent,
    format_points,
    pooled_difference,
)

USES = ("finetuned", "probe")


def mean_score(curves: list[dict[str, list[dict]]], row: str) -> float | None:
    """Return the mean of a row over label counts and tasks; None if a task has none of it."""
    points = [curve.get(row, []) for curve in curves]
    if not all(points):
        return None
    means = [sum(point["mean"] for point in each) / len(each) for each in points]
    return sum(means) / len(means)


def difference_from_start(
    curves: list[dict[str, list[dict]]], row: str, start: str, level: float = CONFIDENCE_LEVEL
) -> dict | None:
    """Return {"difference", "low", "high"} of a row from its start, a mean over label counts and tasks.

    The interval of a mean over tasks covers other labels, seeds and test rows of these tasks, not other tasks. None if
    a task has none of a row; low and high are None for a single seed.
    """
    if row == start or not all(curve.get(name) for curve in curves for name in (row, start)):
        return None
    parts = [pooled_difference(curve[row], curve[start], level) for curve in curves]
    if not all(parts):
        return None
    mean = sum(part["difference"] for part in parts) / len(parts)
    if any(part["low"] is None for part in parts):
        return {"difference": mean, "low": None, "high": None}
    half = math.hypot(*(part["high"] - part["difference"] for part in parts)) / len(parts)
    return {"difference": mean, "low": mean - half, "high": mean + half}


def conclude(curves: list[dict[str, list[dict]]], starts: dict[str, str], start: str) -> str:
    """Return one sentence on the objective with the highest score after fine-tuning on few labels, and on its start.

    starts: row of the start of each objective; start: what to call it. The best of several has a wider interval, at a
    level that holds for all of them at once (Bonferroni). With several starts, the sentence is about the best objective
    alone, because one with a lower score may be above a lower start.
    """
    level = 1 - (1 - CONFIDENCE_LEVEL) / max(1, len(starts))
    gains = {name: difference_from_start(curves, name, row, level) for name, row in starts.items()}
    gains = {name: gain for name, gain in gains.items() if gain}
    if not gains:
        return "No objective was measured."
    best = max(gains, key=lambda name: mean_score(curves, name))
    gain = gains[best]
    which = f"{best}, the best of {len(gains)} objectives," if len(gains) > 1 else best
    interval = describe_interval(gain)
    if len(gains) > 1:  # wider than the 95 % of a single one
        interval = interval.replace("95% interval", "interval")
    points = f"{100 * abs(gain['difference']):.1f} points"
    if gain["low"] is None:
        direction = "above" if gain["difference"] > 0 else "below"
        return f"Too few seeds for a conclusion: with few labels, {which} is {points} {direction} {start}."
    if gain["low"] > 0:
        mean, other = (format_percent(mean_score(curves, name)) for name in (best, starts[best]))
        scores = f"{mean} vs. {other} ({format_points(gain['difference'])} points, {interval})"
        return f"With few labels, {which} beats {start}: {scores}."
    has_one_start = len({starts[name] for name in gains}) == 1
    if gain["difference"] <= 0:
        less = f"{points} less" if points != "0.0 points" else "the same"
        if not has_one_start:
            return f"With few labels, {which} does not beat {start}: it scores {less} ({interval})."
        return f"Nothing beats {start}: with few labels, {which} scores {less} ({interval})."
    chance = f"scores {points} more, which may be chance ({interval})"
    if not has_one_start:
        return f"Unclear whether {which.removesuffix(',')} beats {start}: with few labels, it {chance}."
    return f"Unclear whether anything beats {start}: with few labels, {which} {chance}."


def rank_rows(rows: list[dict]) -> list[dict]:
    """Return the rows from the best by fine-tuning to the worst, then those of linear models alone, then failures."""

    def key(row: dict) -> tuple:
        scores = [row["scores"][use]["mean"] for use in USES]
        return tuple((score is None, -(score or 0)) for score in scores)

    return sorted(rows, key=key)


def score_row(curves: dict[str, list[dict[str, list[dict]]]], row: str, start: str) -> dict[str, dict]:
    """Return {use: {"mean", "gain"}} of a row. curves: by use, those of each task."""
    return {
        use: {"mean": mean_score(curves[use], row), "gain": difference_from_start(curves[use], row, start)}
        for use in USES
    }
