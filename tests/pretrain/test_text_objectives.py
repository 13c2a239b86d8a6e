"""Runs of the objectives that make text: resuming, micro-batches, steps without a usable gradient."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import ROOT, pretrain_args
from safetensors.torch import load_file
from tiny_models import make_batch, make_text_objective
from tiny_training import train_objective

from engine.config.loader import load_config
from engine.runs.run import Run
from engine.training import trainer
from engine.training.step import Output
from pretrain import train as stage
from pretrain.config import Pretrain
from pretrain.summary import format_summary, report_higher_loss

OBJECTIVES = {"denoise": [], "causal": ["model.architecture=llama"], "skipgram": [], "vae": []}
"""Objective -> arguments of its runs."""
STEPS = 4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_the_same_however_a_batch_is_cut(name):
    results = []
    for sizes in ([6], [1, 2, 3], [5, 1]):
        objective, dataset = make_text_objective(name)
        objective.train()
        for part in np.split(np.arange(6), np.cumsum(sizes)[:-1]):
            objective(**make_batch(dataset, part.tolist(), 3).inputs).loss.backward()
        results.append({name: each.grad for name, each in objective.named_parameters() if each.grad is not None})
    largest = max(gradient.abs().max() for gradient in results[0].values())
    assert largest > 0 and all(result.keys() == results[0].keys() for result in results)
    for other in results[1:]:
        assert all((results[0][key] - other[key]).abs().max() < 1e-5 * largest for key in other)


@pytest.mark.parametrize("planted", ["loss", "gradient"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_with_nan_is_left_out(tmp_path, cpu_accelerator, monkeypatch, name, planted):
    """Of the loss, or of the gradient of a single weight with a finite loss; the steps before and after are taken."""
    objective, dataset = make_text_objective(name)
    forward, weight, seen, bad = objective.forward, next(iter(objective.encoder.parameters())), [], []

    def spoiled_forward(**inputs) -> Output:
        output = forward(**inputs)
        if not (objective.training and bad):
            return output
        spoiled = output.loss * torch.nan if planted == "loss" else output.loss + (0 * weight.flatten()[0]).abs().sqrt()
        assert planted == "loss" or spoiled == output.loss
        return output._replace(loss=spoiled)

    def after_step(step: int) -> None:
        seen.append({key: tensor.clone() for key, tensor in objective.state_dict().items()})
        bad[:] = [True] * (step == 0)

    monkeypatch.setattr(objective, "forward", spoiled_forward)
    monkeypatch.setattr(objective, "after_step", after_step)
    _, run = train_objective(tmp_path, cpu_accelerator, objective, dataset, 3)
    moved = [any(not torch.equal(one[key], two[key]) for key in one) for one, two in itertools.pairwise(seen)]
    assert moved == [False, True] and all(each.isfinite().all() for each in seen[-1].values())
    log = run.read_log()
    assert [entry["skipped_steps"] for entry in log] == [0, 1, 1]
    assert [entry["loss"] is None for entry in log] == [False, True, False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder for all runs of this file, which share tokenizer and shards."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "out").mkdir()
    (folder / "out/cache").symlink_to(ROOT / "out/cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(sentiment_files, name: str, run_name: str, *more: str) -> None:
    """Pretrain in this process."""
    words = [*pretrain_args(sentiment_files), *OBJECTIVES[name], f"objective.name={name}", f"run={run_name}", *more]
    words += [f"train.steps={STEPS}", "train.save_every=1", "train.log_every=1", "train.eval_every=2", "dropout=0.1"]
    stage.pretrain(load_config(Pretrain, words))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_is_bit_identical(folder, sentiment_files, monkeypatch, name):
    monkeypatch.chdir(folder)
    run(sentiment_files, name, f"{name}-whole")
    lr_at = trainer.lr_at

    def fail_at_step(step, *args):
        if step == 2:
            raise InterruptedError
        return lr_at(step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_at", fail_at_step)
        with pytest.raises(InterruptedError):
            run(sentiment_files, name, f"{name}-cut")
    run(sentiment_files, name, f"{name}-cut")
    folders = [folder / f"out/runs/{name}-{kind}" for kind in ("whole", "cut")]
    for file in (f"step-{STEPS:06}/model.safetensors", f"step-{STEPS:06}/optimizer.safetensors"):
        whole, cut = (load_file(folder / file) for folder in folders)
        assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    times = dict.fromkeys(("tokens_per_second", "seconds", "checkpoint_seconds"))
    assert [entry | times for entry in logs[0]] == [entry | times for entry in logs[1]]
    weights = [(each / "encoder/model.safetensors").read_bytes() for each in folders]
    assert weights[0] == weights[1]


def test_a_run_killed_while_it_writes_its_outputs_resumes_and_has_them_all(folder, sentiment_files, monkeypatch):
    monkeypatch.chdir(folder)
    made, outputs = folder / "out/runs/killed", ("generator/model.safetensors", "report.html", "sample.json")
    for function in ("atomic_folder", "render_run_report"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pretrain.artifacts.{function}", Mock(side_effect=InterruptedError))
            with pytest.raises(InterruptedError):
                run(sentiment_files, "causal", "killed")
        assert not (made / "encoder").exists()
    run(sentiment_files, "causal", "killed")
    assert all((made / name).is_file() for name in (*outputs, "encoder/model.safetensors"))


def test_a_run_that_ends_before_its_first_evaluation_has_a_summary(folder, sentiment_files, monkeypatch):
    monkeypatch.chdir(folder)
    lr_at, words = trainer.lr_at, [*pretrain_args(sentiment_files), "run=short", "objective.name=mlm"]
    words += ["train.save_every=1", "train.log_every=9", "train.eval_every=9", "allow_changes=true"]

    def fail_at_step(step, *args):
        if step == 1:
            raise InterruptedError
        return lr_at(step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_at", fail_at_step)
        with pytest.raises(InterruptedError):
            stage.pretrain(load_config(Pretrain, [*words, "train.steps=4"]))
    config = load_config(Pretrain, [*words, "train.steps=1"])
    stage.pretrain(config)
    lines = format_summary(Run(config, "short")).splitlines()
    assert "in 1 steps" in lines[1] and (folder / "out/runs/short/encoder/model.safetensors").is_file()


@pytest.mark.parametrize("name", ["causal", "skipgram"])
def test_a_training_that_diverges_is_one_line(folder, sentiment_files, monkeypatch, capsys, name):
    """Also where the objective has a measure of its own, and no loss is infinite."""
    monkeypatch.chdir(folder)
    run(sentiment_files, name, f"{name}-diverging", "train.lr=30", "train.max_grad_norm=1e9")
    lines = [line for line in capsys.readouterr().err.splitlines() if "diverge" in line]
    assert (
        len(lines) == 1 and lines[0].startswith("warning: training diverges: ") and "try a lower train.lr" in lines[0]
    )


def test_a_divergence_is_a_loss_far_above_that_at_the_start(capsys):
    for losses in ([], [2.0], [2.0, 9.0, *[2.5] * 20], [2.0, 2.9], [-3.0, -1.0], [9.0, *range(20), 9.0, 9.0]):
        report_higher_loss(losses)
    assert not capsys.readouterr().err
    for end in (4.0, 5.0):
        report_higher_loss([2.0, 1.0, end])
    assert capsys.readouterr().err == "warning: training diverges: the loss rose from 2 to 4; try a lower train.lr\n"
