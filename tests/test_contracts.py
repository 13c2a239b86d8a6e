"""What every objective and every head must offer, for each file there is."""

from __future__ import annotations

import importlib
import inspect
from typing import get_args

import numpy as np
import pytest
import torch
from test_mlm import SPECIAL, Rows

from data.batches import generator
from engine.config import Section, plugins
from engine.explain import constant as constant_of
from engine.gradient import Batch, Output
from pretrain.config import Model
from pretrain.origin import from_nothing

OBJECTIVES, HEADS = plugins("pretrain.objectives"), plugins("finetune.heads")


def test_the_folder_is_the_list():
    assert OBJECTIVES == ["contrastive", "joint", "mlm", "simsiam"] and HEADS == ["classification", "contrastive", "multilabel", "regression", "tokens"]


@pytest.mark.parametrize("module", [f"pretrain.objectives.{name}" for name in OBJECTIVES]
                         + [f"finetune.heads.{name}" for name in HEADS])
def test_config_is_a_section_of_that_name(module):
    file = importlib.import_module(module)
    assert issubclass(file.Config, Section) and file.__doc__
    assert get_args(file.Config.model_fields["name"].annotation) == (module.rsplit(".", 1)[1],)
    assert all(field.description for field in file.Config.model_fields.values())
    assert len(inspect.getsource(file).splitlines()) <= 130, "an objective or a head is about 100 lines"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name):
    file, rows = importlib.import_module(f"pretrain.objectives.{name}"), Rows()
    torch.manual_seed(0)
    shape = Model(layers=2, hidden_size=32, attention_heads=2, intermediate_size=32, positions=32)
    # Spans of so short documents would be the documents.
    config = file.Config(**({"views": "mask"} if "views" in file.Config.model_fields else {}))
    examples = file.Examples(config, rows, None)
    objective = file.Objective(config, from_nothing(shape, SPECIAL, 90, 32, 0.0, None))

    def batch(step: int, places: list[int]) -> Batch:
        return examples.collate(places, [generator(0, step, place) for place in places])

    whole, again, later = batch(3, [0, 1, 2]), batch(3, [0, 1, 2]), batch(4, [0, 1, 2])
    assert all(whole.inputs[key].equal(again.inputs[key]) for key in whole.inputs), "a pure function of the step"
    assert any(not whole.inputs[key].equal(later.inputs[key]) for key in whole.inputs)
    assert whole.tokens == (whole.inputs["document_ids"] >= 0).sum()
    output = objective(**whole.inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.count > 0 and output.loss.requires_grad
    parts = [batch(3, [place]).inputs for place in range(3)]
    if hasattr(objective, "tie"):
        said = objective.tie([objective.represent(**part) for part in parts])
        parts = [part | more for part, more in zip(parts, said)]
    parts = [objective(**part) for part in parts]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-5), "a sum, however the batch is cut"
    assert sum(int(part.count) for part in parts) == int(output.count)
    assert all(figure.shape == (2,) and not figure.requires_grad for figure in output.figures.values())
    assert objective.after_step(0) is None and objective.teaches_vocabulary in (True, False)
    assert config.suits(8, 0.1, 128) is None and examples.hint() == ""


LABELS = {"class": (["no", "yes", "perhaps"], "perhaps", "no"), "labels": (["no", "yes", "perhaps"], ("yes", "no"), ()),
          "number": (["score"], 3.5, -1.0), "tags": (["O", "B-a", "I-a"], ("O", "B-a"), ("I-a", "O"))}
"""Of each kind: the names, and the labels of two texts."""


@pytest.mark.parametrize("name", HEADS)
def test_head(name, workplace):
    from data.encoders import locate
    from data.labelled import KINDS, Example
    from finetune.texts import tokenise

    file, folder = importlib.import_module(f"finetune.heads.{name}"), locate("minilm")
    assert file.KIND in KINDS and file.KIND == constant_of(f"finetune.heads.{name}", "KIND"), "a corpus reads it from the source"
    names, *labels = LABELS[file.KIND]
    torch.manual_seed(0)
    model, fixed = file.build(file.Config(), folder, names, dropout=0.0)
    assert model.config.id2label == dict(enumerate(names)) and model.config.label2id[names[-1]] == len(names) - 1
    assert all(not parameter.requires_grad for parameter in fixed)
    examples = [Example((text,), label) for text, label in zip(("a film", "dull"), labels)] if file.KIND != "tags" else [
        Example(("a film",), labels[0]), Example(("dull story",), labels[1])]
    texts = tokenise(examples, folder, 16, "here", file.targets, names, words=file.KIND == "tags")
    head = file.Head(file.Config(), model).eval()
    if hasattr(head, "observe"):
        head.observe(texts.labels)
    output = head(**texts.batch(np.array([0, 1])).inputs)
    assert isinstance(output, Output) and output.loss.ndim == 0 and output.loss.requires_grad
    parts = [texts.batch(np.array([place])).inputs for place in (0, 1)]
    if hasattr(head, "tie"):
        parts = [part | more for part, more in zip(parts, head.tie([head.represent(**part) for part in parts]))]
    parts = [head(**part) for part in parts]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-4), "a sum, however the batch is cut"
    assert sum(int(part.count) for part in parts) == int(output.count)
    said = list(head.predict(**texts.inputs(np.array([0, 1]))).detach().numpy())
    assert len(said) == 2
    figures = file.score(said, texts.labels)
    assert file.MONITOR in figures and figures["n"] == 2 and set(file.SHOWN) <= set(
        file.figures(said, texts.labels, names, {}) if hasattr(file, "figures") else figures)
