"""Few labels: supervised contrastive head, class-balanced batches, augmentation, self-training, class weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import encoder_record, error_lines, run_module
from safetensors.torch import load_file, save_file
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
from finetune.config import Finetune, Layers
from finetune.evaluation import baselines
from finetune.heads import classification, supcon
from finetune.model.layerwise import freeze_schedule
from finetune.model.network import Network
from finetune.model.text_network import TextNetwork
from finetune.semi_supervised import documents, self_training, task_adaptive
from finetune.training import TaskData, finetune_model

# ---- class-balanced batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples_per_class", [1, 2])
@pytest.mark.parametrize("size", [4, 7, 32])
def test_class_balanced_batches_repeat_no_row_before_all_others(samples_per_class, size):
    classes = np.repeat([0, 3, 4], [2, 5, 40])
    batches = [class_balanced_batch(step, size, classes, 5, samples_per_class) for step in range(200)]
    sampled = np.concatenate(batches)
    counts = np.bincount(classes[sampled], minlength=5)
    assert counts[[1, 2]].sum() == 0
    assert np.ptp(counts[[0, 3, 4]]) <= 3 * samples_per_class
    for class_id in (0, 3, 4):
        rows = sampled[classes[sampled] == class_id]
        members = np.flatnonzero(classes == class_id)
        for start in range(0, len(rows) - len(members), len(members)):
            assert sorted(rows[start : start + len(members)]) == members.tolist(), "a row was repeated too early"


def test_samples_of_a_class_come_in_pairs():
    classes = np.arange(77).repeat(8)
    for step in range(20):
        batch = classes[class_balanced_batch(step, 32, classes, seed=0, samples_per_class=2)]
        assert (np.bincount(batch)[batch] >= 2).all()


def test_a_class_balanced_batch_is_a_function_of_seed_and_step():
    classes = np.arange(10).repeat(5)
    assert (class_balanced_batch(17, 8, classes, 3) == class_balanced_batch(17, 8, classes, 3)).all()
    assert (class_balanced_batch(17, 8, classes, 3) != class_balanced_batch(18, 8, classes, 3)).any()
    assert (class_balanced_batch(17, 8, classes, 3) != class_balanced_batch(17, 8, classes, 4)).any()


# ---- the loss -------------------------------------------------------------------------------------------------------


def slow_supcon(vectors: np.ndarray, labels: list[int], temperature: float) -> list[float]:
    """Compute equation 2 of Khosla et al. 2020 for each text."""
    vectors = [vector / np.sqrt((vector**2).sum()) for vector in vectors.astype(np.float64)]
    losses = []
    for anchor, vector in enumerate(vectors):
        others = [index for index in range(len(vectors)) if index != anchor]
        positives = [index for index in others if labels[index] == labels[anchor]]
        total = sum(np.exp(vector @ vectors[index] / temperature) for index in others)
        terms = [np.log(np.exp(vector @ vectors[index] / temperature) / total) for index in positives]
        losses.append(-sum(terms) / len(terms) if terms else 0.0)
    return losses


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_supcon_loss_equals_a_loop(temperature):
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    labels = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4]
    losses = supcon.supcon_loss(torch.tensor(vectors), torch.tensor(labels), temperature)
    assert losses.tolist() == pytest.approx(slow_supcon(vectors, labels, temperature), rel=1e-4, abs=1e-6)
    assert losses[5] == 0


@pytest.mark.parametrize("cross_entropy_weight", [0.0, 1.0])
def test_the_gradient_does_not_depend_on_micro_batches(cross_entropy_weight):
    model, inputs = tiny_bert(num_labels=3), padded_batch(batch_size=9)
    inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    labels = torch.tensor([0, 1, 2] * 3)
    head = supcon.Head(supcon.Config(cross_entropy_weight=cross_entropy_weight), TextNetwork(model)).eval()

    def gradient(cuts: list[slice]) -> tuple[float, torch.Tensor]:
        head.zero_grad()
        parts = [({name: tensor[cut] for name, tensor in inputs.items()}, labels[cut]) for cut in cuts]
        with torch.no_grad():
            cached = head.cache_gradients([head.embed(targets, **part) for part, targets in parts])
        outputs = [head(targets, **part, **more) for (part, targets), more in zip(parts, cached, strict=True)]
        total = sum(output.loss for output in outputs)
        total.backward()
        return total.item(), torch.cat(
            [parameter.grad.flatten() for parameter in head.parameters() if parameter.grad is not None]
        )

    whole, cut = gradient([slice(0, 9)]), gradient([slice(0, 2), slice(2, 3), slice(3, 9)])
    assert whole[0] == pytest.approx(cut[0], rel=1e-5) and torch.allclose(whole[1], cut[1], atol=1e-5)


def test_focal_loss_and_class_weights_equal_a_loop():
    model = tiny_bert(num_labels=2)
    head = classification.Head(classification.Config(focal_gamma=2.0, class_weights=True), Network(model))
    head.set_label_stats(np.array([0, 0, 0, 1]))
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    loss, count = 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        probability = np.exp(row[label]) / np.exp(row).sum()
        weight = {0: 4 / (2 * 3), 1: 4 / (2 * 1)}[label]
        loss, count = loss - weight * (1 - probability) ** 2 * np.log(probability), count + weight
    output = head.cross_entropy(logits, labels)
    assert output.loss.item() == pytest.approx(loss, rel=1e-5)
    assert output.count.item() == pytest.approx(count, rel=1e-5)


# ---- augmentation ---------------------------------------------------------------------------------------------------


def test_augmentation_drops_and_swaps_within_a_text():
    special = np.zeros(42, dtype=bool)
    special[[0, 20, 41]] = True
    dropped, moved = [], 0
    for number in range(500):
        order = augment.augment_tokens(special, np.random.default_rng(number), drop=0.2)
        assert (np.diff(order) > 0).all() and {0, 20, 41} <= set(order.tolist())
        dropped.append(42 - len(order))
        order = augment.augment_tokens(special, np.random.default_rng(number), swap=0.5, max_span=3)
        assert sorted(order) == list(range(42)) and order[[0, 20, 41]].tolist() == [0, 20, 41]
        assert set(order[:20].tolist()) == set(range(20)), "a span left its text"
        moved += (order != np.arange(42)).any()
        assert (order != np.arange(42)).sum() <= 6
    assert np.mean(dropped) == pytest.approx(0.2 * 39, rel=0.05) and 200 < moved < 300


def test_augmentation_keeps_at_least_one_token():
    special = np.array([True, False, True])
    for number in range(50):
        order = augment.augment_tokens(special, np.random.default_rng(number), drop=0.99, swap=1)
        assert order.tolist() == [0, 1, 2]
    # A text that is itself the name of a special token.
    assert augment.augment_tokens(np.ones(3, bool), np.random.default_rng(0), drop=0.9).tolist() == [0, 1, 2]


# ---- self-training --------------------------------------------------------------------------------------------------


def test_unlabeled_texts_exclude_the_labeled_rows():
    rows = [Example((f"text {number}",), "yes") for number in range(20)]
    sample = self_training.sample_unlabeled(rows, rows[:5], 10, seed=1)
    assert len(sample) == 10 and not {id(row) for row in sample} & {id(row) for row in rows[:5]}
    assert len(self_training.sample_unlabeled(rows, rows[:5], 100, seed=1)) == 15


# ---- documents ------------------------------------------------------------------------------------------------------


def test_reservoir_sampling_is_uniform():
    texts = [str(number) for number in range(30)]
    samples = [documents.reservoir_sample(iter(texts), 5, seed) for seed in range(2000)]
    counts = np.bincount([int(text) for sample in samples for text in sample], minlength=30)
    assert counts.sum() == 10_000 and (abs(counts - 10_000 / 30) < 5 * (10_000 / 30) ** 0.5).all()
    assert documents.reservoir_sample(texts, 5, 3) == documents.reservoir_sample(iter(texts), 5, 3)
    assert documents.reservoir_sample(texts, 99, 3) == texts


def test_documents_are_split_into_sentences():
    texts = [
        "A film of great warmth. Too long, I think! No.\nThe end is  quite good?",
        "Bah.",
        "It is what it is. " * 9,
    ]
    examples, document_ids = documents.sample_sentences(texts, 4, seed=0)
    first = ["A film of great warmth.", "Too long, I think!", "The end is quite good?"]
    assert [example.texts[0] for example in examples] == first + ["It is what it is."] * 4
    assert document_ids.tolist() == [0, 0, 0, 1, 1, 1, 1], "a text without a sentence gets no id"
    pool = self_training.UnlabeledDocuments(examples, document_ids)
    assert [len(pool.get_texts(index)) for index in range(2)] == [3, 4]
    assert pool.get_texts(1)[0] is examples[3]


def test_document_probabilities_combine_all_sentences():
    true, rng = np.arange(200) % 3, np.random.default_rng(0)
    document_ids = np.arange(200).repeat(8)
    # The first class is favored.
    logits = 0.8 * np.eye(3)[true[document_ids]] + rng.normal(size=(1600, 3)) + [3, 0, 0]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sentence_accuracy = (probabilities.argmax(1) == true[document_ids]).mean()
    combined = documents.document_probabilities(probabilities, document_ids, np.full(3, 1 / 3))
    assert sentence_accuracy < 0.45 and (combined.argmax(1) == true).mean() > 0.85
    slow = np.array([np.log(probabilities[document_ids == index]).mean(0) for index in range(200)])
    slow = np.exp(slow - slow.mean(0))
    assert np.allclose(combined, slow / slow.sum(1, keepdims=True))


def test_class_priors_are_matched_by_a_constant_shift():
    model, inputs = tiny_bert(num_labels=3), padded_batch(batch_size=64)
    priors = np.array([0.6, 0.3, 0.1])
    before = model(**inputs).logits
    documents.match_class_priors(model, before.softmax(-1).detach().numpy(), priors)
    after = model(**inputs).logits
    assert np.allclose(after.softmax(-1).mean(0).detach().numpy(), priors, atol=1e-4)
    shift = after - before
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5), "the same for all texts"


# ---- runs -----------------------------------------------------------------------------------------------------------


def selftrain_args(folder, *more: str, encoder: str | Path = "minilm") -> list[str]:
    return [
        "configs/finetune/your-task.yaml",
        "method=none",
        f"task.train.files={folder}/labels.csv",
        f"encoder={encoder}",
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


def write_labels(folder) -> None:
    texts = [f"{'good warm lovely' if number % 2 else 'bad dull awful'} film number {number}" for number in range(60)]
    (folder / "labels.csv").write_text(
        "text,label\n" + "".join(f"{text},{'yes' if number % 2 else 'no'}\n" for number, text in enumerate(texts))
    )


def test_self_training_resumes_after_a_finished_round(workspace):
    write_labels(workspace)
    args = selftrain_args(workspace, "augment={drop: 0.1, swap: 0.1}")
    process = run_module("finetune", *args, "run=rounds")
    assert process.returncode == 0, process.stderr
    folder = workspace / "out" / "runs" / "rounds"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["num_train_examples"] == 8 and "validation" not in metrics and metrics["test"]["accuracy"] > 0.8
    assert metrics["steps"] == 2, "as many as in the first round, which is more than selftrain.min_steps"
    # Only the last layer of random weights is fitted, on the labels alone.
    reference = metrics["baselines"]["without_pretraining"]
    assert reference["name"] == "the same network, frozen at random weights" and reference["test"]["n"] > 0
    assert not (folder / "without_pretraining" / "round-1").exists()
    labels = json.loads((folder / "round-1" / "labels.json").read_text())
    assert 0 < len(labels["indices"]) <= 20 and set(labels["class_ids"]) <= {0, 1}
    # After an interruption the first round's labels are reused with the same result, but not those of other texts.
    again = workspace / "out" / "runs" / "again"
    (again / "round-1").mkdir(parents=True)
    (again / "round-1" / "labels.json").write_text(json.dumps(labels))
    process = run_module("finetune", *args, "run=again", "baselines=false")
    assert process.returncode == 0 and "finetune again, round 1" not in process.stdout, process.stderr
    assert json.loads((again / "metrics.json").read_text())["test"] == metrics["test"]
    other = workspace / "out" / "runs" / "other" / "round-1"
    other.mkdir(parents=True)
    (other / "labels.json").write_text(json.dumps(labels | {"fingerprint": "other texts"}))
    process = run_module("finetune", *args, "run=other", "baselines=false")
    assert process.returncode == 0, process.stderr
    assert json.loads((other / "labels.json").read_text())["class_ids"] == labels["class_ids"]


def test_pseudo_labels_of_other_weights_are_not_used_again(workspace, tiny):
    write_labels(workspace)
    config = load_config(Finetune, selftrain_args(workspace, "run=x", encoder=tiny))
    rows = read_task(config.task)
    data = TaskData({**rows, "train": rows["train"][::6]}, ["no", "yes"])
    same, other = (Path(shutil.copytree(tiny, workspace / name)) for name in ("same", "other"))
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})

    def find_inputs(folder: Path, random_init: bool = False) -> str:
        return self_training.SelfTrainer(folder, config, rows["train"], data, None, None, "", random_init).inputs

    assert find_inputs(tiny) == find_inputs(same)
    assert len({find_inputs(tiny), find_inputs(other), find_inputs(tiny, True)}) == 3


def test_self_training_on_documents_uses_their_sentences(workspace):
    write_labels(workspace)
    (workspace / "reviews.jsonl").write_text(
        "\n".join(
            json.dumps({"text": " ".join(f"It was such {kind} thing number {number}{index}." for index in range(3))})
            for number in range(20)
            for kind in ("a good warm", "a bad dull")
        )
    )
    (workspace / "corpus.yaml").write_text(
        "corpus: {name: documents, deduplicate: {near: false}, sources: [{files: reviews.jsonl}]}"
    )
    args = selftrain_args(
        workspace,
        "run=documents",
        "head.name=classification",
        "train.sampling=shuffle",
        "train.lr=1e-3",
        "baselines=false",
        "train.steps=6",
        "selftrain={rounds: 2, corpus: corpus.yaml, max_documents: 30, sentences_per_document: 2, min_steps: 8}",
    )
    process = run_module("finetune", *args)
    assert process.returncode == 0, process.stderr
    assert (
        process.stdout.count("finetune documents, round 1, predicting  batch ")
        == 1
        == process.stdout.count("round 2, predicting  batch ")
    )
    folder = workspace / "out" / "runs" / "documents"
    for number in (1, 2):
        labels = json.loads((folder / f"round-{number}" / "labels.json").read_text())
        assert 8 <= len(labels["indices"]) <= 22 and max(labels["indices"]) < 30
        assert set(labels["class_ids"]) == {0, 1}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 8 and metrics["test"]["accuracy"] > 0.8
    card = (folder / "model" / "README.md").read_text()
    assert "sentences of `corpus.yaml`, pseudo-labeled by the model itself" in " ".join(card.split())
    assert json.loads((folder / "model" / "record.json").read_text())["licenses"]["corpus"] == {"reviews.jsonl": None}
    # With other documents the run is not resumed.
    (folder / "metrics.json").unlink()
    (workspace / "reviews.jsonl").write_text(json.dumps({"text": "A film that is new here."}))
    process = run_module("finetune", *args)
    assert process.returncode == 2 and "another text" in process.stderr and "Traceback" not in process.stderr, (
        process.stderr
    )


def test_task_adaptive_pretraining(workspace):
    write_labels(workspace)
    keys = ["train.batch_size=4", "max_length=32", "eval_rows=4", "train.precision=float32"]
    process = run_module(
        "finetune",
        "configs/finetune/your-task.yaml",
        "method=none",
        f"task.train.files={workspace}/labels.csv",
        "encoder=minilm",
        "run=x",
        "train.steps=2",
        "max_length=24",
        "train.precision=float32",
        "tapt.steps=2",
        f"tapt.keys={keys}",
    )
    assert process.returncode == 0, process.stderr + process.stdout
    record = json.loads((workspace / "out" / "runs" / "x-adapted" / "encoder" / "record.json").read_text())
    assert record["init"] == "minilm" and record["config"]["train"]["steps"] == 2
    assert (
        json.loads((workspace / "out" / "runs" / "x" / "metrics.json").read_text())["encoder"]
        == "out/runs/x-adapted/encoder"
    )


def test_task_adaptive_pretraining_uses_the_splits_of_fine_tuning(workspace, monkeypatch):
    """Otherwise the encoder would be pretrained on test texts."""
    (workspace / "ratings.csv").write_text(
        "text,label\n" + "".join(f"film number {n},{n % 31 / 10}\n" for n in range(400))
    )
    files = f"task.train.files={workspace}/ratings.csv"
    args = ["configs/finetune/your-task.yaml", "method=none", files, "task.problem_type=regression", "run=x"]
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(task_adaptive, "run_child", lambda args, env: 1)
    config = load_config(Finetune, [*args, "tapt.steps=2"])
    with pytest.raises(DataError, match="tapt.steps: pretraining on the task's texts did not finish"):
        task_adaptive.run_task_adaptive_pretraining(config, "minilm")
    assert load_config(TaskFile, ["out/runs/x-adapted/task.yaml"]).load_splits() == read_task(config.task)


def test_the_latest_encoder_is_of_the_modality_and_never_a_task_adapted_one(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    for number, name in enumerate(("default", "x-adapted", "pictures")):
        record = Path("out/runs") / name / "encoder" / "record.json"
        record.parent.mkdir(parents=True)
        record.write_text('{"modality": "images"}' if name == "pictures" else "{}")
        os.utime(record, (number, number))
    Path("out/runs/x-adapted/task.yaml").touch()
    assert train.find_latest_encoder("text") == "out/runs/default/encoder", (
        "a run with tapt finds the same encoder when it is resumed"
    )
    assert train.find_latest_encoder("images") == "out/runs/pictures/encoder"


def test_the_reference_encoder_has_none_of_our_pretraining(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    first, scratch = {**encoder_record(), "init": "minilm"}, encoder_record()
    second = {**encoder_record(), "init": "out/runs/first/encoder", "init_record": first}
    for record, expected in (
        (second, (resolve_encoder("minilm"), False)),
        (first, (resolve_encoder("minilm"), False)),
        ({**second, "init_record": scratch}, (workspace, True)),
        ({}, (workspace, True)),
    ):
        (workspace / "record.json").write_text(json.dumps(record))
        folder, random, name, _ = baselines.reference_encoder(workspace)
        assert (folder, random) == expected and "out/runs" not in name


def test_the_table_is_printed_before_the_reference_is_trained(workspace, tiny, capsys, monkeypatch):
    """And with the same lines again when the finished run is repeated."""
    monkeypatch.chdir(workspace)
    write_labels(workspace)
    args = [
        *selftrain_args(workspace, f"encoder={tiny}", "selftrain.rounds=0", "head.name=classification"),
        "run=lines",
    ]
    printed = {}

    def note_what_is_printed(folder, config, *others):
        printed[others[3]] = capsys.readouterr().out
        return finetune_model(folder, config, *others)

    monkeypatch.setattr("finetune.train.finetune_model", note_what_is_printed)
    finetune_main(args)
    first, reference = printed["finetune lines"], "the same network from random weights"
    before, after = printed[f"  {reference}"].splitlines(), capsys.readouterr().out.splitlines()
    title = next(number for number, line in enumerate(before) if line.startswith("  on the test set"))
    rows = before[title + 1 :]
    assert "on the test set" not in first and [row.split("  ")[1] for row in rows] == [
        f"{tiny}, fine-tuned",
        "TF-IDF + logistic regression",
    ]
    (last,) = [line for line in after if line.startswith(f"  {reference}  ") and "step" not in line]
    assert len(last) == len(before[title]) == len(rows[0]), "the columns are aligned"
    finetune_main(args)
    assert "\n".join([*before[title:], last, ""]) in capsys.readouterr().out


def test_a_reference_that_cannot_be_read_is_a_line_of_the_table(workspace, tiny, capsys, monkeypatch):
    monkeypatch.chdir(workspace)
    write_labels(workspace)

    def fail(*_):
        raise DataError("its first encoder is gone")

    monkeypatch.setattr("finetune.train.reference_encoder", fail)
    finetune_main([*selftrain_args(workspace, f"encoder={tiny}", "selftrain.rounds=0"), "run=gone"])
    assert "  not measured: its first encoder is gone" in capsys.readouterr().out
    baselines = json.loads((workspace / "out/runs/gone/metrics.json").read_text())["baselines"]
    assert baselines["without_pretraining"] == {"name": "not measured: its first encoder is gone"}


def test_documents_without_sentences_are_an_error(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "words.jsonl").write_text(
        "".join(json.dumps({"text": f"word {number}."}) + "\n" for number in range(9))
    )
    (workspace / "corpus.yaml").write_text("corpus: {name: words, sources: [{files: words.jsonl}]}")
    config = load_config(Finetune, selftrain_args(workspace, "run=x", "selftrain.corpus=corpus.yaml"))
    with pytest.raises(DataError, match="selftrain.corpus: corpus.yaml has no sentence of 4 to 50 words"):
        self_training.build_pool(config, [], make_accelerator("float32"))


def test_the_top_layer_is_never_frozen_if_the_head_is_not_trained(workspace, tiny):
    write_labels(workspace)
    process = run_module(
        "finetune",
        *selftrain_args(
            workspace,
            "run=x",
            "selftrain.rounds=0",
            "baselines=false",
            "train.steps=6",
            "layers.freeze_at=[0.2,0.4,0.6]",
            encoder=tiny,
        ),
    )
    assert process.returncode == 0, process.stderr
    settings = Layers(freeze_at=[0.2, 0.4, 0.6])
    for min_depth in (0, 1):
        depths = [depth for depth, _ in freeze_schedule(10, 6, settings, 5, min_depth=min_depth)]
        assert depths == [6, 6, 4, 4, 2, 2] + [min_depth] * 4


@pytest.mark.parametrize(
    "more, expected",
    [
        (["head.name=supcon"], "train.load_best: head.name=supcon fits its last layer after training"),
        (
            ["selftrain.rounds=1", "task.num_examples=all"],
            "selftrain.rounds: all training rows are used with their label",
        ),
        (
            ["selftrain.rounds=1", "task.problem_type=regression"],
            "selftrain.rounds: head.name=regression does not assign one class",
        ),
        (["selftrain={rounds: 1, corpus: none.yaml}", "task.num_examples=8"], "none.yaml"),
        (["selftrain.corpus=none.yaml"], "selftrain.corpus: needs selftrain.rounds of 1 or more"),
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
            "layers.num_frozen: 6 freezes all layers, and head.name=supcon trains",
        ),
        (["adapter.rank=4"], "adapter.rank: only for adapter.name=lora, not none"),
        (
            ["selftrain={rounds: 1, corpus: none.yaml}", "task.text=[text, label]"],
            "selftrain.corpus: a sentence of a document is one",
        ),
        (["tapt.steps=2", "tapt.config=none.yaml"], "tapt.steps: pretraining on the task's texts did not finish"),
    ],
)
def test_mistakes_are_reported_in_one_line(workspace, capsys, monkeypatch, more, expected):
    write_labels(workspace)
    lines = error_lines(
        finetune_main,
        [
            "configs/finetune/your-task.yaml",
            "method=none",
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
