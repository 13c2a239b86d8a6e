"""What makes pretraining fast gives the numbers of the plain way: the fused loss, rotation, attention by documents,
and a last layer that works on the hidden tokens alone."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import TINY_ARGS, run_module
from tiny_models import SPECIAL_IDS, InMemoryShards, collate_batch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM
from transformers.models.modernbert.modeling_modernbert import rotate_half

from data.tokens.collate import collate_rows
from engine.kernels import attention, linear_cross_entropy
from engine.kernels.dropout import FastDropout, replace_dropout
from pretrain.config import ModelConfig
from pretrain.model.build import encoder_from_config, find_sparse_ffn, has_linear_decoder, prepare_encoder
from pretrain.model.encoder import Encoder
from pretrain.objectives import mlm

TINY_BERT = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def projection(places: int, size: int, width: int, biased: bool, seed: int = 0):
    torch.manual_seed(seed)
    states, weight = torch.randn(places, width), torch.randn(size, width) * 0.3
    bias = torch.randn(size, requires_grad=True) if biased else None
    return states.requires_grad_(), weight.requires_grad_(), bias, torch.randint(0, size, (places,))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("block", [2**28, 4 * 211 * 7])
def test_the_fused_loss_is_cross_entropy(monkeypatch, biased, block):
    monkeypatch.setattr(linear_cross_entropy, "MAX_LOGIT_BYTES", block)
    monkeypatch.setattr(linear_cross_entropy, "CACHED_LOGITS", 211 * 3)
    states, weight, bias, targets = projection(60, 211, 24, biased)
    learned = [tensor for tensor in (states, weight, bias) if tensor is not None]
    plain = F.cross_entropy(F.linear(states, weight, bias), targets, reduction="sum")
    wanted = torch.autograd.grad(plain * 0.37, learned)
    fused = linear_cross_entropy.linear_cross_entropy(states, weight, bias, targets)
    found = torch.autograd.grad(fused * 0.37, learned)
    assert abs(fused.item() / plain.item() - 1) < 1e-6
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(found, wanted))


def test_the_fused_loss_in_bf16_is_as_near_as_bf16_products_are():
    states, weight, bias, targets = projection(300, 500, 32, True)
    exact = torch.autograd.grad(
        F.cross_entropy(F.linear(states, weight, bias), targets, reduction="sum"), [states, weight, bias]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = F.cross_entropy(F.linear(states, weight, bias).float(), targets, reduction="sum")
        fused = linear_cross_entropy.linear_cross_entropy(states, weight, bias, targets)
    assert fused.dtype == torch.float32 and abs(fused.item() / plain.item() - 1) < 1e-3
    for ours, theirs, true in zip(
        torch.autograd.grad(fused, [states, weight, bias]), torch.autograd.grad(plain, [states, weight, bias]), exact
    ):
        assert ours.dtype == torch.float32
        assert (ours - true).norm() < 1.5 * (theirs - true).norm() < 0.05 * true.norm()


def test_the_fused_loss_of_nothing_of_the_impossible_and_under_frozen_parts():
    states, weight, bias, targets = projection(5, 11, 4, True)
    assert linear_cross_entropy.linear_cross_entropy(states[:0], weight, bias, targets[:0]).item() == 0
    far = torch.full((1, 4), 1e3)
    impossible = linear_cross_entropy.linear_cross_entropy(
        far, torch.stack([torch.ones(4), -torch.ones(4)]), None, torch.tensor([1])
    )
    assert 80 < impossible.item() < 100, "as far as float32 goes, never infinite"
    loss = linear_cross_entropy.linear_cross_entropy(states.detach(), weight, bias, targets)
    loss.backward()
    assert states.grad is None and weight.grad is not None and bias.grad is not None


def test_a_head_that_does_more_than_project_keeps_its_own_scores():
    torch.manual_seed(0)
    encoder = Encoder(
        BertForMaskedLM(
            BertConfig(vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        )
    ).eval()
    assert has_linear_decoder(encoder)
    inputs = collate_batch(mlm.Config()).inputs
    objective = mlm.Objective(mlm.Config(), encoder)
    encoder.has_linear_decoder = True
    plain = objective(**inputs).loss
    forward = encoder.model.cls.forward
    encoder.model.cls.forward = lambda states: forward(states).clamp(max=0.01)
    assert not has_linear_decoder(encoder)
    encoder.has_linear_decoder = False
    bounded = objective(**inputs).loss
    scores = encoder.model(
        **encoder.model_inputs(**{name: inputs[name] for name in inputs.keys() - {"masked_indices", "targets"}})
    ).logits
    wanted = F.cross_entropy(scores.flatten(0, 1)[inputs["masked_indices"]], inputs["targets"], reduction="sum")
    assert torch.allclose(bounded, wanted) and not torch.allclose(bounded, plain)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_rotation_and_its_gradient(dtype, near):
    torch.manual_seed(0)
    base = torch.randn(2, 16, 3, 4, 32)
    angle = torch.cat([torch.rand(2, 16, 16) * 6] * 2, -1)
    toward = torch.randn(2, 2, 4, 16, 32)

    def through(rotate, qkv):
        qkv.requires_grad_()
        query, key, _ = (part.transpose(1, 2) for part in qkv.unbind(2))
        turned = rotate(query, key, angle.cos(), angle.sin())
        (gradient,) = torch.autograd.grad(sum((part.float() * t).sum() for part, t in zip(turned, toward)), qkv)
        return *turned, gradient

    def slow(query, key, cosine, sine):
        cosine, sine = cosine[:, None], sine[:, None]
        return query * cosine + rotate_half(query) * sine, key * cosine + rotate_half(key) * sine

    for ours, theirs in zip(through(attention.fast_apply_rotary_pos_emb, base.to(dtype)), through(slow, base.double())):
        assert (ours - theirs).abs().max() < near * theirs.abs().max()


def attend_each(query, key, value, bounds, bounds_k, longest, longest_k, *, scale, window_size):
    """torch's `varlen_attn`, which has no CPU kernel, one sequence at a time; shapes (tokens, heads, width)."""
    assert bounds.dtype == torch.int32 and longest >= bounds.diff().max() and bounds[-1] == len(query)
    found = torch.empty_like(query)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
        place = torch.arange(end - start)
        near = (place[:, None] - place).abs() <= (window_size[0] if window_size[0] >= 0 else end)
        scores = torch.einsum("qhw,khw->hqk", query[start:end], key[start:end]) * scale
        found[start:end] = torch.einsum(
            "hqk,khw->qhw", scores.masked_fill(~near, -torch.inf).softmax(-1), value[start:end]
        )
    return found


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_attention_by_documents_gives_what_the_mask_gives(architecture, monkeypatch):
    torch.manual_seed(0)
    shape = ModelConfig(
        architecture=architecture,
        layers=4,
        hidden_size=32,
        attention_heads=2,
        intermediate_size=48,
        local_attention=4,
        positions=32,
    )
    encoder = encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None)
    objective, inputs = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs
    masked = objective(**inputs).loss
    wanted = torch.autograd.grad(masked, list(encoder.parameters()), allow_unused=True)
    monkeypatch.setattr(attention, "varlen_attn", attend_each)
    monkeypatch.setattr(attention, "can_use_varlen", lambda model, bounds: True)
    by_document = objective(**inputs).loss
    found = torch.autograd.grad(by_document, list(encoder.parameters()), allow_unused=True)
    assert abs(by_document.item() / masked.item() - 1) < 1e-5
    for ours, theirs in zip(found, wanted):
        assert ours is theirs is None or torch.allclose(ours, theirs, atol=1e-5)
    encoder.dropout = 0.1
    monkeypatch.setattr(attention, "varlen_attn", None)
    assert torch.allclose(objective(**inputs).loss, masked), "its kernels know no dropout: then the mask"


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_bf16_on_a_cpu_is_within_a_hundredth(architecture):
    """Attention by products, rotation and the fused loss in bf16, against float32."""
    torch.manual_seed(0)
    shape = ModelConfig(
        architecture=architecture,
        layers=3,
        hidden_size=64,
        attention_heads=2,
        intermediate_size=64,
        local_attention=4,
        positions=32,
    )
    encoder = encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None)
    objective, inputs = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs

    def gradients():
        loss = objective(**inputs).loss
        return loss.item(), torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(loss, list(objective.parameters()), allow_unused=True)
                if g is not None
            ]
        )

    exact, toward = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, found = gradients()
    assert abs(half / exact - 1) < 0.01 and torch.cosine_similarity(found, toward, dim=0) > 0.995


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta"])
def test_the_last_layer_goes_on_at_the_hidden_places_alone_and_gives_the_same(architecture):
    torch.manual_seed(0)
    if architecture == "roberta":
        encoder = prepare_encoder(
            Encoder(
                RobertaForMaskedLM(
                    RobertaConfig(
                        vocab_size=90,
                        hidden_size=32,
                        num_hidden_layers=2,
                        num_attention_heads=2,
                        intermediate_size=48,
                        pad_token_id=0,
                        max_position_embeddings=40,
                    )
                )
            ),
            0.0,
        )
    else:
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
    objective, inputs, seen = mlm.Objective(mlm.Config(), encoder), collate_batch(mlm.Config()).inputs, []
    learned = list(encoder.parameters())
    for module in encoder.sparse_ffn:
        module.register_forward_hook(lambda module, arguments, states: seen.append(states.shape[:-1].numel()))
    trimmed = objective(**inputs).loss
    found = torch.autograd.grad(trimmed, learned, allow_unused=True)
    assert seen and set(seen) == {len(inputs["masked_indices"])}, "no more of the feed-forward part than is read"
    # Whoever looks at all states gets all of them.
    looked = []
    rows = {name: inputs[name] for name in inputs.keys() - {"masked_indices", "targets"}}
    encoder.mlm_loss(inputs["masked_indices"], inputs["targets"], on_hidden=looked.append, **rows)
    assert torch.equal(looked[0], encoder.last_hidden_state(**rows))
    encoder.sparse_ffn = ()
    whole = objective(**inputs).loss
    wanted = torch.autograd.grad(whole, learned, allow_unused=True)
    assert abs(trimmed.item() / whole.item() - 1) < 1e-5
    for ours, theirs in zip(found, wanted):
        assert ours is theirs is None or torch.allclose(ours, theirs, atol=1e-5)


def test_a_network_that_is_otherwise_built_is_not_trimmed():
    torch.manual_seed(0)
    encoder = encoder_from_config(
        ModelConfig(
            architecture="bert", layers=2, hidden_size=32, attention_heads=2, intermediate_size=48, positions=32
        ),
        SPECIAL_IDS,
        90,
        32,
        0.0,
        None,
    )
    last = encoder.model.base_model.encoder.layer[-1]
    output, intermediate = last.output.forward, last.intermediate.forward
    encoder.sparse_ffn = ()
    assert find_sparse_ffn(encoder) == (last.intermediate, last.output)
    last.output.forward = lambda states, before: output(states, before) + states.mean()
    assert find_sparse_ffn(encoder) == (), "a token's part depends on the others"
    last.output.forward, last.intermediate.forward = output, lambda states: intermediate(states.view(1, 12, 32))
    assert find_sparse_ffn(encoder) == (), "it takes whole rows only"
    assert not last.intermediate._forward_pre_hooks and not last.output._forward_hooks, "nothing is left behind"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_compiled_run_has_the_losses_of_a_plain_one(architecture, workspace, sentiment_files):
    (workspace / "c.yaml").write_text(
        f"corpus: {{name: c, sources: [{{files: {sentiment_files / 'corpus.txt'}}}], held_out: 0.2}}\n"
    )
    words = [
        "-m",
        "pretrain",
        "c.yaml",
        *TINY_ARGS,
        f"model.architecture={architecture}",
        "train.steps=6",
        "train.log_every=1",
        "train.lr=1e-3",
        "train.eval_every=3",
    ]
    curves = []
    for compiled in ("false", "true"):
        done = run_module(
            *words, f"run=r-{compiled}", f"train.compile={compiled}", prefix=(sys.executable,), cwd=workspace
        )
        assert done.returncode == 0, done.stderr
        log = (workspace / "out" / "runs" / f"r-{compiled}" / "log.jsonl").read_text().splitlines()
        curves.append([(json.loads(line)["loss"], json.loads(line).get("eval", {"loss": 0})["loss"]) for line in log])
    for plain, compiled in zip(*curves, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-4)


def test_compiling_without_a_compiler_is_one_line(workspace, sentiment_files):
    (workspace / "c.yaml").write_text(
        f"corpus: {{name: c, sources: [{{files: {sentiment_files / 'corpus.txt'}}}], held_out: 0.2}}\n"
    )
    done = run_module(
        "pretrain",
        "c.yaml",
        *TINY_ARGS,
        "run=r",
        "train.steps=2",
        "train.lr=1e-3",
        "train.compile=true",
        cwd=workspace,
        CXX="no-such-compiler",
    )
    assert done.returncode == 2 and done.stderr.strip().startswith("train.compile:") and "Traceback" not in done.stderr
    assert not (workspace / "out" / "runs").exists()


def test_document_bounds():
    rows = InMemoryShards()
    made = collate_rows(rows, [2, 0])
    flat = made["document_ids"].ravel()
    edges = [0] + [at for at in range(1, 64) if at == 32 or flat[at] != flat[at - 1]] + [64]
    assert made["cu_seqlens"].tolist() == edges and made["cu_seqlens"].dtype == np.int32


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_by_four_values_a_draw_is_dropout(rate):
    # Drawn in float32: some versions of torch draw zeros in bf16, which look dropped.
    module, states = FastDropout(rate), torch.randn(301, 401).bfloat16().requires_grad_()
    torch.manual_seed(7)
    said = module(states)
    kept, factor = said != 0, torch.tensor(1 / (1 - rate)).bfloat16()
    assert abs(kept.float().mean() - (1 - rate)) < 4 * (rate * (1 - rate) / kept.numel()) ** 0.5
    assert said.equal(torch.where(kept, states * factor, 0))
    lines = kept.float().mean(1), kept.float().mean(0)
    expected = (rate * (1 - rate) / 350) ** 0.5
    assert all(0.8 < line.std() / expected < 1.25 for line in lines), "no stripes"
    lanes = kept.flatten()[: kept.numel() // 4 * 4].view(-1, 4).float()
    assert torch.corrcoef(lanes.T).fill_diagonal_(0).abs().max() < 0.03, "the four of a draw know nothing of each other"
    said.backward(torch.ones_like(said))
    assert states.grad.equal(torch.where(kept, factor, 0).expand_as(states))
    torch.manual_seed(7)
    assert module(states).equal(said), "by torch's own generator"
    assert module.eval()(states) is states
    torch.manual_seed(7)
    plain = F.dropout(states.float(), rate)
    torch.manual_seed(7)
    assert FastDropout(rate)(states.float()).equal(plain), "anywhere else it is torch's"


def test_every_dropout_of_a_network_is_found():
    model = BertForMaskedLM(BertConfig(**TINY_BERT)).eval()
    replace_dropout(model, lambda name: 0.0 if ".self." in name else 0.3)
    found = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert len(found) == 1 + 3 * TINY_BERT["num_hidden_layers"]
    assert all(type(module) is FastDropout and not module.training for module in found.values())
    assert all(module.p == (0 if ".self." in name else 0.3) for name, module in found.items())
