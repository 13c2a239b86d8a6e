"""Measure how often the 95% intervals of a study cover the truth, on simulated studies of two equally good encoders.

    python benchmarks/intervals.py [repetitions=3000]

A row of the test set is easy or hard for both encoders and, by chance, easier for one: this effect is shared by all
seeds. Every seed has an effect of its own on the accuracy, smaller with more labels. The study's own functions turn the
simulated results into intervals and conclusions.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import results
from scipy.stats import norm

from finetune.study import statistics

ROW_EFFECTS = {"0.006": 1_700, "0.010": 610}
"""Test rows by the standard deviation of their effect on the difference of two encoders that are right on 80%."""
LABELS = (16, 64, 200, 6_000)
SEED_EFFECTS = (0.03, 0.015, 0.008, 0.004)
"""Standard deviation of the accuracy over seeds, by number of labels."""
CURVES = {"steep": (0.60, 0.70, 0.80, 0.88), "flat": (0.80, 0.80, 0.80, 0.80)}
"""Accuracy by number of labels."""
SEEDS = {"3/1": (3, 3, 3, 1), "5/5": (5, 5, 5, 5)}
"""Seeds by number of labels."""
ENCODER_SD, NOISE_SD = 0.45, 0.35  # of a row's difficulty for one encoder and for one training; 1 for both encoders
CELLS = list(itertools.product(ROW_EFFECTS, CURVES, SEEDS))


def simulate_study(rng: np.random.Generator, row_effect: str, curve: str, seeds: str) -> list[dict]:
    """Return the trials of a study of "ours" and "plain", which are equally good."""
    num_rows, trials = ROW_EFFECTS[row_effect], []
    shared = rng.standard_normal(num_rows, np.float32)
    ease = {each: shared + ENCODER_SD * rng.standard_normal(num_rows, np.float32) for each in ("ours", "plain")}
    for count, accuracy, sd, num_seeds in zip(LABELS, CURVES[curve], SEED_EFFECTS, SEEDS[seeds], strict=True):
        variance, threshold = 1 + ENCODER_SD**2 + NOISE_SD**2, norm.ppf(accuracy)
        seed_sd = sd / norm.pdf(threshold) * variance**0.5
        center = threshold * (variance + seed_sd**2) ** 0.5  # so that the expected accuracy is exact
        for variant, seed in itertools.product(ease, range(num_seeds)):
            noise = NOISE_SD * rng.standard_normal(num_rows, np.float32)
            correct = ease[variant] + noise > -np.float32(center + seed_sd * rng.standard_normal())
            digits = (correct.astype(np.uint8) + ord("0")).tobytes().decode()
            trial = {"variant": variant, "num_examples": count, "shots": count, "seed": seed}
            trials.append({**trial, "score": float(correct.mean()), "correct": digits})
    return trials


def measure_cell(row_effect: str, curve: str, seeds: str, repetitions: int) -> dict[str, float]:
    """Return shares of simulated studies, and the mean width of intervals relative to the ideal one."""
    rng, truth = np.random.default_rng(0), dict(zip(LABELS, CURVES[curve], strict=True))
    means, differences, pooled, savings = [], [], [], []
    for _ in range(repetitions):
        points = statistics.build_curves(simulate_study(rng, row_effect, curve, seeds), ("ours", "plain"))
        pair = points["ours"], points["plain"]
        means.append([interval(each, each["mean"] - truth[each["num_examples"]]) for each in pair[0]])
        differences.append([interval(each, each["difference"]) for each in statistics.paired_differences(*pair)])
        pooled.append([interval(each := statistics.pooled_difference(*pair), each["difference"])])
        if saving := statistics.find_label_savings(*pair):
            less, more, each = saving
            true_difference = truth[less["num_examples"]] - truth[more["num_examples"]]
            savings.append((each["low"] > max(0, true_difference), each["low"] <= true_difference <= each["high"]))
    return {
        "coverage of means": coverage(means).min(),
        "coverage of differences": coverage(differences).min(),
        "coverage of the average difference": coverage(pooled).min(),
        "false gain or loss": 1 - coverage(pooled).min(),
        "false label savings": sum(is_false for is_false, _ in savings) / repetitions,
        "width of differences": relative_width(differences).mean(),
        "width of the average difference": relative_width(pooled).mean(),
    }


def interval(estimate: dict, error: float) -> tuple[float, float]:
    """Return (error, half the interval), NaN without an interval."""
    return error, np.nan if estimate["low"] is None else (estimate["high"] - estimate["low"]) / 2


def coverage(intervals: list[list[tuple[float, float]]]) -> np.ndarray:
    """Return the share of studies with an interval around the truth, by place in the lists that has intervals."""
    errors, halves = np.moveaxis(np.array(intervals), -1, 0)
    return (abs(errors) <= halves).mean(0)[~np.isnan(halves[0])]


def relative_width(intervals: list[list[tuple[float, float]]]) -> np.ndarray:
    """Return the mean width of intervals over that of the normal interval with the true standard deviation."""
    errors, halves = np.moveaxis(np.array(intervals), -1, 0)
    return (halves.mean(0) / (norm.ppf(0.975) * errors.std(0)))[~np.isnan(halves[0])]


def main(args: list[str]) -> None:
    """Run all cells and write the section."""
    options, _ = results.parse_options(args, repetitions="3000")
    rows = []
    for cell in CELLS:
        measured = measure_cell(*cell, int(options["repetitions"]))
        rows.append(
            [", ".join((cell[0], cell[1], f"{cell[2]} seeds")), *(f"{value:.3f}" for value in measured.values())]
        )
    table = results.markdown_table(["effect of rows, curve, seeds", *measured], rows)
    body = (
        f"{table}\n\nTwo equally good encoders, {int(options['repetitions']):,} simulated studies a line; 16, 64, 200"
        " and all labels, the last with the second number of seeds. Of several label counts, the lowest coverage and"
        " the mean width; widths are relative to an interval that knows the true standard deviation."
    )
    results.write_section("Intervals of a study", f"python benchmarks/intervals.py {' '.join(args)}".strip(), body)
    print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
