"""Pretraining on images through real processes: killed and resumed, then fine-tuned."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch
from helpers import run_module, start_module
from safetensors.torch import load_file
from tiny_images import draw_images, write_idx

ARGS = (
    *("modality=images", "corpus.name=shapes", "corpus.sources=[{idx: shapes.gz}]", "corpus.held_out=0.1"),
    *(
        "pixels.size=32",
        "pixels.channels=1",
        "model.hidden_size=32",
        "model.attention_heads=2",
        "model.patch_size=8",
        "train.lr=1e-3",
    ),
    *("train.batch_size=16", "train.steps=24", "train.save_every=4", "train.eval_every=12", "train.log_every=4"),
    *("train.keep_checkpoints=99", "train.average_fraction=0.3"),
)
RUNS = [("resnet", "simsiam"), ("convnextv2 model.patch_size=4", "contrastive"), ("vit", "dino"), ("dinov2", "mae")]


@pytest.fixture
def folder(tmp_path):
    write_idx(tmp_path / "shapes.gz", draw_images(200, channels=1)[..., 0])
    return tmp_path


@pytest.mark.parametrize("architecture, objective", RUNS)
def test_a_killed_run_resumes_bit_for_bit(folder, architecture, objective):
    args = ("pretrain", *ARGS, *f"model.architecture={architecture}".split(), f"objective.name={objective}")
    args = (*args, "objective.decoder_dim=32") if objective == "mae" else args
    whole = run_module(*args, "run=whole", cwd=folder)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "images per second" in whole.stdout and "retrieval" in whole.stdout
    report = (folder / "out/runs/whole/report.html").read_text()
    assert 30 < report.count("data:image/png") <= 64 and "two views of it" in report
    assert ("the reconstruction" in report) == (objective == "mae")
    assert not any(b"data:image" in path.read_bytes() for path in (folder / "out/runs/whole/encoder").iterdir())
    for kill_at in (4, 16):
        process = start_module(*args, "run=killed", cwd=folder)
        while not (folder / f"out/runs/killed/step-{kill_at:06d}").is_dir() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        while process.poll() is None:
            time.sleep(0.002)
    killed = run_module(*args, "run=killed", cwd=folder)
    assert killed.returncode == 0, killed.stdout + killed.stderr
    for name in ("encoder/model.safetensors", "step-000024/model.safetensors", "step-000024/optimizer.safetensors"):
        one, other = (load_file(folder / "out/runs" / run / name) for run in ("whole", "killed"))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    logs = [
        [json.loads(line) for line in (folder / f"out/runs/{run}/log.jsonl").read_text().splitlines()]
        for run in ("whole", "killed")
    ]
    timing = ("seconds", "tokens_per_second", "checkpoint_seconds")
    assert [[{k: v for k, v in entry.items() if k not in timing} for entry in log] for log in logs][0] == [
        {k: v for k, v in entry.items() if k not in timing} for entry in logs[1]
    ]


def test_impossible_combinations_are_one_line(folder):
    for args, message in (
        (["train.micro_batch_size=4"], "train.micro_batch_size: batch normalization ties the images"),
        (["objective.name=mlm"], "objective.name: mlm is for modality=text"),
        (["objective.name=mae"], "objective.name: mae needs a transformer on patches"),
        (["objective.name=contrastive", "objective.min_span=3"], "objective.min_span: is for modality=text"),
        (["init=no/such/folder"], "no/such/folder: no such folder"),
    ):
        result = run_module("pretrain", *ARGS, "run=no", *args, cwd=folder)
        assert result.returncode == 2 and len(result.stderr.strip().splitlines()) <= 2, result.stderr
        assert result.stderr.startswith(message), result.stderr
        assert not (folder / "out/runs/no").exists()
