"""Vectors and mistakes that are kept of held-out rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_methods import encoders, read_examples, reset_accelerate, run_finetuning  # noqa: F401  fixtures
from test_saved_model import FEW_LABELS
from transformers import AutoTokenizer

from engine.config.loader import load_config
from engine.training.distributed import make_accelerator
from finetune import held_out
from finetune.config import Finetune
from finetune.modalities import load_modality

NAMES = ["no", "perhaps", "yes"]


def embed_alone(output, folder, texts: list[str]) -> np.ndarray:
    """Return the mean of each text's states two thirds up the layers, one text at a time."""
    tokenizer, vectors = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=20)
        with torch.no_grad():
            states = output.model(**inputs, output_hidden_states=True).hidden_states
        vectors.append(states[2 * (len(states) - 1) // 3][0].mean(0).numpy())
    return np.stack(vectors)


# Rows 0 to 16 are training rows too, with states in the cache of the frozen layers.
@pytest.mark.parametrize("test_start", [64, 0])
@pytest.mark.parametrize("more", [[], FEW_LABELS, ["train.load_best=true", "layers.freeze_at=[0.3, 0.6]"]])
def test_the_vectors_of_test_rows_are_those_of_each_alone(encoders, tmp_path, more, test_start):  # noqa: F811
    output = run_finetuning(encoders, tmp_path, *more, test_start=test_start)
    texts = [example.texts[0] for example in read_examples(encoders)[test_start : test_start + 16]]
    assert np.abs(output.test_vectors - embed_alone(output, encoders / "bert", texts)).max() < 1e-5


def test_a_mistake_is_shown_with_the_training_rows_nearest_to_it(encoders, tmp_path):  # noqa: F811
    output = run_finetuning(encoders, tmp_path)
    examples = read_examples(encoders)
    splits = {"train": examples[:48], "validation": examples[48:64], "test": examples[64:80]}
    args = ["run=r", "max_length=20", "task={name: t, train: {files: labels.csv}}"]
    modality, accelerator = load_modality(load_config(Finetune, args)), make_accelerator("float32")
    kept = held_out.collect_held_out(modality, output, splits, NAMES, encoders / "bert", accelerator)
    train, test = (
        embed_alone(output, encoders / "bert", [each.texts[0] for each in splits[name]]) for name in ("train", "test")
    )
    predicted = np.array(output.predictions["test"]).argmax(1)
    wrong = {each.texts[0] for each, index in zip(splits["test"], predicted, strict=True) if NAMES[index] != each.label}
    assert {mistake["text"] for mistake in kept.mistakes} == wrong and wrong
    rows = {each.texts[0]: row for row, each in enumerate(splits["test"])}
    for mistake in kept.mistakes:
        distances = np.linalg.norm(train - test[rows[mistake["text"]]], axis=1)
        nearest = [splits["train"][index].texts[0] for index in np.argsort(distances)[:3]]
        assert [each["text"] for each in mistake["nearest"]] == nearest
