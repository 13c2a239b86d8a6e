"""Study: shared labels, resuming after a kill, contamination, statistics and their sentences, the report."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import intervals
import numpy as np
import pytest
from browser import load_page
from helpers import ROOT, pretrain_args, run_module, start_module
from markupsafe import escape
from scipy import stats

from data.encoders import read_pooling
from data.tasks import overlap
from data.tasks.task import normalize, read_task
from engine.charts import declutter
from engine.config.loader import load_config
from engine.errors import ConfigError
from finetune.study import report, statistics
from finetune.study.config import Study, StudySettings
from finetune.study.plot import plot_curves
from finetune.study.run import run_study
from finetune.study.trials import Trials

DRIVER = """
import json, sys
from pretrain.__main__ import main as pretrain
from finetune.study.__main__ import main as study
for stage, args in json.loads(sys.argv[1]):
    {"pretrain": pretrain, "study": study}[stage](args)
"""


# ---- a complete study ---------------------------------------------------------------------------------------------


def study_args(sentiment_files: Path) -> list[str]:
    # With a learning rate of 2e-3, two layers of width 32 learn something in a few steps.
    return [
        "configs/finetune/your-task.yaml",
        "method=none",
        f"task.train.files={sentiment_files}/labels.csv",
        "run=small",
        "max_length=32",
        "encoder=out/runs/second/encoder",
        "train.precision=float32",
        "train.steps=4",
        "train.save_every=2",
        "train.lr=2e-3",
        "study.shots=[4,8,all]",
        "study.seeds=2",
        "study.max_confusion_size=100",
    ]


@pytest.fixture(scope="module")
def study_root(sentiment_files, tmp_path_factory) -> Path:
    """Pretrain an encoder twice from an external one and run its study without interruption in out/studies/complete."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(DRIVER)
    args = [*pretrain_args(sentiment_files), "train.steps=2", "train.eval_every=2"]
    for stages in (
        [["pretrain", [*args, "run=first"]]],
        [
            ["pretrain", [*args, "run=between", "init=external"]],
            ["pretrain", [*args, "run=second", "init=out/runs/between/encoder"]],
            ["study", study_args(sentiment_files)],
        ],
    ):
        done = run_module("driver.py", json.dumps(stages), prefix=(sys.executable,), cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        if not (folder / "external").is_dir():
            (folder / "out/runs/first/encoder").rename(folder / "external")
            (folder / "external/record.json").unlink()  # as an encoder from elsewhere
    (folder / "output.txt").write_text(done.stdout)
    (folder / "out/studies/small").rename(folder / "out/studies/complete")
    return folder


def load_results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]


def test_variants_share_labels_and_use_no_validation_labels(study_root):
    folder = study_root / "out/studies/complete"
    study, results = json.loads((folder / "study.json").read_text()), load_results(folder)
    samples = {}
    for result in results:
        samples.setdefault((result["num_examples"], result["seed"]), set()).add(result["sampled"])
    assert all(len(hashes) == 1 for hashes in samples.values())
    largest = max(size for size, _ in samples)
    few = {key: hashes for key, hashes in samples.items() if key[0] != largest}
    assert len(few) == 4 and len(set(map(str, few.values()))) == 4, "a sample of its own for each size and seed"
    counts = Counter((result["variant"], result["num_examples"]) for result in results)
    assert {variant for variant, _ in counts} == {"ours", "plain", "random", "probe", "tfidf"}
    assert all(
        count == (1 if size == largest and variant in ("probe", "tfidf") else 2)
        for (variant, size), count in counts.items()
    )
    assert study["validation_labels"] == 0 and study["trials"] == {"planned": 28, "completed": 28}
    output = (study_root / "output.txt").read_text()
    assert "validation labels are not used" in output and "trial 28/28" in output and " left\n" in output
    assert study["sentence"] in output and "out/studies/small/report.html" in output
    # Both pretraining corpora are searched, the last first; they share no text with the labels.
    contamination = study["contamination"]
    assert [corpus["train"]["exact"] for corpus in contamination["corpora"]] == [0, 0]
    assert contamination["training_overlap"]["exact"] == 0 and contamination["num_measured_rows"] == 50
    hashes = study["reproduction"]["weight_hashes"]
    assert hashes["ours"]["model.safetensors"] != hashes["plain"]["model.safetensors"]
    assert not (folder / "running").exists()


def test_a_killed_study_resumes_to_identical_files(study_root, sentiment_files):
    """After SIGKILL, the same command keeps finished trials and writes byte-identical files."""
    rng = random.Random(time.time_ns())
    num_trials, pause = rng.randrange(1, 22), rng.random()
    folder = study_root / "out/studies/small"
    shutil.rmtree(folder, ignore_errors=True)
    process = start_module("finetune.study", *study_args(sentiment_files), cwd=study_root)
    while process.poll() is None and len(list(folder.glob("trials/*.json"))) < num_trials:
        time.sleep(0.02)
    time.sleep(pause / 2)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*.json")}
    assert num_trials <= len(finished), (num_trials, process.stderr.read_text())
    done = run_module("finetune.study", *study_args(sentiment_files), cwd=study_root)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items()), (num_trials, pause)
    for name in ("study.json", "report.html", "study.svg"):
        assert (folder / name).read_bytes() == (study_root / "out/studies/complete" / name).read_bytes(), (
            name,
            num_trials,
            pause,
        )
    assert not (folder / "running").exists()
    assert json.loads((folder / "times.json").read_text()).keys() <= {
        path.stem for path in folder.glob("trials/*.json")
    }


def test_report_matches_study_json(study_root):
    folder = study_root / "out/studies/complete"
    study, page = json.loads((folder / "study.json").read_text()), (folder / "report.html").read_text()
    assert escape(study["sentence"]) in page and page.count("<svg") == 1
    assert (folder / "study.png").stat().st_size > 5_000
    rows = [
        (html.unescape(name), [value.split("<")[0] for value in re.findall(r"<td>(.*?)</td>", rest)])
        for name, rest in re.findall(r"<tr(?: class=ours)?><td>([^<]*)</td>(.*?)</tr>", page)
    ]
    means, gains = rows[: len(study["curve"])], rows[len(study["curve"]) :]
    assert means == [
        (study["variants"][variant], [f"{100 * point['mean']:.1f}" for point in points])
        for variant, points in study["curve"].items()
    ]
    assert gains == [
        (study["variants"][variant], [statistics.format_points(point["difference"]) for point in points])
        for variant, points in study["paired_differences"].items()
    ]
    errors = study["errors"]
    assert sum(map(sum, errors["confusion_matrix"])) == study["contamination"]["num_measured_rows"]
    for mistake in errors["mistakes"]:
        assert escape(mistake["text"][:40]) in page and mistake["label"] != mistake["prediction"]
    # The predictions in the confusion matrix yield the score on the curve.
    point = next(point for point in study["curve"]["ours"] if point["num_examples"] == errors["num_examples"])
    accuracy = np.trace(errors["confusion_matrix"]) / 50
    assert accuracy == pytest.approx(point["scores"][str(errors["seed"])])
    # The results by test row yield the scores, and are in no file with numbers for others.
    assert all(np.mean([*map(int, each["correct"])]) == pytest.approx(each["score"]) for each in load_results(folder))
    assert "correct" not in point
    assert all(escape(sentences["gain"]) in page for sentences in study["sentences"].values())
    # The page loads no external resource.
    assert not re.search(r"(?:src|href)=[\"']?https?:|url\((?!#)|@import|<script|<link", page)


def test_invalid_settings(sentiment_files):
    args = study_args(sentiment_files)
    for extra, expected in (
        ("study.variants=[tfidf]", "study.variants: ours is required"),
        ("study.shots=[]", "study.shots"),
        ("study.shots=[few]", "study.shots"),
        ("study.shot=3", "nearest: study.shots"),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            load_config(Study, [*args, extra])
    for extra, expected in (
        ("task.problem_type=regression", "task.problem_type: a study needs single classes, not regression"),
        ("selftrain.rounds=1", "selftrain.rounds: a study trains on labeled examples only"),
        ("tapt.steps=5", "tapt.steps: a study does not adapt its encoder"),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            run_study(load_config(Study, [*args, extra]), [])


def test_a_study_without_a_trial_is_refused(sentiment_files, study_root):
    args = [*study_args(sentiment_files), "study.shots=[0]", "class_names.weight=0", "run=none"]
    for more in ([], ["--dry-run"]):
        done = run_module("finetune.study", *args, *more, cwd=study_root)
        assert done.returncode == 2 and "study.shots: no trial; 0 labels need names" in done.stderr, done.stderr


def test_dry_run_writes_nothing(sentiment_files, study_root):
    done = run_module("finetune.study", *study_args(sentiment_files), "run=checked", "--dry-run", cwd=study_root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"disk     .*\nmemory   about ", done.stdout), done.stdout + done.stderr
    assert not (study_root / "out" / "studies" / "checked").exists()


def test_result_paths_depend_on_training_but_not_on_logging(study_root, sentiment_files, monkeypatch):
    monkeypatch.chdir(study_root)

    def paths(*extra: str) -> dict[str, str]:
        """Return {trial: name of its file}."""
        config = load_config(Study, [*study_args(sentiment_files), *extra])
        rows = read_task(config.task)
        trials = Trials(config, config.encoder, rows, list(range(len(rows["test"]))), Path("out/studies/complete"))
        return {
            f"{each.variant} {each.shots} {each.seed}": trials.result_path(each).name for each in trials.list_trials()
        }

    def changed(new: dict[str, str]) -> set[str]:
        return {name.split()[0] for name in before if new[name] != before[name]}

    before = paths()
    logging = "train.log_every=1", "train.save_every=1", "layers.cache_frozen=false", "tracker=tensorboard"
    assert paths(*logging) == before and len(before) == 28
    assert changed(paths("train.lr=1e-3")) == {"ours", "plain", "random"}

    copy = Path(shutil.copytree("out/runs/second/encoder", "out/runs/copied/encoder"))
    pooling = copy / "1_Pooling/config.json"
    assert paths(f"encoder={copy}") == before
    pooling.write_text(json.dumps({"pooling_mode": {"mean": "cls", "cls": "mean"}[read_pooling(copy)]}))
    assert changed(paths(f"encoder={copy}")) == {"ours", "random"}


def test_default_and_full_label_counts_and_seeds():
    def settings(*extra: str) -> StudySettings:
        return load_config(Study, ["configs/finetune/sentiment.yaml", *extra]).study

    default, full, chosen = (
        settings(),
        settings("study.full=true"),
        settings("study.shots=[all,64,8,8]", "study.seeds=4"),
    )
    assert default.list_shots() == [0, 8, 32, 100, "all"] and [default.num_seeds(shots) for shots in (8, "all")] == [
        3,
        1,
    ]
    assert full.list_shots()[-2:] == [256, "all"] and [full.num_seeds(shots) for shots in (8, "all")] == [5, 5]
    assert chosen.list_shots() == [8, 64, "all"] and chosen.num_seeds("all") == 4


# ---- contamination ------------------------------------------------------------------------------------------------

LONG = "the old miller counted every sack of grain before the river rose over the lower steps and nobody believed him"
OTHER = "a tin box of buttons under the stairs was all that she had kept from the house by the sea where lamps were lit"


@pytest.mark.parametrize(
    "text, others, expected",
    [
        (LONG, [OTHER, f"  {LONG.upper()} "], overlap.EXACT),
        (LONG, [LONG.replace(" ", ", ")], overlap.NEAR),  # the same except for punctuation
        (LONG, [f"{OTHER} {' '.join(LONG.split()[:15])}"], overlap.NEAR),  # 8 of 13 n-grams
        (LONG, [f"{' '.join(LONG.split()[:13])} {OTHER}"], overlap.NONE),  # 6 of 13 n-grams
        (
            LONG,
            [" ".join(LONG.split()[:11]), " ".join(LONG.split()[8:])],
            overlap.NONE,
        ),  # 4 in one text, 5 in the other
        ("Seven geese walked across bridges.", [f"{OTHER}: seven geese walked across bridges"], overlap.NEAR),
        ("Seven geese walked across bridges.", ["seven geese walked across many bridges"], overlap.NONE),
        ("I liked it well.", ["I liked it well, and so did she"], overlap.NONE),  # too short for a partial match
        ("I liked it well.", ["i LIKED it  well."], overlap.EXACT),
        ("映画はとても面白かった", [f"{OTHER} 映画はとても面白かった"], overlap.NEAR),
        ("ភាពយន្តនេះល្អណាស់", [f"{OTHER} ភាពយន្តនេះល្អណាស់"], overlap.NEAR),
    ],
)
def test_overlap_of_planted_texts(text, others, expected):
    index = overlap.OverlapIndex([OTHER + " above", text])
    assert index.search(iter(others)) == len(others)
    reference = max(reference_overlap(text, other) for other in others)
    assert index.matches[1] == reference == expected


def reference_overlap(text: str, other: str) -> int:
    """Apply the definition directly."""
    if " ".join(text.split()).casefold() == " ".join(other.split()).casefold():
        return overlap.EXACT
    words, other_words = (overlap.WORD_PATTERN.findall(each.casefold()) for each in (text, other))
    size = min(overlap.NGRAM_SIZE, len(words))
    if size < overlap.MIN_WORDS:
        return overlap.NONE
    ngrams, other_ngrams = (
        {tuple(each[start : start + size]) for start in range(len(each) - size + 1)} for each in (words, other_words)
    )
    return overlap.NEAR if len(ngrams & other_ngrams) >= overlap.MIN_CONTAINMENT * len(ngrams) else overlap.NONE


def test_overlap_of_random_texts_matches_the_definition():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(rng.choice(words, rng.integers(1, 20))) for _ in range(40)]
    others = [" ".join([*rng.choice(words, 5), *text.split()[: rng.integers(1, 20)]]) for text in texts]
    others += texts[:5]
    index = overlap.OverlapIndex(texts)
    index.search(others)
    assert index.matches.tolist() == [max(reference_overlap(text, other) for other in others) for text in texts]
    assert set(index.matches.tolist()) == {overlap.NONE, overlap.NEAR, overlap.EXACT}
    assert overlap.OverlapIndex([]).search(texts) == len(texts) and overlap.OverlapIndex(texts).search([]) == 0


@pytest.mark.slow
def test_imdb_splits_share_123_texts(workspace):
    """123 of the 25,000 test texts of the published dataset also occur in its training half."""
    from data.contamination import check_contamination

    config = load_config(Study, ["configs/finetune/imdb.yaml"])
    rows = read_task(config.task)
    training_texts = {normalize(example.texts) for example in rows["train"] + rows["validation"]}
    assert sum(normalize(example.texts) in training_texts for example in rows["test"]) == 123
    counts, measured = check_contamination(config.task, rows, {}, True, False)
    overlaps = counts["training_overlap"]
    assert overlaps["exact"] == 123 and overlaps["num_rows"] == 25_000
    assert len(measured) == 25_000 - 123 - overlaps["near"]
    assert len(check_contamination(config.task, rows, {}, False, False)[1]) == 25_000


# ---- statistics and sentences -------------------------------------------------------------------------------------


def test_intervals_combine_those_over_seeds_and_over_rows():
    """Against scipy: with equal rows the interval is that over seeds, with equal seeds that over rows."""
    rng = np.random.default_rng(0)
    results = rng.random((6, 40_000)) < rng.normal(0.7, 0.05, (6, 1))
    by_seed, by_row = results.mean(1), results.mean(0)
    halves = [
        by_seed.mean() - stats.t.interval(0.95, 5, by_seed.mean(), stats.sem(by_seed))[0],
        by_row.mean() - stats.norm.interval(0.95, by_row.mean(), stats.sem(by_row))[0],
    ]
    mean = statistics.estimate_mean(results)
    low, high = by_seed.mean() - np.hypot(*halves), by_seed.mean() + np.hypot(*halves)
    assert (mean["mean"], mean["low"], mean["high"], mean["n"]) == pytest.approx(
        (by_seed.mean(), low, high, 6), abs=1e-5
    )
    other = rng.random((6, 40_000)) < 0.65
    paired = statistics.paired_difference(dict(enumerate(results)), {**dict(enumerate(other)), 99: other[0]})
    expected = statistics.estimate_mean(results.astype(float) - other)
    assert paired == {"difference": expected.pop("mean"), **expected} and paired["n"] == 6
    assert statistics.estimate_mean(results[:1])["low"] is None
    assert statistics.paired_difference({0: other[0]}, {1: other[0]}) is None
    assert statistics.paired_difference({0: other[0]}, {0: other[1]})["high"] is None


def test_few_rows_that_all_agree_are_no_certainty():
    always = np.ones((3, 20), bool)
    assert statistics.estimate_mean(always)["low"] < 0.91
    same = statistics.paired_difference(dict(enumerate(always)), dict(enumerate(always)))
    assert same["difference"] == 0 and same["high"] > 0.09


def test_an_interval_in_a_table_ends_at_all_rows():
    point = statistics.estimate_mean(np.array([[1.0] * 49 + [0.0], [1.0] * 50])) | {"deterministic": False}
    assert point["high"] > 1 and report.format_mean(point)[1].endswith(" to 100.0")
    assert report.format_mean(point | {"mean": 0.01, "low": -0.02, "high": 0.04}) == ["1.0", "0.0 to 4.0"]


def test_intervals_hold_in_simulated_studies():
    """They covered 79% here when they were over seeds alone."""
    measured = intervals.measure_cell("0.010", "flat", "5/5", 100)
    assert measured["coverage of differences"] > 0.92 and measured["coverage of the average difference"] > 0.93
    assert measured["width of differences"] < 1.4


@pytest.mark.slow
@pytest.mark.parametrize("cell", intervals.CELLS, ids=", ".join)
def test_intervals_hold_in_every_simulated_study(cell):
    measured = intervals.measure_cell(*cell, 1000)
    assert all(value > 0.93 for name, value in measured.items() if name.startswith("coverage"))
    assert all(value < 0.05 for name, value in measured.items() if name.startswith("false"))
    assert all(value < 2 for name, value in measured.items() if name.startswith("width"))


def make_curve(**scores: list[list[float]]) -> dict[str, list[dict]]:
    """Return points at 16, 64 and all 400 labels; each list has the scores of one point's seeds, of 1,000 test rows."""
    sizes = (16, 8), (64, 32), (400, "all")
    return statistics.build_curves(
        [
            {
                "variant": variant,
                "num_examples": count,
                "shots": shots,
                "seed": seed,
                "score": score,
                "correct": "1" * round(1000 * score) + "0" * round(1000 - 1000 * score),
            }
            for variant, points in scores.items()
            for (count, shots), seeds in zip(sizes, points, strict=False)
            for seed, score in enumerate(seeds)
        ],
        ("ours", "plain"),
    )


def describe(curve: dict[str, list[dict]]) -> dict[str, str]:
    """Return the sentences that compare ours with plain."""
    return statistics.build_sentences(curve, "with pretraining", {"plain": statistics.VARIANT_PHRASES["plain"]})[
        "plain"
    ]


def test_sentence_for_significant_label_savings():
    sentences = describe(
        make_curve(
            ours=[[0.60, 0.62, 0.61], [0.80, 0.81, 0.80]],
            plain=[[0.50, 0.52, 0.51], [0.60, 0.62, 0.59], [0.70, 0.71, 0.69]],
        )
    )
    assert sentences["match"].startswith(
        "64 labels with pretraining beat 400 without it: 80.3% vs. 70.0% (+10.3 points, 95% interval +"
    )
    assert sentences["gain"].startswith(
        "With the same labels, the score is 15.0 points higher with pretraining than without it, averaged over 2"
        " label counts from 16 to 64 ("
    )


def test_sentence_for_label_savings_that_are_not_significant():
    sentences = describe(
        make_curve(ours=[[0.60, 0.70, 0.62], [0.7, 0.7, 0.7]], plain=[[0.5, 0.5, 0.5], [0.64, 0.62, 0.65]])
    )
    assert sentences["match"].startswith(
        "16 labels with pretraining match 64 without it: 64.0% vs. 63.7% (+0.3 points, 95% interval −"
    )
    assert sentences["match"].endswith("; the difference is not significant).")


def test_one_seed_is_too_few_for_a_conclusion():
    sentences = describe(make_curve(ours=[[0.60], [0.72]], plain=[[0.5], [0.6], [0.7]]))
    assert sentences == {
        "match": None,
        "gain": "Too few seeds for a conclusion: with the same labels, the score is 11.0 points higher with"
        " pretraining than without it, averaged over 2 label counts from 16 to 64 (one seed, no interval).",
    }
    # The match of 400 labels has one seed, that of 64 has two.
    curve = make_curve(ours=[[0.65, 0.66], [0.72, 0.73]], plain=[[0.5, 0.51], [0.62, 0.63], [0.7]])
    less, more, _ = statistics.find_label_savings(curve["ours"], curve["plain"])
    assert (less["num_examples"], more["num_examples"]) == (16, 64)


def test_sentence_without_label_savings():
    gained = make_curve(ours=[[0.55, 0.56, 0.55], [0.65, 0.66, 0.65]], plain=[[0.5, 0.51, 0.51], [0.6, 0.61, 0.61]])
    sentences = describe(gained)
    assert sentences["match"] is None
    assert "; at no label count with several seeds do fewer labels with pretraining match" in sentences["gain"]
    assert sentences["gain"].startswith("With the same labels, the score is 4.7 points higher")
    every = statistics.build_sentences(gained, "with ours", statistics.VARIANT_PHRASES)
    assert statistics.headline(every).startswith("With the same labels")
    unclear = make_curve(ours=[[0.5, 0.56, 0.5], [0.6, 0.66, 0.65]], plain=[[0.5, 0.51, 0.51], [0.67, 0.65, 0.66]])
    assert describe(unclear)["gain"].startswith("No significant gain: with the same labels, ")
    worse = make_curve(ours=[[0.4, 0.41, 0.4], [0.5, 0.51, 0.5]], plain=[[0.5, 0.51, 0.51], [0.6, 0.61, 0.61]])
    assert describe(worse)["gain"].startswith(
        "No gain: with the same labels, the score is 10.3 points lower with pretraining than without it, averaged"
    )
    assert statistics.headline({}) == "No baseline was measured."


def test_label_savings_are_measured_from_the_best_score_with_fewer_labels():
    """A baseline that gets worse with more labels is not matched by its last score."""
    curve = make_curve(ours=[[0.61, 0.61], [0.72, 0.72]], plain=[[0.50, 0.50], [0.70, 0.70], [0.60, 0.60]])
    less, more, _ = statistics.find_label_savings(curve["ours"], curve["plain"])
    assert (less["num_examples"], more["num_examples"]) == (64, 400)
    assert statistics.find_label_savings(curve["ours"][:1], curve["plain"]) is None


def test_deterministic_baseline_is_paired_with_every_seed():
    curve = make_curve(ours=[[0.5, 0.5], [0.6, 0.6], [0.8, 0.9]], tfidf=[[0.4, 0.4], [0.5, 0.5], [0.7]])
    assert curve["tfidf"][-1]["deterministic"] and not curve["ours"][-1]["deterministic"]
    last = statistics.paired_differences(curve["ours"], curve["tfidf"])[-1]
    assert last["n"] == 2 and last["difference"] == pytest.approx(0.15)
    gain = statistics.gain_sentence(curve["ours"], curve["tfidf"], "with ours", "with TF-IDF", True)
    assert "10.0 points higher" in gain and "averaged over 2 label counts from 16 to 64" in gain
    alone = [curve[variant][-1:] for variant in ("ours", "tfidf")]
    gain = statistics.gain_sentence(*alone, "with ours", "with TF-IDF", True)
    assert "the score is 15.0 points higher with ours than with TF-IDF, with 400 labels (95% interval" in gain


def test_a_class_of_test_rows_alone_is_counted_as_errors_and_named(workspace, tiny, capsys):
    lines = [f"a {'good' if n % 2 else 'bad'} film number {n},{'yes' if n % 2 else 'no'}\n" for n in range(40)]
    (workspace / "rows.csv").write_text("text,label\n" + "".join(lines))
    (workspace / "test.csv").write_text("text,label\nlovely and good,yes\nan odd thing,odd\n")
    args = ["configs/finetune/your-task.yaml", "method=none", "task.train.files=rows.csv", "task.test.files=test.csv"]
    args += ["run=s", f"encoder={tiny}", "train.precision=float32", "train.steps=1", "max_length=16"]
    args += ["study.shots=[all]", "study.variants=[ours,tfidf]"]
    run_study(load_config(Study, args), args)
    study = json.loads((workspace / "out/studies/s/study.json").read_text())
    assert study["errors"]["label_names"] == ["no", "yes", "odd"] and sum(study["errors"]["confusion_matrix"][2]) == 1
    assert "odd" in [mistake["label"] for mistake in study["errors"]["mistakes"]]
    unseen = "counted as errors, because no training row has their class: test rows of odd (1)"
    assert unseen in capsys.readouterr().out and unseen in (workspace / "out/studies/s/report.html").read_text()


# ---- report in a browser ------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script><img src=x onerror=\"document.title='taken'\">&amp;"


def make_study() -> dict:
    curve = make_curve(ours=[[0.6, 0.62], [0.7, 0.72]], plain=[[0.5, 0.52], [0.6, 0.62]])
    result = {"num_examples": 64, "seed": 0, "predictions": "0 1 1", "confidence": "0.9 0.8 0.7"}
    variants = {"ours": f"ours {EVIL}", "plain": "plain"}
    return {
        "task": EVIL,
        "encoder": EVIL,
        "metric": "accuracy",
        "trials": {"planned": 4, "completed": 3},
        "sentence": f"This {EVIL}",
        "sentences": statistics.build_sentences(curve, EVIL, {"plain": "x"}),
        "variants": variants,
        "titles": {**variants, "random": EVIL},
        "skipped": {"random": EVIL},
        "test_rows": {"absent_labels": [EVIL]},
        "curve": curve,
        "paired_differences": {"plain": statistics.paired_differences(curve["ours"], curve["plain"])},
        "contamination": {
            "training_overlap": {"num_rows": 3, "exact": 1, "near": 1, "too_short": 0, "examples": [[EVIL, EVIL]]},
            "corpora": [{"corpus": EVIL, "not_searched": EVIL}],
            "original_init": EVIL,
            "num_test_rows": 3,
            "num_dropped_rows": 0,
            "num_measured_rows": 3,
            "drops_training_overlap": False,
            "drops_corpus_overlap": False,
        },
        "errors": statistics.summarize_mistakes(result, np.array([1, 1, 0]), [EVIL, "b", "c"], [EVIL, "good"], 10),
        "reproduction": {
            "command": EVIL,
            "versions": {"torch": EVIL},
            "weight_hashes": {EVIL: {EVIL: "00"}},
            "threads": 1,
            "precision": "bf16",
            "task_fingerprint": "0",
            "rows_fingerprint": "0",
        },
    }


def test_report_escapes_texts_in_a_browser(tmp_path):
    study = make_study()
    plot_curves(study["curve"], study["variants"], "accuracy", 3, tmp_path)
    page = report.render_page(study, (tmp_path / "study.svg").read_text())
    assert "<script" not in page and "<img" not in page and escape(EVIL) in page
    assert study["errors"]["confusion_matrix"] == [[0, 1], [1, 1]]
    assert [mistake["text"] for mistake in study["errors"]["mistakes"]] == [EVIL, "c"]
    assert f"<li>no test row of: {escape(EVIL)}</li>" in page
    assert "Not finished:" in page and "3 of 4" in page
    (tmp_path / "report.html").write_text(page)
    dom, _ = load_page(tmp_path / "report.html", tmp_path / "browser")
    title = html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])
    assert title == f"What pretraining is worth: {EVIL}"
    assert dom.count("<table") == 3 and dom.count("<svg") == 1 and 'id="sentence"' in dom


def test_line_labels_do_not_overlap():
    moved = declutter([70.0, 70.1, 70.2, 50.0], 2.0, 40, 80)
    assert min(np.diff(sorted(moved))) > 1.9 and sorted(moved)[0] == 50.0
    assert max(declutter([80.0, 79.9], 2.0, 40, 80)) <= 80
