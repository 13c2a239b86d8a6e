"""Class names in training: their texts, the method without labels, and the choice of a method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import ROOT, error_lines

from data.tasks.class_names import default_templates, limit_class_texts, list_class_texts, name_to_words
from data.tasks.splits import Example
from data.tasks.task import read_task
from engine.config.loader import dump_config, load_config
from engine.errors import ConfigError
from finetune.__main__ import main
from finetune.config import Finetune
from finetune.method import apply_method, choose_method, has_decoder
from finetune.study.config import Study
from finetune.study.trials import Trials

TASK = "configs/finetune/sentiment.yaml"


@pytest.mark.parametrize(
    "name, words",
    [
        ("positive", "positive"),
        ("card_arrival", "card arrival"),
        ("realDonaldTrump", "real Donald Trump"),
        ("rec.sport.hockey", "rec sport hockey"),
        ("HTTP errors", "HTTP errors"),
        ("好评", "好评"),
        ("нет", "нет"),
        *((name, None) for name in ("0", "-1", "LABEL_1", "v2", "Class 3", "x", "pos", "yes", "None", "__", "")),
    ],
)
def test_names_are_words_or_nothing(name, words):
    assert name_to_words(name) == words


def test_descriptions_replace_names_and_one_class_without_words_leaves_out_all():
    texts = list_class_texts(["good", "LABEL_1"], {"LABEL_1": ["It was bad.", "Awful."]}, ["{name}", "So {name}!"])
    assert [(text.texts[0], text.label) for text in texts] == [
        ("good", "good"),
        ("So good!", "good"),
        ("It was bad.", "LABEL_1"),
        ("Awful.", "LABEL_1"),
    ]
    assert list_class_texts(["good", "LABEL_1"], {}, ["{name}"]) == []


def test_sentences_around_names_are_for_english_text():
    english = [Example(("I have never seen a film that is worse than this one",), "a")] * 3
    others = [
        "Das ist der schlechteste Film, den ich je gesehen habe",
        "C'est le pire film de ma vie",
        "这部电影很糟糕",
    ]
    assert len(default_templates(english)) == 4
    assert all(default_templates([Example((text,), "a")]) == ("{name}",) for text in others)
    assert default_templates([]) == ("{name}",)


@pytest.mark.parametrize(
    "shots, count", [(0, 4), (1, 4), (8, 4), (16, 2), (22, 1), (32, 1), (63, 1), (64, 0), (500, 0)]
)
def test_texts_of_a_class_fade_as_labels_come_in(shots, count):
    texts = [Example((f"{label} {number}",), label) for label in "ab" for number in range(4)]
    labeled = [Example((str(number),), "a") for number in range(shots)]
    chosen = limit_class_texts(labeled, texts, 32)
    assert [text.texts[0] for text in chosen if text.label == "a"] == [f"a {number}" for number in range(count)]
    assert sum(text.label == "b" for text in chosen) == 4, "a class without a labeled row has all of its texts"


# ---- the choice of a method ---------------------------------------------------------------------------------------


def choose(num_labels: int, num_unlabeled: int = 5_000, *args: str, num_classes: int = 4) -> str | None:
    config = load_config(Finetune, [TASK, "encoder=minilm", *args])
    return choose_method(config, num_labels, num_classes, num_unlabeled).method


def test_the_method_follows_labels_and_text():
    assert choose(0) == "names"
    assert choose(8) == choose(128) == "selftrain"
    assert choose(128, 20) == choose(128, 5_000, "unlabeled=false") == "fewshot"
    assert choose(4_000) == "layerwise"


def test_few_labels_of_very_many_classes_only_fit_the_last_layer():
    assert choose(128, 20, num_classes=61) == "fewshot-probe"
    assert choose(616, 20, num_classes=77) == choose(12, 20, num_classes=6) == "fewshot"
    assert choose(128, 5_000, num_classes=61) == "fewshot-probe" and choose(12, num_classes=6) == "selftrain"


def test_an_encoder_with_a_decoder_has_a_method_that_works_with_it(tmp_path):
    config = load_config(Finetune, [TASK, "encoder=minilm"])
    for is_part, method in ((True, "layerwise"), (False, "selftrain")):
        (tmp_path / "config.json").write_text(json.dumps({"is_encoder_decoder": is_part}))
        choice = choose_method(config, 32, 4, 5_000, has_decoder(tmp_path))
        assert choice.method == method and ("decoder" in choice.reason) == is_part


def test_the_reason_has_the_labels_per_class():
    config = load_config(Finetune, [TASK, "encoder=minilm"])
    counts = {6_400: "3,200", 250: "125", 9: "4.5", 16: "8"}
    reasons = {number: choose_method(config, number, 2, 0).reason for number in counts}
    assert reasons == {number: f"{size} labels per class" for number, size in counts.items()}


@pytest.mark.parametrize(
    "args", [["adapter.name=lora"], ["head={name: supcon}"], ["layers.linear_probe=true"], ["tapt.steps=9"]]
)
def test_settings_of_a_method_are_not_replaced_by_another(args):
    assert choose(8, 5_000, *args) is None


def test_other_problem_types_keep_their_settings():
    assert choose(8, 5_000, "task.problem_type=multi_label_classification") is None


def test_own_settings_are_kept_when_a_method_is_chosen(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f"include: {ROOT / TASK}\ntrain: {{epochs: 7}}\n")
    args = [str(own), "encoder=minilm", "train.max_steps=55"]
    chosen = apply_method(load_config(Finetune, args), "fewshot", args)
    assert chosen.method == "fewshot" and chosen.head.name == "supcon" and not chosen.train.load_best
    assert (chosen.train.epochs, chosen.train.max_steps, chosen.train.sampling) == (7, 55, "class_balanced")
    # A method that is named comes after the files, and only single settings after it.
    named = load_config(Finetune, [*args, "method=fewshot"])
    assert (named.train.epochs, named.train.max_steps) == (40, 55)


@pytest.mark.parametrize("method", ["fewshot", "selftrain", "lora", "names"])
def test_a_method_is_its_file(method):
    by_name = load_config(Finetune, [TASK, "encoder=minilm", f"method={method}"])
    by_file = load_config(Finetune, [TASK, f"configs/method/{method}.yaml", "encoder=minilm"])
    assert by_name == by_file and by_name.method == method


def test_unknown_methods_are_named():
    with pytest.raises(ConfigError, match="no method 'fewshots'.*fewshot"):
        load_config(Finetune, [TASK, "method=fewshots"])


# ---- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with forty rows of two classes and arguments of a run on them."""
    rows = [{"text": f"the dog number {n} barks at me", "label": "dog"} for n in range(40)]
    rows += [{"text": f"a ship number {n} is on the sea", "label": "ship"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = [
    "configs/finetune/your-task.yaml",
    "task.train.files=rows.jsonl",
    "train.precision=float32",
    "max_length=16",
    "baselines=false",
    "run=x",
]


def test_no_labels_at_all(workspace, tiny, capsys):
    main([*RUN, f"encoder={tiny}", "task.num_examples=0", "train.steps=2", "selftrain.min_steps=3"])
    printed, folder = capsys.readouterr().out, workspace / "out/runs/x"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "method  names: no labels" in printed and "0 labels of" in printed
    assert metrics["num_train_examples"] == 0 and metrics["test"]["n"] == 10
    labels = json.loads((folder / "round-1/labels.json").read_text())
    assert set(labels["class_ids"]) <= {0, 1} and labels["indices"]
    assert (folder / "model/model.safetensors").is_file()


def test_without_labels_random_weights_label_the_texts_of_the_baseline(workspace, tiny):
    args = [value for value in RUN if value != "baselines=false"]
    main([*args, f"encoder={tiny}", "task.num_examples=0", "seed=5", "train.steps=2", "selftrain.min_steps=3"])
    folder = workspace / "out/runs/x"
    ours, baseline = (
        json.loads((folder / part / "round-1/labels.json").read_text()) for part in (".", "without_pretraining")
    )
    assert (ours["indices"], ours["class_ids"]) != (baseline["indices"], baseline["class_ids"])


def test_no_labels_and_no_names(workspace, tiny, capsys, monkeypatch):
    args = [*RUN, f"encoder={tiny}", "task.num_examples=0"]
    (workspace / "rows.jsonl").write_text(
        (workspace / "rows.jsonl").read_text().replace('"dog"', '"0"').replace('"ship"', '"1"')
    )
    (line,) = error_lines(main, args, capsys, monkeypatch)[-1:]
    assert "the classes (0, 1, ...) have no names made of words" in line and "task.descriptions" in line
    assert not (workspace / "out/runs/x").exists()
    (line,) = error_lines(main, [*args, "method=fewshot", "task.num_examples=0"], capsys, monkeypatch)[-1:]
    assert line.endswith("only method=names learns without labels")


def test_a_description_of_an_unknown_class_is_refused(workspace, tiny, capsys, monkeypatch):
    args = [*RUN, f"encoder={tiny}", "method=fewshot", "task.shots=4"]
    lines = error_lines(main, [*args, "task.descriptions={shp: a vessel}"], capsys, monkeypatch)
    assert lines[-1] == "task.descriptions: no class 'shp' (nearest: ship)"
    known = [*args, "task.classes=[dog,ship,car]", "task.descriptions={car: on a road, ship: a vessel}"]
    main([*known, "train.steps=1"])


def test_a_chosen_method_takes_the_rows_that_were_split_off_for_validation(workspace, tiny, capsys, monkeypatch):
    args = [*RUN, f"encoder={tiny}", "method=auto", "train.steps=1"]  # 60 rows for training, 10 for validation
    main([*args, "task.num_examples=65"])
    assert "method  fewshot: 32.5 labels per class" in capsys.readouterr().out
    assert json.loads((workspace / "out/runs/x/metrics.json").read_text())["num_train_examples"] == 65
    (line,) = error_lines(main, [*args, "run=y", "task.num_examples=71"], capsys, monkeypatch)[-1:]
    assert line.startswith("task.num_examples=71: only 60 training rows")


def test_names_are_trained_on_but_not_counted_as_labels(workspace, tiny, monkeypatch):
    from data.sampling import class_balanced_batch
    from finetune import training

    sizes = []

    def record(step, size, labels, *args):
        sizes.append(len(labels))
        return class_balanced_batch(step, size, labels, *args)

    monkeypatch.setattr(training, "class_balanced_batch", record)
    args = [*RUN, f"encoder={tiny}", "method=fewshot", "task.shots=4", "train.steps=2"]
    main(args)
    main([*args, "class_names.weight=0", "run=y"])
    counts = [json.loads((workspace / f"out/runs/{run}/metrics.json").read_text()) for run in "xy"]
    assert [each["num_train_examples"] for each in counts] == [8, 8]
    assert list(dict.fromkeys(sizes)) == [16, 8], "four texts of each class, and none"


def test_a_written_configuration_is_its_own_input(tmp_path):
    config = load_config(Finetune, [TASK, "encoder=minilm", "method=fewshot", "train.lr=3e-5"])
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(Finetune, [str(tmp_path / "config.yaml")]) == config and config.train.epochs == 40


def test_a_method_in_a_file_is_below_its_other_keys(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f"include: {ROOT / TASK}\nmethod: fewshot\ntrain: {{epochs: 7}}\n")
    config = load_config(Finetune, [str(own), "encoder=minilm"])
    assert (config.train.epochs, config.train.sampling, config.head.name) == (7, "class_balanced", "supcon")
    assert load_config(Finetune, [str(own), "configs/method/probe.yaml"]).layers.linear_probe


# ---- the study ----------------------------------------------------------------------------------------------------


def make_trials(tiny, *args: str) -> Trials:
    words = [*RUN, f"encoder={tiny}", "study.shots=[0,4]", "study.seeds=1", *args]
    config = load_config(Study, words)
    rows = read_task(config.task, needs_validation=False)
    return Trials(config, str(tiny), rows, list(range(len(rows["test"]))), Path("out/study"), words)


def test_a_study_starts_without_labels_where_it_can(workspace, tiny, capsys):
    trials = make_trials(tiny)
    assert list(trials.num_examples_by_shots.values()) == [0, 8]
    assert [trial.variant for trial in trials.list_trials() if not trial.shots] == ["ours"]
    for method in ("fewshot", "none"):
        assert list(make_trials(tiny, f"method={method}").num_examples_by_shots) == [4]
    rows = (workspace / "rows.jsonl").read_text()
    (workspace / "rows.jsonl").write_text(rows.replace('"dog"', '"0"').replace('"ship"', '"1"'))
    trials = make_trials(tiny)
    assert list(trials.num_examples_by_shots) == [4] and "no labels" not in trials.skipped


def test_a_probe_of_other_descriptions_is_another_trial(workspace, tiny):
    probes = []
    for args in ([], ["task.descriptions={dog: an animal}"], ["class_names.weight=0"]):
        trials = make_trials(tiny, *args)
        (probe,) = (trial for trial in trials.list_trials() if trial.variant == "probe")
        probes.append(trials.result_path(probe))
    assert len(set(probes)) == 3
