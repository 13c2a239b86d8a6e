"""A handful of labels: the contrastive head, classes in turn, texts varied, the model's own labels, weights of classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import error_lines, run_module
from tiny_models import padded_batch, tiny_bert

from data.encoders import resolve_encoder
from data.sampling import class_balanced_batch
from data.tasks.splits import Example
from data.tasks.task import TaskFile, read_task
from engine.config.loader import load_config
from engine.errors import DataError
from engine.training.distributed import make_accelerator
from finetune import augment, train
from finetune.__main__ import main as finetune_main
from finetune.config import Augment, Finetune, Layers
from finetune.heads import classification, supcon
from finetune.model.layerwise import freeze_schedule
from finetune.semi_supervised import documents, self_training, task_adaptive

# ---- classes in turn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("size", [4, 7, 32])
def test_classes_come_equally_often_and_rows_once_before_again(together, size):
    classes = np.repeat([0, 3, 4], [2, 5, 40])
    drawn = np.concatenate(
        [class_balanced_batch(step, size, classes, seed=5, samples_per_class=together) for step in range(200)]
    )
    counts = np.bincount(classes[drawn], minlength=5)
    assert counts[[1, 2]].sum() == 0
    assert np.ptp(counts[[0, 3, 4]]) <= 3 * together
    for name in (0, 3, 4):
        rows = drawn[classes[drawn] == name]
        own = np.flatnonzero(classes == name)
        for start in range(0, len(rows) - len(own), len(own)):
            assert sorted(rows[start : start + len(own)]) == own.tolist(), "a row came again before another came"


def test_two_of_a_class_are_drawn_together_so_that_each_has_a_partner():
    classes = np.arange(77).repeat(8)
    for step in range(20):
        chosen = classes[class_balanced_batch(step, 32, classes, seed=0, samples_per_class=2)]
        assert (np.bincount(chosen)[chosen] >= 2).all()


def test_a_step_follows_from_its_number_alone():
    classes = np.arange(10).repeat(5)
    assert (class_balanced_batch(17, 8, classes, 3) == class_balanced_batch(17, 8, classes, 3)).all()
    assert (class_balanced_batch(17, 8, classes, 3) != class_balanced_batch(18, 8, classes, 3)).any()
    assert (class_balanced_batch(17, 8, classes, 3) != class_balanced_batch(17, 8, classes, 4)).any()


# ---- the loss -------------------------------------------------------------------------------------------------------


def slow_contrast(vectors: np.ndarray, labels: list[int], temperature: float) -> list[float]:
    """Khosla et al. 2020, equation 2, text by text."""
    vectors = [vector / np.sqrt((vector**2).sum()) for vector in vectors.astype(np.float64)]
    losses = []
    for anchor, own in enumerate(vectors):
        others = [place for place in range(len(vectors)) if place != anchor]
        partners = [place for place in others if labels[place] == labels[anchor]]
        below = sum(np.exp(own @ vectors[place] / temperature) for place in others)
        told = [np.log(np.exp(own @ vectors[place] / temperature) / below) for place in partners]
        losses.append(-sum(told) / len(told) if told else 0.0)
    return losses


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_the_contrastive_loss_against_a_slow_one(temperature):
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    labels = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4]
    found = supcon.supcon_loss(torch.tensor(vectors), torch.tensor(labels), temperature)
    assert found.tolist() == pytest.approx(slow_contrast(vectors, labels, temperature), rel=1e-4, abs=1e-6)
    assert found[5] == 0


@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_the_gradient_is_the_same_however_the_batch_is_cut(beside):
    model, inputs = tiny_bert(num_labels=3), padded_batch(batch_size=9)
    inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    labels = torch.tensor([0, 1, 2] * 3)
    head = supcon.Head(supcon.Config(cross_entropy_weight=beside), model).eval()

    def gradient(cuts: list[slice]) -> tuple[float, torch.Tensor]:
        head.zero_grad()
        parts = [({name: tensor[cut] for name, tensor in inputs.items()}, labels[cut]) for cut in cuts]
        with torch.no_grad():
            said = head.cache_gradients([head.embed(own, **part) for part, own in parts])
        outputs = [head(own, **part, **more) for (part, own), more in zip(parts, said)]
        total = sum(output.loss for output in outputs)
        total.backward()
        return total.item(), torch.cat(
            [parameter.grad.flatten() for parameter in head.parameters() if parameter.grad is not None]
        )

    whole, cut = gradient([slice(0, 9)]), gradient([slice(0, 2), slice(2, 3), slice(3, 9)])
    assert whole[0] == pytest.approx(cut[0], rel=1e-5) and torch.allclose(whole[1], cut[1], atol=1e-5)


def test_focal_loss_and_class_weights_against_counting():
    model = tiny_bert(num_labels=2)
    head = classification.Head(classification.Config(focal_gamma=2.0, class_weights=True), model)
    head.set_label_stats(np.array([0, 0, 0, 1]))
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    loss, count = 0.0, 0.0
    for row, own in zip(logits.tolist(), labels.tolist()):
        right = np.exp(row[own]) / np.exp(row).sum()
        weight = {0: 4 / (2 * 3), 1: 4 / (2 * 1)}[own]
        loss, count = loss - weight * (1 - right) ** 2 * np.log(right), count + weight
    told = head.cross_entropy(logits, labels)
    assert told.loss.item() == pytest.approx(loss, rel=1e-5) and told.count.item() == pytest.approx(count, rel=1e-5)


# ---- texts varied ---------------------------------------------------------------------------------------------------


def test_what_is_left_out_and_what_changes_places():
    special = np.zeros(42, dtype=bool)
    special[[0, 20, 41]] = True
    dropped, moved = [], 0
    for number in range(500):
        order = augment.augment_tokens(special, Augment(drop=0.2), np.random.default_rng(number))
        assert (np.diff(order) > 0).all() and {0, 20, 41} <= set(order.tolist())
        dropped.append(42 - len(order))
        order = augment.augment_tokens(special, Augment(swap=0.5, max_span=3), np.random.default_rng(number))
        assert sorted(order) == list(range(42)) and order[[0, 20, 41]].tolist() == [0, 20, 41]
        assert set(order[:20].tolist()) == set(range(20)), "a stretch left its text"
        moved += (order != np.arange(42)).any()
        assert (order != np.arange(42)).sum() <= 6
    assert np.mean(dropped) == pytest.approx(0.2 * 39, rel=0.05) and 200 < moved < 300


def test_something_is_always_left_of_a_text():
    special = np.array([True, False, True])
    for number in range(50):
        assert augment.augment_tokens(special, Augment(drop=0.99, swap=1), np.random.default_rng(number)).tolist() == [
            0,
            1,
            2,
        ]
    # A text that is itself the name of a special token.
    assert augment.augment_tokens(np.ones(3, bool), Augment(drop=0.9), np.random.default_rng(0)).tolist() == [0, 1, 2]


# ---- the model's own labels -----------------------------------------------------------------------------------------


def test_the_surest_of_each_class():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.45, 0.55], [0.1, 0.9]])
    places, classes = self_training.select_most_confident(probabilities, 0.5)
    assert dict(zip(places.tolist(), classes.tolist())) == {0: 0, 2: 0, 5: 1}
    places, _ = self_training.select_most_confident(probabilities, 1.0, min_confidence=0.75)
    assert sorted(places.tolist()) == [0, 2, 5]


def test_unlabelled_texts_are_those_whose_label_was_not_taken():
    rows = [Example((f"text {number}",), "yes") for number in range(20)]
    found = self_training.sample_unlabeled(rows, rows[:5], 10, seed=1)
    assert len(found) == 10 and not {id(row) for row in found} & {id(row) for row in rows[:5]}
    assert len(self_training.sample_unlabeled(rows, rows[:5], 100, seed=1)) == 15


def test_labels_spread_through_what_lies_together():
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 16)) * 2
    truth = random.integers(3, size=600)
    others = centres[truth] + random.normal(size=(600, 16))
    labels = np.array([0, 1, 2])
    features = centres + 1.5 * random.normal(size=(3, 16))
    plain = np.square(others[:, None] - features[None]).sum(-1).argmin(1)
    found = self_training.propagate_labels(features, labels, others, 0.25).argmax(1)
    assert (found == truth).mean() > max(0.9, (plain == truth).mean())


def test_a_label_that_nothing_is_said_of_keeps_its_column():
    found = self_training.propagate_labels(np.eye(4)[[0, 2]], np.array([0, 2]), np.eye(4)[[0, 0, 2, 2, 3]], 0.25)
    assert found.shape == (5, 3) and (found[:, 1] == 0).all()


# ---- documents ------------------------------------------------------------------------------------------------------


def test_documents_are_drawn_each_as_likely_as_any_other():
    texts = [str(number) for number in range(30)]
    counts = np.bincount(
        [int(text) for seed in range(2000) for text in documents.reservoir_sample(iter(texts), 5, seed)], minlength=30
    )
    assert counts.sum() == 10_000 and (abs(counts - 10_000 / 30) < 5 * (10_000 / 30) ** 0.5).all()
    assert documents.reservoir_sample(texts, 5, 3) == documents.reservoir_sample(iter(texts), 5, 3)
    assert documents.reservoir_sample(texts, 99, 3) == texts


def test_a_document_is_cut_into_its_sentences():
    texts = [
        "A film of great warmth. Too long, I think! No.\nThe end is  quite good?",
        "Bah.",
        "It is what it is. " * 9,
    ]
    found, whose = documents.sample_sentences(texts, 4, seed=0)
    told = [example.texts[0] for example in found]
    assert (
        told == ["A film of great warmth.", "Too long, I think!", "The end is quite good?"] + ["It is what it is."] * 4
    )
    assert whose.tolist() == [0, 0, 0, 1, 1, 1, 1], "what has no sentence of its own is left out, and leaves no gap"
    pool = self_training.UnlabeledDocuments(found, whose)
    assert [len(pool.get_texts(place)) for place in range(2)] == [3, 4] and pool.get_texts(1)[0] is found[3]


def test_a_document_is_judged_by_all_its_sentences():
    truth, random = np.arange(200) % 3, np.random.default_rng(0)
    whose = np.arange(200).repeat(8)
    logits = (
        0.8 * np.eye(3)[truth[whose]] + random.normal(size=(1600, 3)) + [3, 0, 0]
    )  # and the first class is always favoured
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    alone = (probabilities.argmax(1) == truth[whose]).mean()
    found = documents.document_probabilities(probabilities, whose, np.full(3, 1 / 3))
    assert alone < 0.45 and (found.argmax(1) == truth).mean() > 0.85
    slow = np.array([np.log(probabilities[whose == place]).mean(0) for place in range(200)])
    slow = np.exp(slow - slow.mean(0))
    assert np.allclose(found, slow / slow.sum(1, keepdims=True))


def test_classes_are_brought_back_to_their_shares():
    model, inputs = tiny_bert(num_labels=3), padded_batch(batch_size=64)
    shares = np.array([0.6, 0.3, 0.1])
    before = model(**inputs).logits
    documents.match_class_priors(model, before.softmax(-1).detach().numpy(), shares)
    after = model(**inputs).logits
    assert np.allclose(after.softmax(-1).mean(0).detach().numpy(), shares, atol=1e-4)
    moved = after - before
    assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-5), "all texts alike"


# ---- whole ----------------------------------------------------------------------------------------------------------


def words(folder, *more: str) -> list[str]:
    return [
        "configs/finetune/your-task.yaml",
        f"task.train.files={folder}/labels.csv",
        "encoder=minilm",
        "max_length=24",
        "train.precision=float32",
        "configs/method/selftrain.yaml",
        "task.shots=4",
        "train.steps=2",
        "train.batch_size=8",
        "selftrain.min_steps=1",
        "selftrain.max_texts=20",
        *more,
    ]


def labels_csv(folder) -> None:
    texts = [f"{'good warm lovely' if number % 2 else 'bad dull awful'} film number {number}" for number in range(60)]
    (folder / "labels.csv").write_text(
        "text,label\n" + "".join(f"{text},{'yes' if number % 2 else 'no'}\n" for number, text in enumerate(texts))
    )


def test_a_run_in_rounds_ends_in_a_plain_model_and_goes_on_where_it_was(workspace):
    labels_csv(workspace)
    done = run_module("finetune", *words(workspace, "run=rounds", "augment={drop: 0.1, swap: 0.1}"))
    assert done.returncode == 0, done.stderr
    folder = workspace / "out" / "runs" / "rounds"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["num_train_examples"] == 8 and "validation" not in figures and figures["test"]["accuracy"] > 0.8
    assert figures["steps"] == 2, "as many as the first teaching, where that is more than selftrain.min_steps"
    # What it is held against may use the same texts.
    assert (folder / "without_pretraining" / "round-1" / "labels.json").is_file()
    told = json.loads((folder / "round-1" / "labels.json").read_text())
    assert 0 < len(told["places"]) <= 20 and set(told["classes"]) <= {0, 1}
    # Stopped after the first round: its labels are taken as they are, and the end is the same; but not those of other texts.
    again = workspace / "out" / "runs" / "again"
    (again / "round-1").mkdir(parents=True)
    (again / "round-1" / "labels.json").write_text(json.dumps(told))
    done = run_module("finetune", *words(workspace, "run=again", "baselines=false", "augment={drop: 0.1, swap: 0.1}"))
    assert done.returncode == 0 and "finetune again, round 1" not in done.stdout, done.stderr
    assert json.loads((again / "metrics.json").read_text())["test"] == figures["test"]
    other = workspace / "out" / "runs" / "other" / "round-1"
    other.mkdir(parents=True)
    (other / "labels.json").write_text(json.dumps(told | {"of": "other texts"}))
    done = run_module("finetune", *words(workspace, "run=other", "baselines=false", "augment={drop: 0.1, swap: 0.1}"))
    assert done.returncode == 0 and json.loads((other / "labels.json").read_text())["classes"] == told["classes"], (
        done.stderr
    )


def test_a_run_with_documents_learns_their_sentences(workspace):
    labels_csv(workspace)
    (workspace / "reviews.jsonl").write_text(
        "\n".join(
            json.dumps({"text": " ".join(f"It was such {kind} thing number {number}{place}." for place in range(3))})
            for number in range(20)
            for kind in ("a good warm", "a bad dull")
        )
    )
    (workspace / "corpus.yaml").write_text(
        "corpus: {name: told, deduplicate: {near: false}, sources: [{files: reviews.jsonl}]}"
    )
    more = words(
        workspace,
        "run=told",
        "head.name=classification",
        "train.sampling=shuffle",
        "train.lr=1e-3",
        "baselines=false",
        "train.steps=6",
        "selftrain={rounds: 2, corpus: corpus.yaml, documents: 30, sentences: 2, min_steps: 8}",
    )
    done = run_module("finetune", *more)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("finetune told, round 1, reads  batch ") == 1 == done.stdout.count("round 2, reads  batch ")
    )
    folder = workspace / "out" / "runs" / "told"
    for number in (1, 2):
        told = json.loads((folder / f"round-{number}" / "labels.json").read_text())
        assert 8 <= len(told["places"]) <= 22 and set(told["classes"]) == {0, 1} and max(told["places"]) < 30
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["steps"] == 8 and figures["test"]["accuracy"] > 0.8
    card = (folder / "model" / "README.md").read_text()
    assert "sentences of `corpus.yaml`, pseudo-labeled by the model itself" in " ".join(card.split())
    assert json.loads((folder / "model" / "record.json").read_text())["licenses"]["corpus"] == {"reviews.jsonl": None}
    # Other documents are no text to go on with.
    (folder / "metrics.json").unlink()
    (workspace / "reviews.jsonl").write_text(json.dumps({"text": "A film that is new here."}))
    done = run_module("finetune", *more)
    assert done.returncode == 2 and "another text" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_pretraining_on_the_tasks_own_texts(workspace):
    labels_csv(workspace)
    keys = ["train.batch_size=4", "max_length=32", "eval_rows=4", "train.precision=float32"]
    done = run_module(
        "finetune",
        "configs/finetune/your-task.yaml",
        f"task.train.files={workspace}/labels.csv",
        "encoder=minilm",
        "run=x",
        "train.steps=2",
        "max_length=24",
        "train.precision=float32",
        "tapt.steps=2",
        f"tapt.keys={keys}",
    )
    assert done.returncode == 0, done.stderr + done.stdout
    record = json.loads((workspace / "out" / "runs" / "x-adapted" / "encoder" / "record.json").read_text())
    assert record["init"] == "minilm" and record["config"]["train"]["steps"] == 2
    assert (
        json.loads((workspace / "out" / "runs" / "x" / "metrics.json").read_text())["encoder"]
        == "out/runs/x-adapted/encoder"
    )


def test_rows_are_split_for_adapting_as_for_fine_tuning(workspace, monkeypatch):
    """By the head: else test texts would be among those adapted to."""
    (workspace / "ratings.csv").write_text(
        "text,label\n" + "".join(f"film number {n},{n % 31 / 10}\n" for n in range(400))
    )
    words = [
        "configs/finetune/your-task.yaml",
        f"task.train.files={workspace}/ratings.csv",
        "head.name=regression",
        "run=x",
    ]
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(task_adaptive.subprocess, "run", lambda words, env: SimpleNamespace(returncode=1))
    config = load_config(Finetune, [*words, "tapt.steps=2"])
    with pytest.raises(DataError, match="tapt.steps: pretraining on the task's texts was not finished"):
        task_adaptive.run_task_adaptive_pretraining(config, "minilm")
    assert load_config(TaskFile, ["out/runs/x-adapted/task.yaml"]).load_splits() == read_task(config.task, "number")


def test_an_adapted_encoder_is_one_task_s_alone(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    for number, name in enumerate(("default", "x-adapted")):
        record = Path("out/runs") / name / "encoder" / "record.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
        os.utime(record, (number, number))
    Path("out/runs/x-adapted/task.yaml").touch()
    assert train.find_latest_encoder() == "out/runs/default/encoder", "a run that adapts finds the same when it goes on"


def test_without_our_pretraining_is_without_any_of_it(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    first = {"init": "minilm", "config": {"corpus": {"name": "a"}}}
    second = {"init": "out/runs/first/encoder", "config": {"corpus": {"name": "b"}}, "init_record": first}
    scratch = {"init": None, "config": {"corpus": {"name": "a"}}}
    for made, expected in (
        (second, (resolve_encoder("minilm"), False)),
        (first, (resolve_encoder("minilm"), False)),
        ({**second, "init_record": scratch}, (workspace, True)),
        ({}, (workspace, True)),
    ):
        (workspace / "record.json").write_text(json.dumps(made))
        folder, random, name = train.reference_encoder(workspace, "x")
        assert (folder, random) == expected and "out/runs" not in name


def test_documents_without_a_sentence_are_told_before_anything_is_taught(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "words.jsonl").write_text(
        "".join(json.dumps({"text": f"word {number}."}) + "\n" for number in range(9))
    )
    (workspace / "corpus.yaml").write_text("corpus: {name: told, sources: [{files: words.jsonl}]}")
    config = load_config(Finetune, words(workspace, "run=x", "selftrain.corpus=corpus.yaml"))
    with pytest.raises(DataError, match="selftrain.corpus: corpus.yaml has no sentence of 4 to 50 words"):
        self_training.build_pool(config, [], make_accelerator("float32"))


def test_where_nothing_of_the_head_learns_the_top_layer_never_settles(workspace):
    labels_csv(workspace)
    done = run_module(
        "finetune",
        *words(
            workspace,
            "run=x",
            "selftrain.rounds=0",
            "baselines=false",
            "train.steps=6",
            "layers.freeze_at=[0.2,0.4,0.6]",
        ),
    )
    assert done.returncode == 0, done.stderr
    settings = Layers(freeze_at=[0.2, 0.4, 0.6])
    assert [deepest for deepest, _ in freeze_schedule(10, 6, settings, 5)] == [6, 6, 4, 4, 2, 2, 0, 0, 0, 0]
    assert [deepest for deepest, _ in freeze_schedule(10, 6, settings, 5, min_depth=1)] == [
        6,
        6,
        4,
        4,
        2,
        2,
        1,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(
    "more, expected",
    [
        (["head.name=supcon"], "train.load_best: the last layer of head.name=supcon is solved after training"),
        (["selftrain.rounds=1", "task.num_examples=all"], "selftrain.rounds: every training row has its label taken"),
        (
            ["selftrain.rounds=1", "head.name=regression"],
            "selftrain.rounds: a text of head.name=regression is not of one class",
        ),
        (["selftrain={rounds: 1, corpus: none.yaml}", "task.num_examples=8"], "none.yaml"),
        (["selftrain.corpus=none.yaml"], "selftrain.corpus: nothing is labelled in selftrain.rounds=0"),
        (
            ["layers.linear_probe=true", "head.focal_gamma=2"],
            "head.focal_gamma: layers.linear_probe has no loss that it could change",
        ),
        (
            ["head={name: supcon, class_weights: true}", "train.load_best=false"],
            "head.class_weights: head.name=supcon with head.cross_entropy_weight=0 has",
        ),
        (["head={name: supcon, pooling: cls}"], "head.pooling: 'cls' is none of mean"),
        (
            ["head.name=supcon", "train.load_best=false", "layers.num_frozen=6"],
            "layers.num_frozen: 6 are all layers, and head.name=supcon has",
        ),
        (["adapter.rank=4"], "adapter.rank: is of adapter.name=lora, not none"),
        (
            ["selftrain={rounds: 1, corpus: none.yaml}", "task.text=[text, label]"],
            "selftrain.corpus: a document's sentences are one",
        ),
        (["tapt.steps=2", "tapt.config=none.yaml"], "tapt.steps: pretraining on the task's texts was not finished"),
    ],
)
def test_mistakes_are_told_in_a_line(workspace, capsys, monkeypatch, more, expected):
    labels_csv(workspace)
    lines = error_lines(
        finetune_main,
        [
            "configs/finetune/your-task.yaml",
            "task.train.files=labels.csv",
            "encoder=minilm",
            "run=x",
            "train.steps=2",
            "max_length=24",
            "train.precision=float32",
            *more,
        ],
        capsys,
        monkeypatch,
    )
    assert any(expected in line for line in lines), lines
