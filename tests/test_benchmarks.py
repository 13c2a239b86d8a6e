"""Benchmarks: floating-point operations, alternating contenders, curves and sections of results."""

from __future__ import annotations

import pretraining
import pytest
import results
import time_to_loss
import torch
import turns
from helpers import ROOT
from tiny_models import SPECIAL_IDS, collate_batch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import ModelConfig
from pretrain.model.build import encoder_from_config
from pretrain.model.encoder import Encoder
from pretrain.objectives import mlm


def tiny_encoder(architecture: str, vocab_size: int) -> Encoder:
    shape = ModelConfig(
        architecture=architecture, layers=3, hidden_size=64, attention_heads=2, intermediate_size=96, positions=32
    )
    encoder = encoder_from_config(shape, SPECIAL_IDS, vocab_size, 32, 0.0, None)
    encoder.model.set_attn_implementation("eager")
    return encoder


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_flops_match_those_that_torch_counts(architecture):
    model = tiny_encoder(architecture, 500).model
    ids = torch.randint(5, 500, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    # Counted although the first layer's inputs, the embeddings, need no product for their gradient.
    assert counter.get_total_flops() == pytest.approx(128 * pretraining.flops_per_token(model, 1.0, 32), rel=0.02)
    sparse, dense = (pretraining.flops_per_token(model, fraction, 32) for fraction in (0.0, 1.0))
    assert pretraining.flops_per_token(model, 0.25, 32) == pytest.approx(sparse + (dense - sparse) / 4)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_flops_of_a_masked_step_match_those_that_torch_counts(architecture):
    encoder, inputs = tiny_encoder(architecture, 90), collate_batch(mlm.Config()).inputs
    with FlopCounterMode(display=False) as counter:
        mlm.Objective(mlm.Config(), encoder)(**inputs).loss.backward()
    fraction = len(inputs["masked_indices"]) / inputs["input_ids"].numel()
    step = pretraining.flops_per_token(encoder.model, fraction, 32, encoder.sparse_ffn)
    assert counter.get_total_flops() == pytest.approx(inputs["input_ids"].numel() * step, rel=0.02)
    assert step < 0.9 * pretraining.flops_per_token(encoder.model, fraction, 32)


def test_merged_rows_are_one_document_each_and_otherwise_unchanged():
    batch = collate_batch(mlm.Config())
    rows, length = batch.inputs["input_ids"].shape
    merged = pretraining.merge_documents(batch)
    assert merged.num_tokens == batch.num_tokens
    assert merged.inputs["cu_seqlens"].tolist() == [length * row for row in range(rows + 1)]
    assert merged.inputs["cu_seqlens"].dtype == batch.inputs["cu_seqlens"].dtype
    assert not merged.inputs["cu_seqlens"].equal(batch.inputs["cu_seqlens"])
    assert all(merged.inputs[name] is tensor for name, tensor in batch.inputs.items() if name != "cu_seqlens")


def test_contenders_alternate(monkeypatch, sentiment_files):
    args = [
        *pretraining.SIZES["scratch"],
        f"corpus={{name: turns, sources: [{{files: {sentiment_files / 'corpus.txt'}}}], held_out: 0.2}}",
        "max_length=32",
        "tokenizer.vocab_size=300",
        "train.batch_size=4",
        "model={layers: 1, hidden_size: 32, attention_heads: 2, intermediate_size: 32, positions: 32}",
    ]
    monkeypatch.setattr(turns, "matmul_flops_per_second", lambda precision, seconds=0.0: 1e9)
    before = set((ROOT / "out" / "runs").glob("bench-*"))
    names = ["ours as run_mlm, 4 rows", "run_mlm", "run_mlm bf16, 4 rows"]
    measurements = turns.compare_contenders(pretraining.__file__, names, 2, 0.3, args)
    rows = pretraining.table_rows("scratch", names, measurements)
    assert [row[1] for row in rows] == names and rows[0][4] == "1.00"
    min_bytes = 1e7 if torch.cuda.is_available() else 1e8  # of the GPU alone, or of the process
    for name in names:
        assert len(measurements[name]["rates"]) == 2 and min(measurements[name]["rates"]) > 0
        assert measurements[name]["peak_bytes"] > min_bytes
    ours, peer, peer_bf16 = (measurements[name]["flops_per_item"] for name in names)
    assert ours < peer == peer_bf16
    assert set((ROOT / "out" / "runs").glob("bench-*")) <= before, "contenders remove their runs"


def test_stderr_of_a_failed_contender_is_shown():
    args = [*pretraining.SIZES["scratch"], "model.layerz=2"]
    with pytest.raises(SystemExit, match="no such key"):
        turns.compare_contenders(pretraining.__file__, ["ours"], 1, 0.1, args)


def test_seconds_to_a_loss_are_interpolated():
    curve = [{"seconds": seconds, "loss": loss} for seconds, loss in ((10, 6.0), (20, 5.0), (30, 5.0), (40, 4.0))]
    assert time_to_loss.seconds_to_loss(curve, 5.5) == 15 and time_to_loss.seconds_to_loss(curve, 4.25) == 37.5
    assert time_to_loss.seconds_to_loss(curve, 3.9) is None


def test_curves_are_plotted(tmp_path):
    curve = [{"seconds": 60 * minutes, "loss": 7 - minutes} for minutes in range(1, 4)]
    time_to_loss.plot({"ours": curve, "theirs": curve}, tmp_path / "plot.svg")
    svg = (tmp_path / "plot.svg").read_text()
    assert "<svg" in svg and 'href="http' not in svg.replace('xlink:href="#', "")


def test_sections_of_the_same_title_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS_FILE", tmp_path / "RESULTS.md")
    for title, body in (("One", "first"), ("Two", "second"), ("One", "third")):
        results.write_section(title, "command", body)
    text = results.RESULTS_FILE.read_text()
    assert "first" not in text and text.index("third") < text.index("second") and text.count("## One") == 1
    assert results.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_options_are_separated_from_other_arguments():
    options, rest = results.parse_options(["file.yaml", "seeds=2", "train.lr=1"], seeds="5", tasks="spam", data=None)
    assert options == {"seeds": "2", "tasks": "spam", "data": None} and rest == ["file.yaml", "train.lr=1"]
