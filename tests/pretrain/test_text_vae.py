"""Variational autoencoder of texts: the loss compared with one token at a time, collapse, and the saved generator."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from helpers import error_lines, finetune_args, pretrain_args
from tiny_models import InMemoryShards, make_batch, make_text_objective, tiny_encoder
from torch.distributions import Normal, kl_divergence

from engine.config.loader import load_config
from pretrain import train as stage
from pretrain.__main__ import main
from pretrain.config import Pretrain
from pretrain.dropped_tokens import DroppedTokensDataset
from pretrain.generator import load_generator
from pretrain.objective import HeldOut
from pretrain.objectives import vae

MASK = InMemoryShards.special_ids["mask"]


@pytest.mark.parametrize("architecture, pooling", [("bert", "mean"), ("modernbert", "cls")])
def test_the_loss_is_the_negative_evidence_bound_of_each_text_alone(architecture, pooling):
    """Text by text, unpacked, and prefix by prefix, without a causal mask."""
    config = vae.Config(latent_dim=5, beta=0.5, free_bits=0.1, token_dropout=0.4, decoder_layers=2)
    torch.manual_seed(1)
    objective = vae.Objective(config, tiny_encoder(architecture, pooling=pooling)).eval()
    shards = InMemoryShards(2)
    dataset, network, decoder = DroppedTokensDataset(config, shards), objective.decoder, objective.decoder.decoder
    indices = list(range(len(dataset)))
    inputs, tokens, divergences = make_batch(dataset, indices, 2).inputs, 0.0, []
    with torch.no_grad():
        output = objective(**inputs)
        for number in indices:
            text = inputs["input_ids"][inputs["document_ids"] == number][None]
            shown = inputs["target_input_ids"][inputs["target_document_ids"] == number][None]
            assert ((shown == text) | (shown == MASK)).all() and shown[0, 0] == text[0, 0]
            states = objective.encoder.model.base_model(input_ids=text).last_hidden_state
            mean, log_variance = network.describe(states.mean(1) if pooling == "mean" else states[:, 0])
            posterior = Normal(mean, (log_variance / 2).exp())
            divergences.append(kl_divergence(posterior, Normal(0.0, 1.0)))
            vector = network.input(mean + posterior.scale * inputs["noise"][number])
            for end in range(1, text.shape[1]):
                state = decoder.decode(vector, shown[:, :end], torch.arange(end)[None], torch.zeros(1, end).long())
                logits = decoder.embeddings.weight @ state[0, -1] + decoder.bias
                tokens -= logits.log_softmax(-1)[text[0, end]]
    divergence = torch.cat(divergences)
    assert (divergence < 0.1).any() and (divergence > 0.1).any()
    assert output.count == sum(size + 1 for _, size in shards.pieces)
    assert torch.allclose(output.loss, tokens + 0.5 * divergence.clamp(min=0.1).sum(), rtol=1e-5)
    assert torch.allclose(output.metrics["token_loss"], torch.stack([tokens, output.count]), rtol=1e-5)
    expected = torch.stack([divergence.sum(), torch.tensor(float(len(indices)))])
    assert torch.allclose(output.metrics["divergence"], expected, rtol=1e-4)


def test_a_fraction_of_the_tokens_is_hidden_from_the_decoder_alone():
    shards = InMemoryShards(60)
    config, rows = vae.Config(token_dropout=0.3), list(range(len(shards.pieces)))
    inputs = make_batch(DroppedTokensDataset(config, shards), rows).inputs
    seen, hidden = inputs["input_ids"], inputs["target_input_ids"]
    can_be_hidden = (inputs["target_document_ids"] >= 0) & (inputs["target_position_ids"] > 0)
    assert not (seen == MASK).any() and not (inputs["targets"] == MASK).any()
    assert (hidden == MASK)[can_be_hidden].float().mean() == pytest.approx(0.3, abs=0.03)
    assert not (hidden == MASK)[~can_be_hidden].any()
    part = make_batch(DroppedTokensDataset(config, shards), rows[7:9]).inputs
    for number in (0, 1):
        whole = hidden[inputs["target_document_ids"] == 7 + number]
        assert whole.tolist() == part["target_input_ids"][part["target_document_ids"] == number].tolist()
        assert torch.equal(inputs["noise"][7 + number], part["noise"][number])


def test_texts_are_made_of_latent_vectors_and_a_collapse_is_one_line(cpu_accelerator, capsys):
    torch.manual_seed(1)
    objective, shards = vae.Objective(vae.Config(beta=0.1, latent_dim=16), tiny_encoder("bert")), InMemoryShards(2)
    held_out, dataset = HeldOut(shards, cpu_accelerator), DroppedTokensDataset(objective.config, shards)
    rows, optimizer = list(range(len(dataset))), torch.optim.AdamW(objective.parameters(), 5e-3)
    before = objective.eval().evaluate(held_out)
    for step in range(120):
        output = objective(**make_batch(dataset, rows, step).inputs)
        optimizer.zero_grad()
        (output.loss / output.count).backward()
        optimizer.step()
    after = objective.evaluate(held_out)
    assert after["reconstruction_loss"] < before["reconstruction_loss"] / 3 and after["embedding_gain"] > 1
    assert after["active_dims"] > 2 and after["divergence"] > 1
    assert after == objective.evaluate(held_out), "the noise is always the same"
    assert "collapse" not in capsys.readouterr().err
    objective.find_ends(held_out)
    means, _ = objective.describe(**make_batch(dataset, rows).inputs)
    rebuilt = objective.decoder.generate(means, 12)
    texts = [shards.tokens[start : start + size].tolist() for start, size in shards.pieces]
    assert sum(one == other for one, other in zip(texts, rebuilt, strict=True)) >= len(texts) - 1
    torch.nn.init.zeros_(objective.decoder.input.weight)  # so that the decoder ignores latent vectors
    for _ in range(2):
        metrics = objective.evaluate(held_out)
        assert abs(metrics["embedding_gain"]) < 1e-5 and metrics["active_dims"] > 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: posterior collapse: 0 of 16 latent dimensions depend on the input; try a lower")


def test_a_run_writes_a_generator_that_makes_the_texts_of_its_report(workspace, sentiment_files, capsys):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    args = [*pretrain_args(sentiment_files), "objective={name: vae, latent_dim: 6, decoder_layers: 2}", "run=r"]
    stage.pretrain(load_config(Pretrain, [*args, "train.steps=3", "train.lr=1e-2", "train.eval_every=9"]))
    folder = workspace / "out/runs/r"
    metrics = json.loads((folder / "metrics.json").read_text())["eval"]
    assert {"reconstruction_loss", "embedding_gain", "divergence", "active_dims"} <= metrics.keys()
    logged = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert logged["token_loss"] > 0 and logged["loss"] > logged["token_loss"] and logged["divergence"] > 0
    collapsed = metrics["active_dims"] < 2 or metrics["embedding_gain"] < 0.01
    assert ("posterior collapse" in capsys.readouterr().err) == collapsed, "also after a single evaluation"
    report = re.sub(r"\s+", " ", (folder / "report.html").read_text())
    generator, tokenizer = load_generator(folder / "generator"), AutoTokenizer.from_pretrained(folder / "generator")
    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(20_181_011))
    for text in tokenizer.batch_decode(generator.generate(noise, 32)):
        assert " ".join(text.replace("&", "&amp;").split()) in report
    for title in ("Samples of the generator", "Texts between two samples", "Held-out texts, and their reconstruction"):
        assert title in report
    encoder = SentenceTransformer(str(folder / "encoder"), device="cpu")
    embeddings = torch.from_numpy(encoder.encode(["a fine film", "dull", "a fine film"]))
    mean, log_variance = generator.describe(embeddings)
    assert mean.shape == log_variance.shape == (3, 6) and torch.equal(mean[0], mean[2])
    assert not torch.allclose(mean[0], mean[1])
    code = re.search(r"```python\n(.*?)```", (folder / "generator/README.md").read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(code.replace('"generator"', repr(str(folder / "generator"))), names)
    assert len(names["texts"]) == 8 and all(isinstance(text, str) for text in names["texts"])


def test_weights_are_not_averaged_with_those_of_init(workspace, sentiment_files, capsys, monkeypatch):
    words = [*pretrain_args(sentiment_files), "objective.name=vae", "run=r", "init=minilm"]
    assert load_config(Pretrain, words).init_fraction == 0
    (line,) = error_lines(main, [*words, "init_fraction=0.5"], capsys, monkeypatch)
    assert line.startswith("init_fraction: the decoder of vae fits the encoder as it is trained; set it to 0")
    assert not (workspace / "out/runs/r").exists()


def test_free_bits_are_those_of_the_modality_unless_set():
    assert make_text_objective("vae")[0].free_bits == 0.1
    assert vae.Objective(vae.Config(free_bits=0.0), tiny_encoder()).free_bits == 0
    assert np.isclose(vae.Config(free_bits=0.3).free_bits, 0.3)


def test_an_encoder_of_a_vae_and_few_labels_are_a_classifier(workspace, sentiment_files):
    """As M1 (Kingma et al. 2014): a vae of unlabeled texts, then a linear classifier of labeled ones, which loads."""
    from transformers import pipeline

    from finetune.__main__ import main as finetune

    args = [*pretrain_args(sentiment_files), "objective.name=vae", "run=r", "train.steps=2"]
    stage.pretrain(load_config(Pretrain, args))
    args = [arg for arg in finetune_args(sentiment_files) if arg != "method=none"]
    finetune([*args, "encoder=out/runs/r/encoder", "run=f", "method=probe", "task.shots=8"])
    metrics = json.loads((workspace / "out/runs/f/metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.3 and metrics["baselines"].keys() == {"tfidf", "without_pretraining"}
    (answer,) = pipeline("text-classification", str(workspace / "out/runs/f/model"), device="cpu")("a fine film")
    assert 0 < answer["score"] <= 1
