"""The heads on whole texts: their figures by slow independent ways, what they write into a model, and hard cases."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from data.tasks.task import Example, Task, list_label_names, read_task, sample_examples, split_off
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from finetune.__main__ import main
from finetune.config import Finetune
from finetune.evaluation import baselines, calibration, metrics
from finetune.evaluation.postprocess import postprocess
from finetune.heads import classification, multilabel, regression
from finetune.model.build import get_last_linear

STRANGE = ['quo"te', "two\nlines", "😀", "none", "1e-4", "drüben, 你好", "\\", "true", "a|b", "<br />"]
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}


def source(path: Path, rows: list[dict]) -> dict:
    """The rows as JSON lines; returns the source that reads them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"files": str(path)}


def task_of(folder: Path, rows: list[dict], **more) -> Task:
    return Task(name="t", train=source(folder / "rows.jsonl", rows), **more)


def labelled_rows(count: int, seed: int = 0) -> list[dict]:
    """Texts of the words one, two and three, whose labels are the words in them and whose number tells how many."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        words = [word for word in ("one", "two", "three") if random.random() < 0.4]
        rows.append(
            {
                "text": f"text {number} with {' '.join(words)}",
                "labels": words,
                "label": "some" if words else "none",
                "number": 10 * len(words) - 5,
            }
        )
    return rows


# ---- kinds of labels ------------------------------------------------------------------------------------------------


def test_several_labels_are_read_from_lists_and_from_text(tmp_path):
    values = [["a", " b ", "a"], "a, b,,", [], "", None, ["b"], "c", ["c", "a"], [1, True], "1"]
    rows = [{"text": f"text {number}", "label": value} for number, value in enumerate(values * 5)]
    found = {
        example.texts[0]: example.label
        for split in read_task(task_of(tmp_path, rows), "labels").values()
        for example in split
    }
    assert [found[f"text {number}"] for number in range(10)] == [
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
    task = task_of(tmp_path, rows, label_names={"b": "Bee", "a": "Ay"})
    splits = read_task(task, "labels")
    assert list_label_names(task, splits) == ["Bee", "Ay"] and sum(map(len, splits.values())) == 50
    assert ("Ay", "Bee") in {example.label for example in splits["train"]}
    rows = [{"text": f"text {number}", "label": "a; b" if number % 2 else "a, b"} for number in range(40)]
    splits = read_task(task_of(tmp_path, rows, label_separator=";"), "labels")
    assert {example.label for example in splits["train"]} == {("a", "b"), ("a, b",)}


@pytest.mark.parametrize(
    "value, told",
    [
        ("3,5", "'3,5'"),
        ("inf", "'inf'"),
        ("nan", "'nan'"),
        ("", "''"),
        (None, "''"),
        ("good", "'good'"),
        (True, "'True'"),
    ],
)
def test_a_number_that_is_none_is_told_with_its_row(tmp_path, value, told):
    rows = [{"text": f"text {number}", "label": number / 2} for number in range(20)] + [{"text": "x", "label": value}]
    with pytest.raises(DataError) as caught:
        read_task(task_of(tmp_path, rows), "number")
    assert str(caught.value) == f"{tmp_path}/rows.jsonl row 21: {told} in column 'label' is not a finite number"
    assert len(read_task(task_of(tmp_path, rows[:-1]), "number")["train"]) == 16


@pytest.mark.parametrize(
    "kind, value, told",
    [
        ("labels", [], "no row has a label in column 'label'"),
        ("labels", ["a"], "every row has ('a',) in column 'label'"),
        ("number", 3, "every row has 3.0 in column 'label'; there is nothing to learn"),
        ("class", "x", "every row has the label 'x'; a classifier needs at least two classes"),
        ("labels", [["a"]], "row 1: [['a']] in column 'label' is not a list of labels"),
    ],
)
def test_rows_that_all_say_the_same_are_told(tmp_path, kind, value, told):
    with pytest.raises(DataError, match="rows.jsonl") as caught:
        read_task(task_of(tmp_path, [{"text": f"text {number}", "label": value} for number in range(40)]), kind)
    assert told in str(caught.value)


def test_names_that_no_row_has(tmp_path):
    with pytest.raises(DataError, match="no training row has the label 'F' of task.label_names"):
        read_task(
            task_of(tmp_path, labelled_rows(40), label="labels", label_names={"one": "One", "four": "F"}), "labels"
        )


def test_splits_of_several_labels_leave_each_to_learn_from(tmp_path):
    rows = labelled_rows(400) + [
        {"text": f"rare {number}", "labels": [f"rare {number}", "one"]} for number in range(40)
    ]
    first = read_task(task_of(tmp_path, rows, label="labels"), "labels")
    assert {name: len(split) for name, split in first.items()} == {"train": 330, "validation": 55, "test": 55}
    assert sum(example.texts[0].startswith("rare") for example in first["train"]) == 40
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    second = read_task(task_of(tmp_path, shuffled, label="labels"), "labels")
    assert {name: set(split) for name, split in first.items()} == {name: set(split) for name, split in second.items()}


@pytest.mark.parametrize("labels", [[("a",), ("b", "c"), (), ("a", "d")], [1.0, 2.5, -3.0]])
def test_few_of_rows_without_a_single_class(labels):
    examples = [Example((f"text {number}",), labels[number % len(labels)]) for number in range(200)]
    taken = [sample_examples(examples, count, seed=3) for count in (1, 4, 50, 199, 200)]
    for fewer, more in zip(taken, taken[1:]):
        assert more[: len(fewer)] == fewer
    assert len(set(taken[-1])) == 200 and taken[-1] != sample_examples(examples, 200, seed=4)
    names = {name for example in examples for name in example.label_names}
    assert {name for example in taken[1] for name in example.label_names} == names, "every label among the first"
    with pytest.raises(
        ConfigError, match="^task.shots=2: rows have no single class each; use task.num_examples"
    ):
        sample_examples(examples, "all", 0, shots=2)
    with pytest.raises(ConfigError, match="only 200 training rows"):
        sample_examples(examples, 201, 0)


def test_three_texts_are_joined_by_the_separator(workspace):
    from data.encoders import resolve_encoder
    from finetune.dataset import tokenize_examples

    rows = [Example(("one film", "dull", "", "very"), 1.0), Example(("a", "b", "c", "d"), 2.0)]
    texts = tokenize_examples(rows, resolve_encoder("minilm"), 32, "here", regression.encode_labels, ["score"])
    for ids, row in zip(texts.fields["input_ids"], rows):
        said = AutoTokenizer.from_pretrained(resolve_encoder("minilm")).decode(ids)
        assert said.split() == ["[CLS]", *" [SEP] ".join([*row.texts, ""]).split()]
    with pytest.raises(DataError, match="has no tokens"):
        tokenize_examples([Example(("\u200b", "", " "), 1.0)], resolve_encoder("minilm"), 32, "here")


def test_a_source_without_quotes_and_rows_without_a_column(tmp_path):
    from data.sources.source import Source, iter_rows

    (tmp_path / "a.tsv").write_text('text\tlabel\n"open\t1\nb "c" d\t\ne\t3\n')
    found = list(iter_rows(Source(files=str(tmp_path / "a.tsv"), quotes=False, non_empty=["label"])))
    assert found == [{"text": '"open', "label": "1"}, {"text": "e", "label": "3"}]
    plain = Source(files="a.tsv").model_dump()
    assert not {"quotes", "non_empty"} & plain.keys(), "fingerprints of those that say nothing of it stay"
    assert Source(files="a.tsv", quotes=False).model_dump()["quotes"] is False
    assert "label_separator" not in Task(name="t", train=plain).model_dump()


def test_a_corpus_reads_the_rows_of_a_task_as_its_head_does(workspace):
    from data.tasks.task import TaskFile

    made = source(workspace / "rows.jsonl", labelled_rows(80))
    (workspace / "task.yaml").write_text(
        json.dumps({"head": {"name": "multilabel"}, "task": {"name": "t", "train": made, "label": "labels"}})
    )
    file = load_config(TaskFile, ["task.yaml"])
    assert (
        file.problem_type == "multi_label_classification"
        and file.load_splits() == read_task(file.task, "labels")
        and file.fingerprint_inputs()["kind"] == "labels"
    )
    with pytest.raises(ConfigError, match=r"head: no 'multilable' among the heads \(nearest: multilabel\)"):
        load_config(TaskFile, ["task.yaml", "head.name=multilable"]).load_splits()
    assert "kind" not in load_config(TaskFile, ["configs/finetune/sentiment.yaml"]).fingerprint_inputs()


# ---- figures --------------------------------------------------------------------------------------------------------


def test_figures_of_classes_against_sklearn_and_loops():
    random = np.random.default_rng(0)
    truth, said = random.integers(0, 5, 300), random.dirichlet(np.ones(5) * 0.4, 300)
    said[:100, 2] = 0.2  # ties
    said /= said.sum(1, keepdims=True)
    tuned = classification.fit_postprocess(list(said), truth, list("abcde"))
    found = classification.compute_metrics(classification.apply_postprocess(said, tuned), truth, list("abcde"), tuned)
    predicted = said.argmax(1)
    assert found["f1_macro"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["f1_micro"] == found["accuracy"] == pytest.approx((truth == predicted).mean())
    assert found["mcc"] == pytest.approx(matthews_corrcoef(truth, predicted))
    assert metrics.auroc(said, truth[:, None] == np.arange(5))["auroc"] == pytest.approx(
        roc_auc_score(truth, said, multi_class="ovr")
    )

    def error(probabilities: np.ndarray) -> float:
        total = 0.0
        for low in range(15):
            inside = [row for row in range(300) if low / 15 < probabilities[row].max() <= (low + 1) / 15]
            if inside:
                sure = np.mean([probabilities[row].max() for row in inside])
                total += len(inside) / 300 * abs(sure - np.mean([predicted[row] == truth[row] for row in inside]))
        return total

    assert found["ece_uncalibrated"] == pytest.approx(error(said), abs=1e-6)
    assert found["ece"] == pytest.approx(error(classification.apply_postprocess(said, tuned)), abs=1e-6)
    assert found["ece"] < found["ece_uncalibrated"], "random guesses were far too sure"
    counts = np.zeros((5, 5), int)
    for true, guess in zip(truth, predicted):
        counts[true, guess] += 1
    assert classification.details(said, truth, list("abcde"))["confusion_matrix"] == {
        "labels": list("abcde"),
        "counts": counts.tolist(),
    }
    # A class that no row has is left out; one class alone gives no area and no correlation.
    assert metrics.auroc(said[truth != 4], truth[truth != 4][:, None] == np.arange(5))["auroc"] == pytest.approx(
        np.mean([roc_auc_score(truth[truth != 4] == label, said[truth != 4, label]) for label in range(4)])
    )
    alone = classification.compute_metrics(said, np.zeros(300, int), list("abcde"), {})
    assert "auroc" not in alone and "ece_uncalibrated" not in alone and alone["mcc"] == 0


def test_temperature_is_the_likeliest_and_changes_no_class():
    random = np.random.default_rng(1)
    logits = torch.tensor(random.normal(size=(500, 4)) * 2)
    truth = np.array([random.choice(4, p=row) for row in logits.softmax(1).numpy()])
    said = (logits * 3).softmax(1).numpy()
    found = calibration.fit_temperature(said, truth)
    grid = np.exp(np.linspace(-2, 3, 2_001))
    losses = [torch.nn.functional.cross_entropy(logits * 3 / one, torch.tensor(truth)).item() for one in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.01) and 2.3 < found < 3.7
    revised = calibration.apply_temperature(said, found)
    assert (revised.argmax(1) == said.argmax(1)).all()
    assert np.allclose(revised, (logits * 3 / found).softmax(1), atol=1e-6)
    assert calibration.fit_temperature(np.eye(4)[[0, 1, 2]] * 0.9 + 0.025, np.array([0, 1, 2])) == 1.0, (
        "nothing to learn from"
    )
    assert calibration.fit_temperature(np.eye(4)[[0, 1, 2]], np.array([0, 1, 3])) == pytest.approx(20, rel=0.1), (
        "of zeros too"
    )


def test_figures_of_several_labels_against_sklearn():
    random = np.random.default_rng(2)
    truth = (random.random((200, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.uint8)
    said = np.clip(random.random((200, 4)) * 0.6 + truth * 0.2, 0, 0.49)
    tuned = multilabel.fit_postprocess(list(said), truth, list("abcd"))
    assert tuned["thresholds"]["d"] == 0.5, "a label without a validation row"
    for column, name in enumerate("abc"):
        best = max(f1_score(truth[:, column], said[:, column] >= one) for one in said[:, column])
        assert f1_score(truth[:, column], said[:, column] >= tuned["thresholds"][name]) == pytest.approx(best)
    found = multilabel.compute_metrics(list(said), truth, list("abcd"), tuned)
    sure = said >= np.array(list(tuned["thresholds"].values()))
    assert found["f1_macro"] == pytest.approx(f1_score(truth[:, :3], sure[:, :3], average="macro"))
    assert found["f1_micro"] == pytest.approx(f1_score(truth, sure, average="micro"))
    assert found["auroc"] == pytest.approx(roc_auc_score(truth[:, :3], said[:, :3]))
    assert found["exact_match"] == np.mean([list(one) == list(other) for one, other in zip(sure, truth)])
    assert multilabel.compute_metrics(list(said), truth, list("abcd"), {})["f1_macro"] == 0, "nothing is said at a half"
    assert multilabel.quick_metrics(list(said), truth)["f1_macro"] == pytest.approx(found["f1_macro"]), (
        "an evaluation is not"
    )
    tied = np.array([0.7, 0.7, 0.7, 0.2])
    assert 0.2 < multilabel.best_f1_threshold(tied, np.array([1, 0, 1, 0])) < 0.7


def test_figures_of_numbers():
    random = np.random.default_rng(3)
    truth = random.normal(size=100)
    said = truth + random.normal(size=100)
    found = regression.quick_metrics(list(said), truth)
    ranks = [np.array([(values < value).sum() for value in values]) for values in (said, truth)]
    assert found["spearman"] == pytest.approx(pearsonr(*ranks).statistic)
    assert found["pearson"] == pytest.approx(pearsonr(said, truth).statistic)
    assert (
        found["rmse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(said, truth)) ** 0.5 / 10) and found["n"] == 100
    )
    assert regression.quick_metrics([1.0] * 100, truth)["spearman"] == 0


# ---- losses and what is written into the weights --------------------------------------------------------------------


def inputs_of(rows: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (rows, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("balance", [True, False])
def test_loss_of_several_labels(balance):
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()
    head = multilabel.Head(multilabel.Config(class_weights=balance), model)
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.uint8)
    head.set_label_stats(truth)
    output = head(labels=torch.from_numpy(truth), **inputs_of())
    said, slow = head.predict(**inputs_of()).detach().numpy().astype(float), 0.0
    for row in range(4):
        for label, weight in enumerate([1 / 3, 3, 1] if balance else [1, 1, 1]):
            slow -= weight * np.log(said[row, label]) if truth[row, label] else np.log(1 - said[row, label])
    assert output.loss.item() == pytest.approx(slow, rel=1e-5) and int(output.count) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: BertForSequenceClassification(BertConfig(**SMALL, num_labels=1)),
        lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL, pad_token_id=0, num_labels=1)),
    ],
)
def test_numbers_are_learned_standardised_and_written_out_as_they_are(make):
    torch.manual_seed(0)
    model, truth = make().eval(), np.array([1e4, 2e4, 2e4, 5e4])
    head = regression.Head(regression.Config(), model)
    head.set_label_stats(truth)
    plain = model(**inputs_of()).logits.squeeze(-1).detach()
    target = torch.tensor((truth - truth.mean()) / truth.std()).float()
    assert head(labels=torch.tensor(truth), **inputs_of()).loss.item() == pytest.approx(
        ((plain - target) ** 2).sum().item(), rel=1e-5
    )
    before = head.predict(**inputs_of())
    assert torch.allclose(before, plain.double() * truth.std() + truth.mean())
    regression.fold_into_weights(head, {})
    assert torch.allclose(model(**inputs_of()).logits.squeeze(-1).double(), before, rtol=1e-5)
    assert torch.allclose(head.predict(**inputs_of()), before, rtol=1e-5)


def test_finishing_without_validation_rows_tunes_nothing():
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()
    head = classification.Head(classification.Config(), model)
    said, truth = list(head.predict(**inputs_of(30)).detach().numpy()), np.arange(30) % 3
    weights = get_last_linear(model).weight.clone()
    for validate in (False, True):
        found = postprocess(
            classification,
            head,
            {"test": said, "validation": said},
            {"test": truth, "validation": truth},
            ["a", "b", "c"],
            validate,
        )
        assert hasattr(model.config, "calibration") == validate == ("ece_uncalibrated" in found.metrics["test"])
        assert get_last_linear(model).weight.equal(weights) != validate
        assert np.allclose(head.predict(**inputs_of(30)).detach().numpy(), found.predictions["test"], atol=1e-5)


# ---- hard cases -----------------------------------------------------------------------------------------------------


def test_ten_thousand_classes_take_seconds(tmp_path):
    began = time.time()
    names = [f"class {number}" for number in range(10_000)]
    examples = [Example((f"text {number}",), names[number % 10_000]) for number in range(30_000)]
    off, rest = split_off(examples, 0.125)
    assert len(off) == 0 and len(rest) == 30_000, "an eighth of three rows is none"
    task = Task(name="t", train={"files": "a"})
    assert len(list_label_names(task, {"train": examples})) == 10_000
    assert (
        len(sample_examples(examples, 15_000, seed=0)) == 15_000
        and len(sample_examples(examples, "all", 0, shots=2)) == 20_000
    )
    truth = classification.encode_labels(examples[:1_000], names)
    random = np.random.default_rng(0)
    said = random.random((1_000, 10_000), dtype=np.float32)
    said[np.arange(0, 1_000, 2), truth[::2]] = 5
    said /= said.sum(1, keepdims=True)
    assert classification.quick_metrics(said, truth)["accuracy"] > 0.49 and time.time() - began < 60
    tuned = classification.fit_postprocess(said, truth, names)
    found = classification.compute_metrics(classification.apply_postprocess(said, tuned), truth, names, tuned)
    assert found["auroc"] > 0.7 and 0 < found["mcc"] < 1 and classification.details(said, truth, names) == {}
    several = multilabel.encode_labels([Example(("x",), (names[number], names[-1])) for number in range(200)], names)
    assert several.shape == (200, 10_000) and several.sum() == 400
    assert (
        multilabel.quick_metrics(said[:200], several)["n"] == 200
        and len(multilabel.fit_postprocess(said[:200], several, names)["thresholds"]) == 10_000
    )
    assert time.time() - began < 120, "8 s on a machine that does nothing else"


def test_one_label_a_class_and_a_class_absent_from_validation(tmp_path):
    rows = [{"text": f"text {number}", "label": "abc"[number % 2]} for number in range(40)] + [
        {"text": "rare", "label": "c"}
    ]
    splits = read_task(task_of(tmp_path, rows))
    assert "c" not in {example.label for example in splits["validation"]}
    one_each = sample_examples(splits["train"], 3, seed=0)
    assert sorted(example.label for example in one_each) == ["a", "b", "c"]
    truth = classification.encode_labels(splits["validation"], ["a", "b", "c"])
    said = np.full((len(truth), 3), 1 / 3)
    tuned = classification.fit_postprocess(said, truth, ["a", "b", "c"])
    found = classification.compute_metrics(classification.apply_postprocess(said, tuned), truth, ["a", "b", "c"], tuned)
    assert found["auroc"] == 0.5 and np.isfinite(list(found.values())).all()
    assert baselines.tfidf_baseline({**splits, "train": one_each}, ["a", "b", "c"], classification)["test"]["n"] == 4


def test_the_linear_model_of_one_label_says_yes_where_it_is():
    rows = [
        Example((f"{'warm' if number % 2 else 'cold'} text {number}",), ("warm",) if number % 2 else ())
        for number in range(40)
    ]
    found = baselines.tfidf_baseline(
        {"train": rows[:20], "validation": rows[20:30], "test": rows[30:]}, ["warm"], multilabel
    )
    assert found["test"]["f1_macro"] == 1.0


def test_the_linear_model_of_texts_without_a_word_of_two_letters():
    rows = [Example(("😀 a" if number % 2 else "🙁 a",), "yn"[number % 2]) for number in range(20)]
    found = baselines.tfidf_baseline({"train": rows[:10], "test": rows[10:]}, ["n", "y"], classification)
    assert found["test"]["accuracy"] == 1.0


def test_a_text_is_cut_to_what_the_network_takes(tmp_path):
    """Of a tokenizer that knows no limit."""
    from data.encoders import resolve_encoder
    from finetune.dataset import tokenize_examples

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"), model_max_length=10**30)
    tokenizer.save_pretrained(tmp_path)
    for config, longest in ((BertConfig(**SMALL), 48), (RobertaConfig(**SMALL), 46)):
        config.save_pretrained(tmp_path)
        assert tokenize_examples([Example(("word " * 90,), "")], tmp_path, 256, "t").lengths.tolist() == [longest]


def test_one_text_has_no_spread_to_be_brought_to(tmp_path):
    from finetune.model import mean_pooling

    model = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    mean_pooling.add_mean_pooling_layer(model)
    mean_pooling.standardize_pooling(
        model, [{"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3).long()}]
    )
    norm = model.base_model.encoder.layer[-1].output.LayerNorm
    assert torch.isfinite(norm.weight).all() and torch.isfinite(norm.bias).all()


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_texts_tokenised_in_pieces_are_those_tokenised_at_once(monkeypatch, columns):
    from data.encoders import resolve_encoder
    from finetune import dataset

    rows = [Example(("a film",) * (columns - 1) + ("so " * number,), 1.0) for number in range(1, 8)]
    whole = dataset.tokenise(rows, resolve_encoder("minilm"), 16, "here")
    monkeypatch.setattr(dataset, "PIECE", 3)
    pieces = dataset.tokenise(rows, resolve_encoder("minilm"), 16, "here")
    assert whole.fields.keys() == pieces.fields.keys() and pieces.lengths.tolist() == whole.lengths.tolist()
    for name, own in whole.fields.items():
        assert [row.tolist() for row in own] == [row.tolist() for row in pieces.fields[name]]


def test_a_text_of_100_000_words(workspace):
    from data.encoders import resolve_encoder
    from finetune.dataset import tokenize_examples

    began = time.time()
    texts = tokenize_examples(
        [Example(("many words " * 50_000,), 1.0)],
        resolve_encoder("minilm"),
        64,
        "here",
        regression.encode_labels,
        ["n"],
    )
    assert texts.lengths.tolist() == [64] and time.time() - began < 10


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder with a network of two small layers and minilm's tokenizer."""
    from helpers import ROOT

    from data.encoders import resolve_encoder

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    BertModel(BertConfig(**SMALL | {"vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = {"classification": "task.label=label", "multilabel": "task.label=labels", "regression": "task.label=number"}


@pytest.mark.parametrize("head", WORDS)
def test_a_head_from_rows_to_a_plain_model(workspace, tiny, head, capsys):
    rows = labelled_rows(160)
    if head == "multilabel":
        rows = [
            row | {"labels": row["labels"] + STRANGE[number % 40 : number % 40 + 1]} for number, row in enumerate(rows)
        ]
    elif head == "classification":
        rows = [row | {"label": STRANGE[number % 10]} for number, row in enumerate(rows)]
    source(workspace / "rows.jsonl", rows)
    words = [
        "configs/finetune/your-task.yaml",
        "task.train.files=rows.jsonl",
        f"encoder={tiny}",
        f"head.name={head}",
        WORDS[head],
        "train.steps=30",
        "train.eval_every=15",
        "train.precision=float32",
        "train.lr=1e-3",
        "max_length=16",
    ]
    main([*words, "run=x"])
    folder, told = workspace / "out/runs/x", capsys.readouterr().out
    found = json.loads((folder / "metrics.json").read_text())
    assert found["baselines"].keys() == {"tfidf", "without_pretraining"}
    for figures in (found["test"], found["validation"], *(each["test"] for each in found["baselines"].values())):
        assert set(found["report_metrics"]) <= figures.keys() and figures["n"] == 20
    assert found["baselines"]["tfidf"]["name"] in told and "Macro" not in told
    settings = AutoConfig.from_pretrained(folder / "model")
    card = (folder / "model" / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    head_file, task = importlib.import_module(f"finetune.heads.{head}"), load_config(Finetune, [*words, "run=x"]).task
    splits = read_task(task, head_file.PROBLEM_TYPE)
    names = list_label_names(task, splits)
    assert settings.id2label == dict(enumerate(names)) and settings.label2id == {
        name: n for n, name in enumerate(names)
    }
    with torch.no_grad():
        logits = model(
            **tokenizer(
                [example.texts[0] for example in splits["test"]],
                padding=True,
                truncation=True,
                max_length=16,
                return_tensors="pt",
            )
        ).logits
    truth = head_file.encode_labels(splits["test"], names)
    if head == "classification":
        assert set(names) == set(STRANGE) and np.array(found["confusion_matrix"]["counts"]).sum() == 20
        said = logits.softmax(-1).numpy()
        assert settings.calibration["temperature"] > 0 and "calibrated" in card
        again = head_file.compute_metrics(said, truth, names, {"calibration": settings.calibration})
    elif head == "multilabel":
        assert set(settings.thresholds) == set(names) >= set(STRANGE) and "thresholds" in card
        again = head_file.compute_metrics(
            list(logits.sigmoid().numpy()), truth, names, {"thresholds": settings.thresholds}
        )
    else:
        assert settings.problem_type == "regression" and names == ["number"]
        again = head_file.quick_metrics(list(logits.squeeze(-1).numpy()), truth)
    # Of labels that nothing tells, probabilities differ by roundings, and so does their order.
    assert again.pop("auroc", 0) == pytest.approx(found["test"].pop("auroc", 0), abs=0.02)
    assert again == pytest.approx(found["test"], abs=1e-4)
    main([*words, "run=x"])
    assert "is finished" in capsys.readouterr().out
    main([*words, "run=y", "train.load_best=false", "train.steps=2"])
    found = json.loads((workspace / "out/runs/y/metrics.json").read_text())
    assert set(found["report_metrics"]) <= found["test"].keys() & found["baselines"]["tfidf"]["test"].keys()
    settings = AutoConfig.from_pretrained(workspace / "out/runs/y/model")
    assert not hasattr(settings, "calibration") and not hasattr(settings, "thresholds"), "no validation row was used"
    assert found["num_train_examples"] == found["num_available_examples"] == len(splits["train"]) + len(splits["validation"]), (
        "but to learn from"
    )
    assert json.loads((folder / "metrics.json").read_text())["num_train_examples"] == len(splits["train"])
    if head == "classification":  # nor where fewer are asked for: they are those they are in every other run
        main([*words, "run=z", "train.load_best=false", "train.steps=2", "task.num_examples=20"])
        found = json.loads((workspace / "out/runs/z/metrics.json").read_text())
        assert (found["num_train_examples"], found["num_available_examples"]) == (20, len(splits["train"]))


@pytest.mark.parametrize(
    "words, told",
    [
        (["head.name=regression"], "rows.jsonl row 1: "),
        (["head.name=multilabel", "task.label=nothing"], "rows.jsonl: no row has"),
        (
            ["head.name=multilabel", "task.label=labels", "task.shots=3"],
            "task.shots=3: rows have no single class",
        ),
    ],
)
def test_mistakes(workspace, tiny, words, told):
    source(workspace / "rows.jsonl", [row | {"nothing": []} for row in labelled_rows(40)])
    with pytest.raises((ConfigError, DataError)) as caught:
        main(
            [
                "configs/finetune/your-task.yaml",
                "task.train.files=rows.jsonl",
                f"encoder={tiny}",
                "run=x",
                "train.precision=float32",
                *words,
            ]
        )
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert not (workspace / "out/runs").exists()
