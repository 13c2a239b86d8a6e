"""Heads on whole texts: metrics compared with slow independent versions, weights written by a head, edge cases."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from scipy.stats import pearsonr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from data.tasks import calibration, metrics
from data.tasks.problem_types import ProblemType
from data.tasks.problem_types.multi_label_classification import best_f1_threshold
from data.tasks.task import Example, Task, list_label_names, read_task, sample_examples, split_off
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from finetune.__main__ import main
from finetune.config import Finetune
from finetune.evaluation.baselines import measure_linear_model, measure_simple_baselines
from finetune.evaluation.postprocess import postprocess
from finetune.heads import classification, multilabel, regression
from finetune.modalities import load_modality
from finetune.model.network import Network, get_last_linear
from publish.card.card import describe_test_rows

ODD_NAMES = ['quo"te', "two\nlines", "😀", "none", "1e-4", "drüben, 你好", "\\", "true", "a|b", "<br />"]
MULTI_LABEL = "multi_label_classification"
SINGLE, SEVERAL, NUMBER = classification.PROBLEM_TYPE, multilabel.PROBLEM_TYPE, regression.PROBLEM_TYPE
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}


def write_source(path: Path, rows: list[dict]) -> dict:
    """Write the rows as JSON lines and return a source for them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"files": str(path)}


def make_task(folder: Path, rows: list[dict], **more) -> Task:
    return Task(name="t", train=write_source(folder / "rows.jsonl", rows), **more)


def make_rows(count: int, seed: int = 0) -> list[dict]:
    """Return texts with some of the words one, two and three; labels are these words, the number is their count."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        words = [word for word in ("one", "two", "three") if rng.random() < 0.4]
        rows.append(
            {
                "text": f"text {number} with {' '.join(words)}",
                "labels": words,
                "label": "some" if words else "none",
                "number": 10 * len(words) - 5,
            }
        )
    return rows


# ---- problem types --------------------------------------------------------------------------------------------------


def test_multiple_labels_are_read_from_lists_and_strings(tmp_path):
    values = [["a", " b ", "a"], "a, b,,", [], "", None, ["b"], "c", ["c", "a"], [1, True], "1"]
    rows = [{"text": f"text {number}", "label": value} for number, value in enumerate(values * 5)]
    splits = read_task(make_task(tmp_path, rows, problem_type=MULTI_LABEL))
    labels = {example.texts[0]: example.label for split in splits.values() for example in split}
    assert [labels[f"text {number}"] for number in range(10)] == [
        ("a", "b"),
        ("a", "b"),
        (),
        (),
        (),
        ("b",),
        ("c",),
        ("c", "a"),
        ("1", "True"),
        ("1",),
    ]
    task = make_task(tmp_path, rows, label_names={"b": "Bee", "a": "Ay"}, problem_type=MULTI_LABEL)
    splits = read_task(task)
    assert list_label_names(task, splits) == ["Bee", "Ay"] and sum(map(len, splits.values())) == 50
    assert ("Ay", "Bee") in {example.label for example in splits["train"]}
    rows = [{"text": f"text {number}", "label": "a; b" if number % 2 else "a, b"} for number in range(40)]
    splits = read_task(make_task(tmp_path, rows, label_separator=";", problem_type=MULTI_LABEL))
    assert {example.label for example in splits["train"]} == {("a", "b"), ("a, b",)}


@pytest.mark.parametrize(
    "value, shown", [("3,5", "'3,5'"), ("inf", "'inf'"), ("nan", "'nan'"), ("good", "'good'"), (True, "'True'")]
)
def test_an_invalid_number_is_reported_with_its_row(tmp_path, value, shown):
    rows = [{"text": f"text {number}", "label": number / 2} for number in range(20)] + [{"text": "x", "label": value}]
    with pytest.raises(DataError) as error:
        read_task(make_task(tmp_path, rows, problem_type="regression"))
    assert str(error.value) == f"{tmp_path}/rows.jsonl row 21: {shown} in column 'label' is not a finite number"
    assert len(read_task(make_task(tmp_path, rows[:-1], problem_type="regression"))["train"]) == 16


@pytest.mark.parametrize(
    "problem_type, value, message",
    [
        (MULTI_LABEL, [], "no row has a label in column 'label'"),
        (MULTI_LABEL, ["a"], "every row has ('a',) in column 'label'"),
        ("regression", 3, "every row has 3.0 in column 'label'; there is nothing to learn"),
        ("single_label_classification", "x", "every row has the label 'x'; a classifier needs at least two classes"),
        (MULTI_LABEL, [["a"]], "row 1: column 'label' holds a value of type list"),
    ],
)
def test_constant_labels_are_an_error(tmp_path, problem_type, value, message):
    rows = [{"text": f"text {number}", "label": value} for number in range(40)]
    with pytest.raises(DataError, match="rows.jsonl") as error:
        read_task(make_task(tmp_path, rows, problem_type=problem_type))
    assert message in str(error.value)


def test_label_names_without_training_rows_are_an_error(tmp_path):
    with pytest.raises(DataError, match="no training row has the label 'F' of task.label_names"):
        names = {"one": "One", "four": "F"}
        read_task(make_task(tmp_path, make_rows(40), label="labels", label_names=names, problem_type=MULTI_LABEL))


def test_multi_label_splits_keep_training_rows_of_each_label(tmp_path):
    rows = make_rows(400) + [{"text": f"rare {number}", "labels": [f"rare {number}", "one"]} for number in range(40)]
    first = read_task(make_task(tmp_path, rows, label="labels", problem_type=MULTI_LABEL))
    assert {name: len(split) for name, split in first.items()} == {"train": 330, "validation": 55, "test": 55}
    assert sum(example.texts[0].startswith("rare") for example in first["train"]) == 40
    shuffled = [rows[index] for index in np.random.default_rng(1).permutation(len(rows))]
    second = read_task(make_task(tmp_path, shuffled, label="labels", problem_type=MULTI_LABEL))
    assert {name: set(split) for name, split in first.items()} == {name: set(split) for name, split in second.items()}


@pytest.mark.parametrize("labels", [[("a",), ("b", "c"), (), ("a", "d")], [1.0, 2.5, -3.0]])
def test_samples_of_rows_without_a_single_class_are_nested(labels):
    examples = [Example((f"text {number}",), labels[number % len(labels)]) for number in range(200)]
    samples = [sample_examples(examples, count, seed=3) for count in (1, 4, 50, 199, 200)]
    for fewer, more in pairwise(samples):
        assert more[: len(fewer)] == fewer
    assert len(set(samples[-1])) == 200 and samples[-1] != sample_examples(examples, 200, seed=4)
    names = {name for example in examples for name in example.label_names}
    assert {name for example in samples[1] for name in example.label_names} == names, (
        "every label is in the first sample with enough rows"
    )
    with pytest.raises(ConfigError, match="^task.shots=2: rows have no single class each; use task.num_examples"):
        sample_examples(examples, "all", 0, shots=2)
    with pytest.raises(ConfigError, match="only 200 training rows"):
        sample_examples(examples, 201, 0)


def test_more_than_two_texts_are_joined_by_the_separator(workspace):
    from data.encoders import resolve_encoder
    from data.tokens.dataset import tokenize_examples

    rows = [Example(("one film", "dull", "", "very"), 1.0), Example(("a", "b", "c", "d"), 2.0)]
    texts = tokenize_examples(rows, resolve_encoder("minilm"), 32, "test", regression.PROBLEM_TYPE, ["score"])
    for ids, row in zip(texts.fields["input_ids"], rows, strict=True):
        decoded = AutoTokenizer.from_pretrained(resolve_encoder("minilm")).decode(ids)
        assert decoded.split() == ["[CLS]", *" [SEP] ".join([*row.texts, ""]).split()]
    with pytest.raises(DataError, match="has no tokens"):
        tokenize_examples([Example(("\u200b", "", " "), 1.0)], resolve_encoder("minilm"), 32, "test")


def test_sources_without_quotes_and_with_non_empty_columns(tmp_path):
    from data.sources.source import Source, iter_rows

    (tmp_path / "a.tsv").write_text('text\tlabel\n"open\t1\nb "c" d\t\ne\t3\n')
    rows = list(iter_rows(Source(files=str(tmp_path / "a.tsv"), quotes=False, non_empty=["label"])))
    assert rows == [{"text": '"open', "label": "1"}, {"text": "e", "label": "3"}]
    plain = Source(files="a.tsv").model_dump()
    assert not {"quotes", "non_empty"} & plain.keys(), "defaults are not part of fingerprints"
    assert Source(files="a.tsv", quotes=False).model_dump()["quotes"] is False
    assert "label_separator" not in Task(name="t", train=plain).model_dump()


def test_a_task_file_reads_the_rows_by_problem_type(workspace):
    from data.tasks.task import TaskFile

    source = write_source(workspace / "rows.jsonl", make_rows(80))
    task = {"name": "t", "train": source, "label": "labels", "problem_type": MULTI_LABEL}
    (workspace / "task.yaml").write_text(json.dumps({"task": task}))
    file = load_config(TaskFile, ["task.yaml"])
    splits = file.load_splits()
    assert splits == read_task(file.task) and all(type(row.label) is tuple for row in splits["train"])
    assert file.fingerprint_inputs()["problem_type"] == MULTI_LABEL
    with pytest.raises(
        ConfigError, match=r"task.problem_type: no 'multilabel_classification' .*multi_label_classification"
    ):
        load_config(TaskFile, ["task.yaml", "task.problem_type=multilabel_classification"])


# ---- metrics --------------------------------------------------------------------------------------------------------


def test_classification_metrics_equal_sklearn_and_loops():
    rng = np.random.default_rng(0)
    labels, outputs = rng.integers(0, 5, 300), rng.dirichlet(np.ones(5) * 0.4, 300)
    outputs[:100, 2] = 0.2  # ties
    outputs /= outputs.sum(1, keepdims=True)
    params = SINGLE.fit_postprocess(list(outputs), labels, list("abcde"))
    result = SINGLE.compute_metrics(SINGLE.apply_postprocess(outputs, params), labels, list("abcde"), params)
    predicted = outputs.argmax(1)
    assert result["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert result["f1_micro"] == result["accuracy"] == pytest.approx((labels == predicted).mean())
    assert result["mcc"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert metrics.auroc(outputs, labels[:, None] == np.arange(5))["auroc"] == pytest.approx(
        roc_auc_score(labels, outputs, multi_class="ovr")
    )

    def error(probabilities: np.ndarray) -> float:
        total = 0.0
        for low in range(15):
            inside = [row for row in range(300) if low / 15 < probabilities[row].max() <= (low + 1) / 15]
            if inside:
                confidence = np.mean([probabilities[row].max() for row in inside])
                total += (
                    len(inside) / 300 * abs(confidence - np.mean([predicted[row] == labels[row] for row in inside]))
                )
        return total

    assert result["ece_uncalibrated"] == pytest.approx(error(outputs), abs=1e-6)
    assert result["ece"] == pytest.approx(error(SINGLE.apply_postprocess(outputs, params)), abs=1e-6)
    assert result["ece"] < result["ece_uncalibrated"], "random predictions are overconfident"
    counts = np.zeros((5, 5), int)
    for true, guess in zip(labels, predicted, strict=True):
        counts[true, guess] += 1
    assert SINGLE.test_details(outputs, labels, list("abcde"))["confusion_matrix"] == {
        "label_names": list("abcde"),
        "counts": counts.tolist(),
    }
    # A class without rows is left out; with a single class there is no area and no correlation.
    assert metrics.auroc(outputs[labels != 4], labels[labels != 4][:, None] == np.arange(5))["auroc"] == pytest.approx(
        np.mean([roc_auc_score(labels[labels != 4] == label, outputs[labels != 4, label]) for label in range(4)])
    )
    alone = SINGLE.compute_metrics(outputs, np.zeros(300, int), list("abcde"), {})
    assert "auroc" not in alone and "ece_uncalibrated" not in alone and alone["mcc"] == 0


def test_a_class_without_a_test_row_counts_in_macro_f1_if_it_is_predicted():
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 3, 200), rng.integers(0, 4, 200)  # 3 is only predicted, 4 is neither
    f1 = [
        2 * ((labels == c) & (predicted == c)).sum() / ((labels == c).sum() + (predicted == c).sum()) for c in range(4)
    ]
    assert f1[3] == 0
    assert metrics.classification_metrics(predicted, labels)["f1_macro"] == pytest.approx(np.mean(f1))
    assert metrics.multilabel_f1(np.eye(5)[predicted], np.eye(5)[labels])["f1_macro"] == pytest.approx(np.mean(f1))
    assert f1_score(labels, predicted, average="macro", zero_division=0) == pytest.approx(np.mean(f1))


def test_temperature_maximizes_the_likelihood_and_changes_no_prediction():
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(500, 4)) * 2)
    labels = np.array([rng.choice(4, p=row) for row in logits.softmax(1).numpy()])
    outputs = (logits * 3).softmax(1).numpy()
    result = calibration.fit_temperature(outputs, labels)
    grid = np.exp(np.linspace(-2, 3, 2_001))
    losses = [torch.nn.functional.cross_entropy(logits * 3 / one, torch.tensor(labels)).item() for one in grid]
    assert result == pytest.approx(grid[int(np.argmin(losses))], rel=0.01) and 2.3 < result < 3.7
    scaled = calibration.apply_temperature(outputs, result)
    assert (scaled.argmax(1) == outputs.argmax(1)).all()
    assert np.allclose(scaled, (logits * 3 / result).softmax(1), atol=1e-6)
    assert calibration.fit_temperature(np.eye(4)[[0, 1, 2]] * 0.9 + 0.025, np.array([0, 1, 2])) == 1.0, "no maximum"
    assert calibration.fit_temperature(np.eye(4)[[0, 1, 2]], np.array([0, 1, 3])) == pytest.approx(20, rel=0.1), (
        "finite for zeros"
    )


def test_multilabel_metrics_equal_sklearn():
    rng = np.random.default_rng(2)
    labels = (rng.random((200, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.uint8)
    outputs = np.clip(rng.random((200, 4)) * 0.6 + labels * 0.2, 0, 0.49)
    params = SEVERAL.fit_postprocess(list(outputs), labels, list("abcd"))
    assert params["thresholds"]["d"] == 0.5, "a label without validation rows"
    for column, name in enumerate("abc"):
        best = max(f1_score(labels[:, column], outputs[:, column] >= one) for one in outputs[:, column])
        assert f1_score(labels[:, column], outputs[:, column] >= params["thresholds"][name]) == pytest.approx(best)
    result = SEVERAL.compute_metrics(list(outputs), labels, list("abcd"), params)
    decisions = outputs >= np.array(list(params["thresholds"].values()))
    assert result["f1_macro"] == pytest.approx(f1_score(labels[:, :3], decisions[:, :3], average="macro"))
    assert result["f1_micro"] == pytest.approx(f1_score(labels, decisions, average="micro"))
    assert result["auroc"] == pytest.approx(roc_auc_score(labels[:, :3], outputs[:, :3]))
    assert result["exact_match"] == np.mean(
        [list(one) == list(other) for one, other in zip(decisions, labels, strict=True)]
    )
    assert SEVERAL.compute_metrics(list(outputs), labels, list("abcd"), {})["f1_macro"] == 0, (
        "nothing is predicted at 0.5"
    )
    assert SEVERAL.quick_metrics(list(outputs), labels)["f1_macro"] == pytest.approx(result["f1_macro"]), (
        "an evaluation during training uses the best thresholds"
    )
    tied = np.array([0.7, 0.7, 0.7, 0.2])
    assert 0.2 < best_f1_threshold(tied, np.array([1, 0, 1, 0])) < 0.7


def test_regression_metrics_equal_scipy():
    rng = np.random.default_rng(3)
    labels = rng.normal(size=100)
    outputs = labels + rng.normal(size=100)
    result = NUMBER.quick_metrics(list(outputs), labels)
    ranks = [np.array([(values < value).sum() for value in values]) for values in (outputs, labels)]
    assert result["spearman"] == pytest.approx(pearsonr(*ranks).statistic)
    assert result["pearson"] == pytest.approx(pearsonr(outputs, labels).statistic)
    assert (
        result["rmse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(outputs, labels, strict=True)) ** 0.5 / 10)
        and result["n"] == 100
    )
    assert NUMBER.quick_metrics([1.0] * 100, labels)["spearman"] == 0


# ---- losses and folded weights --------------------------------------------------------------------------------------


def random_inputs(rows: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (rows, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("balance", [True, False])
def test_multilabel_loss_equals_a_loop(balance):
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()
    head = multilabel.Head(multilabel.Config(class_weights=balance), Network(model))
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.uint8)
    head.set_label_stats(labels)
    output = head(labels=torch.from_numpy(labels), **random_inputs())
    outputs, slow = head.predict(**random_inputs()).detach().numpy().astype(float), 0.0
    for row in range(4):
        for label, weight in enumerate([1 / 3, 3, 1] if balance else [1, 1, 1]):
            slow -= weight * np.log(outputs[row, label]) if labels[row, label] else np.log(1 - outputs[row, label])
    assert output.loss.item() == pytest.approx(slow, rel=1e-5) and int(output.count) == 4


@pytest.mark.parametrize(
    "build",
    [
        lambda: BertForSequenceClassification(BertConfig(**SMALL, num_labels=1)),
        lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL, pad_token_id=0, num_labels=1)),
    ],
)
def test_regression_trains_on_standardized_numbers_and_predicts_raw_ones(build):
    torch.manual_seed(0)
    model, labels = build().eval(), np.array([1e4, 2e4, 2e4, 5e4])
    head = regression.Head(regression.Config(), Network(model))
    head.set_label_stats(labels)
    plain = model(**random_inputs()).logits.squeeze(-1).detach()
    target = torch.tensor((labels - labels.mean()) / labels.std()).float()
    assert head(labels=torch.tensor(labels), **random_inputs()).loss.item() == pytest.approx(
        ((plain - target) ** 2).sum().item(), rel=1e-5
    )
    before = head.predict(**random_inputs())
    assert torch.allclose(before, plain.double() * labels.std() + labels.mean())
    head.fold_into_weights({})
    assert torch.allclose(model(**random_inputs()).logits.squeeze(-1).double(), before, rtol=1e-5)
    assert torch.allclose(head.predict(**random_inputs()), before, rtol=1e-5)


def test_postprocessing_without_validation_fits_nothing():
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()
    head = classification.Head(classification.Config(), Network(model))
    outputs, labels = list(head.predict(**random_inputs(30)).detach().numpy()), np.arange(30) % 3
    weights = get_last_linear(model).weight.clone()
    for validate in (False, True):
        result = postprocess(
            classification.PROBLEM_TYPE,
            head,
            {"test": outputs, "validation": outputs},
            {"test": labels, "validation": labels},
            ["a", "b", "c"],
            validate,
        )
        assert hasattr(model.config, "calibration") == validate == ("ece_uncalibrated" in result.metrics["test"])
        assert get_last_linear(model).weight.equal(weights) != validate
        assert np.allclose(head.predict(**random_inputs(30)).detach().numpy(), result.predictions["test"], atol=1e-5)


# ---- edge cases -----------------------------------------------------------------------------------------------------


def test_ten_thousand_classes_take_seconds(tmp_path):
    start = time.time()
    names = [f"class {number}" for number in range(10_000)]
    examples = [Example((f"text {number}",), names[number % 10_000]) for number in range(30_000)]
    held_out, rest = split_off(examples, 0.125)
    # An eighth of the three rows of a class is none of them, so rows are split off across classes.
    assert len(held_out) == 3_750 and len(rest) == 26_250
    task = Task(name="t", train={"files": "a"})
    assert len(list_label_names(task, {"train": examples})) == 10_000
    assert (
        len(sample_examples(examples, 15_000, seed=0)) == 15_000
        and len(sample_examples(examples, "all", 0, shots=2)) == 20_000
    )
    labels = SINGLE.encode_labels(examples[:1_000], names)
    rng = np.random.default_rng(0)
    outputs = rng.random((1_000, 10_000), dtype=np.float32)
    outputs[np.arange(0, 1_000, 2), labels[::2]] = 5
    outputs /= outputs.sum(1, keepdims=True)
    assert SINGLE.quick_metrics(outputs, labels)["accuracy"] > 0.49 and time.time() - start < 60
    params = SINGLE.fit_postprocess(outputs, labels, names)
    result = SINGLE.compute_metrics(SINGLE.apply_postprocess(outputs, params), labels, names, params)
    assert result["auroc"] > 0.7 and 0 < result["mcc"] < 1 and SINGLE.test_details(outputs, labels, names) == {}
    several = SEVERAL.encode_labels([Example(("x",), (names[number], names[-1])) for number in range(200)], names)
    assert several.shape == (200, 10_000) and several.sum() == 400
    assert (
        SEVERAL.quick_metrics(outputs[:200], several)["n"] == 200
        and len(SEVERAL.fit_postprocess(outputs[:200], several, names)["thresholds"]) == 10_000
    )
    assert time.time() - start < 120, "8 s on an idle machine"


def test_one_label_per_class_and_a_class_without_validation_rows(tmp_path):
    rows = [{"text": f"text {number}", "label": "abc"[number % 2]} for number in range(40)] + [
        {"text": "rare", "label": "c"}
    ]
    splits = read_task(make_task(tmp_path, rows))
    assert "c" not in {example.label for example in splits["validation"]}
    one_each = sample_examples(splits["train"], 3, seed=0)
    assert sorted(example.label for example in one_each) == ["a", "b", "c"]
    labels = SINGLE.encode_labels(splits["validation"], ["a", "b", "c"])
    outputs = np.full((len(labels), 3), 1 / 3)
    params = SINGLE.fit_postprocess(outputs, labels, ["a", "b", "c"])
    result = SINGLE.compute_metrics(SINGLE.apply_postprocess(outputs, params), labels, ["a", "b", "c"], params)
    assert result["auroc"] == 0.5 and np.isfinite(list(result.values())).all()
    assert tfidf_metrics({**splits, "train": one_each}, ["a", "b", "c"], SINGLE)["test"]["n"] == 4


def tfidf_metrics(splits: dict, label_names: list[str], problem_type: ProblemType) -> dict:
    """Return the metrics of TF-IDF and a linear model."""
    args = [str(ROOT / "configs/finetune/sentiment.yaml"), f"task.problem_type={problem_type.name}"]
    return measure_linear_model(load_modality(load_config(Finetune, args)), splits, label_names)


def test_the_tfidf_baseline_handles_a_single_label():
    rows = [
        Example((f"{'warm' if number % 2 else 'cold'} text {number}",), ("warm",) if number % 2 else ())
        for number in range(40)
    ]
    result = tfidf_metrics({"train": rows[:20], "validation": rows[20:30], "test": rows[30:]}, ["warm"], SEVERAL)
    assert result["test"]["f1_macro"] == 1.0


def test_the_tfidf_baseline_handles_texts_without_words():
    rows = [Example(("😀 a" if number % 2 else "🙁 a",), "yn"[number % 2]) for number in range(20)]
    result = tfidf_metrics({"train": rows[:10], "test": rows[10:]}, ["n", "y"], SINGLE)
    assert result["test"]["accuracy"] == 1.0


PHRASES = {
    "Chinese": (
        "这家{}的服务{}，我们{}。",
        ("饭店", "旅馆", "书店", "茶馆"),
        ("周到", "热情"),
        ("冷淡", "马虎"),
        ("都来过", "常常去"),
    ),
    "Japanese": (
        "この{}は{}と{}。",
        ("旅館", "食堂", "お店", "会社"),
        ("とても親切だ", "すばらしい"),
        ("ひどく不親切だ", "つまらない"),
        ("思う", "聞いた"),
    ),
    "Thai": ("{}นี้{}{}", ("ร้าน", "โรงแรม", "หนังสือ", "เพลง"), ("ดีมาก", "น่ารัก"), ("แย่มาก", "น่าเบื่อ"), ("จริงๆ", "เลยนะ")),
}


@pytest.mark.parametrize("language", PHRASES)
def test_the_tfidf_baseline_reads_characters_where_words_are_not_set_apart_by_spaces(language):
    template, *words = PHRASES[language]
    rng = np.random.default_rng(0)

    def write(label: str) -> Example:
        things, good, bad, ends = words
        return Example((template.format(*map(rng.choice, (things, good if label == "good" else bad, ends))),), label)

    rows = [write(("good", "bad")[number % 2]) for number in range(48)]
    seen = {row.texts for row in rows[:12]}
    splits = {"train": rows[:12], "test": [row for row in rows[12:] if row.texts not in seen]}
    assert tfidf_metrics(splits, ["bad", "good"], SINGLE)["test"]["accuracy"] == 1.0
    modality = load_modality(load_config(Finetune, [str(ROOT / "configs/finetune/sentiment.yaml")]))
    assert modality.describe_features(rows) == "TF-IDF of characters"
    results = measure_simple_baselines(modality, splits, ["bad", "good"])
    assert results["tfidf"]["name"] == "TF-IDF of characters + logistic regression"


def test_the_tfidf_baseline_of_texts_with_spaces_is_that_of_words():
    """Also with a few Chinese words among them, and in Korean."""
    modality = load_modality(load_config(Finetune, [str(ROOT / "configs/finetune/sentiment.yaml")]))
    english = ["a warm and lively film", "the 北京 scenes are dull", "warm, or is it dull?"]
    for texts in (english, ["이 영화는 정말 좋다", "정말 나쁜 영화"]):
        rows = [Example((text,), "") for text in texts]
        expected = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts).transform(texts)
        assert (modality.fit_features(rows)(rows) != expected).nnz == 0
        assert modality.describe_features(rows) == "TF-IDF"


@pytest.mark.parametrize("texts", [["a warm film, warm", "The dull film"], ["电影很好", "电影"]])
def test_one_hot_features_are_which_words_or_characters_a_text_has(texts):
    modality = load_modality(load_config(Finetune, [str(ROOT / "configs/finetune/sentiment.yaml")]))
    rows = [Example((text,), "") for text in texts]
    has_words = texts[0].isascii()
    sets = [set(re.findall(r"\w\w+", text.lower()) if has_words else text) for text in texts]
    vocabulary = sorted(set.union(*sets))
    expected = np.array([[word in words for word in vocabulary] for words in sets], float)
    assert np.array_equal(modality.fit_one_hot(rows)(rows).toarray(), expected)
    assert modality.describe_one_hot(rows) == ("one-hot words" if has_words else "one-hot characters")


def test_texts_are_truncated_to_the_position_embeddings(tmp_path):
    """Even if the tokenizer has no limit."""
    from data.encoders import resolve_encoder
    from data.tokens.dataset import tokenize_examples

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"), model_max_length=10**30)
    tokenizer.save_pretrained(tmp_path)
    for config_class, max_length in ((BertConfig, 48), (RobertaConfig, 46)):
        config_class(**SMALL | {"vocab_size": 30_522}).save_pretrained(tmp_path)
        assert tokenize_examples([Example(("word " * 90,), "")], tmp_path, 256, "t").lengths.tolist() == [max_length]


def test_standardization_on_a_single_text_is_finite(tmp_path):
    from finetune.model import mean_pooling

    model = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    mean_pooling.add_mean_pooling_layer(model)
    mean_pooling.standardize_pooling(
        model, [{"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3).long()}]
    )
    norm = model.base_model.encoder.layer[-1].output.LayerNorm
    assert torch.isfinite(norm.weight).all() and torch.isfinite(norm.bias).all()


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_tokenizing_in_chunks_changes_nothing(monkeypatch, columns):
    from data.encoders import resolve_encoder
    from data.tokens import dataset

    rows = [Example(("a film",) * (columns - 1) + ("so " * number,), 1.0) for number in range(1, 8)]
    whole = dataset.tokenize_examples(rows, resolve_encoder("minilm"), 16, "test")
    monkeypatch.setattr(dataset, "TOKENIZE_CHUNK_TEXTS", 3)
    chunks = dataset.tokenize_examples(rows, resolve_encoder("minilm"), 16, "test")
    assert whole.fields.keys() == chunks.fields.keys() and chunks.lengths.tolist() == whole.lengths.tolist()
    for name, values in whole.fields.items():
        assert [row.tolist() for row in values] == [row.tolist() for row in chunks.fields[name]]


def test_a_text_of_100_000_words(workspace):
    from data.encoders import resolve_encoder
    from data.tokens.dataset import tokenize_examples

    start = time.time()
    texts = tokenize_examples(
        [Example(("many words " * 50_000,), 1.0)], resolve_encoder("minilm"), 64, "test", regression.PROBLEM_TYPE, ["n"]
    )
    assert texts.lengths.tolist() == [64] and time.time() - start < 10


# ---- the command ----------------------------------------------------------------------------------------------------


def test_test_rows_among_the_training_rows_and_labels_without_any_are_reported(workspace, tiny, capsys):
    words = np.random.default_rng(0).permutation([f"word{number}" for number in range(2_000)]).reshape(-1, 20)
    rows = [{"text": " ".join(each), "label": "abc"[number % 3]} for number, each in enumerate(words)]
    test = [{"text": f"text {number} of nothing else", "label": "a"} for number in range(20)]
    test += [{**row, "text": row["text"].upper() + " "} for row in rows if row["label"] == "b"][:7]
    test += [{**row, "text": f"so {row['text']}!"} for row in rows if row["label"] == "b"][7:10]
    write_source(workspace / "rows.jsonl", rows)
    write_source(workspace / "test.jsonl", test)
    args = [
        "configs/finetune/your-task.yaml",
        "method=none",
        "task.train.files=rows.jsonl",
        "task.test.files=test.jsonl",
        "run=x",
        "train.precision=float32",
    ]
    main([*args, f"encoder={tiny}", "train.steps=1", "baselines=false", "max_length=16"])
    printed = capsys.readouterr().out
    lines = [
        "no test row of: c",
        "7 of 30 test rows also occur in the training or validation rows; 3 more are near duplicates;"
        " the metrics are too high",
    ]
    for line in lines:
        assert printed.count(f"  {line}\n") == 2, "before the training and with its result"
    folder = workspace / "out/runs/x"
    overlap = {"num_rows": 30, "exact": 7, "near": 3}
    assert json.loads((folder / "metrics.json").read_text())["test_rows"] == {
        "absent_labels": ["c"],
        "overlap": overlap,
    }
    report, card = (folder / "report.html").read_text(), (folder / "model/README.md").read_text()
    assert all(f"<li>{line}</li>" in report and f"\n- {line}\n" in card for line in lines)


def test_all_test_rows_are_described_in_a_line():
    none = {"absent_labels": [], "overlap": {"num_rows": 400, "exact": 0, "near": 3}}
    assert describe_test_rows({"test_rows": none}) == [
        "near duplicates of training or validation rows: 3 of 400 test rows"
    ]
    templates = {"overlap": {"num_rows": 400, "exact": 0, "near": 13}}
    assert describe_test_rows({"test_rows": templates})[0].endswith("13 of 400 test rows; the metrics may be too high")
    many = {"absent_labels": [f"l{number}" for number in range(1_022)], "overlap": {}}
    (line,) = describe_test_rows({"test_rows": many})
    assert line.startswith("no test row of: l0, l1, ") and line.endswith(", l19 and 1,002 more")
    assert describe_test_rows({}) == [], "a run from before they were counted"


TASKS = {
    "classification": ["task.label=label"],
    "multilabel": ["task.label=labels", f"task.problem_type={MULTI_LABEL}"],
    "regression": ["task.label=number", "task.problem_type=regression"],
}


def make_odd_rows(head: str) -> list[dict]:
    """Return rows with odd label names."""
    rows = make_rows(160)
    if head == "multilabel":
        return [row | {"labels": row["labels"] + ODD_NAMES[n % 40 : n % 40 + 1]} for n, row in enumerate(rows)]
    if head == "classification":
        return [row | {"label": ODD_NAMES[n % 10]} for n, row in enumerate(rows)]
    return rows


@pytest.mark.parametrize("head", TASKS)
def test_a_run_writes_a_plain_model_with_the_reported_metrics(workspace, tiny, head, capsys):
    write_source(workspace / "rows.jsonl", make_odd_rows(head))
    args = [
        "configs/finetune/your-task.yaml",
        "method=none",
        "task.train.files=rows.jsonl",
        f"encoder={tiny}",
        *TASKS[head],
        "train.steps=30",
        "train.eval_every=15",
        "train.precision=float32",
        "train.lr=1e-3",
        "max_length=16",
    ]
    main([*args, "run=x"])
    folder, printed = workspace / "out/runs/x", capsys.readouterr().out
    result = json.loads((folder / "metrics.json").read_text())
    assert result["baselines"].keys() == {"tfidf", "without_pretraining"}
    baseline_metrics = [baseline["test"] for baseline in result["baselines"].values()]
    for values in (result["test"], result["validation"], *baseline_metrics):
        assert set(result["report_metrics"]) <= values.keys() and values["n"] == 20
    assert result["baselines"]["tfidf"]["name"] in printed and "Macro" not in printed
    card = (folder / "model" / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    settings = model.config
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    task = load_config(Finetune, [*args, "run=x"]).task
    problem_type = task.load_problem_type()
    splits = read_task(task)
    names = list_label_names(task, splits)
    assert settings.id2label == dict(enumerate(names))
    assert settings.label2id == {name: index for index, name in enumerate(names)}
    texts = [example.texts[0] for example in splits["test"]]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")).logits
    labels = problem_type.encode_labels(splits["test"], names)
    if head == "classification":
        assert set(names) == set(ODD_NAMES) and np.array(result["confusion_matrix"]["counts"]).sum() == 20
        outputs = logits.softmax(-1).numpy()
        assert settings.calibration["temperature"] > 0 and "calibrated" in card
        recomputed = problem_type.compute_metrics(outputs, labels, names, {"calibration": settings.calibration})
    elif head == "multilabel":
        assert set(settings.thresholds) == set(names) >= set(ODD_NAMES) and "thresholds" in card
        recomputed = problem_type.compute_metrics(
            list(logits.sigmoid().numpy()), labels, names, {"thresholds": settings.thresholds}
        )
    else:
        assert settings.problem_type == "regression" and names == ["number"]
        recomputed = problem_type.quick_metrics(list(logits.squeeze(-1).numpy()), labels)
    # Labels without signal have nearly equal probabilities; their order depends on rounding.
    assert recomputed.pop("auroc", 0) == pytest.approx(result["test"].pop("auroc", 0), abs=0.02)
    assert recomputed == pytest.approx(result["test"], abs=1e-4)
    main([*args, "run=x"])
    assert "is finished" in capsys.readouterr().out
    main([*args, "run=y", "train.load_best=false", "train.steps=2"])
    result = json.loads((workspace / "out/runs/y/metrics.json").read_text())
    assert set(result["report_metrics"]) <= result["test"].keys() & result["baselines"]["tfidf"]["test"].keys()
    settings = AutoConfig.from_pretrained(workspace / "out/runs/y/model")
    assert not hasattr(settings, "calibration") and not hasattr(settings, "thresholds"), "no validation rows were used"
    assert (
        result["num_train_examples"]
        == result["num_available_examples"]
        == len(splits["train"]) + len(splits["validation"])
    ), "they were trained on"
    assert json.loads((folder / "metrics.json").read_text())["num_train_examples"] == len(splits["train"])
    if head == "classification":  # not with fewer examples, which are the same in every run
        main([*args, "run=z", "train.load_best=false", "train.steps=2", "task.num_examples=20"])
        result = json.loads((workspace / "out/runs/z/metrics.json").read_text())
        assert (result["num_train_examples"], result["num_available_examples"]) == (20, len(splits["train"]))


@pytest.mark.parametrize(
    "args, message",
    [
        (["task.problem_type=regression"], "rows.jsonl row 1: "),
        ([f"task.problem_type={MULTI_LABEL}", "task.label=nothing"], "rows.jsonl: no row has"),
        (
            [f"task.problem_type={MULTI_LABEL}", "task.label=labels", "task.shots=3"],
            "task.shots=3: rows have no single class",
        ),
    ],
)
def test_invalid_rows_are_reported_before_the_run_folder_exists(workspace, tiny, args, message):
    write_source(workspace / "rows.jsonl", [row | {"nothing": []} for row in make_rows(40)])
    with pytest.raises((ConfigError, DataError)) as error:
        main(
            [
                "configs/finetune/your-task.yaml",
                "method=none",
                "task.train.files=rows.jsonl",
                f"encoder={tiny}",
                "run=x",
                "train.precision=float32",
                *args,
            ]
        )
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (workspace / "out/runs").exists()
