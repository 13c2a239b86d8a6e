"""The league table and its sentence, compared with plain computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compare.league import conclude, difference_from_start, mean_score, rank_rows, score_row
from finetune.study.statistics import build_curves, format_points

STARTS = {"mlm": "start", "contrastive": "start"}
PHRASE = "the encoder you started from (minilm)"


def make_curve(gains: dict[str, float], seeds: int = 5, num_rows: int = 400, seed: int = 0, noise: float = 0.0) -> dict:
    """Return the curves of rows that are right on 60 % of the test rows and, by name, so many more."""
    rng = np.random.default_rng(seed)
    results = []
    for count in (16, 64):
        for number in range(seeds):
            draws = rng.random(num_rows)
            for name, gain in gains.items():
                correct = draws < 0.6 + gain + 0.005 * rng.normal() + noise * rng.normal(size=num_rows)
                result = {"variant": name, "shots": count // 2, "num_examples": count, "seed": number}
                text = "".join(map(str, correct.astype(int)))
                results.append({**result, "score": correct.mean(), "correct": text})
    return build_curves(results, tuple(gains))


def test_the_difference_is_that_of_the_plain_formula():
    curves = [make_curve({"start": 0.0, "mlm": 0.05}, seed=seed) for seed in (0, 1)]
    means, halves = [], []
    for curve in curves:
        seeds = sorted(curve["mlm"][0]["correct"])
        rows = [
            np.mean([1.0 * one["correct"][seed] - other["correct"][seed] for one, other in zip(*pair, strict=True)], 0)
            for seed in seeds
            for pair in [(curve["mlm"], curve["start"])]
        ]
        by_seed = [row.mean() for row in rows]
        over_seeds = stats.t.ppf(0.975, len(seeds) - 1) * np.std(by_seed, ddof=1) / len(seeds) ** 0.5
        over_rows = 1.959964 * (np.mean(rows, 0).var() * 400 + 1) ** 0.5 / 400
        means.append(np.mean(by_seed))
        halves.append((over_seeds**2 + over_rows**2) ** 0.5)
    found = difference_from_start(curves, "mlm", "start")
    half = (halves[0] ** 2 + halves[1] ** 2) ** 0.5 / 2
    assert found["difference"] == pytest.approx(np.mean(means))
    assert found["low"] == pytest.approx(np.mean(means) - half, abs=1e-6)
    assert found["high"] == pytest.approx(np.mean(means) + half, abs=1e-6)
    expected = np.mean([[*point["scores"].values()] for curve in curves for point in curve["mlm"]])
    assert mean_score(curves, "mlm") == pytest.approx(expected)
    assert difference_from_start(curves, "start", "start") is None
    assert difference_from_start(curves, "vae", "start") is None and mean_score(curves, "vae") is None


def test_the_best_objective_has_the_highest_score_not_the_largest_gain():
    curves = [make_curve({"start": 0, "start mae": -0.3, "contrastive": 0.08, "mae": -0.1})]
    sentence = conclude(curves, {"contrastive": "start", "mae": "start mae"}, PHRASE)
    assert sentence.startswith("With few labels, contrastive, the best of 2 objectives, beats")


def test_a_gain_names_the_best_objective_and_both_scores():
    sentence = conclude([make_curve({"start": 0, "mlm": 0.04, "contrastive": 0.12})], STARTS, PHRASE)
    start = "With few labels, contrastive, the best of 2 objectives, beats the encoder you started from (minilm): "
    assert sentence.startswith(start) and sentence.endswith(").") and " points, interval +" in sentence


def test_no_gain_is_the_conclusion_when_nothing_is_above_the_start():
    sentence = conclude([make_curve({"start": 0, "mlm": -0.1, "contrastive": -0.05})], STARTS, PHRASE)
    start = (
        "Nothing beats the encoder you started from (minilm): with few labels, contrastive, the best of 2 objectives,"
    )
    assert sentence.startswith(start) and " points less (interval −" in sentence
    start = make_curve({"start": 0})["start"]
    same = conclude([{"start": start, "mlm": start}], {"mlm": "start"}, PHRASE)
    assert same.startswith(f"Nothing beats {PHRASE}: with few labels, mlm scores the same (95% interval −")


def test_a_gain_within_chance_is_unclear():
    sentence = conclude([make_curve({"start": 0, "mlm": 0.01, "contrastive": -0.05}, num_rows=60)], STARTS, PHRASE)
    assert sentence.startswith("Unclear whether anything beats the encoder you started from (minilm): with few labels,")
    assert "which may be chance (interval −" in sentence


def test_the_best_objective_decides_nothing_about_others_with_another_start():
    """`mae` scores less than `vae`, but is far above its own start."""
    starts = {"vae": "start", "mae": "start mae"}
    curves = [make_curve({"start": 0, "start mae": -0.3, "vae": -0.05, "mae": -0.1})]
    sentence = conclude(curves, starts, "the same network without training")
    which = "vae, the best of 2 objectives"
    start = f"With few labels, {which}, does not beat the same network without training: it scores "
    assert sentence.startswith(start) and " points less (interval −" in sentence
    curves = [make_curve({"start": 0, "start mae": -0.3, "vae": 0.01, "mae": -0.1}, num_rows=60)]
    sentence = conclude(curves, starts, "the same network without training")
    assert sentence.startswith(f"Unclear whether {which} beats the same network without training: with few labels, it ")


def test_a_single_seed_is_no_conclusion_and_no_objective_none():
    curves = [make_curve({"start": 0, "mlm": 0.1}, seeds=1)]
    assert conclude(curves, {"mlm": "start"}, PHRASE).startswith("Too few seeds for a conclusion: with few labels, mlm")
    assert conclude(curves, {}, PHRASE) == "No objective was measured."


def test_the_best_of_several_needs_a_wider_interval():
    """A gain that a plain interval would call one may be chance if it is the best of many (Bonferroni)."""
    names = [f"objective-{number}" for number in range(10)]
    curves = [make_curve({"start": 0.0, **dict.fromkeys(names, -0.1), names[3]: 0.04}, num_rows=100, seed=2)]
    plain, wide = (difference_from_start(curves, names[3], "start", level) for level in (0.95, 0.995))
    assert 0 < plain["low"] and wide["low"] < 0 and wide["difference"] == plain["difference"]
    assert conclude(curves, {names[3]: "start"}, PHRASE).startswith(f"With few labels, {names[3]} beats")
    sentence = conclude(curves, dict.fromkeys(names, "start"), PHRASE)
    assert sentence.startswith("Unclear") and f"{names[3]}, the best of 10 objectives, scores" in sentence
    assert f"(interval {format_points(wide['low'])} to {format_points(wide['high'])})" in sentence


def test_rows_are_ranked_by_fine_tuning_then_linear_models_then_failures():
    curves = {"finetuned": [make_curve({"start": 0, "mlm": 0.1})], "probe": [make_curve({"start": 0, "tfidf": -0.1})]}
    names = ["gan", "tfidf", "start", "mlm"]
    rows = [{"name": name, "scores": score_row(curves, name, "start")} for name in names]
    assert [row["name"] for row in rank_rows(rows)] == ["mlm", "start", "tfidf", "gan"]
    by_name = {row["name"]: row["scores"] for row in rows}
    assert by_name["tfidf"]["finetuned"] == {"mean": None, "gain": None}
    assert by_name["tfidf"]["probe"]["gain"]["high"] < 0 < by_name["mlm"]["finetuned"]["gain"]["low"]
    assert by_name["mlm"]["probe"]["mean"] is None
