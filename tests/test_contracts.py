"""What every objective and every head must offer, for each file there is."""

from __future__ import annotations

import importlib
import inspect
from typing import get_args

import numpy as np
import pytest
import torch
from tiny_models import SPECIAL_IDS, InMemoryShards

from data.sampling import row_generator
from engine.config.schema import Section, list_plugins
from engine.training.step import MicroBatch, Output
from pretrain.config import ModelConfig
from pretrain.model.build import encoder_from_config

OBJECTIVES, HEADS = list_plugins("pretrain.objectives"), list_plugins("finetune.heads")


def test_the_folder_is_the_list():
    assert OBJECTIVES == ["contrastive", "joint", "mlm", "simsiam"] and HEADS == [
        "classification",
        "contrastive",
        "multilabel",
        "regression",
        "tokens",
    ]


@pytest.mark.parametrize(
    "module", [f"pretrain.objectives.{name}" for name in OBJECTIVES] + [f"finetune.heads.{name}" for name in HEADS]
)
def test_config_is_a_section_of_that_name(module):
    file = importlib.import_module(module)
    assert issubclass(file.Config, Section) and file.__doc__
    assert get_args(file.Config.model_fields["name"].annotation) == (module.rsplit(".", 1)[1],)
    assert all(field.description for field in file.Config.model_fields.values())
    assert len(inspect.getsource(file).splitlines()) <= 130, "an objective or a head is about 100 lines"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name):
    file, rows = importlib.import_module(f"pretrain.objectives.{name}"), InMemoryShards()
    torch.manual_seed(0)
    shape = ModelConfig(layers=2, hidden_size=32, attention_heads=2, intermediate_size=32, positions=32)
    # Spans of so short documents would be the documents.
    config = file.Config(**({"views": "mask"} if "views" in file.Config.model_fields else {}))
    examples = file.Dataset(config, rows, None)
    objective = file.Objective(config, encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None))

    def batch(step: int, places: list[int]) -> MicroBatch:
        return examples.collate(places, [row_generator(0, step, place) for place in places])

    whole, again, later = batch(3, [0, 1, 2]), batch(3, [0, 1, 2]), batch(4, [0, 1, 2])
    assert all(whole.inputs[key].equal(again.inputs[key]) for key in whole.inputs), "a pure function of the step"
    assert any(not whole.inputs[key].equal(later.inputs[key]) for key in whole.inputs)
    assert whole.num_tokens == (whole.inputs["document_ids"] >= 0).sum()
    output = objective(**whole.inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.count > 0 and output.loss.requires_grad
    parts = [batch(3, [place]).inputs for place in range(3)]
    if hasattr(objective, "cache_gradients"):
        said = objective.cache_gradients([objective.embed(**part) for part in parts])
        parts = [part | more for part, more in zip(parts, said)]
    parts = [objective(**part) for part in parts]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-5), "a sum, however the batch is cut"
    assert sum(int(part.count) for part in parts) == int(output.count)
    assert all(figure.shape == (2,) and not figure.requires_grad for figure in output.metrics.values())
    assert objective.after_step(0) is None and objective.trains_mlm_head in (True, False)
    assert config.validate_training(8, 0.1, 128) is None and examples.warning() == ""


LABELS = {
    "single_label_classification": (["no", "yes", "perhaps"], "perhaps", "no"),
    "multi_label_classification": (["no", "yes", "perhaps"], ("yes", "no"), ()),
    "regression": (["score"], 3.5, -1.0),
    "token_classification": (["O", "B-a", "I-a"], ("O", "B-a"), ("I-a", "O")),
}
"""Of each kind: the names, and the labels of two texts."""


@pytest.mark.parametrize("name", HEADS)
def test_head(name, workspace):
    from data.encoders import resolve_encoder
    from data.tasks.task import LABEL_PARSERS, Example
    from finetune.dataset import tokenize_examples

    file, folder = importlib.import_module(f"finetune.heads.{name}"), resolve_encoder("minilm")
    assert file.PROBLEM_TYPE in LABEL_PARSERS
    names, *labels = LABELS[file.PROBLEM_TYPE]
    torch.manual_seed(0)
    model, fixed = file.build(file.Config(), folder, names, dropout=0.0)
    assert model.config.id2label == dict(enumerate(names)) and model.config.label2id[names[-1]] == len(names) - 1
    assert all(not parameter.requires_grad for parameter in fixed)
    examples = (
        [Example((text,), label) for text, label in zip(("a film", "dull"), labels)]
        if file.PROBLEM_TYPE != "token_classification"
        else [Example(("a film",), labels[0]), Example(("dull story",), labels[1])]
    )
    texts = tokenize_examples(
        examples, folder, 16, "here", file.encode_labels, names, word_labels=file.PROBLEM_TYPE == "token_classification"
    )
    head = file.Head(file.Config(), model).eval()
    if hasattr(head, "set_label_stats"):
        head.set_label_stats(texts.labels)
    output = head(**texts.get_batch(np.array([0, 1])).inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.loss.requires_grad
    parts = [texts.get_batch(np.array([place])).inputs for place in (0, 1)]
    if hasattr(head, "cache_gradients"):
        parts = [part | more for part, more in zip(parts, head.cache_gradients([head.embed(**part) for part in parts]))]
    parts = [head(**part) for part in parts]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-4), "a sum, however the batch is cut"
    assert sum(int(part.count) for part in parts) == int(output.count)
    said = list(head.predict(**texts.get_inputs(np.array([0, 1]))).detach().numpy())
    assert len(said) == 2
    figures = file.quick_metrics(said, texts.labels)
    assert (
        file.METRIC_FOR_BEST in figures
        and figures["n"] == 2
        and set(file.REPORT_METRICS)
        <= set(file.compute_metrics(said, texts.labels, names, {}) if hasattr(file, "metrics") else figures)
    )
