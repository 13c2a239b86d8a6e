"""The saved model is the one that was measured, on the encoder that was given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import error_lines
from safetensors.torch import load_file, save_file
from test_methods import encoders, method_args, reset_accelerate, run_finetuning  # noqa: F401  fixtures
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from data.tasks.problem_types.single_label_classification import PROBLEM_TYPE as SINGLE_LABEL
from engine.errors import ConfigError, DataError
from finetune import artifacts, training
from finetune.__main__ import main as finetune_main
from finetune.model.text_network import build_text_network

FEW_LABELS = [
    "head={name: supcon}",
    "train.steps=20",
    "layers.freeze_at=[0.3, 0.6]",
    "layers.freeze_min_epochs=0",
    "layers.cache_mb=1",
]


def prepare(encoders: Path, folder: Path, monkeypatch) -> None:  # noqa: F811
    """Change to a folder with copies of the encoder and the labels."""
    monkeypatch.chdir(folder)
    shutil.copytree(encoders / "bert", folder / "bert")
    shutil.copy(encoders / "labels.csv", folder)


def change_weights(folder: Path, change) -> None:
    """Change a copied encoder's weights in place by `change(weights)`."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_run_stopped_after_its_training_ends_with_the_same_model(encoders, tmp_path, monkeypatch):  # noqa: F811
    """The last layer is fitted on states of the frozen layers, which differ in the last digits if not cached."""
    boundaries, fit = [], training.FineTuner.fit_last_layer

    def record_boundary(self, cross_validate: bool):
        boundaries.append(self.frozen_cache.boundary)
        return fit(self, cross_validate)

    monkeypatch.setattr(training.FineTuner, "fit_last_layer", record_boundary)
    outputs = [run_finetuning(encoders, tmp_path, *FEW_LABELS) for _ in range(2)]
    assert boundaries[0] == boundaries[1] > 0
    first, second = (dict(output.head.named_parameters()) for output in outputs)
    assert all(weight.equal(second[name]) for name, weight in first.items())


@pytest.mark.parametrize("more", [[], ["adapter={name: lora, rank: 2}"]])
def test_a_run_is_not_continued_on_another_encoder(encoders, tmp_path, monkeypatch, more):  # noqa: F811
    prepare(encoders, tmp_path, monkeypatch)
    run_finetuning(tmp_path, tmp_path / "run", *more)
    change_weights(tmp_path / "bert", lambda weights: weights["encoder.layer.0.output.dense.weight"].mul_(2))
    with pytest.raises(ConfigError, match="was started with another encoder"):
        run_finetuning(tmp_path, tmp_path / "run", *more)


def test_a_finished_run_is_not_that_of_another_encoder(encoders, tmp_path, capsys, monkeypatch):  # noqa: F811
    prepare(encoders, tmp_path, monkeypatch)
    finetune_main(method_args(tmp_path))
    change_weights(tmp_path / "bert", lambda weights: weights["encoder.layer.0.output.dense.weight"].mul_(2))
    lines = error_lines(finetune_main, method_args(tmp_path), capsys, monkeypatch)
    assert any("is finished, and was started with another encoder" in line for line in lines), lines


def test_evaluations_before_a_stop_are_counted(encoders, tmp_path):  # noqa: F811
    more = ["train.load_best=true", "train.eval_every=2"]
    first, second = (run_finetuning(encoders, tmp_path, *more).evaluation for _ in range(2))
    assert first["evaluations"] == second["evaluations"] > 1
    assert "seconds_per_evaluation" in first and "seconds_per_evaluation" not in second


def test_weights_that_are_not_numbers_are_named_before_training(encoders, tmp_path):  # noqa: F811
    shutil.copytree(encoders / "bert", tmp_path / "bert")
    change_weights(
        tmp_path / "bert", lambda weights: weights["encoder.layer.1.output.dense.weight"][0].fill_(torch.nan)
    )
    with pytest.raises(DataError, match=r"encoder.layer.1.output.dense.weight has infinite values or NaN"):
        build_text_network(tmp_path / "bert", SINGLE_LABEL, None, ["a", "b"], 0.1)


@pytest.mark.parametrize(("names", "is_kept"), [(["x", "y", "z"], True), (["x", "y", "w"], False), (["x", "y"], False)])
def test_a_classifier_of_other_labels_gets_a_new_output_layer(encoders, tmp_path, names, is_kept):  # noqa: F811
    torch.manual_seed(1)
    labels = dict(enumerate(["x", "y", "z"]))
    model = AutoModelForSequenceClassification.from_pretrained(encoders / "bert", id2label=labels, num_labels=3)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoders / "bert").save_pretrained(tmp_path)
    network = build_text_network(tmp_path, SINGLE_LABEL, "cls", names, 0.0).model
    assert len(network.classifier.weight) == len(names)
    assert is_kept == network.classifier.weight.equal(model.classifier.weight)
    name, weight = next(iter(model.bert.encoder.named_parameters()))
    assert network.bert.encoder.get_parameter(name).equal(weight)


def test_weights_of_another_shape_are_an_error(encoders, tmp_path):  # noqa: F811
    shutil.copytree(encoders / "bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(DataError, match="has no weights of this shape for bert.encoder.layer.0.intermediate"):
        build_text_network(tmp_path / "bert", SINGLE_LABEL, None, ["a", "b"], 0.1)


def test_a_tokenizer_with_more_tokens_than_the_network_is_an_error(encoders, tmp_path, capsys, monkeypatch):  # noqa: F811
    prepare(encoders, tmp_path, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(tmp_path / "bert")
    lines = error_lines(finetune_main, method_args(tmp_path), capsys, monkeypatch)
    assert lines[-1].endswith("its tokenizer has 30,523 tokens, its network 30,522 embeddings")


@pytest.mark.fresh_process
def test_nothing_is_finished_that_plain_transformers_does_not_reproduce(
    encoders,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
):
    """A tokenizer without its whole vocabulary: the run is measured with one, the folder has another."""
    prepare(encoders, tmp_path, monkeypatch)
    original = artifacts.load_modality

    def lose_words(config):
        modality = original(config)
        copy = modality.shared.copy_preprocessor

        def copy_part(source: Path, target: Path) -> None:
            copy(source, target)
            content = json.loads((target / "tokenizer.json").read_text())
            content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[:1000])
            (target / "tokenizer.json").write_text(json.dumps(content))

        monkeypatch.setattr(type(modality.shared), "copy_preprocessor", lambda self, *paths: copy_part(*paths))
        return modality

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "load_modality", lose_words)
        lines = error_lines(finetune_main, method_args(tmp_path), capsys, monkeypatch)
    run = tmp_path / "out" / "runs" / "r"
    assert "does not reproduce the recorded outputs" in lines[-1] and not (run / "model").exists()
    assert list(run.glob("step-*")), "no work is lost"


def test_scores_are_printed_before_the_saved_model_is_loaded(encoders, tmp_path, capsys, monkeypatch):  # noqa: F811
    """The check takes seconds, for which nobody should wait to see a table that is known."""
    prepare(encoders, tmp_path, monkeypatch)
    printed, verify = [], artifacts.verify_folder

    def verify_and_record(*args) -> None:
        printed.append(capsys.readouterr().out)
        verify(*args)

    monkeypatch.setattr(artifacts, "verify_folder", verify_and_record)
    finetune_main(method_args(tmp_path))
    (before,), after = printed, capsys.readouterr().out
    assert "on the test set" in before and "  model   " not in before
    assert "on the test set" not in after and after.startswith("\n  model   out/runs/r/model\n")


def test_a_model_that_differs_from_its_measured_predictions_is_not_written(encoders, tmp_path, monkeypatch):  # noqa: F811
    prepare(encoders, tmp_path, monkeypatch)
    original = artifacts.Artifacts.check_measured

    def check_others(self, outputs, predictions):
        original(self, outputs, 1 - np.array(predictions))

    monkeypatch.setattr(artifacts.Artifacts, "check_measured", check_others)
    with pytest.raises(DataError, match="gives test row 1 another output than measured"):
        finetune_main(method_args(tmp_path))
    assert not Path("out/runs/r/model").exists()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 1.7e9), (1e8, 1.7e12), (1e36, 0.0)])
def test_saved_regression_models_keep_large_numbers_apart(encoders, tmp_path, monkeypatch, scale, shift):  # noqa: F811
    prepare(encoders, tmp_path, monkeypatch)
    lines = (encoders / "labels.csv").read_text().splitlines()[1:]
    texts = [line.split(",")[0] for line in lines]
    rows = [f"{text},{shift + scale * len(text)!r}" for text in texts]
    (tmp_path / "labels.csv").write_text("\n".join(["text,label", *rows]))
    finetune_main(method_args(tmp_path, "task.problem_type=regression"))
    run = tmp_path / "out" / "runs" / "r"
    predict = pipeline("text-classification", str(run / "model"), function_to_apply="none")
    outputs = [prediction["score"] for prediction in predict(texts)]
    assert len(set(outputs)) > len(set(texts)) / 2 and np.isfinite(outputs).all()
    config = json.loads((run / "model" / "config.json").read_text())
    assert ("label_scale" in config) == (shift == 1.7e9 or scale == 1e36)
    scores = json.loads((run / "metrics.json").read_text())["test"]
    assert np.isfinite(scores["rmse"]) and scores["rmse"] < 100 * scale


def test_a_text_is_read_no_further_than_the_network_can(encoders, tmp_path, monkeypatch):  # noqa: F811
    """A tokenizer without a limit, and texts longer than the 64 positions."""
    prepare(encoders, tmp_path, monkeypatch)
    AutoTokenizer.from_pretrained(encoders / "bert", model_max_length=10**30).save_pretrained(tmp_path / "bert")
    rows = [f"{'bright film ' * 60},yes\n{'dull plot ' * 60},no\n" for _ in range(20)]
    (tmp_path / "labels.csv").write_text("text,label\n" + "".join(rows))
    finetune_main(method_args(tmp_path, "max_length=256"))
    assert json.loads(Path("out/runs/r/sample.json").read_text())["max_length"] == 64
