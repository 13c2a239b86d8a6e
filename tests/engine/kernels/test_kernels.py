"""Fast paths compared with plain implementations: fused loss, rotary embedding, variable-length attention, sparse
feed-forward, torch.compile, dropout."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import TINY_ARGS, run_module
from tiny_models import InMemoryShards, collate_batch, tiny_encoder
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2Model,
    ModernBertDecoderConfig,
    ModernBertDecoderModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.models.modernbert.modeling_modernbert import rotate_half

from data.tokens.collate import collate_rows
from engine.kernels import attention, linear_cross_entropy
from engine.kernels.dropout import FastDropout, replace_dropout
from engine.kernels.take_rows import take_rows
from pretrain.model.build import find_sparse_ffn, has_linear_decoder, prepare_encoder
from pretrain.model.encoder import Encoder
from pretrain.objectives import mlm

TINY_BERT = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def make_projection(num_targets: int, vocab_size: int, dim: int, has_bias: bool):
    torch.manual_seed(0)
    states, weight = torch.randn(num_targets, dim), torch.randn(vocab_size, dim) * 0.3
    bias = torch.randn(vocab_size, requires_grad=True) if has_bias else None
    return states.requires_grad_(), weight.requires_grad_(), bias, torch.randint(0, vocab_size, (num_targets,))


def plain_loss(states, weight, bias, targets):
    return F.cross_entropy(F.linear(states, weight, bias).float(), targets, reduction="sum")


def check_close(tensors, expected) -> None:
    """Check gradients, of which both may be None."""
    for one, other in zip(tensors, expected, strict=True):
        assert one is other is None or torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("block", [2**28, 4 * 211 * 7])
def test_fused_loss_is_cross_entropy(monkeypatch, has_bias, block):
    monkeypatch.setattr(linear_cross_entropy, "MAX_LOGIT_BYTES", block)
    monkeypatch.setattr(linear_cross_entropy, "CACHED_LOGITS", 211 * 3)
    states, weight, bias, targets = make_projection(60, 211, 24, has_bias)
    parameters = [tensor for tensor in (states, weight, bias) if tensor is not None]
    plain = plain_loss(states, weight, bias, targets)
    fused = linear_cross_entropy.linear_cross_entropy(states, weight, bias, targets)
    assert abs(fused.item() / plain.item() - 1) < 1e-6
    check_close(torch.autograd.grad(fused * 0.37, parameters), torch.autograd.grad(plain * 0.37, parameters))


def test_fused_loss_without_gradients_makes_one_product():
    *parameters, targets = make_projection(60, 211, 24, True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fused = linear_cross_entropy.linear_cross_entropy(*parameters, targets)
        assert abs(fused.item() / plain_loss(*parameters, targets).item() - 1) < 1e-6
    assert counter.get_total_flops() == 2 * (2 * 60 * 211 * 24), "as many as the plain loss"


def test_fused_loss_in_bf16_is_as_accurate_as_bf16_products():
    *parameters, targets = make_projection(300, 500, 32, True)
    exact = torch.autograd.grad(plain_loss(*parameters, targets), parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = plain_loss(*parameters, targets)
        fused = linear_cross_entropy.linear_cross_entropy(*parameters, targets)
    assert fused.dtype == torch.float32 and abs(fused.item() / plain.item() - 1) < 1e-3
    gradients = torch.autograd.grad(fused, parameters), torch.autograd.grad(plain, parameters)
    for ours, theirs, true in zip(*gradients, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - true).norm() < 1.5 * (theirs - true).norm() < 0.05 * true.norm()


def test_fused_loss_of_no_targets_of_improbable_ones_and_with_frozen_states():
    states, weight, bias, targets = make_projection(5, 11, 4, True)
    assert linear_cross_entropy.linear_cross_entropy(states[:0], weight, bias, targets[:0]).item() == 0
    opposite = torch.stack([torch.ones(4), -torch.ones(4)])
    loss = linear_cross_entropy.linear_cross_entropy(torch.full((1, 4), 1e3), opposite, None, torch.tensor([1]))
    assert 80 < loss.item() < 100, "limited by float32, not infinite"
    loss = linear_cross_entropy.linear_cross_entropy(states.detach(), weight, bias, targets)
    loss.backward()
    assert states.grad is None and weight.grad is not None and bias.grad is not None


def test_a_head_that_does_more_than_project_keeps_its_own_logits():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    encoder = Encoder(BertForMaskedLM(config)).eval()
    assert has_linear_decoder(encoder)
    inputs = collate_batch(mlm.Config()).inputs
    objective = mlm.Objective(mlm.Config(), encoder)
    encoder.has_linear_decoder = True
    plain = objective(**inputs).loss
    forward = encoder.model.cls.forward
    encoder.model.cls.forward = lambda states: forward(states).clamp(max=0.01)
    assert not has_linear_decoder(encoder)
    encoder.has_linear_decoder = False
    clamped = objective(**inputs).loss
    rows = {name: inputs[name] for name in inputs.keys() - {"masked_indices", "targets"}}
    logits = encoder.model(**encoder.model_inputs(**rows)[0]).logits.flatten(0, 1)[inputs["masked_indices"]]
    expected = F.cross_entropy(logits, inputs["targets"], reduction="sum")
    assert torch.allclose(clamped, expected) and not torch.allclose(clamped, plain)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_rotary_embedding_and_its_gradient(dtype, tolerance):
    torch.manual_seed(0)
    base = torch.randn(2, 16, 3, 4, 32)
    angle = torch.cat([torch.rand(2, 16, 16) * 6] * 2, -1)
    weights = torch.randn(2, 2, 4, 16, 32)

    def run(rotate, qkv):
        qkv.requires_grad_()
        query, key, _ = (part.transpose(1, 2) for part in qkv.unbind(2))
        rotated = rotate(query, key, angle.cos(), angle.sin())
        loss = sum((part.float() * weight).sum() for part, weight in zip(rotated, weights, strict=True))
        return *rotated, *torch.autograd.grad(loss, qkv)

    def reference(query, key, cosine, sine):
        cosine, sine = cosine[:, None], sine[:, None]
        return query * cosine + rotate_half(query) * sine, key * cosine + rotate_half(key) * sine

    results = run(attention.fast_apply_rotary_pos_emb, base.to(dtype)), run(reference, base.double())
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


def slow_varlen_attn(query, key, value, cu_seqlens, cu_seqlens_k, max_length, max_length_k, *, scale, window_size):
    """torch's `varlen_attn`, which has no CPU kernel, one sequence at a time; shapes (tokens, heads, width)."""
    assert cu_seqlens.dtype == torch.int32 and max_length >= cu_seqlens.diff().max() and cu_seqlens[-1] == len(query)
    output = torch.empty_like(query)
    for start, end in pairwise(cu_seqlens.tolist()):
        position = torch.arange(end - start)
        near = (position[:, None] - position).abs() <= (window_size[0] if window_size[0] >= 0 else end)
        scores = torch.einsum("qhw,khw->hqk", query[start:end], key[start:end]) * scale
        weights = scores.masked_fill(~near, -torch.inf).softmax(-1)
        output[start:end] = torch.einsum("hqk,khw->qhw", weights, value[start:end])
    return output


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_varlen_attention_equals_masked_attention(architecture, monkeypatch):
    encoder = tiny_encoder(architecture, layers=4, intermediate_size=48, local_attention=4)
    objective, inputs = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs
    masked = objective(**inputs).loss
    expected = torch.autograd.grad(masked, list(encoder.parameters()), allow_unused=True)
    monkeypatch.setattr(attention, "varlen_attn", slow_varlen_attn)
    monkeypatch.setattr(attention, "can_use_varlen", lambda model, cu_seqlens: True)
    varlen = objective(**inputs).loss
    assert abs(varlen.item() / masked.item() - 1) < 1e-5
    check_close(torch.autograd.grad(varlen, list(encoder.parameters()), allow_unused=True), expected)
    encoder.dropout = 0.1
    monkeypatch.setattr(attention, "varlen_attn", None)
    assert torch.allclose(objective(**inputs).loss, masked), "the kernels have no dropout, so the mask is used"


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_bf16_on_a_cpu_is_within_one_percent(architecture):
    """Attention, rotary embedding and fused loss in bf16, compared with float32."""
    encoder = tiny_encoder(architecture, layers=3, hidden_size=64, intermediate_size=64, local_attention=4)
    objective, inputs = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs

    def loss_and_gradient():
        loss = objective(**inputs).loss
        gradients = torch.autograd.grad(loss, list(objective.parameters()), allow_unused=True)
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])

    exact_loss, exact = loss_and_gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradient = loss_and_gradient()
    assert abs(loss / exact_loss - 1) < 0.01 and torch.cosine_similarity(gradient, exact, dim=0) > 0.995


def network_of_attention(name: str) -> PreTrainedModel:
    """Make a network with such large weights that its states depend on what each position reads."""
    torch.manual_seed(0)
    shape, special = {**TINY_BERT, "initializer_range": 1.0}, {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name == "gpt2":
        sizes = {"vocab_size": 40, "n_embd": 8, "n_layer": 2, "n_head": 2, "initializer_range": 1.0}
        return GPT2Model(GPT2Config(**sizes, **special)).eval()
    if name == "modernbert-decoder":
        config = ModernBertDecoderConfig(
            **shape, **special, cls_token_id=1, sep_token_id=2, initializer_cutoff_factor=9.0
        )
        return ModernBertDecoderModel(config).eval()
    return BertModel(BertConfig(**shape, is_decoder=name == "bert decoder")).eval()


@pytest.mark.parametrize("name", ["bert", "bert decoder", "gpt2", "modernbert-decoder"])
def test_bf16_attention_reads_in_the_directions_of_sdpa_with_and_without_padding(name, monkeypatch):
    model, fused = network_of_attention(name), []
    ids = torch.tensor([[5, 9, 30, 12, 7], [3, 8, 21, 6, 17]])
    changed = torch.cat([ids[:, :4], torch.tensor([[11], [13]])], 1)

    def states(ids: torch.Tensor, padding: int = 0) -> torch.Tensor:
        padded = F.pad(ids, (0, padding))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return model(padded, attention_mask=(padded > 0).long()).last_hidden_state[:, : ids.shape[1]].float()

    expected, others = states(ids), states(changed)
    is_causal = name != "bert"
    assert torch.allclose(expected[:, :4], others[:, :4], atol=0.05) == is_causal
    sdpa = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **kw: fused.append(1) or sdpa(*args, **kw))
    attention.use_fast_attention(model)
    torch.testing.assert_close(states(ids), expected, atol=0.1, rtol=0)
    assert bool(fused) == is_causal, "in both directions two products are faster"
    fused.clear()
    torch.testing.assert_close(states(ids, padding=3), expected, atol=0.1, rtol=0)
    assert not fused, "with a mask two products are faster"


def tiny_roberta() -> Encoder:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        pad_token_id=0,
        max_position_embeddings=40,
    )
    return prepare_encoder(Encoder(RobertaForMaskedLM(config)), 0.0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta"])
def test_sparse_ffn_computes_only_masked_positions_and_gives_the_same_loss_and_gradient(architecture):
    shape = {"layers": 3, "intermediate_size": 48, "local_attention": 4}
    encoder = tiny_roberta() if architecture == "roberta" else tiny_encoder(architecture, **shape)
    objective, inputs, counts = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs, []
    parameters = list(encoder.parameters())
    for module in encoder.sparse_ffn:
        module.register_forward_hook(lambda module, arguments, states: counts.append(states.shape[:-1].numel()))
    sparse = objective(**inputs).loss
    gradients = torch.autograd.grad(sparse, parameters, allow_unused=True)
    assert counts and set(counts) == {len(inputs["masked_indices"])}
    # With on_hidden all states are computed.
    hidden = []
    rows = {name: inputs[name] for name in inputs.keys() - {"masked_indices", "targets"}}
    encoder.mlm_loss(inputs["masked_indices"], inputs["targets"], on_hidden=hidden.append, **rows)
    assert torch.equal(hidden[0], encoder.last_hidden_state(**rows))
    encoder.sparse_ffn = ()
    dense = objective(**inputs).loss
    assert abs(sparse.item() / dense.item() - 1) < 1e-5
    check_close(gradients, torch.autograd.grad(dense, parameters, allow_unused=True))


def test_sparse_ffn_is_off_for_a_different_architecture():
    encoder = tiny_encoder("bert", intermediate_size=48)
    last = encoder.model.base_model.encoder.layer[-1]
    output, intermediate = last.output.forward, last.intermediate.forward
    encoder.sparse_ffn = ()
    assert find_sparse_ffn(encoder) == (last.intermediate, last.output)
    last.output.forward = lambda states, residual: output(states, residual) + states.mean()
    assert find_sparse_ffn(encoder) == (), "a token's output depends on the other tokens"
    last.output.forward, last.intermediate.forward = output, lambda states: intermediate(states.view(1, 12, 32))
    assert find_sparse_ffn(encoder) == (), "it needs whole rows"
    assert not last.intermediate._forward_pre_hooks and not last.output._forward_hooks, "the hooks are removed"


def write_corpus(workspace, sentiment_files) -> None:
    (workspace / "c.yaml").write_text(
        f"corpus: {{name: c, sources: [{{files: {sentiment_files / 'corpus.txt'}}}], held_out: 0.2}}\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_compiled_run_has_the_same_losses(architecture, workspace, sentiment_files):
    write_corpus(workspace, sentiment_files)
    words = ["pretrain", "c.yaml", *TINY_ARGS, f"model.architecture={architecture}", "train.lr=1e-3"]
    words += ["train.steps=6", "train.log_every=1", "train.eval_every=3"]
    curves = []
    for compiled in ("false", "true"):
        done = run_module(*words, f"run=r-{compiled}", f"train.compile={compiled}", cwd=workspace)
        assert done.returncode == 0, done.stderr
        log = (workspace / "out" / "runs" / f"r-{compiled}" / "log.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in log]
        curves.append([(entry["loss"], entry.get("eval", {"loss": 0})["loss"]) for entry in entries])
    for plain, compiled in zip(*curves, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-4)


def test_compiling_without_a_compiler_is_a_one_line_error(workspace, sentiment_files):
    write_corpus(workspace, sentiment_files)
    words = ["run=r", "train.steps=2", "train.lr=1e-3", "train.compile=true"]
    done = run_module("pretrain", "c.yaml", *TINY_ARGS, *words, cwd=workspace, CXX="no-such-compiler")
    assert done.returncode == 2 and done.stderr.strip().startswith("train.compile:") and "Traceback" not in done.stderr
    assert not (workspace / "out" / "runs").exists()


def test_taken_rows_have_the_gradient_of_indexing():
    states = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    indices, weights = torch.tensor([5, 0, 3]), torch.randn(3, 3, dtype=torch.float64)
    gradients = []
    for taken in (states[indices], take_rows(states, indices)):
        assert torch.equal(taken, states[[5, 0, 3]])
        (taken * weights).sum().backward()
        gradients.append(states.grad)
        states.grad = None
    assert torch.equal(*gradients)


def test_cu_seqlens_are_the_bounds_of_documents():
    inputs = collate_rows(InMemoryShards(), [2, 0])
    flat = inputs["document_ids"].ravel()
    bounds = [0] + [at for at in range(1, 64) if at == 32 or flat[at] != flat[at - 1]] + [64]
    assert inputs["cu_seqlens"].tolist() == bounds and inputs["cu_seqlens"].dtype == np.int32


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_fast_dropout_is_dropout(rate):
    # Sampled in float32: some torch versions sample zeros in bf16, which look dropped.
    module, states = FastDropout(rate), torch.randn(301, 401).bfloat16().requires_grad_()
    torch.manual_seed(7)
    output = module(states)
    keep, factor = output != 0, torch.tensor(1 / (1 - rate)).bfloat16()
    assert abs(keep.float().mean() - (1 - rate)) < 4 * (rate * (1 - rate) / keep.numel()) ** 0.5
    assert output.equal(torch.where(keep, states * factor, 0))
    means = keep.float().mean(1), keep.float().mean(0)
    expected = (rate * (1 - rate) / 350) ** 0.5
    assert all(0.8 < mean.std() / expected < 1.25 for mean in means), "no stripes"
    lanes = keep.flatten()[: keep.numel() // 4 * 4].view(-1, 4).float()
    assert torch.corrcoef(lanes.T).fill_diagonal_(0).abs().max() < 0.03, "the four values of a draw are independent"
    output.backward(torch.ones_like(output))
    assert states.grad.equal(torch.where(keep, factor, 0).expand_as(states))
    torch.manual_seed(7)
    assert module(states).equal(output), "from torch's own generator"
    assert module.eval()(states) is states
    torch.manual_seed(7)
    plain = F.dropout(states.float(), rate)
    torch.manual_seed(7)
    assert FastDropout(rate)(states.float()).equal(plain), "torch's own dropout for other types"


def test_every_dropout_of_a_model_is_replaced():
    model = BertForMaskedLM(BertConfig(**TINY_BERT)).eval()
    replace_dropout(model, lambda name: 0.0 if ".self." in name else 0.3)
    modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert len(modules) == 1 + 3 * TINY_BERT["num_hidden_layers"]
    assert all(type(module) is FastDropout and not module.training for module in modules.values())
    assert all(module.p == (0 if ".self." in name else 0.3) for name, module in modules.items())
