"""The defaults of pretraining: the objective that suits the corpus, and the fraction of init's weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import run_module

from engine.config.loader import load_config
from engine.errors import ConfigError
from pretrain.config import DEFAULT_INIT_FRACTION, DEFAULT_STEPS, Pretrain
from pretrain.modalities import Modality
from pretrain.objectives import contrastive, joint, mlm
from pretrain.objectives.auto import MIN_SHORT_TEXT_STEPS, choose_objective

BASE = ["run=r", "corpus={name: c, sources: [{files: a.txt}]}", "train={steps: 10, lr: 1e-3, batch_size: 8}"]


def shards_of(*document_lengths: int, max_length: int = 128) -> SimpleNamespace:
    """Return shards of documents of these lengths, cut into pieces that fit a row."""
    ends, pieces = np.cumsum(document_lengths), []
    for end, size in zip(ends, document_lengths, strict=True):
        cuts = [*range(end - size, end, max_length - 2), end]
        pieces += [(start, stop - start) for start, stop in zip(cuts[:-1], cuts[1:], strict=True)]
    return SimpleNamespace(documents=np.append(0, ends), pieces=np.array(pieces), max_length=max_length)


@pytest.mark.parametrize(
    "words, fraction",
    [
        (["init=minilm"], DEFAULT_INIT_FRACTION),
        (["init=minilm", "init_fraction=none"], DEFAULT_INIT_FRACTION),
        (["init=minilm", "init_fraction=0"], 0),
        (["init=minilm", "init_fraction=0.25"], 0.25),
        ([], 0),
        (["init=none"], 0),
        (["init=minilm", "init=none"], 0),
    ],
)
def test_the_default_fraction_of_init_s_weights_applies_only_with_init(words, fraction):
    assert load_config(Pretrain, [*BASE, *words]).init_fraction == fraction
    assert DEFAULT_INIT_FRACTION > 0


def test_long_documents_are_learned_from_by_spans():
    objective, steps, reason = choose_objective(shards_of(400, 300, 20), has_init=True, batch_size=60)
    assert isinstance(objective, contrastive.Config) and objective.views == "span" and objective.max_gap == 2_000
    # 4 + 3 pieces of the long documents, one of the short one.
    assert reason.startswith("contrastive, two spans") and "88% of the pieces of text are of documents of 32 " in reason
    assert steps == DEFAULT_STEPS


def test_short_texts_are_not_learned_from_by_spans():
    objective, steps, reason = choose_objective(shards_of(*[12] * 9, 40), has_init=True, batch_size=60)
    assert isinstance(objective, joint.Config) and objective.views == "mask" and objective.relative_margin == 0.3
    assert "90% of the pieces of text are of documents of fewer than 32 " in reason and steps == MIN_SHORT_TEXT_STEPS


@pytest.mark.parametrize(
    "texts, batch_size, steps", [(60, 60, 80), (1_200, 60, 200), (1_201, 60, 201), (9_000, 60, 400)]
)
def test_few_short_texts_are_read_ten_times(texts, batch_size, steps):
    assert choose_objective(shards_of(*[12] * texts), has_init=True, batch_size=batch_size).steps == steps


def test_runs_from_before_the_margin_resume():
    """Their config.yaml has no such key, and the configuration of a new run is compared with it."""
    for config in (contrastive.Config, joint.Config):
        assert "relative_margin" not in config().model_dump(mode="json")
        assert config(relative_margin=0.3).model_dump(mode="json")["relative_margin"] == 0.3


def test_a_new_model_learns_masked_tokens():
    for shards in (shards_of(400, 300), shards_of(12, 12)):
        assert choose_objective(shards, has_init=False, batch_size=60).objective == mlm.Config()


def test_spans_fit_the_rows_of_a_small_max_length():
    for max_length in (8, 16, 48, 128):
        objective = choose_objective(shards_of(400, 300, max_length=max_length), has_init=True, batch_size=60).objective
        objective.validate_training(8, 0.0, max_length)
        assert objective.max_span == min(48, max_length - 2)


def test_the_default_steps_are_left_to_the_corpus_only_without_a_named_objective():
    assert load_config(Pretrain, [*BASE, "train.steps=none"]).train.steps is None
    for words in (["objective.name=mlm"], ["objective.mask_rate=0.2"]):
        assert load_config(Pretrain, [*BASE, "train.steps=none", *words]).train.steps == DEFAULT_STEPS
        assert load_config(Pretrain, [*BASE, *words]).train.steps == 10


def test_an_objective_is_chosen_if_none_is_named():
    assert load_config(Pretrain, BASE).objective.name == "auto"
    for name in ("mlm", "contrastive"):
        assert load_config(Pretrain, [*BASE, f"objective.name={name}"]).objective.name == name
    assert load_config(Pretrain, [*BASE, "objective.mask_rate=0.2"]).objective == mlm.Config(mask_rate=0.2)
    with pytest.raises(ConfigError, match=r"^objective.mask_rate: no key of this objective; set objective.name$"):
        load_config(Pretrain, [*BASE, "objective={name: auto, mask_rate: 0.2}"])


def test_a_modality_without_a_choice_asks_for_a_name():
    with pytest.raises(ConfigError, match=r"^objective.name: auto chooses none for modality=text; name one$"):
        Modality(load_config(Pretrain, BASE), None).resolve_objective()
    named = load_config(Pretrain, [*BASE, "objective.name=mlm"])
    assert Modality(named, None).resolve_objective() is named


def test_the_output_names_the_choice_and_what_training_changed(workspace, sentiment_files):
    (workspace / "sts.csv").write_text("sentence1,sentence2,score\na cat,a dog,2\na cat,a cat,5\nrain,a loan,0\n")
    words = ["init=minilm", "corpus.name=c", "corpus.held_out=0.3", "train={steps: 1, lr: 1e-5, batch_size: 4}"]
    words += [f"corpus.sources=[{{files: {sentiment_files}/corpus.txt}}]", "max_length=64", "sts.files=sts.csv"]
    done = run_module("pretrain", *words, "run=chosen")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("objective: ")]
    assert "% of the pieces of text are of documents of fewer than 32 tokens; 1 steps" in line
    record = json.loads((workspace / "out/runs/chosen/encoder/record.json").read_text())
    assert record["config"]["objective"]["name"] != "auto"
    assert record["config"]["init_fraction"] == DEFAULT_INIT_FRACTION
    before, after = record["quality"]["before"], record["quality"]["after"]
    assert 0.99 < after["agreement"] < before["agreement"] == 1 and before["sts_spearman"] == 1
    assert after["retrieval_acc@1"] == record["eval"]["retrieval_acc@1"]
    folder = workspace / "out/runs/chosen"
    for text in (done.stdout, (folder / "report.html").read_text(), (folder / "encoder/README.md").read_text()):
        assert f"similarity agreement with init: {after['agreement']:.3f} (1 = unchanged)" in text
        assert f"{before['retrieval_acc@1']:.3f} before, {after['retrieval_acc@1']:.3f} after" in text


def test_an_explicit_objective_is_not_replaced():
    from pretrain.modalities.text import Modality as TextModality

    named = load_config(Pretrain, [*BASE, "init=minilm", "objective={name: contrastive, min_span: 4}"])
    assert TextModality(named, None).resolve_objective() is named  # without a look at the corpus
