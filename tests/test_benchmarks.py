"""The benchmarks run on a machine without a GPU, and count what they say they count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import SPECIAL_IDS, collate_batch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import ModelConfig
from pretrain.model.build import encoder_from_config
from pretrain.objectives import mlm

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import pretraining  # noqa: E402
import results  # noqa: E402
import time_to_loss  # noqa: E402
import turns  # noqa: E402


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_products_are_those_that_torch_counts(architecture):
    shape = ModelConfig(
        architecture=architecture, layers=3, hidden_size=64, attention_heads=2, intermediate_size=96, positions=32
    )
    model = encoder_from_config(shape, SPECIAL_IDS, 500, 32, 0.0, None).model
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 500, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    # The first layer's inputs are embeddings, of which no gradient is taken by a product; counted all the same.
    assert counter.get_total_flops() == pytest.approx(128 * pretraining.flops_per_item(model, 1.0, 32), rel=0.02)
    sparse, dense = (pretraining.flops_per_item(model, share, 32) for share in (0.0, 1.0))
    assert pretraining.flops_per_item(model, 0.25, 32) == pytest.approx(sparse + (dense - sparse) / 4)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_products_of_a_step_are_those_that_torch_counts(architecture):
    shape = ModelConfig(
        architecture=architecture, layers=3, hidden_size=64, attention_heads=2, intermediate_size=96, positions=32
    )
    encoder, inputs = encoder_from_config(shape, SPECIAL_IDS, 90, 32, 0.0, None), collate_batch(mlm.Config()).inputs
    encoder.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        mlm.Objective(mlm.Config(), encoder)(**inputs).loss.backward()
    share = len(inputs["masked_indices"]) / inputs["input_ids"].numel()
    step = pretraining.flops_per_item(encoder.model, share, 32, encoder.sparse_ffn)
    assert counter.get_total_flops() == pytest.approx(inputs["input_ids"].numel() * step, rel=0.02)
    assert step < 0.9 * pretraining.flops_per_item(encoder.model, share, 32)


def test_undivided_rows_are_one_document_each_and_otherwise_the_same():
    batch = collate_batch(mlm.Config())
    rows, length = batch.inputs["input_ids"].shape
    whole = pretraining.undivided(batch)
    assert whole.tokens == batch.tokens and whole.inputs["cu_seqlens"].tolist() == [
        length * row for row in range(rows + 1)
    ]
    assert whole.inputs["cu_seqlens"].dtype == batch.inputs["cu_seqlens"].dtype
    assert not whole.inputs["cu_seqlens"].equal(batch.inputs["cu_seqlens"])
    assert all(whole.inputs[name] is tensor for name, tensor in batch.inputs.items() if name != "cu_seqlens")


def test_contenders_take_turns(monkeypatch, sentiment_files):
    words = [
        f"corpus={{name: turns, sources: [{{files: {sentiment_files / 'corpus.txt'}}}], held_out: 0.2}}",
        "max_length=32",
        "tokenizer.vocab_size=300",
        "train.batch_size=4",
        "model={layers: 1, hidden_size: 32, attention_heads: 2, intermediate_size: 32, positions: 32}",
    ]
    monkeypatch.setattr(turns, "matrix_rate", lambda precision: 1e9)
    before = set((ROOT / "out" / "runs").glob("bench-*"))
    names = ["ours as run_mlm, 4 rows", "run_mlm", "run_mlm bf16, 4 rows"]
    found = turns.compare_contenders(pretraining.__file__, names, 2, 0.3, [*pretraining.SIZES["scratch"], *words])
    lines = pretraining.rows_of("scratch", names, found)
    assert [line[1] for line in lines] == names and lines[0][4] == "1.00"
    for name in names:
        assert len(found[name]["rates"]) == 2 and min(found[name]["rates"]) > 0
        assert found[name]["peak_bytes"] > (1e7 if torch.cuda.is_available() else 1e8), (
            "of the GPU alone, or of the process"
        )
    assert found[names[0]]["products"] < found["run_mlm"]["products"] == found["run_mlm bf16, 4 rows"]["products"]
    assert set((ROOT / "out" / "runs").glob("bench-*")) <= before, "what it wrote to run is gone"


def test_a_contender_that_dies_is_told_of(capfd):
    with pytest.raises(SystemExit, match="no such key"):
        turns.compare_contenders(pretraining.__file__, ["ours"], 1, 0.1, [*pretraining.SIZES["scratch"], "model.layerz=2"])


def test_when_a_loss_was_reached():
    curve = [{"seconds": at, "loss": loss} for at, loss in ((10, 6.0), (20, 5.0), (30, 5.0), (40, 4.0))]
    assert time_to_loss.group_versions(curve, 5.5) == 15 and time_to_loss.group_versions(curve, 4.25) == 37.5
    assert time_to_loss.group_versions(curve, 3.9) is None


def test_curves_are_drawn_and_sections_replaced(tmp_path, monkeypatch):
    curve = [{"seconds": 60 * at, "loss": 7 - at} for at in range(1, 4)]
    time_to_loss.plot({"ours": curve, "theirs": curve}, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "<svg" in drawn and 'href="http' not in drawn.replace('xlink:href="#', "")
    monkeypatch.setattr(results, "FILE", tmp_path / "RESULTS.md")
    for title, body in (("One", "first"), ("Two", "second"), ("One", "third")):
        results.write_section(title, "command", body)
    text = results.FILE.read_text()
    assert "first" not in text and text.index("third") < text.index("second") and text.count("## One") == 1
    assert results.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
