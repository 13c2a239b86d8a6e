"""Word vectors: the loss compared with a pair-by-pair one, subsampling and negatives, and the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import error_lines, finetune_args, pretrain_args
from safetensors.torch import load_file
from tiny_models import InMemoryShards, make_batch, tiny_static_encoder

from engine.config.loader import load_config
from pretrain import train as stage
from pretrain.__main__ import main
from pretrain.config import Pretrain
from pretrain.model.static_encoder import build_layerless_bert
from pretrain.objectives import skipgram


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def slow_loss(centers, contexts, negatives, documents, window: int, num_negatives: int) -> float:
    """Pair by pair, in float64; a window of each size is as likely as the others."""
    loss = 0.0
    for row, ids in enumerate(documents):
        for i in range(len(ids)):
            for j in range(len(ids)):
                if i != j and ids[i] == ids[j] >= 0 and abs(i - j) <= window:
                    weight = sum(abs(i - j) <= size for size in range(1, window + 1)) / window
                    loss -= weight * np.log(sigmoid(centers[row, i] @ contexts[row, j]))
                    for negative in negatives[row]:
                        share = num_negatives / len(negatives[row])
                        loss -= weight * share * np.log(sigmoid(-centers[row, i] @ negative))
    return loss


@pytest.mark.parametrize("window, length", [(1, 9), (3, 9), (5, 3), (5, 1)])
def test_loss_and_gradient_equal_those_of_each_pair(window, length):
    random = torch.Generator().manual_seed(0)
    shapes = (2, length, 4), (2, length, 4), (2, 6, 4)
    tensors = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, -1, -1, -1]])[:, :length]
    loss = skipgram.skip_gram_loss(*tensors, documents, window, 3)
    arrays = [tensor.detach().double().numpy() for tensor in tensors]
    assert np.isclose(loss.item(), slow_loss(*arrays, documents.numpy(), window, 3), rtol=1e-5)
    (loss / 2).backward()
    for number, index in ((0, (0, 1, 2)), (1, (1, 0, 3)), (2, (0, 5, 1))):
        if all(at < size for at, size in zip(index, shapes[number], strict=True)):
            ends = []
            for change in (1e-6, -1e-6):
                changed = [array.copy() for array in arrays]
                changed[number][index] += change
                ends.append(slow_loss(*changed, documents.numpy(), window, 3))
            assert abs(tensors[number].grad[index].item() - (ends[0] - ends[1]) / 2e-6 / 2) < 1e-4


def test_frequent_tokens_are_left_out_as_by_word2vec():
    shards, kept = InMemoryShards(30), 0
    config = skipgram.Config(subsample=0.005)
    dataset = skipgram.Dataset(config, shards)
    counts = shards.token_counts()
    share = counts / counts.sum()
    pairs = [(part / 0.005, count) for part, count in zip(share, counts, strict=True) if count]
    expected = sum(min(1, (np.sqrt(part) + 1) / part) * count for part, count in pairs)
    for step in range(20):
        inputs = make_batch(dataset, list(range(30)), step).inputs
        kept += int((inputs["document_ids"] >= 0).sum())
        assert not np.isin(inputs["input_ids"][inputs["document_ids"] >= 0], [0, 2, 3, 4]).any()
    assert 0.97 < kept / 20 / expected < 1.03 and expected < 0.95 * counts.sum()


def test_negatives_are_drawn_by_smoothed_frequency():
    shards = InMemoryShards(30)
    dataset = skipgram.Dataset(skipgram.Config(), shards)
    drawn = np.concatenate(
        [make_batch(dataset, list(range(30)), step).inputs["negative_ids"].numpy().ravel() for step in range(40)]
    )
    smoothed = shards.token_counts() ** 0.75
    expected = smoothed / smoothed.sum() * len(drawn)
    actual = np.bincount(drawn, minlength=len(expected))
    assert not actual[expected == 0].any()
    assert np.abs(actual - expected).max() < 5 * np.sqrt(expected.max())


def test_a_bert_without_layers_returns_the_vectors():
    encoder = tiny_static_encoder()
    torch.nn.init.normal_(encoder.vectors, std=3)
    encoder.vectors.data[5] = 0
    encoder.vectors.data[6:9] *= torch.tensor([[1e-3], [10.0], [-1.0]])
    bert = build_layerless_bert(encoder.vectors, encoder.model.config).eval()
    ids = torch.arange(90).view(3, 30)
    with torch.no_grad():
        states = bert(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(states[..., :-2], encoder.vectors[ids], atol=1e-4) and not states[..., -2:].any()


def train(workspace, sentiment_files) -> Path:
    """Pretrain in this process; return the encoder folder."""
    words = [*pretrain_args(sentiment_files), "objective.name=skipgram", "run=r", "train.steps=3", "train.lr=0.01"]
    stage.pretrain(load_config(Pretrain, words))
    return workspace / "out/runs/r/encoder"


def test_frequent_tokens_weigh_less_in_the_mean():
    encoder, counts = tiny_static_encoder(), InMemoryShards().token_counts()
    share = counts[[7, 8]] / counts.sum()
    ids = torch.tensor([[7, 8]])
    pooled = encoder.embed(1, input_ids=ids, position_ids=torch.arange(2)[None], document_ids=torch.zeros_like(ids))
    weights = torch.from_numpy(1e-2 / (1e-2 + share)).float()
    assert torch.allclose(pooled[0, :30], (encoder.vectors[[7, 8]] * weights[:, None]).mean(0), atol=1e-6)


def test_the_folder_of_a_run_loads_everywhere(workspace, sentiment_files, capsys):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    folder = train(workspace, sentiment_files)
    loaded = SentenceTransformer(str(folder), device="cpu")
    assert type(loaded[0]).__name__ == "StaticEmbedding" and loaded.get_embedding_dimension() == 32
    vectors = load_file(folder / "0_StaticEmbedding/model.safetensors")["embedding.weight"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "a film to remember"
    expected = vectors[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)
    assert torch.allclose(torch.from_numpy(loaded.encode([text])[0]), expected, atol=1e-6)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert all(name.startswith("pooler.") for name in info["missing_keys"]) and not info["unexpected_keys"]
    states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach()
    cosine = torch.nn.functional.cosine_similarity(states.mean(0)[:32], expected, dim=0)
    assert cosine > 0.99999 and not states[[0, -1]].abs().max() > 1e-5, "special tokens count nothing"
    report = (workspace / "out/runs/r/report.html").read_text()
    assert "most similar vectors" in report and "StaticEmbedding" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "fewshot"])
def test_static_vectors_are_fine_tuned(workspace, sentiment_files, method):
    from finetune.__main__ import main as finetune

    folder = train(workspace, sentiment_files)
    finetune([*finetune_args(sentiment_files), f"encoder={folder}", "run=f", "train.epochs=1", f"method={method}"])
    metrics = json.loads((workspace / "out/runs/f/metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.3 and (workspace / "out/runs/f/model/model.safetensors").is_file()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["init=minilm"], "init: skipgram trains new vectors; leave it out"),
        (["train.optimizer=muon"], "train.optimizer: muon is for the matrices of layers"),
    ],
)
def test_a_mistake_is_reported_in_one_line(workspace, sentiment_files, capsys, monkeypatch, words, expected):
    args = [*pretrain_args(sentiment_files), "objective.name=skipgram", "run=r", "train.steps=2", *words]
    lines = error_lines(main, args, capsys, monkeypatch)
    assert sum(line.startswith(expected) for line in lines) == 1 and not (workspace / "out/runs/r").exists()
