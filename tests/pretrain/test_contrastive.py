"""Contrastive learning: loss and gradient compared with slow ones, micro-batches, sampled pairs, collapse."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import pretrain_args, run_module
from tiny_models import SPECIAL_IDS, InMemoryShards, make_batch, tiny_encoder

from data.sampling import row_generator
from data.tokens.collate import add_special_tokens, compute_cu_seqlens, pack_texts
from data.tokens.pairs import PairSource, load_pairs
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from pretrain import train as stage
from pretrain.config import Pretrain
from pretrain.info_nce import cached_info_nce, embedding_stats, info_nce
from pretrain.objectives import contrastive, joint, mlm, simsiam
from pretrain.pairs import ViewDataset, sample_spans, short_text_fraction
from pretrain.validation import MAX_HALF_TOKENS, Validator, split_halves
from pretrain.views import Views

SHORT = {"min_span": 2, "max_span": 6}
DIRECTIONS = {True: ((0, 1), (1, 0)), False: ((0, 1),)}
"""(anchor, positive) of the loss, symmetric or not."""


def slow_info_nce(
    embeddings: np.ndarray, group_ids: np.ndarray, temperature: float, symmetric: bool, max_similarity: float = np.inf
) -> np.ndarray:
    """Pair by pair and candidate by candidate, in float64. max_similarity: of a negative, relative to the positive."""
    pairs, texts, _ = embeddings.shape
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    losses = np.zeros(pairs)
    for anchor, positive in DIRECTIONS[symmetric]:
        for pair in range(pairs):
            target = unit[pair, anchor] @ unit[pair, positive] / temperature
            scores = [target]
            for other in range(pairs):
                for kind in range(0 if symmetric else 1, texts):
                    if group_ids[other, kind] in (group_ids[pair, positive], group_ids[pair, anchor]):
                        continue
                    if other != pair and group_ids[other, anchor] == group_ids[pair, anchor]:
                        continue
                    score = unit[pair, anchor] @ unit[other, kind] / temperature
                    if np.isinf(max_similarity) or score <= max_similarity * target:
                        scores.append(score)
            highest = max(scores)
            losses[pair] += highest + np.log(np.exp(np.array(scores) - highest).sum()) - target
    return losses / (2 if symmetric else 1)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("texts, symmetric", [(2, True), (2, False), (3, False), (4, False)])
def test_loss_equals_a_slow_one(temperature, texts, symmetric):
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(7, texts, 5)) * random.uniform(0.1, 9, size=(7, texts, 1))
    group_ids = np.arange(7 * texts).reshape(7, texts) if not symmetric else np.repeat(np.arange(7)[:, None], 2, 1)
    group_ids[4] = group_ids[2]
    group_ids[5, 0] = group_ids[3, 0]
    losses = info_nce(torch.tensor(embeddings), torch.tensor(group_ids), torch.arange(7), temperature, symmetric)
    slow = slow_info_nce(embeddings, group_ids, temperature, symmetric)
    assert np.allclose(losses, slow, rtol=1e-4, atol=1e-5) and slow.min() >= 0 and slow.max() > 0.1


@pytest.mark.parametrize("margin", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("texts, symmetric", [(2, True), (3, False)])
def test_negatives_within_the_margin_of_the_positive_are_left_out(margin, texts, symmetric):
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(9, texts, 4))
    embeddings[:, 1] = embeddings[:, 0] + random.uniform(0.2, 0.9, size=(9, 1)) * embeddings[:, 1]
    embeddings[1] = embeddings[0] + 0.1  # the same text in two pairs
    group_ids = np.arange(9 * texts).reshape(9, texts) if not symmetric else np.repeat(np.arange(9)[:, None], 2, 1)
    arguments = torch.tensor(embeddings), torch.tensor(group_ids), torch.arange(9), 0.1, symmetric
    losses = info_nce(*arguments, relative_margin=margin)
    slow = slow_info_nce(embeddings, group_ids, 0.1, symmetric, 1 - margin)
    assert np.allclose(losses, slow, rtol=1e-4, atol=1e-5)
    plain = info_nce(*arguments)
    assert (losses <= plain + 1e-6).all() and losses[0] < plain[0] - 0.1, "the same text is no negative of itself"


@pytest.mark.parametrize("block", [1, 40, 10**9])
@pytest.mark.parametrize("texts, symmetric", [(2, True), (3, False)])
def test_cached_gradient_equals_that_of_the_plain_loss_for_any_split(monkeypatch, block, texts, symmetric):
    """In float32, compared with autograd through all embeddings at once in float64."""
    monkeypatch.setattr("pretrain.info_nce.MAX_SIMILARITIES", block)
    torch.manual_seed(0)
    embeddings, group_ids = torch.randn(10, texts, 6), torch.arange(10 * texts).view(10, texts)
    plain = embeddings.double().requires_grad_()
    unit = torch.nn.functional.normalize(plain, dim=-1)
    loss = 0
    for anchor, positive in DIRECTIONS[symmetric]:
        candidates = torch.cat([unit[:, kind] for kind in range(0 if symmetric else 1, texts)])
        logits = unit[:, anchor] @ candidates.T / 0.05
        if symmetric:
            logits = logits.masked_fill(torch.eye(10, dtype=torch.bool).repeat(1, 2).roll(10 * anchor, 1), -torch.inf)
            logits[:, 10 * anchor : 10 * anchor + 10].fill_diagonal_(-torch.inf)
            target_logits = (unit[:, anchor] * unit[:, positive]).sum(-1) / 0.05
            logits[torch.arange(10), torch.arange(10) + 10 * positive] = target_logits
        target = torch.arange(10) + 10 * (positive if symmetric else 0)
        loss = loss + torch.nn.functional.cross_entropy(logits, target, reduction="sum") / (2 if symmetric else 1)
    loss.backward()
    for sizes in ([10], [1] * 10, [3, 7]):
        micro_batches = list(zip(embeddings.split(sizes), group_ids.split(sizes), strict=True))
        parts = cached_info_nce(micro_batches, 0.05, symmetric)
        assert torch.allclose(torch.cat([part.gradient for part in parts]), plain.grad.float(), atol=1e-5)
        assert abs(sum(part.losses.sum() for part in parts) - loss.item()) < 1e-4


def make_objective(file, dropout: float = 0.0, **options):
    """Return (objective, dataset) of an objective's file."""
    config, encoder = file.Config(**options), tiny_encoder(dropout=dropout)
    return file.Objective(config, encoder), getattr(file, "Dataset", ViewDataset)(config, InMemoryShards(), None)


@pytest.mark.parametrize(
    "file, options",
    [
        (contrastive, {"views": "mask"}),
        (contrastive, {**SHORT, "projection_dim": 8}),
        (joint, SHORT),
        (joint, {"views": "mask", "contrastive_weight": 2.0, "relative_margin": 0.3}),
    ],
)
def test_cached_gradients_equal_those_of_the_whole_step(file, options):
    """The weights' gradients, to 1e-5 of the largest."""
    module, dataset = make_objective(file, **options)
    results = {}
    for sizes in ([8], [2, 2, 2, 2], [5, 3]):
        indices = np.split(np.arange(8), np.cumsum(sizes)[:-1])
        parts = [make_batch(dataset, part.tolist(), 1).inputs for part in indices]
        if len(sizes) > 1:
            with torch.no_grad():
                cached = module.cache_gradients([module.embed(**part) for part in parts])
            parts = [part | more for part, more in zip(parts, cached, strict=True)]
        module.zero_grad()
        outputs = [module(**part) for part in parts]
        for output in outputs:
            output.loss.backward()
        count, named = sum(output.count for output in outputs), module.named_parameters()
        gradients = {name: parameter.grad / count for name, parameter in named if parameter.grad is not None}
        results[tuple(sizes)] = gradients, sum(output.loss.item() for output in outputs)
    whole, loss = results[(8,)]
    largest = max(gradient.abs().max() for gradient in whole.values())
    for gradients, other in results.values():
        assert abs(other - loss) < 1e-4 * abs(loss) and gradients.keys() == whole.keys()
        assert all((gradients[name] - whole[name]).abs().max() < 1e-5 * largest for name in whole)


@pytest.mark.parametrize("file, options", [(contrastive, {"views": "dropout"}), (joint, SHORT)])
def test_both_passes_over_a_step_use_the_same_dropout_masks(file, options):
    from accelerate import Accelerator

    from engine.system.stop_signals import StopRequest
    from engine.training.distributed import DDPStrategy
    from engine.training.step import forward_backward

    module, dataset = make_objective(file, dropout=0.3, **options)
    embeddings, pool = [], module.train().encoder.pool
    module.encoder.pool = lambda *inputs: embeddings.append(pool(*inputs)) or embeddings[-1]
    batches = [make_batch(dataset, indices, 1) for indices in ([0, 1, 2], [3, 4], [5])]
    accelerator = Accelerator(cpu=True)
    strategy = DDPStrategy(module, torch.optim.AdamW(module.parameters()), accelerator)
    sums, _ = forward_backward(
        strategy, batches, accelerator, seed=3, step=4, is_accumulating=True, stop_request=StopRequest()
    )
    first, second = embeddings[:3], embeddings[3:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.allclose(first[0][0], first[0][1]) and sums["loss"][1] > 0


def test_joint_loss_is_the_masked_mean_plus_the_weighted_contrastive_mean():
    module, dataset = make_objective(joint, **SHORT, contrastive_weight=0.7)
    inputs = make_batch(dataset, list(range(5))).inputs
    output = module(**inputs)
    rows = {name: inputs[name] for name in inputs if name != "group_ids"}
    masked = mlm.Objective(mlm.Config(), module.encoder)(**rows)
    num_masked = len(rows.pop("masked_indices"))
    del rows["targets"]
    alone = contrastive.Objective(contrastive.Config(**SHORT), module.encoder)(inputs["group_ids"], **rows)
    expected = masked.loss / masked.count + 0.7 * alone.loss / alone.count
    assert torch.allclose(output.loss / output.count, expected, rtol=1e-5) and num_masked == output.count
    metrics = {name: (total / count).item() for name, (total, count) in output.metrics.items()}
    assert abs(metrics["mlm_loss"] - (masked.loss / masked.count).item()) < 1e-5
    assert abs(metrics["contrastive_loss"] - (alone.loss / alone.count).item()) < 1e-5


@pytest.mark.parametrize(
    "embeddings, group_ids, expected",
    [
        (torch.ones(4, 2, 3), torch.arange(4)[:, None].repeat(1, 2), np.log(7)),  # equal, of different documents
        (torch.ones(4, 2, 3), torch.zeros(4, 2, dtype=torch.long), 0.0),  # of the same text
        (torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), 0.0),  # a single pair
        (torch.zeros(4, 2, 3), torch.arange(4)[:, None].repeat(1, 2), np.log(7)),  # zero vectors
    ],
)
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_degenerate_batches_have_a_finite_loss_and_gradient(embeddings, group_ids, expected, temperature):
    (cached,) = cached_info_nce([(embeddings, group_ids)], temperature, True)
    assert torch.allclose(cached.losses, torch.full((len(embeddings),), float(expected)), atol=1e-4)
    assert cached.gradient.isfinite().all() and all(stat.isfinite() for stat in cached.stats.values())


def test_empty_texts_have_a_finite_loss():
    shards = InMemoryShards()
    shards.pieces = np.array([[0, 0], [0, 0], [5, 4]])
    for views in ("mask", "dropout"):
        for file in (contrastive, joint, simsiam):
            inputs = make_batch(
                getattr(file, "Dataset", ViewDataset)(file.Config(views=views), shards, None), [0, 1, 2]
            ).inputs
            output = make_objective(file, views=views)[0](**inputs)
            output.loss.backward()
            assert output.loss.isfinite(), (file.__name__, views)


def test_stats_of_known_embeddings():
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


def test_packed_texts_can_be_read_back():
    random = np.random.default_rng(0)
    texts = [
        add_special_tokens(random.integers(5, 90, size=size), SPECIAL_IDS, 32)
        for size in [0, 1, 30, 40, 9, 12, 3, 28, 15]
    ]
    rows, positions = pack_texts(texts, 32, 0)
    assert rows["input_ids"].reshape(-1)[positions].tolist() == np.concatenate(texts).tolist()
    assert len(set(positions)) == len(positions)
    for number, text in enumerate(texts):
        document = rows["document_ids"] == number
        assert len(set(np.nonzero(document)[0])) == 1 and rows["input_ids"][document].tolist() == text.tolist()
        assert rows["position_ids"][document].tolist() == list(range(len(text))) and len(text) <= 32
    assert (rows["input_ids"][rows["document_ids"] < 0] == 0).all()
    assert rows["cu_seqlens"].tolist() == compute_cu_seqlens(rows["document_ids"]).tolist()
    assert rows["input_ids"].shape[0] <= 6


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_equal_those_of_each_text_alone(pooling):
    encoder = tiny_encoder(pooling=pooling).eval()
    random = np.random.default_rng(1)
    texts = [add_special_tokens(random.integers(5, 90, size=size), SPECIAL_IDS, 32) for size in [4, 1, 20, 9, 12, 3]]
    rows, _ = pack_texts(texts, 32, 0)
    rows = {name: torch.from_numpy(array) for name, array in rows.items()}
    pooled = encoder.pool(encoder.last_hidden_state(**rows), rows["document_ids"], len(texts))
    for number, text in enumerate(texts):
        states = encoder.model.base_model(input_ids=torch.from_numpy(text)[None]).last_hidden_state[0]
        assert torch.allclose(pooled[number], states.mean(0) if pooling == "mean" else states[0], atol=1e-5)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("size", [1, 5, 12, 40, 400])
def test_spans_of_a_document(size, overlap):
    config, counts, overlaps = Views(min_span=4, max_span=10, max_gap=20, overlap=overlap), np.zeros(size), 0
    for step in range(1_500):
        first, second = sample_spans(size, config, row_generator(0, step, 0))
        for span in (first, second):
            assert 0 <= span.start < span.stop <= size and min(4, size) <= span.stop - span.start <= 10
            counts[span] += 1
        gap = max(first.start, second.start) - min(first.stop, second.stop)
        assert gap <= 20
        overlaps += gap < 0
    assert counts.min() > 0, "every token is sampled"
    assert (overlaps == 0) == (not overlap and size >= 40)


def test_the_two_texts_of_a_pair():
    shards = InMemoryShards()

    def make_texts(**options):
        inputs = make_batch(ViewDataset(contrastive.Config(**options), shards, None), list(range(6))).inputs
        ids, document = inputs["input_ids"], inputs["document_ids"]
        return [[ids[document == 2 * pair + kind].tolist() for kind in (0, 1)] for pair in range(6)], inputs[
            "group_ids"
        ]

    same, group_ids = make_texts(views="dropout")
    whole = [[2, *shards.tokens[start : start + size].tolist(), 3] for start, size in shards.pieces[:6]]
    assert [first for first, _ in same] == [second for _, second in same] == whole
    assert (group_ids[:, 0] == group_ids[:, 1]).all()
    masked, _ = make_texts(views="mask", mask_rate=0.5)
    for pair, text in zip(masked, whole, strict=True):
        for view in pair:
            assert all(shown in (token, 4) for shown, token in zip(view, text, strict=True))
            assert view.count(4) == max(1, round((len(text) - 2) / 2))
    assert any(first != second for first, second in masked)
    for rate in (0.5, 0.99):
        deleted, group_ids = make_texts(views="delete", mask_rate=rate)
        for pair, text in zip(deleted, whole, strict=True):
            for view in pair:
                rest = iter(text)
                assert all(token in rest for token in view), "the kept tokens are in order"
                assert len(view) - 2 == max(1, len(text) - 2 - round(rate * (len(text) - 2)))
        assert any(first != second for first, second in deleted) and (group_ids[:, 0] == group_ids[:, 1]).all()
    spans, group_ids = make_texts(**SHORT)
    for pair, text in zip(spans, whole, strict=True):
        assert all(str(span[1:-1])[1:-1] in str(text) for span in pair)
    assert len(set(group_ids[:, 0].tolist())) == 6


def test_warning_about_a_corpus_of_short_documents():
    warning = ViewDataset(contrastive.Config(), InMemoryShards(), None).warning()
    assert warning.startswith("100% of the pieces of text are of documents too short")
    assert ViewDataset(contrastive.Config(**SHORT), InMemoryShards(), None).warning() == ""


def test_short_texts_are_counted_block_by_block(monkeypatch):
    sizes = np.random.default_rng(0).integers(1, 60, 50)
    ends = np.cumsum(sizes)
    pieces = np.repeat(np.stack([ends - sizes, sizes], 1), 3, axis=0)[::-1]
    expected = np.mean([size < 32 for size in sizes])
    searched, search = [], np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda a, v, side: searched.append(len(v)) or search(a, v, side))
    monkeypatch.setattr("pretrain.pairs.BLOCK_PIECES", 7, raising=False)
    shards = SimpleNamespace(documents=np.append(0, ends), pieces=pieces)
    assert short_text_fraction(shards, 16) == pytest.approx(expected, abs=1e-12) and 0.2 < expected < 0.8
    assert max(searched) <= 7


def test_a_new_network_is_on_its_device_before_the_first_evaluation(workspace, sentiment_files, monkeypatch):
    device, seen = torch.device("meta"), {}
    alone = {"num_processes": 1, "process_index": 0, "is_main_process": True, "main_process_first": nullcontext}
    monkeypatch.setattr(stage, "make_accelerator", lambda precision: SimpleNamespace(device=device, **alone))

    def evaluate(modality, encoder, objective, with_head):
        seen.update(encoder=encoder, objective=objective)
        raise InterruptedError

    monkeypatch.setattr(stage, "make_evaluate", evaluate)
    words = ["objective={name: contrastive, min_span: 2, max_span: 6}", "run=r", "train.steps=1"]
    with pytest.raises(InterruptedError):
        stage.pretrain(load_config(Pretrain, [*pretrain_args(sentiment_files), *words]))
    assert all(weight.device == device for module in seen.values() for weight in module.parameters())


def write_table(folder, text: str) -> PairSource:
    (folder / "pairs.csv").write_text(text)
    return PairSource(files=str(folder / "pairs.csv"))


def test_pairs_of_a_table(workspace):
    from transformers import AutoTokenizer

    from data.encoders import resolve_encoder

    source = write_table(
        workspace, 'anchor,positive,other\n"a film","a movie","a car"\n"dull, very","boring","brilliant"\n'
    )
    folder = resolve_encoder("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = load_pairs(source.model_copy(update={"negative": "other"}), folder)
    assert len(pairs) == 2
    assert [tokenizer.decode(text) for text in pairs[1]] == ["dull, very", "boring", "brilliant"]
    assert len(load_pairs(source, folder)[0]) == 2
    for text, message in (
        ("anchor,positive\na,\n", "row 1: no text in column 'positive'"),
        ("anchor,positive\n", "no pairs"),
        ("anchor,other\na,b\n", "no column 'positive'"),
    ):
        with pytest.raises(DataError, match=message):
            load_pairs(write_table(workspace, text), folder)


def test_settings_that_leave_nothing_to_learn():
    with pytest.raises(ConfigError, match="set for example dropout=0.1"):
        contrastive.Config(views="dropout").validate_training(8, 0.0, 128)
    with pytest.raises(ConfigError, match="batch_size"):
        joint.Config().validate_training(1, 0.0, 128)
    with pytest.raises(ConfigError, match="objective.max_span"):
        joint.Config(max_span=40).validate_training(8, 0.0, 32)
    with pytest.raises(ValueError, match="min_span=9 is more than max_span=8"):
        contrastive.Config(min_span=9, max_span=8)
    with pytest.raises(ValueError, match="go together"):
        contrastive.Config(views="pairs")


def negative_cosine(predicted: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Sum over pairs of the mean of both directions."""
    first, second = (tensor / tensor.norm(dim=-1, keepdim=True) for tensor in (predicted, embeddings))
    return -sum(first[pair, one] @ second[pair, 1 - one] for pair in range(len(first)) for one in (0, 1)) / 2


def test_simsiam_stops_the_gradient_of_the_predicted_embedding():
    module, dataset = make_objective(simsiam, views="mask")
    inputs = make_batch(dataset, [0, 1, 2]).inputs
    shape, rows = inputs["group_ids"].shape, {name: inputs[name] for name in inputs if name != "group_ids"}
    output = module(**inputs)
    output.loss.backward()
    pooled = module.encoder.pool(module.encoder.last_hidden_state(**rows), rows["document_ids"], 6).detach()
    embeddings = module.projection(pooled).unflatten(0, shape)
    predicted = module.predictor(embeddings)
    loss = negative_cosine(predicted, embeddings)
    assert abs(output.loss.item() - loss.item()) < 1e-4
    gradient = module.projection[0].weight.grad.clone()
    module.zero_grad()
    loss.backward()  # through the predicted embeddings too
    assert not torch.allclose(gradient, module.projection[0].weight.grad, rtol=1e-2)


def test_retrieval_of_held_out_halves(sentiment_files, workspace, cpu_accelerator):
    from data.corpus.build import build_corpus
    from data.corpus.config import Corpus
    from data.encoders import resolve_encoder
    from data.tokens.shards import Shards, build_shards
    from data.tokens.tokenizer import copy_tokenizer
    from pretrain.model.build import encoder_from_pretrained

    corpus = Corpus(name="c", sources=[{"files": str(sentiment_files / "corpus.txt")}], held_out=0.3)
    folder = build_shards(corpus, build_corpus(corpus), copy_tokenizer("c", resolve_encoder("minilm")), 64)
    shards = Shards(folder, "held_out")
    pairs = split_halves(shards)
    assert len(pairs) > 30 and all(len(first) == len(second) <= MAX_HALF_TOKENS for first, second in pairs)
    encoder = encoder_from_pretrained(resolve_encoder("minilm"), 64, 0.0, None).eval()
    metrics = Validator(shards, 8, cpu_accelerator, with_head=False, batch_size=7)(encoder)
    assert "loss" not in metrics

    def embed(tokens: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(add_special_tokens(tokens, shards.special_ids, 64))[None]
        return encoder.model.base_model(input_ids=ids).last_hidden_state[0].mean(0).detach().numpy()

    vectors = np.array([[embed(half) for half in pair] for pair in pairs])
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    scores = unit[:, 0] @ unit[:, 1].T
    ranks = [1 + int((row > row[number]).sum()) for number, row in enumerate(scores)]
    assert abs(metrics["retrieval_acc@1"] - np.mean([rank == 1 for rank in ranks])) < 1e-6
    assert abs(metrics["mrr"] - np.mean([1 / rank for rank in ranks])) < 1e-5 and metrics["retrieval_acc@1"] > 0.1
    for parameter in encoder.parameters():
        parameter.data.zero_()
    collapsed = Validator(shards, 8, cpu_accelerator, with_head=False)(encoder)
    assert collapsed["retrieval_acc@1"] == 0 and collapsed["uniformity"] == 0 and collapsed["effective_rank"] < 1.01


def test_outputs_of_a_contrastive_run(workspace, sentiment_files):
    """No untrained head, no projection, and the embeddings of sentence-transformers."""
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from data.encoders import resolve_encoder

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
    assert "  retrieval  " in done.stdout and "held-out loss" not in done.stdout
    folder = workspace / "out/runs/c"
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all({"alignment", "uniformity", "effective_rank"} <= entry.keys() for entry in entries)
    names = set(load_file(folder / "encoder/model.safetensors"))
    assert not any("predictions" in name or "projection" in name or name.startswith("bert.") for name in names)
    model, info = AutoModel.from_pretrained(folder / "encoder", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = SentenceTransformer(str(folder / "encoder"), device="cpu").encode(["a film to remember"])
    output = model(**AutoTokenizer.from_pretrained(folder / "encoder")("a film to remember", return_tensors="pt"))
    normalized = torch.nn.functional.normalize(output.last_hidden_state[:, 0].detach(), dim=-1)  # as by minilm
    assert np.allclose(expected, normalized, atol=1e-5)
    # init_fraction=0.25: a quarter of init's weights, three quarters of the trained ones.
    done = run_module("pretrain", *words, "run=d", "init_fraction=0.25")
    assert done.returncode == 0 and "(as saved)" in done.stdout, done.stderr
    folders = (resolve_encoder("minilm"), folder / "encoder", workspace / "out/runs/d/encoder")
    init, trained, saved = (load_file(path / "model.safetensors") for path in folders)
    changed = [name for name in trained if not torch.equal(trained[name], init[name])]
    assert len(changed) > 90
    for name in changed:
        assert torch.allclose(saved[name], 0.25 * init[name] + 0.75 * trained[name], atol=1e-6), name
