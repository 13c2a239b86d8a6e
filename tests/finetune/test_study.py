"""The study: the same labels for all, statistics are scipy's, each sentence, a kill that changes nothing; the page."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, environment, pretrain_args, run_module
from scipy import stats

from data.encoders import read_pooling
from data.tasks import overlap
from data.tasks.task import normalize, read_task
from engine.config.loader import load_config
from engine.errors import ConfigError
from finetune.study import report, statistics
from finetune.study.config import Study
from finetune.study.plot import declutter, plot_curves
from finetune.study.run import run_study
from finetune.study.trials import Trials

DRIVER = """
import json, sys
from pretrain.__main__ import main as pretrain
from finetune.study.__main__ import main as study
for stage, words in json.loads(sys.argv[1]):
    {"pretrain": pretrain, "study": study}[stage](words)
"""


# ---- a whole study, killed and not --------------------------------------------------------------------------------


def study_words(sentiment_files: Path) -> list[str]:
    # A rate of 2e-3 so that two layers of width 32 learn something in a few steps.
    return [
        "configs/finetune/your-task.yaml",
        f"task.train.files={sentiment_files}/labels.csv",
        "run=proof",
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
def proof(sentiment_files, tmp_path_factory) -> Path:
    """A folder with an encoder that continued twice from somebody else's, and the study of it, not interrupted: out/studies/whole."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "driver.py").write_text(DRIVER)
    words = [*pretrain_args(sentiment_files), "train.steps=2", "train.eval_every=2"]
    for stages in (
        [["pretrain", [*words, "run=first"]]],
        [
            ["pretrain", [*words, "run=between", "init=theirs"]],
            ["pretrain", [*words, "run=second", "init=out/runs/between/encoder"]],
            ["study", study_words(sentiment_files)],
        ],
    ):
        done = run_module("driver.py", json.dumps(stages), prefix=(sys.executable,), cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        if not (folder / "theirs").is_dir():
            (folder / "out/runs/first/encoder").rename(folder / "theirs")
            (folder / "theirs/record.json").unlink()  # it is none of ours
    (folder / "said.txt").write_text(done.stdout)
    (folder / "out/studies/proof").rename(folder / "out/studies/whole")
    return folder


def cells_of(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]


def test_all_ways_learn_from_the_same_labels_and_no_validation_label_is_used(proof):
    folder = proof / "out/studies/whole"
    study, cells = json.loads((folder / "study.json").read_text()), cells_of(folder)
    drawn = {}
    for cell in cells:
        drawn.setdefault((cell["labels"], cell["seed"]), set()).add(cell["drawn"])
    assert all(len(own) == 1 for own in drawn.values())
    few = {key: value for key, value in drawn.items() if key[0] != max(labels for labels, _ in drawn)}
    assert len(few) == 4 and len(set(map(str, few.values()))) == 4, "each size and seed has its own"
    counted = {(cell["way"], cell["labels"]): 0 for cell in cells}
    for cell in cells:
        counted[cell["way"], cell["labels"]] += 1
    most = max(labels for _, labels in counted)
    assert {way for way, _ in counted} == {"ours", "plain", "random", "probe", "tfidf"}
    assert all(
        count == (1 if labels == most and way in ("probe", "tfidf") else 2) for (way, labels), count in counted.items()
    )
    assert study["validation_labels"] == 0 and study["cells"] == {"planned": 28, "done": 28}
    said = (proof / "said.txt").read_text()
    assert "no way uses a validation label" in said and "cell 28/28" in said and " left\n" in said
    assert study["sentence"] in said and "out/studies/proof/report.html" in said
    # Both pretrainings are looked at, the last first; the corpus shares no text with the labels.
    assert [each["train"]["exact"] for each in study["contamination"]["corpora"]] == [0, 0]
    assert study["contamination"]["labels"]["exact"] == 0 and study["contamination"]["measured"] == 50
    weights = study["repeat"]["weights"]
    assert weights["ours"]["model.safetensors"] != weights["plain"]["model.safetensors"]
    assert not (folder / "running").exists()


def test_a_study_killed_at_any_moment_ends_with_the_same_file(proof, sentiment_files):
    """SIGKILL, and the same command again: finished cells are not touched, the result is the same byte for byte."""
    chance = random.Random(time.time_ns())
    after, pause = chance.randrange(1, 22), chance.random()
    folder = proof / "out/studies/proof"
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune.study", *study_words(sentiment_files)],
        cwd=proof,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and len(list(folder.glob("cells/*.json"))) < after:
        time.sleep(0.02)
    time.sleep(pause / 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
    assert after <= len(finished), (after, process.stderr.read())
    done = run_module("finetune.study", *study_words(sentiment_files), cwd=proof)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items()), (after, pause)
    for name in ("study.json", "report.html", "study.svg"):
        assert (folder / name).read_bytes() == (proof / "out/studies/whole" / name).read_bytes(), (name, after, pause)
    assert not (folder / "running").exists()
    assert json.loads((folder / "times.json").read_text()).keys() <= {path.stem for path in folder.glob("cells/*.json")}


def test_the_page_says_what_study_json_says(proof):
    folder = proof / "out/studies/whole"
    study, page = json.loads((folder / "study.json").read_text()), (folder / "report.html").read_text()
    assert html.escape(study["sentence"]) in page and page.count("<svg") == 1
    assert (folder / "study.png").stat().st_size > 5_000
    shown = re.findall(r"<tr(?: class=ours)?><td>([^<]*)</td>(.*?)</tr>", page)
    rows = [
        (html.unescape(name), [value.split("<")[0] for value in re.findall(r"<td>(.*?)</td>", rest)])
        for name, rest in shown
    ]
    means, gains = rows[: len(study["curve"])], rows[len(study["curve"]) :]
    assert means == [
        (study["ways"][way], [f"{100 * point['mean']:.1f}" for point in own]) for way, own in study["curve"].items()
    ]
    assert gains == [
        (study["ways"][way], [statistics.format_points(each["difference"]) for each in own])
        for way, own in study["paired"].items()
    ]
    assert sum(map(sum, study["shown"]["confusion_matrix"])) == study["contamination"]["measured"]
    for mistake in study["shown"]["mistakes"]:
        assert html.escape(mistake["text"][:40]) in page and mistake["true"] != mistake["said"]
    # The predictions that the matrix was made of give the figure that the curve shows.
    point = next(point for point in study["curve"]["ours"] if point["labels"] == study["shown"]["labels"])
    assert np.trace(study["shown"]["confusion_matrix"]) / 50 == pytest.approx(
        point["scores"][str(study["shown"]["seed"])]
    )
    assert all(html.escape(told["gain"]) in page for told in study["sentences"].values())
    # Nothing is fetched.
    assert not re.search(r"(?:src|href)=[\"']?https?:|url\((?!#)|@import|<script|<link", page)


def test_mistakes_are_told_in_a_line(sentiment_files):
    words = study_words(sentiment_files)
    for more, told in (
        ("study.variants=[tfidf]", "study.variants: ours must be among them"),
        ("study.shots=[]", "study.shots"),
        ("study.shots=[few]", "study.shots"),
        ("study.label=3", "nearest: study.shots"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            load_config(Study, [*words, more])
    for more, told in (
        ("head.name=regression", "head.name: a study is of texts with one class each"),
        ("selftrain.rounds=1", "selftrain.rounds: a study learns from labels alone"),
        ("tapt.steps=5", "tapt.steps: a study measures encoders as they are"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            run_study(load_config(Study, [*words, more]), [])


def test_looking_only_measures_and_writes_nothing(sentiment_files, proof):
    looked = run_module("finetune.study", *study_words(sentiment_files), "run=looked", "--dry-run", cwd=proof)
    assert looked.returncode == 0 and re.search(r"disk     .*\nmemory   about ", looked.stdout), (
        looked.stdout + looked.stderr
    )
    assert not (proof / "out" / "studies" / "looked").exists()


def test_a_cell_is_of_what_is_learned_and_not_of_how_it_is_watched(proof, sentiment_files, monkeypatch):
    monkeypatch.chdir(proof)

    def cells(*more: str) -> dict[str, str]:
        """{cell: its file's name}."""
        config = load_config(Study, [*study_words(sentiment_files), *more])
        rows = read_task(config.task)
        own = Trials(config, config.encoder, rows, list(range(len(rows["test"]))), Path("out/studies/whole"))
        return {f"{cell.variant} {cell.shots} {cell.seed}": own.result_path(cell).name for cell in own.list_trials()}

    before, watched = (
        cells(),
        cells("train.log_every=1", "train.save_every=1", "layers.cache_frozen=false", "tracker=tensorboard"),
    )
    assert before == watched and len(before) == 28
    slower = cells("train.lr=1e-3")
    assert {name.split()[0] for name in before if slower[name] != before[name]} == {"ours", "plain", "random"}

    copy = Path(shutil.copytree("out/runs/second/encoder", "other/encoder"))
    pooling = copy / "1_Pooling/config.json"
    assert cells(f"encoder={copy}") == before
    pooling.write_text(json.dumps({"pooling_mode": {"mean": "cls", "cls": "mean"}[read_pooling(copy)]}))
    pooled = cells(f"encoder={copy}")
    assert {name.split()[0] for name in before if pooled[name] != before[name]} == {"ours", "random"}


def test_what_the_default_measures():
    default, full = (
        load_config(Study, ["configs/finetune/sentiment.yaml", *more]).study for more in ([], ["study.full=true"])
    )
    assert default.list_shots() == [8, 32, 100, "all"] and [default.num_seeds(size) for size in (8, "all")] == [3, 1]
    assert full.list_shots()[-2:] == [256, "all"] and [full.num_seeds(size) for size in (8, "all")] == [5, 5]
    own = load_config(Study, ["configs/finetune/sentiment.yaml", "study.shots=[all,64,8,8]", "study.seeds=4"]).study
    assert own.list_shots() == [8, 64, "all"] and own.num_seeds("all") == 4


# ---- contamination ------------------------------------------------------------------------------------------------

LONG = "the old miller counted every sack of grain before the river rose over the lower steps and nobody believed him"
OTHER = "a tin box of buttons under the stairs was all that she had kept from the house by the sea where lamps were lit"


@pytest.mark.parametrize(
    "text, others, found",
    [
        (LONG, [OTHER, f"  {LONG.upper()} "], overlap.EXACT),
        (LONG, [LONG.replace(" ", ", ")], overlap.NEAR),  # punctuation aside, the same
        (LONG, [f"{OTHER} {' '.join(LONG.split()[:15])}"], overlap.NEAR),  # 8 of 13 runs
        (LONG, [f"{' '.join(LONG.split()[:13])} {OTHER}"], overlap.NONE),  # 6 of 13 runs
        (LONG, [" ".join(LONG.split()[:11]), " ".join(LONG.split()[8:])], overlap.NONE),  # 4 in the one, 5 in the other
        ("Seven geese walked across bridges.", [f"{OTHER}: seven geese walked across bridges"], overlap.NEAR),
        ("Seven geese walked across bridges.", ["seven geese walked across many bridges"], overlap.NONE),
        ("I liked it well.", ["I liked it well, and so did she"], overlap.NONE),  # four words stand everywhere
        ("I liked it well.", ["i LIKED it  well."], overlap.EXACT),
        ("映画はとても面白かった", [f"{OTHER} 映画はとても面白かった"], overlap.NEAR),
    ],
)
def test_texts_planted_in_others(text, others, found):
    search = overlap.OverlapIndex([OTHER + " above", text])
    assert search.search(iter(others)) == len(others)
    slow = max(by_hand(text, other) for other in others)
    assert search.matches[1] == slow == found


def by_hand(text: str, other: str) -> int:
    """The definition, slowly."""
    if " ".join(text.split()).casefold() == " ".join(other.split()).casefold():
        return overlap.EXACT
    words, beside = (overlap.WORD_PATTERN.findall(each.casefold()) for each in (text, other))
    size = min(overlap.NGRAM_SIZE, len(words))
    if size < overlap.MIN_WORDS:
        return overlap.NONE
    own, there = ({tuple(of[at : at + size]) for at in range(len(of) - size + 1)} for of in (words, beside))
    return overlap.NEAR if len(own & there) >= overlap.MIN_CONTAINMENT * len(own) else overlap.NONE


def test_overlap_of_random_texts_is_what_the_definition_says():
    chance = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(chance.choice(words, chance.integers(1, 20))) for _ in range(40)]
    others = [" ".join([*chance.choice(words, 5), *text.split()[: chance.integers(1, 20)]]) for text in texts]
    others += texts[:5]
    search = overlap.OverlapIndex(texts)
    search.search(others)
    assert search.matches.tolist() == [max(by_hand(text, other) for other in others) for text in texts]
    assert set(search.matches.tolist()) == {overlap.NONE, overlap.NEAR, overlap.EXACT}
    assert overlap.OverlapIndex([]).search(texts) == len(texts) and overlap.OverlapIndex(texts).search([]) == 0


@pytest.mark.slow
def test_imdb_shares_123_texts(workspace):
    """What the published split shares, found exactly: 123 of the 25,000 test texts stand in the other half."""
    from data.tasks.task import read_task
    from finetune.study import contamination

    task = load_config(Study, ["configs/finetune/imdb.yaml"]).task
    rows = read_task(task)
    slow = {normalize(example.texts) for example in rows["train"] + rows["validation"]}
    assert sum(normalize(example.texts) in slow for example in rows["test"]) == 123
    found, measured = contamination.check_contamination(
        task, rows, {}, load_config(Study, ["configs/finetune/imdb.yaml"]).study
    )
    assert found.counts["labels"]["exact"] == 123 and found.counts["labels"]["rows"] == 25_000
    assert len(measured) == 25_000 - 123 - found.counts["labels"]["near"]
    flag = load_config(Study, ["configs/finetune/imdb.yaml", "study.contamination=flag"]).study
    _, all_of_them = contamination.check_contamination(task, rows, {}, flag)
    assert len(all_of_them) == 25_000


# ---- statistics and sentences -------------------------------------------------------------------------------------


def test_statistics_are_scipys():
    chance = np.random.default_rng(0)
    ours, other = chance.normal(0.7, 0.05, 6), chance.normal(0.65, 0.05, 6)
    told = statistics.estimate_mean(ours.tolist())
    low, high = stats.t.interval(0.95, 5, ours.mean(), stats.sem(ours))
    assert (told["mean"], told["low"], told["high"], told["n"]) == pytest.approx((ours.mean(), low, high, 6))
    test = stats.ttest_rel(ours, other)
    told = statistics.paired_difference(dict(enumerate(ours)), {**dict(enumerate(other)), 99: 0.1})
    ends = test.confidence_interval()
    assert (told["difference"], told["low"], told["high"], told["p"], told["n"]) == pytest.approx(
        ((ours - other).mean(), ends.low, ends.high, test.pvalue, 6)
    )
    assert statistics.estimate_mean([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert (
        statistics.paired_difference({0: 0.5}, {1: 0.5}) is None
        and statistics.paired_difference({0: 0.5}, {0: 0.25})["p"] is None
    )
    alike = statistics.paired_difference({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5})
    assert alike["difference"] == pytest.approx(0.1) and alike["p"] == 0
    assert statistics.paired_difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6})["p"] == 1


def curve(**scores: list[list[float]]) -> dict[str, list[dict]]:
    """Points at 16, 64 and all 400 labels, of a list of scores each."""
    sizes = (16, 8), (64, 32), (400, "all")
    return statistics.build_curves(
        [
            {"way": way, "labels": labels, "size": size, "seed": seed, "score": score}
            for way, points in scores.items()
            for (labels, size), own in zip(sizes, points)
            for seed, score in enumerate(own)
        ],
        ("ours", "plain"),
    )


def said(told: dict[str, list[dict]], way: str = "plain") -> dict[str, str]:
    return statistics.build_sentences(told, "with our pretraining", {way: statistics.VARIANT_PHRASES[way]})[way]


def test_the_sentence_when_fewer_labels_surely_do_better():
    told = said(
        curve(
            ours=[[0.60, 0.62, 0.61], [0.80, 0.81, 0.80]],
            plain=[[0.50, 0.52, 0.51], [0.60, 0.62, 0.59], [0.70, 0.71, 0.69]],
        )
    )
    assert told["match"].startswith(
        "64 labels with our pretraining beat 400 without it: 80.3 % against 70.0 % (+10.3 points, 95 % interval +"
    )
    assert told["gain"].startswith(
        "With the same labels, 15.0 points more with our pretraining than without it in the mean of 2 sizes"
    )


def test_the_sentence_when_the_mean_is_reached_within_chance():
    told = said(curve(ours=[[0.60, 0.70, 0.62], [0.7, 0.7, 0.7]], plain=[[0.5, 0.5, 0.5], [0.64, 0.62, 0.65]]))
    assert told["match"].startswith(
        "16 labels with our pretraining match 64 without it: 64.0 % against 63.7 % (+0.3 points, 95 % interval −"
    )
    assert told["match"].endswith("so which is better cannot be told).")


def test_the_sentence_with_one_seed_names_no_interval():
    told = said(curve(ours=[[0.60], [0.72]], plain=[[0.5], [0.6], [0.7]]))
    assert told["match"] == (
        "64 labels with our pretraining match 400 without it: 72.0 % against 70.0 %, in the mean;"
        " too few seeds for an interval."
    )
    assert "(one seed: no interval)" in told["gain"]


def test_the_sentence_when_nothing_is_matched():
    gained = curve(ours=[[0.55, 0.56, 0.55], [0.65, 0.66, 0.65]], plain=[[0.5, 0.51, 0.51], [0.6, 0.61, 0.61]])
    assert (
        said(gained)["match"] is None
        and "; at no size do fewer labels with our pretraining reach what more do without it" in said(gained)["gain"]
    )
    assert said(gained)["gain"].startswith("With the same labels, 4.7 points more")
    assert statistics.headline(statistics.build_sentences(gained, "with ours", statistics.VARIANT_PHRASES)).startswith(
        "With the same labels"
    )
    open_question = curve(ours=[[0.5, 0.56, 0.5], [0.6, 0.66, 0.65]], plain=[[0.5, 0.51, 0.51], [0.67, 0.65, 0.66]])
    assert said(open_question)["gain"].startswith("No gain can be told: with the same labels, ")
    worse = curve(ours=[[0.4, 0.41, 0.4], [0.5, 0.51, 0.5]], plain=[[0.5, 0.51, 0.51], [0.6, 0.61, 0.61]])
    assert said(worse)["gain"].startswith(
        "No gain: with the same labels, 10.3 points less with our pretraining than without it in"
    )
    assert statistics.headline({}) == "Nothing was measured to hold ours against."


def test_what_is_matched_is_the_best_that_was_reached_with_fewer():
    """A reference that does worse with more labels is not matched by reaching that."""
    told = curve(ours=[[0.61, 0.61], [0.72, 0.72]], plain=[[0.50, 0.50], [0.70, 0.70], [0.60, 0.60]])
    less, more = statistics.find_label_savings(told["ours"], told["plain"])
    assert (less["labels"], more["labels"]) == (64, 400)
    assert statistics.find_label_savings(told["ours"][:1], told["plain"]) is None


def test_a_linear_model_on_all_labels_stands_against_every_seed():
    told = curve(ours=[[0.5, 0.5], [0.6, 0.6], [0.8, 0.9]], tfidf=[[0.4, 0.4], [0.5, 0.5], [0.7]])
    assert told["tfidf"][-1]["certain"] and not told["ours"][-1]["certain"]
    last = statistics.paired_differences(told["ours"], told["tfidf"])[-1]
    assert last["n"] == 2 and last["difference"] == pytest.approx(0.15)


# ---- the page in a browser ----------------------------------------------------------------------------------------

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;"


def made_up() -> dict:
    told = curve(ours=[[0.6, 0.62], [0.7, 0.72]], plain=[[0.5, 0.52], [0.6, 0.62]])
    cell = {"labels": 64, "seed": 0, "predicted": "0 1 1", "confidence": "0.9 0.8 0.7"}
    ways = {"ours": f"ours {EVIL}", "plain": "plain"}
    return {
        "task": EVIL,
        "encoder": EVIL,
        "figure": "accuracy",
        "cells": {"planned": 4, "done": 3},
        "sentence": f"This {EVIL}",
        "sentences": statistics.build_sentences(told, EVIL, {"plain": "x"}),
        "ways": ways,
        "titles": {**ways, "random": EVIL},
        "left_out": {"random": EVIL},
        "curve": told,
        "paired": {"plain": statistics.paired_differences(told["ours"], told["plain"])},
        "contamination": {
            "labels": {"rows": 3, "exact": 1, "near": 1, "too_short": 0, "examples": [[EVIL, EVIL]]},
            "corpora": [{"corpus": EVIL, "not_searched": EVIL}],
            "original_init": EVIL,
            "test_rows": 3,
            "dropped": 0,
            "measured": 3,
            "dropped_for_labels": False,
            "dropped_for_corpus": False,
        },
        "shown": statistics.summarize_mistakes(cell, np.array([1, 1, 0]), [EVIL, "b", "c"], [EVIL, "good"], 10),
        "repeat": {
            "command": EVIL,
            "versions": {"torch": EVIL},
            "weights": {EVIL: {EVIL: "00"}},
            "threads": 1,
            "precision": "bf16",
            "data": "0",
            "rows": "0",
        },
    }


def test_the_page_in_a_browser_runs_nothing_of_the_texts(tmp_path):
    made = made_up()
    plot_curves(made["curve"], made["ways"], "accuracy", 3, tmp_path)
    page = report.render_page(made, (tmp_path / "study.svg").read_text())
    assert "<script" not in page and "<img" not in page and html.escape(EVIL) in page
    assert made["shown"]["confusion_matrix"] == [[0, 1], [1, 1]]
    assert [each["text"] for each in made["shown"]["mistakes"]] == [EVIL, "c"]
    assert "Not finished:" in page and "3 of 4" in page
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no chromium here")
    (tmp_path / "report.html").write_text(page)
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            f"--user-data-dir={tmp_path}/browser",
            f"file://{tmp_path}/report.html",
        ],
        capture_output=True,
        text=True,
        timeout=50,
    )
    title = html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1])
    assert title == f"What pretraining is worth: {EVIL}"
    assert done.stdout.count("<table") == 3 and done.stdout.count("<svg") == 1 and 'id="sentence"' in done.stdout


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    moved = declutter([70.0, 70.1, 70.2, 50.0], 2.0, 40, 80)
    assert min(np.diff(sorted(moved))) > 1.9 and sorted(moved)[0] == 50.0
    assert max(declutter([80.0, 79.9], 2.0, 40, 80)) <= 80
