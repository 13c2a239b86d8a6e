"""Pretraining on images through real processes: killed and resumed, then fine-tuned."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import torch
from helpers import run_module, start_module
from PIL import Image
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
GENERATIVE_RUNS = [
    ("resnet", "denoise"),
    ("resnet", "vae"),
    ("resnet objective.evaluation_images=0", "gan"),
    ("convnextv2 model.patch_size=4 objective.evaluation_images=0 objective.loss=wgan-gp", "gan"),
    ("resnet objective.other.idx=others.gz objective.generator_width=4", "cyclegan"),
]


@pytest.fixture
def folder(tmp_path):
    images = draw_images(200, channels=1)[..., 0]
    write_idx(tmp_path / "shapes.gz", images)
    write_idx(tmp_path / "others.gz", 255 - images[:90])
    return tmp_path


@pytest.mark.parametrize(
    "architecture, objective", [*RUNS, *(pytest.param(*run, marks=pytest.mark.slow) for run in GENERATIVE_RUNS)]
)
def test_a_killed_run_resumes_bit_for_bit(folder, architecture, objective):
    args = ("pretrain", *ARGS, *f"model.architecture={architecture}".split(), f"objective.name={objective}")
    args = (*args, "objective.decoder_dim=32") if objective == "mae" else args
    whole = run_module(*args, "run=whole", cwd=folder)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "images per second" in whole.stdout and "retrieval" in whole.stdout
    report = (folder / "out/runs/whole/report.html").read_text()
    assert 30 < report.count("data:image/png") <= 110 and "two views of it" in report
    shown = {"mae": "the reconstruction", "vae": "their reconstruction", "gan": "Samples of the generator"}
    shown |= {"cyclegan": "translated back", "denoise": "what is rebuilt"}
    assert all((text in report) == (name == objective) for name, text in shown.items() if name != "gan")
    assert ("Samples of the generator" in report) == (objective in ("gan", "vae"))
    assert (folder / "out/runs/whole/generator").is_dir() == (objective in ("vae", "gan", "cyclegan"))
    assert not any(b"data:image" in path.read_bytes() for path in (folder / "out/runs/whole/encoder").iterdir())
    sample = json.loads((folder / "out/runs/whole/sample.json").read_text())
    assert len(sample["images"]) == len(sample["outputs"]) > 5, "the saved folder was compared with these"
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


@pytest.mark.slow
@pytest.mark.parametrize("architecture, objective", [run for run in GENERATIVE_RUNS if "convnextv2" in run[0]])
def test_two_processes_train_as_one(folder, architecture, objective):
    args = (*ARGS, *f"model.architecture={architecture}".split(), f"objective.name={objective}")
    args = (*args, "train.precision=float32", "train.steps=8", "train.log_every=1", "train.average_fraction=0")
    launch = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--module", "pretrain")
    one = run_module("pretrain", *args, "run=one", cwd=folder)
    two = run_module(*launch, *args, "run=two", cwd=folder)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    losses = [
        [json.loads(line)["loss"] for line in (folder / f"out/runs/{run}/log.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert len(losses[0]) == 8 and np.allclose(*losses, rtol=1e-3), losses
    assert (folder / "out/runs/two/generator/model.safetensors").is_file()


def test_impossible_combinations_are_one_line(folder):
    for args, message in (
        (["train.micro_batch_size=4"], "train.micro_batch_size: batch normalization ties the images"),
        (["objective.name=mlm"], "objective.name: mlm is for modality=text"),
        (["objective.name=cyclegan"], "objective.other: cyclegan needs a second corpus"),
        (
            ["objective.name=gan", "train.sharded=true", "train.average_fraction=0"],
            "train.sharded: gan computes with constant copies",
        ),
        (["objective={name: gan, loss: wgan-gp, evaluation_images: 0}"], "objective.loss: wgan-gp needs a network"),
        (["objective.name=vae", "init_fraction=0.5"], "init_fraction: the decoder of vae fits the encoder"),
        (["objective.name=mae"], "objective.name: mae needs a transformer on patches"),
        (["objective.name=contrastive", "objective.min_span=3"], "objective.min_span: is for modality=text"),
        (["init=no/such/folder"], "no/such/folder: no such folder"),
    ):
        result = run_module("pretrain", *ARGS, "run=no", *args, cwd=folder)
        assert result.returncode == 2 and len(result.stderr.strip().splitlines()) <= 2, result.stderr
        assert result.stderr.startswith(message), result.stderr
        assert not (folder / "out/runs/no").exists()


def write_task(folder) -> None:
    """Write a task of bright and dark pictures."""
    random = np.random.default_rng(1)
    for label in ("bright", "dark"):
        (folder / "labeled" / label).mkdir(parents=True)
        for number in range(60):
            low = 120 if label == "bright" else 0
            pixels = random.integers(low, low + 120, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "labeled" / label / f"{number}.png")
    (folder / "task.yaml").write_text(TASK)


TASK = """
task:
  name: shades
  modality: images
  train: {folder: labeled}
  label: label
  validation_fraction: 0.3
  pixels: {size: 32, channels: 1}
"""


def test_weights_of_init_are_kept_unless_a_probe_gains(folder):
    """With a learning rate that changes no score, so that nothing is gained; the weights are those of init exactly."""
    write_task(folder)
    first = run_module("pretrain", *ARGS, "run=first", "objective.name=simsiam", "train.steps=4", cwd=folder)
    assert first.returncode == 0, first.stdout + first.stderr
    args = ["init=out/runs/first/encoder", "objective.name=simsiam", "probe={task: task.yaml, shots: [16], seeds: 2}"]
    args += ["train.steps=8", "train.average_fraction=0", "train.lr=1e-12"]
    second = run_module("pretrain", *ARGS, "run=second", *args, cwd=folder)
    assert second.returncode == 0, second.stdout + second.stderr
    metrics = json.loads((folder / "out/runs/second/metrics.json").read_text())
    quality = metrics["quality"]
    assert quality["before"]["probe_auroc@16"] == quality["after"]["probe_auroc@16"] > 0.9
    assert "gained nothing on task.yaml (+0.000 AUROC" in second.stdout and "AUROC on validation rows" in second.stdout
    one, other = (load_file(folder / f"out/runs/{run}/encoder/model.safetensors") for run in ("first", "second"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_new_encoder_is_saved_with_statistics_of_the_averaged_weights(folder):
    """Recomputed from the saved weights, in this process."""
    args = ("objective.name=simsiam", "train.precision=float32")
    done = run_module("pretrain", *ARGS, "run=new", *args, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = load_file(folder / "out/runs/new/encoder/model.safetensors")
    last = load_file(folder / "out/runs/new/step-000024/model.safetensors")
    average = load_file(folder / "out/runs/new/step-000024/average.safetensors")
    convolution, mean = "embedder.embedder.convolution.weight", "embedder.embedder.normalization.running_mean"
    assert torch.equal(weights[convolution], average[f"encoder.model.{convolution}"])
    assert not torch.equal(weights[convolution], last[f"encoder.model.{convolution}"])
    assert not last[f"encoder.model.{mean}"].any(), "buffers do not move in training"
    pixels = next((folder / "out/pixels").glob("*/train/pixels.bin"))
    images = np.fromfile(pixels, np.uint8).reshape(-1, 1, 32, 32).astype(np.float32) / 255
    processor = json.loads((folder / "out/runs/new/encoder/preprocessor_config.json").read_text())
    images = (images - processor["image_mean"][0]) / processor["image_std"][0]
    states = torch.nn.functional.conv2d(torch.from_numpy(images), weights[convolution], stride=2, padding=3)
    assert torch.allclose(weights[mean], states.mean((0, 2, 3)), atol=1e-4)


def test_a_run_without_held_out_images_ends_with_its_report_and_card(folder):
    args = ("model.architecture=vit", "objective.name=mae", "objective.decoder_dim=32", "corpus.held_out=0.0001")
    done = run_module("pretrain", *ARGS, "run=new", *args, "train.steps=4", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Held-out" not in (folder / "out/runs/new/report.html").read_text()
    assert "Too few images are held out to measure on." in (folder / "out/runs/new/encoder/README.md").read_text()
