"""The training loop: its results depend neither on micro-batches nor on interruptions."""

import itertools
import math
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import Settings, TinyNet, full_batch, run_training, train_settings
from torch import nn

from engine.checkpointing import checkpoint
from engine.errors import ConfigError, DataError
from engine.runs.run import Run
from engine.training.optimizers import lr_at, muon
from engine.training.settings import Train
from engine.training.step import seed_step


def train_reference(config: Train) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return (weights, gradient norms) of AdamW written out, in float64, on whole batches."""
    torch.manual_seed(0)
    module, norms = TinyNet().double(), []
    moments = {name: (0.0, 0.0) for name, _ in module.named_parameters()}
    for step in range(config.steps):
        output = module(**{name: value.double() for name, value in full_batch(step).items()})
        gradients = torch.autograd.grad(output.loss / output.count, list(module.parameters()))
        norms.append(math.sqrt(sum((g**2).sum().item() for g in gradients)))
        for (name, p), g in zip(module.named_parameters(), gradients, strict=True):
            rate = lr_at(step, config.steps, config) * (0.5 if name.startswith("first") else 1.0)
            g, (m, v) = g * min(1, config.max_grad_norm / norms[-1]), moments[name]
            moments[name] = m, v = 0.9 * m + 0.1 * g, config.beta2 * v + (1 - config.beta2) * g**2
            move = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - config.beta2 ** (step + 1))).sqrt() + 1e-8)
            p.data -= rate * (move + config.weight_decay * (p.ndim > 1) * p)
    return {name: p.detach().float() for name, p in module.named_parameters()}, norms


@pytest.mark.parametrize("micro_batch, clip", [(None, 0.5), (1, 0.5), (3, 0.5), (None, 100), (1, 100), (3, 100)])
def test_weights_match_a_reference_loop_for_any_micro_batch_size(tmp_path, cpu_accelerator, micro_batch, clip):
    config = train_settings(micro_batch_size=micro_batch, max_grad_norm=clip, log_every=1)
    module, run, _ = run_training(tmp_path, cpu_accelerator, config)
    expected, norms = train_reference(config)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach().cpu(), expected[name], rtol=0, atol=1e-6)
    assert [entry["grad_norm"] for entry in run.read_log()] == pytest.approx(norms, rel=1e-5) and max(norms) > 0.5


@pytest.mark.parametrize("kind, end", [("linear", 1 / 90), ("cosine", math.sin(math.pi / 180) ** 2), ("constant", 1)])
def test_learning_rate(kind, end):
    rates = [lr_at(step, 100, train_settings(schedule=kind, warmup_fraction=0.1, lr=2.0)) for step in range(100)]
    assert rates[:11] == pytest.approx([0.2 * step for step in range(1, 11)] + [2.0])
    assert rates[99] == pytest.approx(2 * end) and rates[10:] == sorted(rates[10:], reverse=True)
    for warmup, peak in ((0, 0), (1, 6)):
        assert lr_at(peak, 7, train_settings(schedule=kind, warmup_fraction=warmup)) == 0.01


def test_muon_updates_its_matrices_and_adamw_the_rest(tmp_path, cpu_accelerator):
    """Compare with the two optimizers used separately, on whole batches."""
    config = train_settings(max_grad_norm=100)
    module, _, _ = run_training(tmp_path, cpu_accelerator, config, use_muon=True)
    torch.manual_seed(0)
    reference = TinyNet()
    first, last = reference.first, reference.last
    parameters = [first.weight, last.weight, first.bias, last.bias]
    optimizers = [
        torch.optim.Muon([first.weight], weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(
            [
                {"params": [last.weight]},
                {"params": [first.bias], "weight_decay": 0.0},
                {"params": [last.bias], "weight_decay": 0.0},
            ],
            weight_decay=0.1,
            betas=(0.9, 0.999),
        ),
    ]
    for step in range(config.steps):
        output = reference(**full_batch(step))
        gradients = torch.autograd.grad(output.loss / output.count, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        rate = lr_at(step, config.steps, config)
        optimizers[0].param_groups[0]["lr"] = rate / config.lr * 0.03 * 0.5
        for group, scale in zip(optimizers[1].param_groups, (1, 0.5, 1), strict=True):
            group["lr"] = rate * scale
        for optimizer in optimizers:
            optimizer.step()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(module.get_parameter(name).cpu(), parameter, rtol=0, atol=2e-5)


def test_muon_for_a_network_without_linear_layers_is_a_one_line_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(
        ConfigError, match="^train.optimizer: muon is for linear layers, and this network has none; set"
    ):
        muon(network.named_parameters(), train_settings(), 0.02, set())


@pytest.mark.parametrize("before, after", [(True, False), (False, True)])
def test_a_run_resumes_with_another_optimizer(tmp_path, cpu_accelerator, capsys, before, after):
    with pytest.raises(InterruptedError):
        run_training(tmp_path, cpu_accelerator, train_settings(), fail_at_step=7, use_muon=before)
    _, _, result = run_training(tmp_path, cpu_accelerator, train_settings(), use_muon=after)
    warning = (
        "train.optimizer: not the one of the checkpoint; weights that the other one updated start without moments\n"
    )
    assert result.step == 10 and capsys.readouterr().err == warning
    names = {"first.bias", "last.weight", "last.bias", *([] if after else ["first.weight"])}
    moments = {f"{name}|{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
    state = load_file(tmp_path / "step-000010/optimizer.safetensors")
    assert state.keys() == moments | ({"first.weight|momentum_buffer"} if after else set())
    assert state["last.bias|step"] == 10, "the moments of the others are kept"


@pytest.mark.parametrize("stops, with_muon", [([0], False), ([2], False), ([3], True), ([5, 8], True), ([9], False)])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, cpu_accelerator, stops, with_muon):
    def train(name: str, fails_at: int | None = None):
        return run_training(
            tmp_path / name,
            cpu_accelerator,
            train_settings(micro_batch_size=3),
            0.4,
            fails_at,
            monitor="score",
            use_muon=with_muon,
            make_hooks=lambda module: {"evaluate": lambda: {"score": -module.last.weight.sum().item()}},
        )

    expected, run, _ = train("whole")
    for stop in stops:
        with pytest.raises(InterruptedError):
            train("cut", stop)
        with open(tmp_path / "cut" / "log.jsonl", "a") as file:
            file.write('{"step": 1, "los')
    resumed, again, _ = train("cut")
    states = zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(old, new) for old, new in states)
    for name in ("step-000010/model.safetensors", "step-000010/optimizer.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    logs = [
        [entry | {"tokens_per_second": 0, "seconds": 0, "checkpoint_seconds": 0} for entry in one.read_log()]
        for one in (run, again)
    ]
    assert [(entry["step"], entry["tokens"]) for entry in logs[0]] == [(2, 16), (4, 32), (6, 48), (8, 64), (10, 80)]
    assert logs[0] == logs[1] and logs[0][0].keys() == {
        "step",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "seconds",
        "checkpoint_seconds",
        "skipped_steps",
    }


def test_the_best_weights_are_restored_at_the_end(tmp_path, cpu_accelerator):
    scores, snapshots = iter([1, 3, 2, 3, 0]), []

    def evaluate(module) -> dict[str, float]:
        snapshots.append({name: value.clone() for name, value in module.state_dict().items()})
        return {} if module.training else {"score": next(scores)}

    module, _, result = run_training(
        tmp_path,
        cpu_accelerator,
        train_settings(eval_every=2),
        monitor="score",
        make_hooks=lambda module: {"evaluate": partial(evaluate, module)},
    )
    assert all(torch.equal(value, snapshots[1][name]) for name, value in module.state_dict().items())
    assert (result.step, result.metrics) == (10, {"score": 3, "step": 4}) and len(snapshots) == 5


def test_patience_stops_training_also_after_a_resume(tmp_path, cpu_accelerator):
    scores = iter([1, 2, 2, 1, 2, 9])
    for fails_at in (None, 0):
        _, run, result = run_training(
            tmp_path,
            cpu_accelerator,
            train_settings(eval_every=1, steps=50),
            fail_at_step=fails_at,
            monitor="score",
            patience=3,
            evaluate=lambda: {"score": next(scores)},
        )
        assert (result.step, result.metrics) == (5, {"score": 2, "step": 2}) and len(run.read_log()) == 5


def test_old_checkpoints_are_removed_and_unfinished_ones_ignored(tmp_path, cpu_accelerator):
    (tmp_path / ".step-000010.unfinished").mkdir()
    (tmp_path / ".step-000010.unfinished" / "model.safetensors").write_text("half")
    for fails_at in (None, 0):
        assert (
            run_training(
                tmp_path,
                cpu_accelerator,
                train_settings(save_every=2, keep_checkpoints=2, steps=8),
                fail_at_step=fails_at,
            )[2].step
            == 8
        )
        assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-000006", "step-000008"]


def test_weights_round_trip_with_tied_ones_once_and_mismatches_are_rejected(tmp_path):
    one, two = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2))
    one[1].weight, two[1].weight = one[0].weight, two[0].weight
    one(torch.randn(5, 3))
    save_file(checkpoint.copy_to_cpu(checkpoint.model_state(one)), tmp_path / "model.safetensors")
    checkpoint.load_model_state(two, load_file(tmp_path / "model.safetensors"), tmp_path)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert two[0].weight is two[1].weight and "1.weight" not in checkpoint.model_state(one)
    for change, message in (
        (nn.Linear(4, 3), r"0.weight has shape \(3, 3\), this network \(3, 4\)"),
        (nn.Linear(3, 3, bias=False), "not the weights of this network"),
    ):
        two[0] = change
        two[1].weight = change.weight
        with pytest.raises(DataError, match=message):
            checkpoint.load_model_state(two, load_file(tmp_path / "model.safetensors"), tmp_path)


def test_a_changed_configuration_is_rejected_except_for_resumable_keys(tmp_path):
    def make_run(**overrides) -> Run:
        return Run(Settings(train=train_settings(**overrides)), "r", folder=tmp_path)

    make_run().start()
    make_run(log_every=5, save_every=1, keep_checkpoints=9, micro_batch_size=2)
    with pytest.raises(ConfigError, match="started with train.lr=0.01, not 0.5.\n.*run=r-2"):
        make_run(lr=0.5)
    with pytest.raises(
        ConfigError, match=r"train.lr=0.01, not 0.5 and 2 more keys \(train.max_grad_norm, train.steps\)"
    ):
        make_run(lr=0.5, max_grad_norm=2, steps=11)


def test_frozen_parameters_do_not_change_and_the_others_do(tmp_path, cpu_accelerator):
    seen, frozen = [], (0, 1, 5, 6)

    def freeze(module, step: int) -> None:
        seen.append({name: value.clone() for name, value in module.state_dict().items()})
        module.first.requires_grad_(step not in frozen)

    module, *_ = run_training(
        tmp_path, cpu_accelerator, train_settings(), make_hooks=lambda module: {"before_step": partial(freeze, module)}
    )
    for step, (old, new) in enumerate(itertools.pairwise([*seen, module.state_dict()])):
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        assert moved == {name for name in old if step not in frozen or name.startswith("last")}


def test_dropout_depends_on_seed_step_micro_batch_and_process():
    def draw(*indices):
        seed_step(*indices)
        return torch.rand(3).tolist()

    cases = [(2**31 - 1, 10**9, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert [draw(*case) for case in cases] == [draw(*case) for case in cases]
    assert len({tuple(draw(*case)) for case in cases}) == len(cases)


def test_training_survives_a_clock_that_stands_still(tmp_path, cpu_accelerator, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    monkeypatch.setattr(time, "time", lambda: -5.0)
    _, run, _ = run_training(tmp_path, cpu_accelerator, train_settings())
    assert all(entry["tokens_per_second"] >= 0 and entry["seconds"] == 0 for entry in run.read_log())
