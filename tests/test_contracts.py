"""The interface of every objective and every head."""

from __future__ import annotations

import importlib
import inspect
from typing import get_args

import numpy as np
import pytest
import torch
from tiny_models import make_batch, text_dataset, tiny_encoder, tiny_static_encoder

from engine.config.schema import Section, list_plugins
from engine.training.step import Output

OBJECTIVES, HEADS = list_plugins("pretrain.objectives"), list_plugins("finetune.heads")
IMAGE_OBJECTIVES = ("auto", "cyclegan", "dino", "gan", "mae")
"""Those of images alone (tests/pretrain/test_image_objectives.py), and auto, which becomes one of the others."""
LABELS = {
    "anomaly_detection": (["good"], "good", "bad"),
    "multi_label_classification": (["no", "yes", "perhaps"], ("yes", "no"), ()),
    "regression": (["score"], 3.5, -1.0),
    "single_label_classification": (["no", "yes", "perhaps"], "perhaps", "no"),
    "token_classification": (["O", "B-a", "I-a"], ("O", "B-a"), ("I-a", "O")),
}
"""Problem type -> label names, and the labels of two texts."""


def test_the_folders_are_the_lists():
    objectives = "auto causal contrastive cyclegan denoise dino gan joint mae mlm simsiam skipgram vae"
    assert objectives.split() == OBJECTIVES
    heads = "anomaly classification multilabel regression standard supcon token_classification"
    assert heads.split() == HEADS
    assert list_plugins("data.tasks.problem_types") == list(LABELS)


@pytest.mark.parametrize(
    "module", [f"pretrain.objectives.{name}" for name in OBJECTIVES] + [f"finetune.heads.{name}" for name in HEADS]
)
def test_config_has_the_name_of_the_file_and_a_description_of_each_field(module):
    plugin = importlib.import_module(module)
    assert issubclass(plugin.Config, Section) and plugin.__doc__
    assert get_args(plugin.Config.model_fields["name"].annotation) == (module.rsplit(".", 1)[1],)
    assert all(field.description for field in plugin.Config.model_fields.values())
    assert len(inspect.getsource(plugin).splitlines()) <= 130, "an objective or a head has about 100 lines"


def check_sum(parts: list[Output], whole: Output, rtol: float) -> None:
    """Check that loss and count are sums over the micro-batches."""
    assert torch.allclose(sum(part.loss for part in parts), whole.loss, rtol=rtol)
    assert sum(int(part.count) for part in parts) == int(whole.count)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in IMAGE_OBJECTIVES])
def test_objective(name):
    plugin = importlib.import_module(f"pretrain.objectives.{name}")
    # With documents this short, spans would be whole documents.
    config = plugin.Config(**({"views": "mask"} if "views" in plugin.Config.model_fields else {}))
    dataset = text_dataset(plugin, config)
    encoder = tiny_static_encoder() if name == "skipgram" else tiny_encoder(is_causal=name == "causal")
    objective = plugin.Objective(config, encoder)
    whole, again, later = (make_batch(dataset, [0, 1, 2], step) for step in (3, 3, 4))
    assert all(whole.inputs[key].equal(again.inputs[key]) for key in whole.inputs), "a pure function of the step"
    assert name == "causal" or any(not whole.inputs[key].equal(later.inputs[key]) for key in whole.inputs)
    assert whole.num_tokens == (whole.inputs["document_ids"] >= 0).sum()
    output = objective(**whole.inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.count > 0 and output.loss.requires_grad
    parts = [make_batch(dataset, [index], 3).inputs for index in range(3)]
    if hasattr(objective, "cache_gradients"):
        cached = objective.cache_gradients([objective.embed(**part) for part in parts])
        parts = [part | more for part, more in zip(parts, cached, strict=True)]
    check_sum([objective(**part) for part in parts], output, rtol=1e-5)
    assert all(metric.shape == (2,) and not metric.requires_grad for metric in output.metrics.values())
    assert objective.after_step(0) is None and objective.trains_mlm_head in (True, False)
    assert config.validate_training(8, 0.1, 128) is None and dataset.warning() == ""


@pytest.mark.parametrize("name", [name for name in HEADS if name != "anomaly"])
def test_head(name, workspace):
    from data.encoders import resolve_encoder
    from data.tasks.problem_types import load_problem_type
    from data.tasks.task import Example
    from data.tokens.dataset import tokenize_examples
    from finetune.model.text_network import build_text_network

    plugin, folder = importlib.import_module(f"finetune.heads.{name}"), resolve_encoder("minilm")
    problem_type = plugin.PROBLEM_TYPE or load_problem_type("single_label_classification")
    label_names, *labels = LABELS[problem_type.name]
    torch.manual_seed(0)
    network = build_text_network(folder, problem_type, getattr(plugin.Config(), "pooling", None), label_names, 0.0)
    model = network.model
    assert model.config.id2label == dict(enumerate(label_names))
    assert model.config.label2id[label_names[-1]] == len(label_names) - 1
    assert all(not parameter.requires_grad for parameter in network.constant)
    texts = ("a film", "dull story") if problem_type.labels_words else ("a film", "dull")
    examples = [Example((text,), label) for text, label in zip(texts, labels, strict=True)]
    dataset = tokenize_examples(examples, folder, 16, "here", problem_type, label_names)
    head = plugin.Head(plugin.Config(), network, problem_type).eval()
    head.set_label_stats(dataset.labels)
    output = head(**dataset.get_batch(np.array([0, 1])).inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.loss.requires_grad
    parts = [dataset.get_batch(np.array([index])).inputs for index in (0, 1)]
    if hasattr(head, "cache_gradients"):
        cached = head.cache_gradients([head.embed(**part) for part in parts])
        parts = [part | more for part, more in zip(parts, cached, strict=True)]
    check_sum([head(**part) for part in parts], output, rtol=1e-4)
    outputs = list(head.predict(**dataset.get_inputs(np.array([0, 1]))).detach().numpy())
    assert len(outputs) == 2 and plugin.DEFAULT_HEAD_LR > 0
    metrics = problem_type.quick_metrics(outputs, dataset.labels)
    assert problem_type.metric_for_best in metrics and metrics["n"] == 2
    metrics = problem_type.compute_metrics(outputs, dataset.labels, label_names, {})
    assert set(problem_type.report_metrics) <= set(metrics)


@pytest.mark.parametrize("name", list_plugins("data.tasks.problem_types"))
def test_problem_type(name):
    from data.tasks.problem_types import load_problem_type

    problem_type = load_problem_type(name)
    assert problem_type.name == name and problem_type.default_head in HEADS
    values = torch.tensor([[1.0, -2.0, 0.5]])
    activated = problem_type.activate(values)
    expected = {"softmax": torch.softmax(values, -1), "sigmoid": torch.sigmoid(values), "none": values}
    assert torch.equal(activated, expected[problem_type.activation])
    assert "{labels}" in problem_type.card_description
    compile(problem_type.example_code, name, "exec")
