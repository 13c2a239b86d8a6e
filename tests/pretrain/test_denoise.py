"""Denoising of texts: the loss compared with one token at a time, ignored embeddings, greedy reconstructions."""

from __future__ import annotations

import pytest
import torch
from tiny_models import InMemoryShards, make_batch, tiny_encoder

from data.tokens.collate import add_special_tokens
from pretrain.model.text_decoder import TextDecoder
from pretrain.objective import HeldOut
from pretrain.objectives import denoise


def make_objective(architecture: str = "bert", pooling: str = "mean", **options) -> denoise.Objective:
    torch.manual_seed(1)
    return denoise.Objective(denoise.Config(**options), tiny_encoder(architecture, pooling=pooling)).eval()


def train(objective: denoise.Objective, shards: InMemoryShards, steps: int) -> None:
    dataset, optimizer = objective.dataset_class(objective.config, shards), torch.optim.AdamW(objective.parameters())
    for step in range(steps):
        output = objective(**make_batch(dataset, list(range(len(dataset))), step).inputs)
        optimizer.zero_grad()
        (output.loss / output.count).backward()
        optimizer.step()


@pytest.mark.parametrize("architecture, pooling", [("bert", "mean"), ("modernbert", "cls")])
def test_the_loss_is_that_of_each_token_after_those_before_it(architecture, pooling):
    """Text by text, unpacked, and prefix by prefix, without a causal mask."""
    objective, shards = make_objective(architecture, pooling, decoder_layers=2), InMemoryShards(2)
    dataset, decoder = denoise.DATASETS["text"](objective.config, shards), objective.decoder
    indices = list(range(len(dataset)))
    inputs, slow = make_batch(dataset, indices, 2).inputs, 0.0
    with torch.no_grad():
        output = objective(**inputs)
        for number in indices:
            kept = inputs["input_ids"][inputs["document_ids"] == number][None]
            whole = inputs["target_input_ids"][inputs["target_document_ids"] == number][None]
            start, size = shards.pieces[number]
            text = add_special_tokens(shards.tokens[start : start + size], shards.special_ids, 32)
            assert whole[0].tolist() == text.tolist() and len(kept[0]) == 2 + max(1, size - round(0.6 * size))
            remaining = iter(whole[0].tolist())
            assert all(token in remaining for token in kept[0].tolist()), "in their order"
            states = objective.encoder.model.base_model(input_ids=kept).last_hidden_state
            vector = states.mean(1) if pooling == "mean" else states[:, 0]
            for end in range(1, whole.shape[1]):
                arguments = torch.arange(end)[None], torch.zeros(1, end, dtype=torch.long)
                state = decoder.decode(vector, whole[:, :end], *arguments)[0, -1]
                logits = decoder.embeddings.weight @ state + decoder.bias
                slow -= logits.log_softmax(-1)[whole[0, end]]
    assert output.count == sum(size + 1 for _, size in shards.pieces)
    assert torch.allclose(output.loss, slow, rtol=1e-5)


def test_the_decoder_starts_at_the_token_frequencies_and_shares_the_embeddings():
    encoder = tiny_encoder()
    head = encoder.model.get_output_embeddings()
    head.bias.data.normal_()
    decoder = TextDecoder.of_encoder(encoder, 1)
    assert torch.equal(decoder.bias, head.bias) and decoder.bias is not head.bias
    assert decoder.embeddings is encoder.model.get_input_embeddings()


def test_texts_are_rebuilt_from_their_embeddings(cpu_accelerator, caplog, capsys):
    shards = InMemoryShards(3)
    objective = make_objective()
    held_out = HeldOut(shards, cpu_accelerator)
    before = objective.evaluate(held_out)
    train(objective, shards, 300)
    after = objective.evaluate(held_out)
    assert after["reconstruction_loss"] < before["reconstruction_loss"] / 4 and after["embedding_gain"] > 1
    assert after == objective.evaluate(held_out), "the noise is always the same"
    dataset = objective.dataset_class(objective.config, shards)
    vectors = objective.embed_texts(**make_batch(dataset, list(range(len(dataset)))).inputs)
    rebuilt = objective.decoder.generate(vectors, shards.special_ids["cls"], shards.special_ids["sep"], 12)
    texts = [shards.tokens[start : start + size].tolist() for start, size in shards.pieces]
    assert sum(one == other for one, other in zip(texts, rebuilt, strict=True)) >= len(texts) - 1
    assert "ignores" not in capsys.readouterr().err + caplog.text
    for layer in objective.decoder.layers:
        torch.nn.init.zeros_(layer.vector.weight)
    for _ in range(2):
        assert abs(objective.evaluate(held_out)["embedding_gain"]) < 1e-5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "ignores the embeddings" in line]
    assert line.startswith("warning: ")
