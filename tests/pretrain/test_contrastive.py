"""Contrastive learning: the loss against a slow one, texts however they are cut, pairs as they are drawn, and collapse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import run_module
from tiny_models import SPECIAL_IDS, InMemoryShards

from data.sampling import row_generator
from data.tokens.collate import add_special_tokens, compute_cu_seqlens, pack_texts
from data.tokens.pairs import PairSource, load_pairs
from engine.errors import ConfigError, DataError
from pretrain.config import ModelConfig
from pretrain.info_nce import cached_info_nce, embedding_stats, info_nce
from pretrain.model.build import encoder_from_config
from pretrain.objectives import contrastive, joint, mlm, simsiam
from pretrain.validation import MAX_HALF_TOKENS, Validator, split_halves
from pretrain.views import Views, sample_spans

SHAPE = ModelConfig(layers=2, hidden_size=32, attention_heads=2, intermediate_size=32, positions=32)
SHORT = {"min_span": 2, "max_span": 6}


def slow_info_nce(vectors: np.ndarray, keys: np.ndarray, temperature: float, mutual: bool) -> np.ndarray:
    """Pair by pair, candidate by candidate, in float64."""
    pairs, texts, _ = vectors.shape
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    losses = np.zeros(pairs)
    for seeking, belongs in ((0, 1), (1, 0)) if mutual else ((0, 1),):
        for pair in range(pairs):
            right = unit[pair, seeking] @ unit[pair, belongs] / temperature
            scores = [right]
            for other in range(pairs):
                for kind in range(0 if mutual else 1, texts):
                    if keys[other, kind] in (keys[pair, belongs], keys[pair, seeking]):
                        continue
                    if other != pair and keys[other, seeking] == keys[pair, seeking]:
                        continue
                    scores.append(unit[pair, seeking] @ unit[other, kind] / temperature)
            highest = max(scores)
            losses[pair] += highest + np.log(np.exp(np.array(scores) - highest).sum()) - right
    return losses / (2 if mutual else 1)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("texts, mutual", [(2, True), (2, False), (3, False), (4, False)])
def test_the_loss_is_that_of_a_slow_one(temperature, texts, mutual):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(7, texts, 5)) * random.uniform(0.1, 9, size=(7, texts, 1))
    keys = np.arange(7 * texts).reshape(7, texts) if not mutual else np.repeat(np.arange(7)[:, None], 2, 1)
    keys[4] = keys[2]
    keys[5, 0] = keys[3, 0]
    found = info_nce(torch.tensor(vectors), torch.tensor(keys), torch.arange(7), temperature, mutual)
    slow = slow_info_nce(vectors, keys, temperature, mutual)
    assert np.allclose(found, slow, rtol=1e-4, atol=1e-5) and slow.min() >= 0 and slow.max() > 0.1


@pytest.mark.parametrize("block", [1, 40, 10**9])
@pytest.mark.parametrize("texts, mutual", [(2, True), (3, False)])
def test_the_gradient_is_that_of_the_plain_loss_however_the_step_is_cut(monkeypatch, block, texts, mutual):
    """In float32, against autograd through all vectors at once in float64."""
    monkeypatch.setattr("pretrain.info_nce.MAX_SIMILARITIES", block)
    torch.manual_seed(0)
    vectors, keys = torch.randn(10, texts, 6), torch.arange(10 * texts).view(10, texts)
    plain = vectors.double().requires_grad_()
    scores = torch.nn.functional.normalize(plain, dim=-1)
    loss = 0
    for seeking, belongs in ((0, 1), (1, 0)) if mutual else ((0, 1),):
        candidates = torch.cat([scores[:, kind] for kind in range(0 if mutual else 1, texts)])
        logits = scores[:, seeking] @ candidates.T / 0.05
        if mutual:
            logits = logits.masked_fill(torch.eye(10, dtype=torch.bool).repeat(1, 2).roll(10 * seeking, 1), -torch.inf)
            logits[:, 10 * seeking : 10 * seeking + 10].fill_diagonal_(-torch.inf)
            logits[torch.arange(10), torch.arange(10) + 10 * belongs] = (scores[:, seeking] * scores[:, belongs]).sum(
                -1
            ) / 0.05
        target = torch.arange(10) + 10 * (belongs if mutual else 0)
        loss = loss + torch.nn.functional.cross_entropy(logits, target, reduction="sum") / (2 if mutual else 1)
    loss.backward()
    for cut in ([10], [1] * 10, [3, 7]):
        parts = cached_info_nce(list(zip(vectors.split(cut), keys.split(cut))), 0.05, mutual)
        assert torch.allclose(torch.cat([part.gradient for part in parts]), plain.grad.float(), atol=1e-5)
        assert abs(sum(part.losses.sum() for part in parts) - loss.item()) < 1e-4


def objective(file, **more):
    torch.manual_seed(0)
    return file.Objective(
        file.Config(**more), encoder_from_config(SHAPE, SPECIAL_IDS, 90, 32, more.pop("dropout", 0.0), None)
    )


@pytest.mark.parametrize(
    "file, more",
    [
        (contrastive, {"views": "mask"}),
        (contrastive, {**SHORT, "projection_dim": 8}),
        (joint, SHORT),
        (joint, {"views": "mask", "contrastive_weight": 2.0}),
    ],
)
def test_cached_gradients_equal_those_of_the_whole(file, more):
    """The weights' gradients, to 1e-5 of the largest."""
    module, examples = objective(file, **more), file.Dataset(file.Config(**more), InMemoryShards(), None)
    found = {}
    for cut in ([8], [2, 2, 2, 2], [5, 3]):
        numbers = np.split(np.arange(8), np.cumsum(cut)[:-1])
        parts = [
            examples.collate(own.tolist(), [row_generator(0, 1, row) for row in own.tolist()]).inputs for own in numbers
        ]
        if len(cut) > 1:
            with torch.no_grad():
                told = module.cache_gradients([module.embed(**part) for part in parts])
            parts = [part | more for part, more in zip(parts, told)]
        module.zero_grad()
        outputs = [module(**part) for part in parts]
        for output in outputs:
            output.loss.backward()
        count = sum(output.count for output in outputs)
        found[tuple(cut)] = (
            {
                name: parameter.grad / count
                for name, parameter in module.named_parameters()
                if parameter.grad is not None
            },
            sum(output.loss.item() for output in outputs),
        )
    whole, loss = found[(8,)]
    largest = max(gradient.abs().max() for gradient in whole.values())
    for gradients, other in found.values():
        assert abs(other - loss) < 1e-4 * abs(loss) and gradients.keys() == whole.keys()
        assert all((gradients[name] - whole[name]).abs().max() < 1e-5 * largest for name in whole)


@pytest.mark.parametrize("file, more", [(contrastive, {"views": "dropout"}), (joint, SHORT)])
def test_both_passes_over_a_step_draw_the_same_dropout(file, more):
    from accelerate import Accelerator

    from engine.training.distributed import DDPStrategy
    from engine.training.step import forward_backward
    from engine.training.stop_signals import StopRequest

    torch.manual_seed(0)
    config = file.Config(**more)
    module = file.Objective(config, encoder_from_config(SHAPE, SPECIAL_IDS, 90, 32, 0.3, None)).train()
    examples, seen, vectors = file.Dataset(config, InMemoryShards(), None), [], module.pool_pairs
    module.pool_pairs = lambda *inputs: seen.append(vectors(*inputs)) or seen[-1]
    batches = [examples.collate(own, [row_generator(0, 1, row) for row in own]) for own in ([0, 1, 2], [3, 4], [5])]
    accelerator = Accelerator(cpu=True)
    way = DDPStrategy(module, torch.optim.AdamW(module.parameters()), accelerator)
    counted, _ = forward_backward(
        way, batches, accelerator, seed=3, step=4, is_accumulating=True, stop_request=StopRequest()
    )
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.allclose(first[0][:, 0], first[0][:, 1]) and counted["loss"][1] > 0


def test_joint_is_the_masked_mean_and_the_weighted_contrastive_mean():
    module = objective(joint, **SHORT, contrastive_weight=0.7)
    inputs = (
        joint.Dataset(joint.Config(**SHORT), InMemoryShards(), None)
        .collate(list(range(5)), [row_generator(0, 0, n) for n in range(5)])
        .inputs
    )
    output = module(**inputs)
    rows = {name: inputs[name] for name in inputs if name != "group_ids"}
    masked = mlm.Objective(mlm.Config(), module.encoder)(**rows)
    places = {name: rows.pop(name) for name in ("masked_indices", "targets")}
    alone = contrastive.Objective(contrastive.Config(**SHORT), module.encoder)(inputs["group_ids"], **rows)
    expected = masked.loss / masked.count + 0.7 * alone.loss / alone.count
    assert torch.allclose(output.loss / output.count, expected, rtol=1e-5) and len(places["masked_indices"]) == output.count
    figures = {name: (figure[0] / figure[1]).item() for name, figure in output.metrics.items()}
    assert abs(figures["mlm_loss"] - (masked.loss / masked.count).item()) < 1e-5
    assert abs(figures["contrastive_loss"] - (alone.loss / alone.count).item()) < 1e-5


@pytest.mark.parametrize(
    "vectors, keys, expected",
    [
        (torch.ones(4, 2, 3), torch.arange(4)[:, None].repeat(1, 2), np.log(7)),  # all alike, of different documents
        (torch.ones(4, 2, 3), torch.zeros(4, 2, dtype=torch.long), 0.0),  # all the same text
        (torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), 0.0),  # one pair
        (torch.zeros(4, 2, 3), torch.arange(4)[:, None].repeat(1, 2), np.log(7)),  # vectors of nothing
    ],
)
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_batches_that_teach_nothing_have_a_value_and_no_nan(vectors, keys, expected, temperature):
    (found,) = cached_info_nce([(vectors, keys)], temperature, True)
    assert torch.allclose(found.losses, torch.full((len(vectors),), float(expected)), atol=1e-4)
    assert found.gradient.isfinite().all() and all(figure.isfinite() for figure in found.stats.values())


def test_empty_texts_have_vectors():
    rows = InMemoryShards()
    rows.pieces = np.array([[0, 0], [0, 0], [5, 4]])
    for views in ("mask", "dropout"):
        for file in (contrastive, joint, simsiam):
            config = file.Config(views=views)
            inputs = (
                file.Dataset(config, rows, None).collate([0, 1, 2], [row_generator(0, 0, n) for n in range(3)]).inputs
            )
            output = objective(file, views=views)(**inputs)
            output.loss.backward()
            assert output.loss.isfinite(), (file.__name__, views)


def test_spread_of_known_vectors():
    torch.manual_seed(0)
    line = torch.randn(50, 1, 1) * torch.ones(1, 2, 8)
    assert embedding_stats(line)["effective_rank"] < 1.01 and embedding_stats(line)["alignment"] < 1e-9
    sphere = torch.nn.functional.normalize(torch.randn(1_000, 1, 8), dim=-1).repeat(1, 2, 1)
    assert 7.8 < embedding_stats(sphere)["effective_rank"] < 8.01
    first = sphere[:, 0].double()
    slow = np.log(np.mean(np.concatenate([np.exp(-2 * ((first[i] - first[:i]) ** 2).sum(-1)) for i in range(1_000)])))
    assert abs(embedding_stats(sphere)["uniformity"].item() - slow) < 1e-3
    opposite = torch.stack([sphere[:, 0], -sphere[:, 0]], 1)
    assert abs(embedding_stats(opposite)["alignment"].item() - 4) < 1e-5


def test_texts_laid_out_are_read_back():
    random = np.random.default_rng(0)
    texts = [
        add_special_tokens(random.integers(5, 90, size=size), SPECIAL_IDS, 32)
        for size in [0, 1, 30, 40, 9, 12, 3, 28, 15]
    ]
    rows, at = pack_texts(texts, 32, 0)
    assert rows["input_ids"].reshape(-1)[at].tolist() == np.concatenate(texts).tolist() and len(set(at)) == len(at)
    for number, text in enumerate(texts):
        here = rows["document_ids"] == number
        assert len(set(np.nonzero(here)[0])) == 1 and rows["input_ids"][here].tolist() == text.tolist()
        assert rows["position_ids"][here].tolist() == list(range(len(text))) and len(text) <= 32
    assert (rows["input_ids"][rows["document_ids"] < 0] == 0).all()
    assert rows["cu_seqlens"].tolist() == compute_cu_seqlens(rows["document_ids"]).tolist()
    assert rows["input_ids"].shape[0] <= 6


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_each_text_alone(pooling):
    torch.manual_seed(0)
    encoder = encoder_from_config(SHAPE, SPECIAL_IDS, 90, 32, 0.0, pooling).eval()
    random = np.random.default_rng(1)
    texts = [add_special_tokens(random.integers(5, 90, size=size), SPECIAL_IDS, 32) for size in [4, 1, 20, 9, 12, 3]]
    rows, _ = pack_texts(texts, 32, 0)
    rows = {name: torch.from_numpy(array) for name, array in rows.items()}
    found = encoder.pool(encoder.last_hidden_state(**rows), rows["document_ids"], len(texts))
    for number, text in enumerate(texts):
        states = encoder.model.base_model(input_ids=torch.from_numpy(text)[None]).last_hidden_state[0]
        assert torch.allclose(found[number], states.mean(0) if pooling == "mean" else states[0], atol=1e-5)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("size", [1, 5, 12, 40, 400])
def test_spans_of_a_document(size, overlap):
    config, seen, together = Views(min_span=4, max_span=10, max_gap=20, overlap=overlap), np.zeros(size), 0
    for step in range(1_500):
        first, second = sample_spans(size, config, row_generator(0, step, 0))
        for span in (first, second):
            assert 0 <= span.start < span.stop <= size and min(4, size) <= span.stop - span.start <= 10
            seen[span] += 1
        gap = max(first.start, second.start) - min(first.stop, second.stop)
        assert gap <= 20
        together += gap < 0
    assert seen.min() > 0, "some of it is never seen"
    assert (together == 0) == (not overlap and size >= 40)


def test_the_two_texts_of_a_pair():
    rows = InMemoryShards()

    def texts(**more):
        examples = contrastive.Dataset(contrastive.Config(**more), rows, None)
        inputs = examples.collate(list(range(6)), [row_generator(0, 0, n) for n in range(6)]).inputs
        ids, document = inputs["input_ids"], inputs["document_ids"]
        return [[ids[document == 2 * pair + kind].tolist() for kind in (0, 1)] for pair in range(6)], inputs["group_ids"]

    same, keys = texts(views="dropout")
    whole = [[2, *rows.tokens[start : start + size].tolist(), 3] for start, size in rows.pieces[:6]]
    assert [first for first, _ in same] == [second for _, second in same] == whole and (keys[:, 0] == keys[:, 1]).all()
    hidden, _ = texts(views="mask", mask_rate=0.5)
    for (first, second), text in zip(hidden, whole):
        for shown in (first, second):
            assert all(a == b or a == 4 for a, b in zip(shown, text)) and shown.count(4) == max(
                1, round((len(text) - 2) / 2)
            )
    assert any(first != second for first, second in hidden)
    spanned, keys = texts(**SHORT)
    for (first, second), text in zip(spanned, whole):
        assert all(str(span[1:-1])[1:-1] in str(text) for span in (first, second))
    assert len(set(keys[:, 0].tolist())) == 6


def test_a_text_of_short_documents_is_told_of():
    assert "100% of the text" in contrastive.Dataset(contrastive.Config(), InMemoryShards(), None).warning()
    assert contrastive.Dataset(contrastive.Config(**SHORT), InMemoryShards(), None).warning() == ""


def table(folder, text: str) -> PairSource:
    (folder / "pairs.csv").write_text(text)
    return PairSource(files=str(folder / "pairs.csv"))


def test_pairs_of_a_table(workspace):
    from data.encoders import resolve_encoder

    source = table(workspace, 'anchor,positive,other\n"a film","a movie","a car"\n"dull, very","boring","brilliant"\n')
    pairs = load_pairs(source.model_copy(update={"negative": "other"}), resolve_encoder("minilm"))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    assert len(pairs) == 2
    assert [tokenizer.decode(text) for text in pairs[1]] == ["dull, very", "boring", "brilliant"]
    assert len(load_pairs(source, resolve_encoder("minilm"))[0]) == 2
    for text, message in (
        ("anchor,positive\na,\n", "row 1: no text in column 'positive'"),
        ("anchor,positive\n", "no pairs"),
        ("anchor,zweite\na,b\n", "no column 'positive'"),
    ):
        with pytest.raises(DataError, match=message):
            load_pairs(table(workspace, text), resolve_encoder("minilm"))


def test_settings_that_leave_nothing_to_learn():
    with pytest.raises(ConfigError, match="set dropout=0.1"):
        contrastive.Config(views="dropout").validate_training(8, 0.0, 128)
    with pytest.raises(ConfigError, match="batch_size"):
        joint.Config().validate_training(1, 0.0, 128)
    with pytest.raises(ConfigError, match="objective.max_span"):
        joint.Config(max_span=40).validate_training(8, 0.0, 32)
    with pytest.raises(ValueError, match="min_span=9 is more than max_span=8"):
        contrastive.Config(min_span=9, max_span=8)
    with pytest.raises(ValueError, match="go together"):
        contrastive.Config(views="pairs")


def test_simsiam_predicts_a_vector_it_does_not_move():
    module = objective(simsiam, views="mask")
    inputs = (
        simsiam.Dataset(simsiam.Config(views="mask"), InMemoryShards(), None)
        .collate([0, 1, 2], [row_generator(0, 0, n) for n in range(3)])
        .inputs
    )
    keys, rows = inputs["group_ids"], {name: inputs[name] for name in inputs if name != "group_ids"}
    output = module(**inputs)
    output.loss.backward()
    pooled = module.encoder.pool(module.encoder.last_hidden_state(**rows), rows["document_ids"], 6).detach()
    vectors = module.projection(pooled).unflatten(0, keys.shape)
    predicted, found = module.predictor(vectors).detach().numpy(), vectors.detach().numpy()
    slow = (
        -sum(
            predicted[pair, one]
            @ found[pair, other]
            / np.linalg.norm(predicted[pair, one])
            / np.linalg.norm(found[pair, other])
            for pair in range(3)
            for one, other in ((0, 1), (1, 0))
        )
        / 2
    )
    assert abs(output.loss.item() - slow) < 1e-4
    # Were the predicted vector moved too, the gradient would be that of the cosine in both.
    ours = module.projection[0].weight.grad.clone()
    module.zero_grad()
    vectors = module.projection(pooled).unflatten(0, keys.shape)
    predicted = module.predictor(vectors)
    both = (
        -sum(
            torch.nn.functional.cosine_similarity(predicted[:, one], vectors[:, other], dim=-1).sum()
            for one, other in ((0, 1), (1, 0))
        )
        / 2
    )
    both.backward()
    assert not torch.allclose(ours, module.projection[0].weight.grad, rtol=1e-2)


def test_held_out_halves(sentiment_files, workspace):
    from accelerate import Accelerator

    from data.corpus.build import build_corpus
    from data.corpus.config import Corpus
    from data.encoders import resolve_encoder
    from data.tokens.shards import Shards, build_shards
    from data.tokens.tokenizer import copy_tokenizer
    from pretrain.model.build import encoder_from_pretrained

    corpus = Corpus(name="c", sources=[{"files": str(sentiment_files / "corpus.txt")}], held_out=0.3)
    shards = Shards(
        build_shards(corpus, build_corpus(corpus), copy_tokenizer("c", resolve_encoder("minilm")), 64), "held_out"
    )
    pairs = split_halves(shards)
    assert len(pairs) > 30 and all(len(first) == len(second) <= MAX_HALF_TOKENS for first, second in pairs)
    encoder = encoder_from_pretrained(resolve_encoder("minilm"), 64, 0.0, None).eval()
    found = Validator(shards, 8, Accelerator(cpu=True), with_head=False, batch_size=7)(encoder)
    assert "loss" not in found
    vectors = [
        [
            encoder.model.base_model(input_ids=torch.from_numpy(add_special_tokens(half, shards.special_ids, 64))[None])
            .last_hidden_state[0]
            .mean(0)
            .detach()
            .numpy()
            for half in pair
        ]
        for pair in pairs
    ]
    unit = np.array(vectors) / np.linalg.norm(vectors, axis=-1, keepdims=True)
    scores = unit[:, 0] @ unit[:, 1].T
    ranks = [1 + int((row > row[number]).sum()) for number, row in enumerate(scores)]
    assert abs(found["retrieval_acc@1"] - np.mean([rank == 1 for rank in ranks])) < 1e-6
    assert abs(found["mrr"] - np.mean([1 / rank for rank in ranks])) < 1e-5 and found["retrieval_acc@1"] > 0.1
    for parameter in encoder.parameters():
        parameter.data.zero_()
    collapsed = Validator(shards, 8, Accelerator(cpu=True), with_head=False)(encoder)
    assert collapsed["retrieval_acc@1"] == 0 and collapsed["uniformity"] == 0 and collapsed["effective_rank"] < 1.01


def test_what_a_contrastive_run_leaves_behind(workspace, sentiment_files):
    """No head that nobody taught, no projection, and vectors that sentence-transformers gives too."""

    words = [
        "configs/pretrain/default.yaml",
        "corpus.name=c",
        "corpus.held_out=0.2",
        "train.steps=2",
        "train.log_every=1",
        f"corpus.sources=[{{files: {sentiment_files / 'corpus.txt'}}}]",
        "corpus.decontaminate.tasks=[]",
        "max_length=64",
        "objective={name: contrastive, views: mask, projection_dim: 32}",
        "train.precision=float32",
        "pooling=cls",
    ]
    done = run_module("pretrain", *words, "run=c", "init_fraction=0")
    assert done.returncode == 0, done.stderr
    assert "retrieval " in done.stdout and "held-out loss" not in done.stdout
    folder = workspace / "out/runs/c"
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all({"alignment", "uniformity", "effective_rank"} <= entry.keys() for entry in entries)
    from safetensors.torch import load_file

    names = set(load_file(folder / "encoder/model.safetensors"))
    assert not any("predictions" in name or "projection" in name or name.startswith("bert.") for name in names)
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    model, told = AutoModel.from_pretrained(folder / "encoder", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    theirs = SentenceTransformer(str(folder / "encoder"), device="cpu").encode(["a film to remember"])
    ours = model(**AutoTokenizer.from_pretrained(folder / "encoder")("a film to remember", return_tensors="pt"))
    assert np.allclose(theirs, ours.last_hidden_state[:, 0].detach(), atol=1e-5)
    # init_fraction=0.25: a quarter of what init had, three quarters of what was learned.
    done = run_module("pretrain", *words, "run=d", "init_fraction=0.25")
    assert done.returncode == 0 and "(as saved)" in done.stdout, done.stderr
    from data.encoders import resolve_encoder

    init, learned, written = (
        load_file(path / "model.safetensors")
        for path in (resolve_encoder("minilm"), folder / "encoder", workspace / "out/runs/d/encoder")
    )
    moved = [name for name in learned if not torch.equal(learned[name], init[name])]
    assert len(moved) > 90
    for name in moved:
        assert torch.allclose(written[name], 0.25 * init[name] + 0.75 * learned[name], atol=1e-6), name
