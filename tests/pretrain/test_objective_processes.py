"""Gradients and evaluations of the objectives that make texts or images: two processes compared with one.

The two are forks of a process that has imported the libraries, and run all objectives one after the other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import run_two_processes
from safetensors.torch import load_file, save_file
from tiny_images import InMemoryPixels, make_objective
from tiny_models import InMemoryShards, make_batch, make_text_objective

from data.sampling import shard_batch
from engine.system.stop_signals import StopRequest
from engine.training.distributed import DDPStrategy, make_accelerator
from engine.training.step import forward_backward, scale_and_clip_gradients
from pretrain.objective import HeldOut
from pretrain.objectives import cyclegan, denoise, gan, vae

ROWS, MICRO_BATCH = 6, 2
CASES = {
    "denoise": lambda: make_text_objective("denoise"),
    "causal": lambda: make_text_objective("causal"),
    "skipgram": lambda: make_text_objective("skipgram"),
    "vae": lambda: make_text_objective("vae"),
    "denoise of images": lambda: make_objective(denoise, "convnextv2"),
    "vae of images": lambda: make_objective(vae, "convnextv2"),
    "gan": lambda: make_objective(gan, "convnextv2"),
    "wgan-gp": lambda: make_objective(gan, "convnextv2", loss="wgan-gp"),
    "cyclegan": lambda: make_objective(cyclegan, "convnextv2"),
}
WORKER = f"import sys; sys.path[:0] = {sys.path[:]}; from {Path(__file__).stem} import work; work(sys.argv[1])"


def measure(name: str, accelerator) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return (gradients, metrics of training and evaluation) of a step of all processes together."""
    objective, dataset = CASES[name]()
    objective.train()
    strategy = DDPStrategy(objective, torch.optim.SGD(objective.parameters()), accelerator)
    shares = shard_batch(ROWS, accelerator.process_index, accelerator.num_processes, MICRO_BATCH)
    batches = [make_batch(dataset, share.tolist(), 3) for share in shares]
    sums, _ = forward_backward(strategy, batches, accelerator, 0, 3, True, StopRequest())
    count = sums["loss"][1]
    scale_and_clip_gradients(list(objective.parameters()), accelerator.num_processes / count, 1e9)
    metrics = {f"training {key}": (pair[0] / count).item() for key, pair in sums.items()} | {"count": count.item()}
    data = InMemoryPixels(9) if hasattr(dataset, "settings") else InMemoryShards()
    metrics |= objective.eval().evaluate(HeldOut(data, accelerator))
    return {key: each.grad for key, each in objective.named_parameters() if each.grad is not None}, metrics


def work(folder: str) -> None:
    """Write what one of the processes measures of all objectives."""
    accelerator = make_accelerator("float32")
    for name in CASES:
        gradients, metrics = measure(name, accelerator)
        path = Path(folder, f"{name}-{accelerator.process_index}")
        save_file(gradients, path.with_suffix(".safetensors"))
        path.with_suffix(".json").write_text(json.dumps(metrics))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes measured."""
    folder = tmp_path_factory.mktemp("processes")
    results = run_two_processes("-c", WORKER, str(folder), cwd=folder)
    assert not any(result.returncode for result in results), "".join(result.stderr for result in results)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradient_and_the_metrics_of_one(folder, cpu_accelerator, name):
    expected, metrics = measure(name, cpu_accelerator)
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 0 and metrics["count"] >= ROWS
    for rank in range(2):
        found = load_file(folder / f"{name}-{rank}.safetensors")
        assert found.keys() == expected.keys()
        assert all((found[key] - expected[key]).abs().max() < 1e-4 * largest for key in expected)
    # Images are evaluated on the first process alone.
    assert json.loads((folder / f"{name}-0.json").read_text()) == pytest.approx(metrics, rel=1e-4, abs=1e-6)
