"""Reasons: the nearest training rows of an own run, and words that add up to the difference of a logit."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from data.classifier import Classifier
from data.tasks.confidence import Confidence, save_confidence
from data.tasks.novelty import fit_novelty, hash_inputs
from data.tasks.splits import Example
from engine.models import LOAD_WEIGHTS_KWARGS
from predict.__main__ import main
from predict.predictions import Decider
from predict.rows import iter_texts
from predict.why import Explainer


@pytest.fixture
def own_run(workspace, classifiers, texts):
    """Make a run of a classifier with 60 training rows; return these, texts with their distance, and the threshold."""
    folder = workspace / "out/runs/mine/model"
    shutil.copytree(classifiers["single"], folder)
    names = ["bad", "fair", "good"]
    rows = [{"text": text, "label": names[n % 3]} for n, text in enumerate(texts[:60])]
    with open("train.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    task = {"name": "mine", "train": {"files": "train.csv"}, "test": {"files": "train.csv"}}
    config = {"train": {}, "dropout": 0.1, "seed": 0, "head": {"name": "classification"}, "encoder": "x", "task": task}
    record = {"kind": "model", "run": "mine", "steps": 1, "config": config, "encoder_record": {}, "label_names": names}
    record |= {"problem_type": "single_label_classification", "metrics": {}, "baselines": {}}
    (folder / "record.json").write_text(json.dumps(record))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **LOAD_WEIGHTS_KWARGS).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @torch.no_grad()
    def embed(text):
        states = model(
            **tokenizer(text, return_tensors="pt", truncation=True, max_length=48), output_hidden_states=True
        ).hidden_states
        return states[2 * (len(states) - 1) // 3][0].mean(0).numpy()

    examples = [Example((row["text"],), row["label"]) for row in rows]
    vectors = np.stack([embed(text) for text in texts[:120]])
    novelty = fit_novelty(vectors[:60], hash_inputs(examples), vectors[60:])
    probabilities = np.full(60, 0.9, np.float32)
    confidence = Confidence("test", names, 1.0, np.zeros(60, np.int32), probabilities, np.ones(60, bool))
    save_confidence(confidence, folder / "confidence.safetensors", novelty.to_arrays())
    distances = np.linalg.norm(vectors[:, None] - vectors[None, :60], axis=2)
    scores = np.sort(distances, 1)[:, :5].mean(1)
    is_unlike = scores > np.quantile(scores[60:], 0.98)
    return rows, list(zip(texts[:120], is_unlike.tolist(), scores.tolist(), strict=True)), novelty.threshold[0]


def test_the_nearest_training_row_of_a_training_text_is_itself(own_run):
    rows, _, _ = own_run
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps({"text": row["text"]}) + "\n" for row in rows[:5])
    main(["model=mine", "file=rows.jsonl", "output=out/a.jsonl", "why=true"])
    found = [json.loads(line) for line in open("out/a.jsonl")]
    for row, expected in zip(found, rows, strict=False):
        nearest = row["why"]["nearest"]
        assert len(nearest) == 3 and nearest[0]["label"] == expected["label"]
        assert nearest[0]["text"].removesuffix("...") == expected["text"][: len(nearest[0]["text"].removesuffix("..."))]


def test_unlike_are_the_rows_far_from_the_training_rows(own_run):
    _, expected, threshold = own_run
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text, _, _ in expected)
    main(["model=mine", "file=rows.jsonl", "output=out/a.jsonl", "max_length=48"])
    found = [json.loads(line)["unlike"] for line in open("out/a.jsonl")]
    assert 0 < sum(found) < 12
    for unlike, (_, is_far, score) in zip(found, expected, strict=True):
        assert unlike == is_far or abs(score - threshold) < 0.01 * threshold


def test_a_model_made_elsewhere_does_not_decide_what_is_read(own_run, workspace, capsys, monkeypatch):
    monkeypatch.setattr("predict.why.find_spec", lambda name: None)
    (workspace / "out/runs/mine/model").rename(workspace / "elsewhere")
    text = own_run[0][0]["text"]
    main(["model=elsewhere", "why=true", text])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].endswith(text)


def test_words_add_up_to_the_difference_of_the_logit_from_a_text_of_padding(classifiers, workspace, monkeypatch):
    pytest.importorskip("captum")
    monkeypatch.setattr("predict.why.NUM_STEPS", 200)
    text, classifier = "not a very good film , really", Classifier(str(classifiers["single"]))
    for parameter in classifier.model.parameters():  # random weights this large make a function that is hardly smooth
        parameter.data *= 0.3
    explainer = Explainer(classifier.place(torch.device("cpu")))
    (item,) = iter_texts([text], classifier.modality, classifier.problem_type)
    inputs = classifier.read([item.example]).get_inputs(np.array([0]))
    with torch.no_grad():
        prediction = Decider(classifier, None).decide(item, classifier.predict(**inputs)[0].numpy())
        target = classifier.names.index(prediction.label)
        padded = dict(inputs, input_ids=inputs["input_ids"].clone())
        padded["input_ids"][0, 1:-1] = 0
        difference = classifier.model(**inputs).logits[0, target] - classifier.model(**padded).logits[0, target]
    words = explainer.attribute_words(item.example, prediction)
    assert [word for word, _ in words] == text.split()
    assert sum(score for _, score in words) == pytest.approx(
        float(difference), abs=0.15 * abs(float(difference)) + 0.05
    )


def test_words_of_three_texts_are_those_of_the_joined_text(classifiers, workspace):
    pytest.importorskip("captum")
    explainer = Explainer(Classifier(str(classifiers["single"])).place(torch.device("cpu")))
    classifier, texts = explainer.classifier, ("a good film", "really", "not bad")
    outputs = classifier.predict(**classifier.read([Example(texts, "")]).get_inputs(np.array([0])))[0].detach().numpy()
    (item,) = iter_texts(["a good film"], classifier.modality, classifier.problem_type)
    prediction = Decider(classifier, None).decide(item, outputs)
    words = [word for word, _ in explainer.attribute_words(Example(texts, ""), prediction)]
    assert [word for word in words if word != "[SEP]"] == " ".join(texts).split()
