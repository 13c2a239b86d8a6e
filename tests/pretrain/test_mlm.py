"""Masked language modeling: masking statistics, and the loss compared with a dense, padded, float32 one."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY_ARGS
from tiny_architectures import tiny_model
from tiny_models import SPECIAL_IDS, VOCAB_SIZE, InMemoryShards, collate_batch, tiny_encoder
from transformers import BertConfig, BertForMaskedLM

from data.encoders import resolve_encoder
from data.tokens.shards import Shards, build_shards
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from pretrain import train as stage, validation
from pretrain.config import Pretrain
from pretrain.masking import mask_tokens
from pretrain.model.build import encoder_from_pretrained, isolates_documents, prepare_encoder
from pretrain.model.encoder import Encoder
from pretrain.model.initialization import init_bias_from_frequencies
from pretrain.objectives import mlm


def unmask(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (boolean mask of the tokens to predict, original tokens), both (rows, length)."""
    mask, original = torch.zeros_like(inputs["input_ids"], dtype=torch.bool), inputs["input_ids"].clone()
    mask.view(-1)[inputs["masked_indices"]] = True
    original[mask] = inputs["targets"]
    return mask, original


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_mask_rate_is_uniform_and_special_tokens_are_never_masked(rate):
    shards, config = InMemoryShards(), mlm.Config(mask_rate=rate)
    counts = np.zeros((6, 32))
    for step in range(400):
        inputs = collate_batch(config, step, shards).inputs
        ids, (mask, targets) = inputs["input_ids"].numpy(), (tensor.numpy() for tensor in unmask(inputs))
        ordinary = (inputs["document_ids"].numpy() >= 0) & ~np.isin(targets, [2, 3])
        assert not (mask & ~ordinary).any()
        assert (ids[mask] == SPECIAL_IDS["mask"]).all() and (ids[~mask] == targets[~mask]).all()
        assert (abs(mask.sum(1) - rate * ordinary.sum(1)) <= 0.5).all()
        counts += mask
    share = counts[ordinary] / 400
    assert abs(share - rate).max() < 0.15 and abs(share.mean() - rate) < 0.02, "every position is masked as often"


def test_bert_mixture_and_at_least_one_masked_token():
    shards = InMemoryShards(6)
    config = mlm.Config(mask_rate=0.9, random_prob=0.2, keep_prob=0.2)
    unchanged = masked = total = 0
    for step in range(300):
        inputs = collate_batch(config, step, shards).inputs
        shown = inputs["input_ids"].flatten()[inputs["masked_indices"]]
        unchanged += (shown == inputs["targets"]).sum().item()
        masked += (shown == SPECIAL_IDS["mask"]).sum().item()
        total += len(shown)
    assert abs(masked / total - 0.6) < 0.03 and abs(unchanged / total - 0.2) < 0.03
    assert (unmask(collate_batch(mlm.Config(mask_rate=0.01)).inputs)[0].sum(1) == 1).all()


def test_fractions_that_are_both_rounded_up_leave_no_more_tokens_than_are_masked():
    shards = SimpleNamespace(special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE)
    config = mlm.Config(mask_rate=0.5, keep_prob=0.5, random_prob=0.5)
    ids = np.arange(5, 11)  # of the three to predict, one and a half are kept, and as many replaced
    masked, mask = mask_tokens(config, ids, np.zeros(6), shards, np.random.default_rng(0))
    assert mask.sum() == 3 and not (masked == SPECIAL_IDS["mask"]).any()


PACKINGS = {
    **dict.fromkeys(("bert", "modernbert", "roberta", "deberta", "deberta-v2"), "mask"),
    **dict.fromkeys(("mpnet", "big_bird", "roformer", "rembert"), "additive"),
    **dict.fromkeys(("xlm", "longformer"), "unpacked"),
}


@pytest.mark.parametrize("architecture", PACKINGS)
def test_loss_and_gradient_equal_dense_padded_ones(architecture):
    """Sparse projection on packed rows, compared with each document alone, padded, with all logits in float32."""
    if architecture in ("bert", "modernbert"):
        encoder = tiny_encoder(architecture, layers=3, intermediate_size=48, local_attention=4)
    else:
        model = tiny_model(architecture, "AutoModelForMaskedLM", vocab_size=VOCAB_SIZE)
        encoder = prepare_encoder(Encoder(model), 0.0)
    assert encoder.packing == PACKINGS[architecture]
    batch = collate_batch(mlm.Config())
    output = mlm.Objective(mlm.Config(), encoder)(**batch.inputs)
    output.loss.backward()
    named = encoder.model.named_parameters()
    gradients = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    encoder.zero_grad()

    slow, count = 0.0, 0
    mask, targets = (tensor.numpy() for tensor in unmask(batch.inputs))
    inputs = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
    if encoder.packing == "mask" and "deberta" not in architecture:
        encoder.model.set_attn_implementation("sdpa")
    for row in range(6):
        for number in range(inputs["document_ids"][row].max() + 1):
            document = inputs["document_ids"][row] == number
            padding = [0] * 5
            ids = torch.tensor([[*inputs["input_ids"][row][document], *padding]])
            labels = torch.tensor([[*np.where(mask, targets, -100)[row][document], *[-100] * 5]])
            attention_mask = torch.tensor([[1] * document.sum() + padding])
            logits = encoder.model(input_ids=ids, attention_mask=attention_mask).logits
            slow = slow + torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
            count += (labels >= 0).sum().item()
    slow.backward()
    assert output.count == count and abs(output.loss.item() - slow.item()) / slow.item() < 1e-5
    for name, parameter in encoder.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5), name


def test_an_architecture_that_mixes_documents_is_rejected():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    encoder = Encoder(BertForMaskedLM(config))
    assert isolates_documents(encoder)
    encoder.model_inputs = lambda document_ids, **rest: (rest, lambda states: states)
    assert not isolates_documents(encoder)
    with pytest.raises(DataError, match="bert: pretraining does not support this architecture .texts of a batch"):
        prepare_encoder(encoder, 0.0)
    padding_matters = Encoder(tiny_model("fnet", "AutoModelForMaskedLM"))
    with pytest.raises(DataError, match="fnet: pretraining does not support this architecture .texts of a batch"):
        prepare_encoder(padding_matters, 0.0)


def test_validation_masks_the_same_tokens_at_any_training_rate(sentiment_files, workspace):
    from accelerate import Accelerator

    from data.corpus.build import build_corpus
    from data.corpus.config import Corpus
    from data.tokens.tokenizer import copy_tokenizer
    from pretrain.validation import Validator

    corpus = Corpus(name="c", sources=[{"files": str(sentiment_files / "corpus.txt")}], held_out=0.2)
    folder = build_shards(corpus, build_corpus(corpus), copy_tokenizer("c", resolve_encoder("minilm")), 64)
    first, second = (Validator(Shards(folder, "held_out"), 12, Accelerator(cpu=True)) for _ in range(2))
    for one, other in zip(first.mlm_batches, second.mlm_batches, strict=True):
        assert all(one[name].equal(other[name]) for name in one)
        ordinary = (one["document_ids"] >= 0).sum() - (one["input_ids"] == 101).sum() * 2
        assert abs(len(one["targets"]) / ordinary - 0.15) < 0.02


def test_a_process_without_held_out_rows_takes_part_in_the_sum(monkeypatch):
    """Of two processes and one row, the second has none; it would wait for the first elsewhere, and both forever."""
    shards, sums = InMemoryShards(1), []

    def add_first(totals: torch.Tensor, operation: str) -> torch.Tensor:
        sums.append(totals.clone())
        return totals + torch.tensor([6.0, 1.0, 2.0], dtype=torch.float64)  # of the first process

    second = SimpleNamespace(
        process_index=1, num_processes=2, device=torch.device("cpu"), reduce=add_first, autocast=nullcontext
    )
    monkeypatch.setattr(validation, "split_halves", lambda shards: [])
    metrics = validation.Validator(shards, 4, second)(tiny_encoder(layers=1).eval())
    assert sums[0].tolist() == [0, 0, 0] and (metrics["loss"], metrics["accuracy"]) == (3.0, 0.5)


@pytest.mark.parametrize("has_linear_decoder", [True, False])
def test_a_large_vocabulary_is_evaluated_block_by_block(cpu_accelerator, monkeypatch, has_linear_decoder):
    monkeypatch.setattr(validation, "split_halves", lambda shards: [])
    validator, encoder = validation.Validator(InMemoryShards(), 6, cpu_accelerator), tiny_encoder(layers=2).eval()
    encoder.has_linear_decoder = has_linear_decoder
    whole, sizes, cross_entropy = validator(encoder), [], torch.nn.functional.cross_entropy

    def record_size(logits: torch.Tensor, *args, **options) -> torch.Tensor:
        sizes.append(len(logits))
        return cross_entropy(logits, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", record_size)
    monkeypatch.setattr(validation, "MAX_LOGITS", 3 * VOCAB_SIZE + 1, raising=False)
    assert validator(encoder) == pytest.approx(whole, rel=1e-6)
    assert max(sizes) == 3 and sum(sizes) == sum(len(batch["targets"]) for batch in validator.mlm_batches)


def test_only_a_new_head_starts_at_the_token_frequencies():
    encoder = tiny_encoder(layers=1)
    counts = np.arange(90) ** 2
    init_bias_from_frequencies(encoder, counts)
    bias = encoder.model.get_output_embeddings().bias
    assert np.allclose(bias.detach().exp(), (counts + 1) / (counts + 1).sum(), atol=1e-7)
    pretrained = Encoder(encoder.model)
    init_bias_from_frequencies(pretrained, counts[::-1].copy())
    assert bias.argmax() == 89


def test_new_parameters_of_a_checkpoint_without_a_head(workspace):
    encoder = encoder_from_pretrained(resolve_encoder("minilm"), 64, 0.0, None)
    assert all(name.startswith("cls.predictions.") for name in encoder.new_parameters)
    assert len(encoder.new_parameters) == 5
    assert set(encoder.unused_weights) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert encoder.pooling == "mean"


def test_short_rows_come_first_and_twice_as_many(workspace, sentiment_files, monkeypatch):
    steps = []

    class StopTrainingError(Exception):
        """Raised in place of training."""

    def make_trainer(module, optimizer, batches, train, *args):
        steps.extend(batches(step, train.micro_batch_size) for step in range(train.steps))
        raise StopTrainingError

    monkeypatch.setattr(stage, "Trainer", make_trainer)
    words = [
        "configs/pretrain/scratch.yaml",
        *TINY_ARGS,
        f"corpus={{name: c, sources: [{{files: {sentiment_files / 'corpus.txt'}}}]}}",
        "run=r",
        "train.steps=4",
        "train.micro_batch_size=4",
        "short_sequence_fraction=0.5",
    ]
    with pytest.raises(StopTrainingError):
        stage.pretrain(load_config(Pretrain, words))
    shapes = [[tuple(batch.inputs["input_ids"].shape) for batch in batches] for batches in steps]
    assert shapes == [[(8, 16)] * 2] * 2 + [[(4, 32)] * 2] * 2
    tokens = [batch.num_tokens for batches in steps for batch in batches]
    assert all(0.8 * 4 * 32 < count <= 4 * 32 for count in tokens), "the same amount of text at either length"
    for more in (["max_length=8"], ["objective={name: contrastive, min_span: 4, max_span: 20}"]):
        with pytest.raises(ConfigError, match="^short_sequence_fraction: "):
            stage.pretrain(load_config(Pretrain, [*words, "run=never", *more]))
    assert not (workspace / "out" / "runs" / "never").exists()
