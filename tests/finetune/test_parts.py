"""Parts of fine-tuning: attention, mean pooling in the weights, layer-wise training, metrics."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import SMALL, depth_by_name, padded_batch, tiny_bert
from transformers import (
    AlbertForSequenceClassification,
    BertForSequenceClassification,
    DebertaV2ForSequenceClassification,
    GPT2ForSequenceClassification,
    ModernBertForSequenceClassification,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5ForSequenceClassification,
    XLMForSequenceClassification,
)

from data.tasks import metrics
from engine.config.loader import load_config
from engine.errors import DataError
from engine.kernels import attention
from finetune.config import Finetune, Layers
from finetune.evaluation.summary import format_scores
from finetune.model import layerwise, mean_pooling
from finetune.train import resolve_config


@pytest.mark.parametrize("masked", [True, False])
def test_matmul_attention_equals_fused_attention(masked):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 4, 17, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = (torch.rand(3, 1, 17, 17) < 0.6) | torch.eye(17, dtype=torch.bool) if masked else None
    ours, _ = attention.attention_forward(torch.nn.Module(), query, key, value, mask)
    exact = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.double() for tensor in (query, key, value)), attn_mask=mask
    ).transpose(1, 2)
    assert (ours.double() - exact).abs().max() < 0.03, "bf16 rounding"
    weight = torch.randn(ours.shape)
    first = torch.autograd.grad((ours * weight).sum(), (query, key, value))
    second = torch.autograd.grad((exact * weight).sum(), (query, key, value))
    for one, other in zip(first, second, strict=True):
        assert (one.double() - other).norm() / other.norm() < 0.02


def test_fast_attention_keeps_logits_and_a_padding_row_is_not_nan():
    model, inputs = tiny_bert(), padded_batch()
    plain = model(**inputs).logits
    attention.use_fast_attention(model)
    assert torch.allclose(model(**inputs).logits, plain, atol=1e-5)
    inputs["attention_mask"][0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(
    "build", [tiny_bert, lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL, pad_token_id=0)).eval()]
)
def test_the_added_layer_computes_the_mean(build):
    """The first token of the added layer is the normalized mean of the encoder's last hidden states."""
    model = build()
    inputs = padded_batch()
    states, mask = model.base_model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    constant = mean_pooling.add_mean_pooling_layer(model)
    pooled = model.base_model(**inputs).last_hidden_state[:, 0]
    assert torch.allclose(pooled, torch.nn.functional.layer_norm(mean, (32,)), atol=2e-3)
    assert model.config.num_hidden_layers == 5 and not any(parameter.requires_grad for parameter in constant)
    dense = getattr(model.base_model, "pooler", None) or model.classifier
    assert dense.dense.weight.equal(torch.eye(32) / 2)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "headstart"])
def test_pooling_only_the_first_token_keeps_logits_and_gradients(attention):
    model, inputs, results = tiny_bert(num_labels=3), padded_batch(), []
    mean_pooling.add_mean_pooling_layer(model)
    mean_pooling.standardize_pooling(model, [inputs])
    model.set_attn_implementation(attention)
    for mask in (inputs["attention_mask"], torch.ones_like(inputs["attention_mask"])):
        for first_only in (False, True):
            model.zero_grad()
            with mean_pooling.pool_first_token_only(model) if first_only else nullcontext():
                logits = model(**{**inputs, "attention_mask": mask}).logits
                logits[:, 0].square().sum().backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            results.append((logits, gradients))
    for (logits, gradients), (first_logits, first_gradients) in (results[:2], results[2:]):
        assert torch.allclose(logits, first_logits, atol=1e-4)
        assert len(gradients) == len(first_gradients)
        assert all(map(partial(torch.allclose, rtol=1e-3, atol=1e-4), gradients, first_gradients))
    assert model.base_model(**inputs).last_hidden_state.shape[:2] == inputs["input_ids"].shape, "only in the context"


@pytest.mark.parametrize("model_class", [BertForSequenceClassification, ModernBertForSequenceClassification])
def test_depths_are_those_of_the_names(model_class):
    model = model_class(model_class.config_class(**SMALL, pad_token_id=0))
    depths = layerwise.find_depths(model, 4)
    assert {name: depths.parameters[parameter] for name, parameter in model.named_parameters()} == {
        name: depth_by_name(f".{name}", 4) for name, _ in model.named_parameters()
    }
    assert set(depths.parameters.values()) == {0, 1, 2, 3, 4, 5}
    assert not any(depths.modules[module] for module in (model, model.base_model)), "they contain all layers"


OTHER_MODELS = {  # class, size, layers, where the embeddings and the lowest layer are
    AlbertForSequenceClassification: (dict(embedding_size=16), 1, "albert.embeddings", "albert_layer_groups.0"),
    DebertaV2ForSequenceClassification: (dict(relative_attention=True), 2, "rel_embeddings", "encoder.layer.0."),
    GPT2ForSequenceClassification: (dict(n_embd=32, n_layer=2, n_head=2), 2, "transformer.wte", "transformer.h.0."),
    Qwen3ForSequenceClassification: (dict(num_key_value_heads=2, head_dim=16), 2, "embed_tokens", "model.layers.0."),
    XLMForSequenceClassification: (dict(emb_dim=32, n_layers=2, n_heads=2), 2, "layer_norm_emb", "transformer.ffns.0."),
    T5ForSequenceClassification: (dict(d_model=32, d_kv=16, num_layers=2), 4, "shared", "encoder.block.0."),
}


@pytest.mark.parametrize("model_class", OTHER_MODELS)
def test_every_parameter_of_an_encoder_has_a_depth(model_class):
    """Whatever its layers are called; those of ALBERT share their weights, and XLM has a list of each part."""
    size, num_layers, embeddings, lowest = OTHER_MODELS[model_class]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = model_class.config_class(**{**shape, **size}, vocab_size=90, num_labels=2, pad_token_id=0)
    model = model_class(config)
    assert len(layerwise.split_layers(model)) == num_layers
    depths = layerwise.find_depths(model, num_layers).parameters
    for name, parameter in model.named_parameters():
        is_head = name.split(".")[0] not in model.base_model_prefix or "pooler" in name
        assert (depths[parameter] == 0) == is_head, name
        if embeddings in name or lowest in name:
            assert depths[parameter] == num_layers + (embeddings in name), name
    assert depths[model.get_input_embeddings().weight] == num_layers + 1


def test_learning_rates_follow_the_depth():
    config = Layers(lr_decay=0.5, head_lr=1e-3)
    assert [layerwise.lr_scale(depth, config, 1e-4) for depth in (1, 2, 4)] == [1, 0.5, 0.125]
    assert layerwise.lr_scale(0, config, 1e-4) == pytest.approx(10)


@pytest.mark.parametrize(
    "args, head_lr",
    [
        (["configs/finetune/sentiment.yaml"], 3e-4),
        (["configs/finetune/ratings.yaml"], 3e-4),
        (["configs/finetune/mesh.yaml"], 1e-3),
        (["configs/finetune/sentiment.yaml", "configs/method/fewshot.yaml"], 1e-3),
        (["configs/finetune/sentiment.yaml", "layers.head_lr=2e-2"], 2e-2),
    ],
)
def test_each_head_has_its_default_learning_rate(args, head_lr, tmp_path):
    config = resolve_config(load_config(Finetune, args), "an encoder", tmp_path, 100)
    assert config.layers.head_lr == head_lr
    scale = layerwise.lr_scale(0, config.layers, config.train.lr)
    assert scale == pytest.approx(head_lr / config.train.lr)


@pytest.mark.parametrize(
    "recorded, args, lr",
    [(None, [], 1e-4), (5e-5, [], 1e-4), (1e-3, [], 1e-3), (1e-3, ["train.lr_fraction=0.2"], 2e-4)]
    + [(5e-5, ["train.lr_fraction=0.2"], 2e-5), (5e-5, ["train.lr=3e-5"], 3e-5)],
)
def test_a_low_pretraining_rate_does_not_lower_that_of_fine_tuning(recorded, args, lr, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.train.read_record", lambda folder: {"config": {"train": {"lr": recorded}}})
    config = load_config(Finetune, ["configs/finetune/sentiment.yaml", *args])
    assert resolve_config(config, "an encoder", tmp_path, 100).train.lr == pytest.approx(lr)


@pytest.mark.parametrize(
    "num_examples, given, expected", [(100, [], 50), (100_000, [], 120), (100_000, ["train.eval_every=7"], 7)]
)
def test_long_trainings_are_evaluated_ten_times(tmp_path, num_examples, given, expected):
    args = ["task.name=t", "task.train.files=x.csv", "run=r", *given]
    assert resolve_config(load_config(Finetune, args), "e", tmp_path, num_examples).train.eval_every == expected


@pytest.mark.parametrize("unit, per_epoch", [("steps", 99.0), ("epochs", 0.5)])
def test_layers_are_unfrozen_from_the_top(unit, per_epoch):
    config = Layers(
        unfreeze_every=2 if unit == "steps" else 4, unfreeze_unit=unit, unfreeze_group=2, train_embeddings=True
    )
    depths = [layerwise.trainable_depth(step, 5, config, per_epoch, 10) for step in range(10)]
    assert depths == [0, 0, 2, 2, 4, 4, 5, 5, 6, 6]
    assert layerwise.trainable_depth(0, 5, Layers(), 10, 10) == 5, "all at once, except the embeddings"
    assert layerwise.trainable_depth(0, 5, Layers(train_embeddings=True), 10, 10) == 6


def test_layers_are_frozen_from_below():
    def depths(**settings):
        return [layerwise.trainable_depth(step, 6, Layers(**settings), 5, 10) for step in range(10)]

    assert depths(freeze_at=[0.35, 0.6]) == [6, 6, 6, 6, 4, 4, 2, 2, 2, 2]
    assert depths(freeze_at=[0.2, 0.4, 0.6, 0.8], train_embeddings=True) == [7, 7, 4, 4, 2, 2, 0, 0, 0, 0], (
        "the embeddings with the first group"
    )
    assert depths(freeze_at=[0.2, 0.5], freeze_min_epochs=1.2) == [6, 6, 6, 6, 6, 6, 2, 2, 2, 2], (
        "an epoch has five steps"
    )
    assert depths(freeze_at=[0.2, 0.5], freeze_min_epochs=2) == [6] * 10
    assert depths(freeze_at=[0.5], num_frozen=3) == [3] * 10, "frozen layers are not counted twice"
    assert depths(freeze_at=[0.5], unfreeze_every=1, unfreeze_unit="steps") == [0, 2, 4, 6, 6, 4, 4, 4, 4, 4]


def test_layers_frozen_for_an_epoch_are_worth_caching():
    def schedule(epoch, **settings):
        return "".join(
            f"{depth}{'.+'[is_stable]}"
            for depth, is_stable in layerwise.freeze_schedule(10, 6, Layers(**settings), epoch)
        )

    assert schedule(4, freeze_at=[0.3, 0.6]) == "6.6.6.4.4.4.2+2+2+2+"
    assert schedule(2.5, freeze_at=[0.3, 0.6]) == "6+6+6+4+4+4+2+2+2+2+"
    assert schedule(99, num_frozen=2) == "4+" * 10, "all of training"


@pytest.mark.parametrize("max_depth", [0, 1, 3, 4, 5])
def test_exactly_the_unfrozen_layers_are_trained(max_depth):
    model = tiny_bert(num_labels=3)
    constant = set(mean_pooling.add_mean_pooling_layer(model))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    layerwise.freeze_below(layerwise.find_depths(model, 4), max_depth, constant)
    model(**padded_batch(), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        changed = not parameter.equal(before[name])
        assert changed == (parameter not in constant and depth_by_name(f".{name}", 4) <= max_depth), name


def test_metrics_equal_counts_by_hand():
    predicted, labels = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 2, 0, 2])
    f1 = []
    for label in range(3):
        hit = ((predicted == label) & (labels == label)).sum()
        f1.append(2 * hit / ((predicted == label).sum() + (labels == label).sum()))
    result = metrics.classification_metrics(predicted, labels)
    assert result["n"] == 7
    assert result["accuracy"] == pytest.approx(5 / 7)
    assert result["f1_macro"] == pytest.approx(np.mean(f1))


def test_standardized_pooling_has_mean_0_and_variance_1():
    model, inputs = tiny_bert(), padded_batch(batch_size=64)
    mean_pooling.add_mean_pooling_layer(model)
    mean_pooling.standardize_pooling(
        model,
        [
            {name: tensor[:40] for name, tensor in inputs.items()},
            {name: tensor[40:] for name, tensor in inputs.items()},
        ],
    )
    pooled = model.base_model(**inputs).last_hidden_state[:, 0]
    assert pooled.mean(0).abs().max() < 1e-3 and (pooled.std(0) - 1).abs().max() < 1e-3


def test_pairs_of_texts_get_token_types(workspace):
    from data.encoders import resolve_encoder
    from data.tasks.task import Example
    from data.tokens.dataset import tokenize_examples
    from finetune.heads import classification

    pairs = [Example(("one film", "dull"), "no"), Example(("a longer one by far", "yes indeed"), "yes")]
    texts = tokenize_examples(pairs, resolve_encoder("minilm"), 16, "test", classification.PROBLEM_TYPE, ["no", "yes"])
    batch = texts.get_batch(np.array([0, 1]))
    assert batch.inputs["input_ids"].shape == batch.inputs["token_type_ids"].shape and batch.num_tokens == int(
        batch.inputs["attention_mask"].sum()
    )
    for row in range(len(pairs)):
        ids, kinds = batch.inputs["input_ids"][row], batch.inputs["token_type_ids"][row]
        assert (ids == 102).sum() == 2 and kinds[ids != 0].bool().any() and not kinds[0]
    assert batch.inputs["labels"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "config, pooling",
    [
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "max"}, None),
    ],
)
def test_pooling_is_read_from_sentence_transformers_config(tmp_path, config, pooling):
    from data.encoders import read_pooling

    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert read_pooling(tmp_path) == pooling


def test_damaged_metrics_of_a_finished_run_are_one_line(tmp_path):
    (tmp_path / "metrics.json").write_text('{"task": ')
    with pytest.raises(DataError, match="metrics.json: cannot be read"):
        format_scores(SimpleNamespace(folder=tmp_path))
