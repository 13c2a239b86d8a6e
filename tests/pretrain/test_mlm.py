"""Masked language modelling: the statistics of what is hidden, and the loss against a dense, padded, float32 one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import TINY_ARGS
from tiny_models import SPECIAL_IDS, InMemoryShards, collate_batch
from transformers import BertConfig, BertForMaskedLM

from data.encoders import resolve_encoder
from data.tokens.shards import Shards, build_shards
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from pretrain import train as stage
from pretrain.config import ModelConfig, Pretrain
from pretrain.model.build import encoder_from_config, encoder_from_pretrained, isolates_documents, prepare_encoder
from pretrain.model.encoder import Encoder
from pretrain.model.initialization import init_bias_from_frequencies
from pretrain.objectives import mlm


def dense(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(which tokens are to be predicted, the tokens as they were), both (rows, length)."""
    at, original = torch.zeros_like(inputs["input_ids"], dtype=torch.bool), inputs["input_ids"].clone()
    at.view(-1)[inputs["masked_indices"]] = True
    original[at] = inputs["targets"]
    return at, original


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_hidden_share_and_what_is_never_hidden(rate):
    rows, config = InMemoryShards(), mlm.Config(mask_rate=rate)
    hidden = np.zeros((6, 32))
    for step in range(400):
        inputs = collate_batch(config, step, rows).inputs
        ids, (at, targets) = inputs["input_ids"].numpy(), (tensor.numpy() for tensor in dense(inputs))
        ordinary = (inputs["document_ids"].numpy() >= 0) & ~np.isin(targets, [2, 3])
        assert (
            not (at & ~ordinary).any() and (ids[at] == SPECIAL_IDS["mask"]).all() and (ids[~at] == targets[~at]).all()
        )
        assert (abs(at.sum(1) - rate * ordinary.sum(1)) <= 0.5).all()
        hidden += at
    share = hidden[ordinary] / 400
    assert abs(share - rate).max() < 0.15 and abs(share.mean() - rate) < 0.02, "every place is hidden as often"


def test_bert_mixture_and_at_least_one():
    rows = InMemoryShards(6)
    config = mlm.Config(mask_rate=0.9, random_prob=0.2, keep_prob=0.2)
    kept = masked = total = 0
    for step in range(300):
        inputs = collate_batch(config, step, rows).inputs
        shown = inputs["input_ids"].flatten()[inputs["masked_indices"]]
        kept += (shown == inputs["targets"]).sum().item()
        masked += (shown == SPECIAL_IDS["mask"]).sum().item()
        total += len(shown)
    assert abs(masked / total - 0.6) < 0.03 and abs(kept / total - 0.2) < 0.03
    assert (dense(collate_batch(mlm.Config(mask_rate=0.01)).inputs)[0].sum(1) == 1).all()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_loss_and_gradient_equal_the_dense_padded_way(architecture):
    """Sparse projection on packed rows against every document alone, padded, with all scores in float32."""
    torch.manual_seed(0)
    shape = ModelConfig(
        architecture=architecture,
        layers=3,
        hidden_size=32,
        attention_heads=2,
        intermediate_size=48,
        local_attention=4,
        positions=32,
    )
    encoder = encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None)
    batch = collate_batch(mlm.Config())
    output = mlm.Objective(mlm.Config(), encoder)(**batch.inputs)
    output.loss.backward()
    ours = {name: parameter.grad.clone() for name, parameter in encoder.model.named_parameters()}
    encoder.zero_grad()

    slow, counted = 0.0, 0
    at, targets = (tensor.numpy() for tensor in dense(batch.inputs))
    inputs = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
    encoder.model.set_attn_implementation("sdpa")
    for row in range(6):
        for number in range(inputs["document_ids"][row].max() + 1):
            here = inputs["document_ids"][row] == number
            padding = [0] * 5
            ids = torch.tensor([[*inputs["input_ids"][row][here], *padding]])
            labels = torch.tensor([[*np.where(at, targets, -100)[row][here], *[-100] * 5]])
            mask = torch.tensor([[1] * here.sum() + padding])
            logits = encoder.model(input_ids=ids, attention_mask=mask).logits
            slow = slow + torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
            counted += (labels >= 0).sum().item()
    slow.backward()
    assert output.count == counted and abs(output.loss.item() - slow.item()) / slow.item() < 1e-5
    for name, parameter in encoder.model.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, atol=1e-5), name


def test_an_architecture_that_mixes_documents_is_refused():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    encoder = Encoder(BertForMaskedLM(config))
    assert isolates_documents(encoder)
    encoder.model_inputs = lambda document_ids, **rest: rest
    assert not isolates_documents(encoder)
    with pytest.raises(DataError, match="packed documents attend to each other"):
        prepare_encoder(encoder, 0.0)


def test_evaluation_hides_the_same_tokens_whatever_the_training_rate(sentiment_files, workspace):
    from accelerate import Accelerator

    from data.corpus.build import build_corpus
    from data.corpus.config import Corpus
    from data.tokens.tokenizer import copy_tokenizer
    from pretrain.validation import Validator

    corpus = Corpus(name="c", sources=[{"files": str(sentiment_files / "corpus.txt")}], held_out=0.2)
    shards = Shards(
        build_shards(corpus, build_corpus(corpus), copy_tokenizer("c", resolve_encoder("minilm")), 64), "held_out"
    )
    first, second = (Validator(shards, 12, Accelerator(cpu=True)) for _ in range(2))
    for one, other in zip(first.mlm_batches, second.mlm_batches, strict=True):
        assert all(one[name].equal(other[name]) for name in one)
        ordinary = (one["document_ids"] >= 0).sum() - (one["input_ids"] == 101).sum() * 2
        assert abs(len(one["targets"]) / ordinary - 0.15) < 0.02


def test_a_new_head_starts_at_the_frequencies_and_an_old_one_is_left_alone():
    torch.manual_seed(0)
    shape = ModelConfig(layers=1, hidden_size=32, attention_heads=2, intermediate_size=32, positions=32)
    encoder = encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None)
    counts = np.arange(90) ** 2
    init_bias_from_frequencies(encoder, counts)
    bias = encoder.model.get_output_embeddings().bias
    assert np.allclose(bias.detach().exp(), (counts + 1) / (counts + 1).sum(), atol=1e-7)
    held = Encoder(encoder.model)
    init_bias_from_frequencies(held, counts[::-1].copy())
    assert bias.argmax() == 89


def test_what_a_checkpoint_without_a_head_lacks(workspace):
    encoder = encoder_from_pretrained(resolve_encoder("minilm"), 64, 0.0, None)
    assert (
        all(name.startswith("cls.predictions.") for name in encoder.new_parameters) and len(encoder.new_parameters) == 5
    )
    assert (
        set(encoder.unused_weights) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        and encoder.pooling == "mean"
    )


def test_short_rows_come_first_twice_as_many(workspace, sentiment_files, monkeypatch):
    seen = []

    class Enough(Exception):
        """No need to train."""

    def fit(module, optimizer, batches, train, *rest, **more):
        seen.extend(batches(step, train.micro_batch_size) for step in range(train.steps))
        raise Enough

    monkeypatch.setattr(stage, "fit", fit)
    words = [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        f"corpus={{name: c, sources: [{{files: {sentiment_files / 'corpus.txt'}}}]}}",
        "run=r",
        "train.steps=4",
        "train.micro_batch_size=4",
        "short_sequence_fraction=0.5",
    ]
    with pytest.raises(Enough):
        stage.pretrain(load_config(Pretrain, words))
    shapes = [[tuple(batch.inputs["input_ids"].shape) for batch in batches] for batches in seen]
    assert shapes == [[(8, 16)] * 2] * 2 + [[(4, 32)] * 2] * 2
    assert all(0.8 * 4 * 32 < batch.num_tokens <= 4 * 32 for batches in seen for batch in batches), (
        "as much text either way"
    )
    for more in (["max_length=8"], ["objective={name: contrastive, min_span: 4, max_span: 20}"]):
        with pytest.raises(ConfigError, match="^short_sequence_fraction: "):
            stage.pretrain(load_config(Pretrain, [*words, "run=never", *more]))
    assert not (workspace / "out" / "runs" / "never").exists()
