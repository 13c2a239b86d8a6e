"""Every architecture in every use: it works, or is refused in one line before anything is written."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers import ROOT
from tiny_architectures import ARCHITECTURES, ENCODER_DECODERS, tiny_model, write_encoder
from tiny_models import InMemoryShards, make_batch
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from data.modalities.text import MODALITY
from data.tasks.task import list_label_names, read_task
from engine.config.loader import load_config
from engine.errors import UserError
from engine.files import write_json
from engine.models import load_check
from engine.runs.run import Run
from finetune.config import Finetune
from finetune.model.network import get_last_linear
from finetune.model.text_network import build_text_network
from finetune.train import resolve_config
from finetune.training import FineTuneOutput, TaskData, finetune_model
from finetune.validate_config import validate_config
from pretrain.model.build import encoder_from_pretrained
from pretrain.model.encoder import save_encoder
from pretrain.objectives import contrastive, mlm
from pretrain.pairs import ViewDataset

NORMAL = ("mpnet", "deberta-v2", "xlm-roberta", "albert", "gpt2", "t5")
"""Tested at every commit; the others with the slow tests."""
TASKS = {
    "classification": ["task.train.files=classes.csv", "layers.num_frozen=1"],
    "regression": ["task.train.files=numbers.csv", "task.problem_type=regression"],
    "multi-label": ["task.train.files=several.csv", "task.problem_type=multi_label_classification"],
    "words": [
        *("task.train.files=tags.jsonl", "task.problem_type=token_classification"),
        *("task.text=tokens", "task.label=tags"),
    ],
    "few-shot": ["configs/method/fewshot.yaml", "task.train.files=classes.csv"],
    "probe": ["configs/method/probe.yaml", "task.train.files=classes.csv"],
    "LoRA": ["configs/method/lora.yaml", "task.train.files=classes.csv"],
}
USES = ["pretraining", *TASKS]
EXPORT = "ONNX"
"""A use that takes seconds, tested with the slow tests only."""
SETTINGS = [
    *("train.precision=float32", "max_length=256", "train.steps=2", "train.batch_size=4", "dropout=0"),
    *("baselines=false", "train.log_every=1", "run=r"),
]


def write_rows(folder: Path) -> None:
    """Write a file for each kind of label, with texts beyond the positions of every network here."""
    texts = [f"{'good' if row % 2 else 'bad'} {row} " + "a b " * (60 if row < 2 else row % 5) for row in range(40)]
    columns = {
        "classes": ["pos" if row % 2 else "neg" for row in range(40)],
        "numbers": [row % 7 for row in range(40)],
        "several": ["a,b" if row % 3 else "a" for row in range(40)],
    }
    for name, labels in columns.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    rows = [{"tokens": text.split(), "tags": ["B-x", *["O"] * (len(text.split()) - 1)]} for text in texts]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)))


def fine_tune(folder: Path, words: list[str], accelerator) -> FineTuneOutput:
    """Fine-tune for two steps, as the command does before it writes the model."""
    methods = [word for word in words if word.startswith("configs/")]
    keys = [word for word in words if not word.startswith("configs/")]
    config = load_config(Finetune, ["configs/finetune/your-task.yaml", *methods, *SETTINGS, *keys])
    validate_config(config)
    rows = read_task(config.task)
    labels = list_label_names(config.task, rows)
    config = resolve_config(config, str(folder), folder, len(rows["train"]))
    run = Run(config, "r", folder=Path("out") / "-".join(re.findall(r"\w+", " ".join(words)))[:80])
    try:
        return finetune_model(folder, config, TaskData(rows, labels), run, accelerator, "t")
    except UserError:
        assert not run.folder.exists(), "nothing is written for a user's mistake"
        raise


def frozen_parameters(folder: Path) -> set[str]:
    """Return the names of the parameters that the states after the lowest layer depend on."""
    model = transformers.AutoModel.from_pretrained(folder)
    ids = torch.tensor([[0, 6, 7, 8, 9, 10, 11, 12, 13, 2]])
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    output = model(input_ids=ids, output_hidden_states=True, **extra)
    states = output.encoder_hidden_states if model.config.is_encoder_decoder else output.hidden_states
    states[1].square().sum().backward()
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


def check_model(folder: Path, output: FineTuneOutput, workspace: Path) -> None:
    """Check that frozen weights did not move, and that plain transformers reproduces the saved model."""
    model = output.model
    before = transformers.AutoModel.from_pretrained(folder).state_dict()
    after, frozen = model.base_model.state_dict(), frozen_parameters(folder)
    assert frozen and all(before[name].equal(after[name]) for name in frozen)
    head = get_last_linear(model).weight
    assert head.requires_grad, "the head learns"
    sample = MODALITY.record_outputs(
        model, folder, [("good a",), ("bad b c " * 60,)], 256, lambda output: output.logits[0].softmax(-1)
    )
    write_json(workspace / "sample.json", sample)
    model.save_pretrained(workspace / "model")
    MODALITY.copy_preprocessor(folder, workspace / "model")
    paths = str(workspace / "model"), "AutoModelForSequenceClassification", "softmax", str(workspace / "sample.json")
    result = load_check.check(*paths)
    assert not result["missing_weights"] and result["max_difference"] < 1e-5, result
    tokenizer = transformers.AutoTokenizer.from_pretrained(workspace / "model", padding_side="right")
    texts = [text for (text,) in sample["texts"]]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=sample["max_length"], return_tensors="pt")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(workspace / "model").eval()
    with torch.no_grad():
        together = loaded(**batch).logits.softmax(-1)
    tolerance = 1e-4 if model.config.model_type == "convbert" else 1e-5  # measured: slightly above 1e-5
    assert torch.allclose(together, torch.tensor(sample["outputs"]), atol=tolerance), "the same in a padded batch"


def check_heads(model_type: str, workspace: Path) -> None:
    """Check that a classifier's output layer is kept for its own labels only."""
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    folder = write_encoder(model_type, workspace / "classifier", "AutoModelForSequenceClassification", **labels)
    problem_type = load_config(Finetune, ["configs/finetune/your-task.yaml", "run=r"]).task.load_problem_type()
    old = get_last_linear(tiny_model(model_type, "AutoModelForSequenceClassification", **labels)).weight
    for names, is_kept in ((["a", "b"], True), (["c", "d"], False), (["b", "a"], False), (["a", "b", "c"], False)):
        new = get_last_linear(build_text_network(folder, problem_type, "cls", names, 0.0).model).weight
        assert (new.shape == old.shape and new.equal(old)) == is_kept, names
        assert len(new) == len(names)


def check_pretraining(folder: Path, workspace: Path) -> str:
    """Check both kinds of objectives, and the saved encoder in plain transformers; return how rows are computed."""
    shards, encoder = InMemoryShards(), encoder_from_pretrained(folder, 32, 0.0, None)
    views = contrastive.Config(min_span=2, max_span=6)
    for module, config, dataset_class in ((mlm, mlm.Config(), mlm.Dataset), (contrastive, views, ViewDataset)):
        dataset, objective = dataset_class(config, shards, folder), module.Objective(config, encoder)
        loss = objective(**make_batch(dataset, list(range(6))).inputs).loss
        loss.backward()
        assert loss.isfinite() and any(weight.grad is not None for weight in encoder.parameters())
    texts = [("good a",), ("bad b c",)]
    sample = MODALITY.record_outputs(
        encoder.model.base_model, folder, texts, 32, lambda output: output.last_hidden_state[0].mean(0)
    )
    write_json(workspace / "sample.json", sample)
    save_encoder(encoder, workspace / "encoder", folder, {"max_length": 32}, "card", init_folder=folder)
    result = load_check.check(str(workspace / "encoder"), "AutoModel", "mean", str(workspace / "sample.json"))
    assert not result["missing_weights"] and result["max_difference"] < 1e-5, result
    return "one text per row" if encoder.packing == "unpacked" else "packed rows"


def check_export(run: Path) -> None:
    """Check that the command writes all or nothing, and that onnxruntime gives the outputs of torch."""
    onnxruntime, command = pytest.importorskip("onnxruntime"), pytest.importorskip("publish.export.__main__")
    folder = run / "model"
    before = sorted(folder.rglob("*"))
    try:
        command.export(command.Export(run=str(run), rounds=1))
    except UserError:
        assert sorted(folder.rglob("*")) == before, "nothing is written"
        raise
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = dict(tokenizer(["good", "a bad b c d e f g", "c"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        expected = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()(**texts).logits
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    inputs = {value.name: texts[value.name].numpy() for value in session.get_inputs()}
    assert np.abs(session.run(None, inputs)[0] - expected.numpy()).max() < 1e-4


def try_uses(model_type: str, workspace: Path, accelerator, uses: list[str]) -> dict[str, str]:
    """Return for each use what docs/architectures.md has: yes, no, or how pretraining computes rows."""
    masked = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and model_type not in ENCODER_DECODERS
    folder = write_encoder(model_type, workspace / model_type, "AutoModelForMaskedLM" if masked else "AutoModel")
    write_rows(workspace)

    def attempt(check: Callable[[], object]) -> str:
        try:
            output = check()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            return "no"
        if check is checks["classification"]:
            check_model(folder, output, workspace)
            check_heads(model_type, workspace)
        return output if isinstance(output, str) else "yes"

    checks = {
        "pretraining": lambda: check_pretraining(folder, workspace),
        **{name: partial(fine_tune, folder, words, accelerator) for name, words in TASKS.items()},
        EXPORT: lambda: check_export(workspace),
    }
    return {use: attempt(checks[use]) for use in uses}


def documented_uses() -> dict[str, dict[str, str]]:
    """Read the table of the documentation."""
    lines = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    uses = [*USES, EXPORT]
    rows = [row for row in rows if len(row) == len(uses) + 1]
    assert rows[0][1:] == uses
    return {name: dict(zip(uses, cells, strict=True)) for name, *cells in rows[2:]}


def test_the_documentation_has_every_architecture():
    assert list(documented_uses()) == sorted(ARCHITECTURES) and len(ARCHITECTURES) > 50


@pytest.mark.parametrize("model_type", NORMAL)
def test_usual_architectures(model_type, workspace, cpu_accelerator):
    documented = documented_uses()[model_type]
    assert try_uses(model_type, workspace, cpu_accelerator, USES) == {use: documented[use] for use in USES}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_architecture(model_type, workspace, cpu_accelerator):
    documented = documented_uses()[model_type]
    assert try_uses(model_type, workspace, cpu_accelerator, list(documented)) == documented
