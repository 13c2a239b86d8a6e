"""Recovery from signals, damaged and unfinished checkpoints, a full disk, non-finite losses and concurrent starts."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from functools import partial
from types import SimpleNamespace

import crash
import pytest
import torch
from helpers import pretrain_args, run_module, small_disk, start_module
from tiny_training import TinyNet, full_batch, run_training, train_settings
from torch import nn

from data.encoders import resolve_encoder
from data.prepare import prepare
from data.sampling import shuffled_batch
from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.cli import run_command
from engine.config.loader import load_config
from engine.config.schema import Section
from engine.errors import CommandExit, ConfigError, DataError
from engine.runs.run import Run
from engine.training import preflight
from engine.training.settings import Train
from finetune.config import Finetune
from finetune.train import finetune
from pretrain.__main__ import main as pretrain_main
from pretrain.config import Pretrain
from pretrain.train import pretrain

CHECKPOINT = ("step-000010/model.safetensors", "step-000010/optimizer.safetensors")


def are_identical(one, other) -> bool:
    """Return whether two runs have the same weights, optimizer state and log, except for times."""

    def read_entries(folder):
        return [
            {key: value for key, value in json.loads(line).items() if not re.search("second", key)}
            for line in (folder / "log.jsonl").read_text().splitlines()
        ]

    return read_entries(one) == read_entries(other) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in CHECKPOINT
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_training_after_the_step_with_a_checkpoint(tmp_path, cpu_accelerator, number, code):
    config = train_settings(save_every=100, log_every=4, micro_batch_size=3)
    run_training(tmp_path / "whole", cpu_accelerator, config, 0.4)

    def send_signal(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(CommandExit, match="stopped after step 5 of 10, saved; rerun the command to resume") as stop:
        run_training(tmp_path / "cut", cpu_accelerator, config, 0.4, after_step=send_signal)
    assert stop.value.exit_code == code and signal.getsignal(number) is before
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "cut")] == ["step-000005"]
    run_training(tmp_path / "cut", cpu_accelerator, config, 0.4)
    assert are_identical(tmp_path / "whole", tmp_path / "cut")


def test_after_a_signal_no_process_ends_before_the_checkpoint_is_written(tmp_path, cpu_accelerator, monkeypatch):
    write, saved = AsyncSaver._write, []

    def write_slowly(*args) -> None:
        time.sleep(0.3)
        write(*args)

    monkeypatch.setattr(AsyncSaver, "_write", write_slowly)
    monkeypatch.setattr(
        type(cpu_accelerator), "wait_for_everyone", lambda self: saved.append(checkpoint.list_checkpoints(tmp_path))
    )
    with pytest.raises(CommandExit, match="stopped after step 5 of 10, saved"):
        run_training(
            tmp_path,
            cpu_accelerator,
            train_settings(save_every=100),
            after_step=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None,
        )
    assert saved == [[tmp_path / "step-000005"]]


@pytest.mark.parametrize("num_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_without_loss(workspace, sentiment_files, num_kills):
    """Run benchmarks/crash.py with few kills: during the start, between checkpoints and while one is written."""
    args = [
        *pretrain_args(sentiment_files),
        "dropout=0.1",
        f"train.steps={40 * num_kills}",
        "train.save_every=7",
        "train.log_every=1",
    ]
    counts = crash.kill_repeatedly(workspace, args, num_kills, seed=num_kills)
    assert sum(counts["moments"].values()) == num_kills and counts["lost_checkpoints"] == 0, counts
    assert len(counts["identical"]) == 4 and not counts["different"], counts


def test_a_concurrent_start_is_rejected_and_sigterm_exits_with_143(workspace, sentiment_files):
    """While one process trains, a second one in the same folder is rejected; then the first is terminated."""
    args = [
        *pretrain_args(sentiment_files),
        "run=long",
        "train.steps=100000",
        "train.eval_every=100000",
        "train.save_every=100000",
    ]
    first = start_module("pretrain", *args)
    log = workspace / "out/runs/long/log.jsonl"
    while not log.is_file():
        assert first.poll() is None, first.stderr.read_text()
        time.sleep(0.1)
    second = run_module("pretrain", *args)
    assert second.returncode == 2 and len(second.stderr.strip().splitlines()) == 2, second.stderr
    assert second.stderr.startswith(f"out/runs/long: in use by process {first.pid} on "), second.stderr
    first.send_signal(signal.SIGTERM)
    stderr = first.complete().stderr
    assert first.returncode == 143 and re.fullmatch(
        r"out/runs/long: stopped after step \d+ of 100000, saved; rerun the command to resume\n", stderr
    ), stderr
    saved = checkpoint.list_checkpoints(workspace / "out/runs/long")
    assert len(saved) == 1 and checkpoint.find_damage(saved[0]) is None and int(saved[0].name[5:]) > 10


def damage_file(path, how: str) -> None:
    """Damage a file as disks do."""
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "flipped bit": bytes([*content[:-1], content[-1] ^ 1]),
            "replaced": b"{}",
        }[how]
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "empty", "flipped bit", "replaced"])
def test_a_damaged_checkpoint_is_reported_and_skipped(tmp_path, cpu_accelerator, capsys, name, how):
    config = train_settings(save_every=3)
    run_training(tmp_path / "whole", cpu_accelerator, config)
    with pytest.raises(InterruptedError):
        run_training(tmp_path / "cut", cpu_accelerator, config, fail_at_step=8)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "cut")] == ["step-000003", "step-000006"]
    damage_file(tmp_path / "cut/step-000006" / name, how)
    run_training(tmp_path / "cut", cpu_accelerator, config)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/cut/step-000006: damaged ("), lines
    assert are_identical(tmp_path / "whole", tmp_path / "cut") and (tmp_path / "cut/step-000006.damaged").is_dir()


def test_a_checkpoint_damaged_twice_is_skipped_twice(tmp_path, cpu_accelerator):
    config = train_settings(save_every=3)
    run_training(tmp_path / "whole", cpu_accelerator, config)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            run_training(tmp_path / "cut", cpu_accelerator, config, fail_at_step=8)
        damage_file(tmp_path / "cut/step-000006/model.safetensors", "truncated")
    run_training(tmp_path / "cut", cpu_accelerator, config)
    assert are_identical(tmp_path / "whole", tmp_path / "cut") and (tmp_path / "cut/step-000006.damaged").is_dir()


def test_training_does_not_start_over_when_all_checkpoints_are_damaged(tmp_path, cpu_accelerator):
    with pytest.raises(InterruptedError):
        run_training(tmp_path, cpu_accelerator, train_settings(save_every=3), fail_at_step=8)
    for path in checkpoint.list_checkpoints(tmp_path):
        damage_file(path / "model.safetensors", "truncated")
    with pytest.raises(DataError, match="all checkpoints are damaged; the last one is step-000003"):
        run_training(tmp_path, cpu_accelerator, train_settings(save_every=3))
    assert (tmp_path / "step-000003").is_dir() and (tmp_path / "step-000006.damaged").is_dir()


def test_damaged_best_weights_are_reported_and_the_last_weights_used(tmp_path, cpu_accelerator, capsys):
    scores = {2: 1.0, 4: 9.0, 6: 2.0}

    def train(folder, damage: bool):
        steps = iter(sorted(scores))

        def evaluate() -> dict[str, float]:
            step = next(steps)
            if step == 6 and damage:
                while "9.0" not in (folder / "best/state.json").read_text():  # it is written during training
                    time.sleep(0.01)
                damage_file(folder / "best/model.safetensors", "flipped bit")
            return {"score": scores[step]}

        return run_training(
            folder, cpu_accelerator, train_settings(steps=6, eval_every=2), monitor="score", evaluate=evaluate
        )

    _, _, best = train(tmp_path / "one", False)
    assert best.metrics == {"score": 9.0, "step": 4} and "best" not in capsys.readouterr().err
    _, _, last = train(tmp_path / "two", True)
    assert last.metrics == {"score": 2.0} and "two/best: damaged" in capsys.readouterr().err


def test_a_full_disk_stops_training_without_loss(tmp_path, cpu_accelerator):
    with small_disk(tmp_path, "128k") as small:
        config = train_settings(save_every=2)

        def fill_disk(step: int) -> None:
            if step == 4:
                while not (small / "run/step-000004").is_dir():  # it is written during training
                    time.sleep(0.01)
                with open(small / "others", "wb") as file, pytest.raises(OSError):
                    while True:
                        file.write(bytes(1024))
                        file.flush()

        with pytest.raises((DataError, OSError)) as error:
            run_training(small / "run", cpu_accelerator, config, after_step=fill_disk)
        saved = [path.name for path in checkpoint.list_checkpoints(small / "run")]
        assert saved == ["step-000002", "step-000004"] and not list((small / "run").glob(".step*"))
        if error.type is DataError:
            assert "the disk is full" in str(error.value) and "The newest checkpoint is step-000004" in str(error.value)
        (small / "others").unlink()
        run_training(tmp_path / "whole", cpu_accelerator, config)
        run_training(small / "run", cpu_accelerator, config)
        assert are_identical(tmp_path / "whole", small / "run")


class BadLossNet(TinyNet):
    """A net with the loss of some steps multiplied by a factor."""

    factors: dict[int, float] = {}
    step = -1

    def forward(self, **inputs):
        output = super().forward(**inputs)
        if self.training and self.step in self.factors:
            output = output._replace(loss=output.loss * self.factors[self.step])
        return output


def multiply_loss(factors: dict[int, float], monkeypatch):
    """Return `make_hooks` that multiplies the loss of a step by its factor."""
    monkeypatch.setattr("tiny_training.TinyNet", BadLossNet)

    def make_hooks(module: BadLossNet) -> dict:
        module.factors = factors
        return {"before_step": lambda step: setattr(module, "step", step)}

    return make_hooks


@pytest.mark.parametrize("with_muon", [False, True])
def test_a_non_finite_step_changes_nothing_and_can_be_replayed(
    tmp_path, cpu_accelerator, monkeypatch, capsys, with_muon
):
    """Weights after a bad step are bit-identical to those before it."""
    seen = []

    def after_step(module, step: int) -> None:
        seen.append([parameter.detach().clone() for parameter in module.parameters()])

    bad = multiply_loss({3: float("nan"), 6: float("inf")}, monkeypatch)
    module, run, result = run_training(
        tmp_path,
        cpu_accelerator,
        train_settings(log_every=1),
        make_hooks=lambda module: {**bad(module), "after_step": partial(after_step, module)},
        use_muon=with_muon,
    )
    for step, (old, new) in enumerate(itertools.pairwise(seen), 1):
        unchanged = all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        assert unchanged == (step in (3, 6)), step
    log = run.read_log()
    assert [entry["skipped_steps"] for entry in log] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert log[3]["loss"] is None and log[3]["grad_norm"] is None and log[4]["loss"] > 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("step 4: the loss or its gradient is not finite"), lines
    assert sorted(path.name for path in tmp_path.glob("nan-step-*")) == ["nan-step-4", "nan-step-7"]
    # The saved batch reproduces the loss, and nothing is trained.
    before = (tmp_path / "log.jsonl").read_bytes()

    def repeat_step(module) -> dict:
        module.factors, module.step = {3: float("nan")}, 3
        return {}

    with pytest.raises(CommandExit) as stop:
        run_training(
            tmp_path, cpu_accelerator, train_settings(log_every=1, replay=4), make_hooks=repeat_step, use_muon=with_muon
        )
    assert stop.value.exit_code == 0 and "batch-0-0.safetensors: loss nan" in str(stop.value), str(stop.value)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="has no saved batch of step 5"):
        run_training(tmp_path, cpu_accelerator, train_settings(log_every=1, replay=5), use_muon=with_muon)


def test_too_many_consecutive_bad_steps_end_the_run(tmp_path, cpu_accelerator, monkeypatch):
    hooks = multiply_loss({step: float("nan") for step in range(5, 10)}, monkeypatch)
    with pytest.raises(DataError, match="no usable gradient in 3 consecutive steps up to 8.*step-000006"):
        run_training(tmp_path, cpu_accelerator, train_settings(max_skipped_steps=3, save_every=2), make_hooks=hooks)
    assert len(list(tmp_path.glob("nan-step-*"))) == 3


def test_max_loss_ratio_skips_jumps_of_the_loss_also_after_a_resume(tmp_path, cpu_accelerator, monkeypatch):
    config = train_settings(steps=40, max_loss_ratio=5.0, save_every=8, log_every=4)
    for name, stop in (("whole", None), ("cut", 33)):
        hooks = multiply_loss({2: 50.0, 30: 50.0, 35: 50.0}, monkeypatch)
        if stop:
            with pytest.raises(InterruptedError):
                run_training(tmp_path / name, cpu_accelerator, config, make_hooks=hooks, fail_at_step=stop)
        _, run, _ = run_training(tmp_path / name, cpu_accelerator, config, make_hooks=hooks)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k}
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1] and [entry["skipped_steps"] for entry in logs[0]][-3:] == [1, 2, 2], (
        "the running mean is not known at step 2"
    )
    assert (
        run_training(tmp_path / "off", cpu_accelerator, train_settings(steps=40), make_hooks=hooks)[1].read_log()[-1][
            "skipped_steps"
        ]
        == 0
    )


def test_max_loss_ratio_skips_no_step_of_a_negative_loss(tmp_path, cpu_accelerator, monkeypatch):
    hooks = multiply_loss(dict.fromkeys(range(40), -1.0), monkeypatch)
    config = train_settings(steps=40, max_loss_ratio=5.0)
    _, run, result = run_training(tmp_path, cpu_accelerator, config, make_hooks=hooks)
    last = run.read_log()[-1]
    assert result.step == 40 and last["loss"] < 0 and last["skipped_steps"] == 0


def test_missing_memory_and_disk_space_are_reported_before_training(tmp_path, cpu_accelerator, monkeypatch):
    module, inputs = TinyNet(), {name: value[: preflight.PROBE_ROWS] for name, value in full_batch(0).items()}
    report = preflight.check(module, inputs, tmp_path, train_settings(), cpu_accelerator)
    assert report.startswith("disk ") and "memory   about" in report
    monkeypatch.setattr(preflight, "free_memory", lambda device: 2_000)
    with pytest.raises(
        ConfigError,
        match=r"train.micro_batch_size: a step needs about .*\n\d+ rows would fit: train.micro_batch_size=\d+",
    ):
        preflight.check(module, inputs, tmp_path, train_settings(batch_size=1000), cpu_accelerator)
    monkeypatch.setattr(preflight, "free_disk", lambda folder: 10)
    with pytest.raises(ConfigError, match="train.keep_checkpoints: the disk of"):
        preflight.check(module, inputs, tmp_path, train_settings(), cpu_accelerator)


def test_a_sharded_network_need_not_fit_with_its_optimizer(monkeypatch):
    """Of a GPU with room for three times the weights, an eighth of all needs two and a half, and all of them four."""
    network = nn.Linear(1_000, 1_000, device="meta")
    size = preflight.parameter_bytes(network)
    monkeypatch.setattr(preflight, "free_memory", lambda device: 2 * size)  # and the network
    monkeypatch.setattr(preflight, "activation_bytes", lambda *args: 2)
    gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), num_processes=8)
    network.to = lambda device: network
    with pytest.raises(ConfigError, match="Not even one row fits"):
        preflight.check_memory(network, {}, 2, gpu)
    assert preflight.check_memory(network, {}, 2, gpu, num_shards=8).startswith("memory   about 0.0 GB")


def test_processes_share_the_free_memory_but_not_their_weights(monkeypatch):
    network, processes = nn.Linear(1_000, 1_000), 4
    size = preflight.parameter_bytes(network)
    monkeypatch.setattr(preflight, "activation_bytes", lambda *args: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    cpu = SimpleNamespace(device=torch.device("cpu"), num_processes=processes)
    # A step needs seven times the weights, of which each process has one.
    monkeypatch.setattr(preflight, "free_memory", lambda device: processes * (6 * size + 100))
    assert preflight.check_memory(network, {}, 1, cpu).startswith("memory   about")
    monkeypatch.setattr(preflight, "free_memory", lambda device: processes * 6 * size)
    with pytest.raises(ConfigError, match="Not even one row fits"):
        preflight.check_memory(network, {}, 1, cpu)


def test_out_of_memory_is_reported_with_a_smaller_micro_batch(tmp_path, cpu_accelerator, monkeypatch):
    class Greedy(TinyNet):
        def forward(self, **inputs):
            if self.training and len(inputs["x"]) > preflight.PROBE_ROWS:
                torch.empty(2**60)
            return super().forward(**inputs)

    monkeypatch.setattr("tiny_training.TinyNet", Greedy)
    with pytest.raises(
        ConfigError, match="out of memory with 8 rows at once; train.micro_batch_size=4 gives the same result"
    ):
        run_training(tmp_path, cpu_accelerator, train_settings())
    run_training(tmp_path, cpu_accelerator, train_settings(micro_batch_size=2))


def test_the_batch_of_a_late_step_of_a_large_corpus_takes_no_time():
    start = time.perf_counter()
    assert len(set(shuffled_batch(10**12, 512, 10**11, 0))) == 512
    assert time.perf_counter() - start < 1


def test_activation_bytes_counts_what_autograd_saves():
    """Compare with a network of known activations: linear, tanh, linear."""
    from accelerate import Accelerator

    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    forward = module.forward
    module.forward = lambda input: forward(input)
    sizes = [
        preflight.activation_bytes(module, {"input": torch.zeros(rows, 8)}, Accelerator(cpu=True)) for rows in (2, 4)
    ]
    assert sizes == [2 * 4 * (8 + 16), 4 * 4 * (8 + 16)]


def test_measuring_memory_compiles_nothing():
    from accelerate import Accelerator

    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        compiled.append(inputs)
        return graph

    class Tanh(torch.nn.Module):
        def forward(self, input):
            return input.tanh()

    module = Tanh()
    module.compile(backend=backend)
    preflight.activation_bytes(module, {"input": torch.zeros(2, 8)}, Accelerator(cpu=True))
    assert not compiled
    module(input=torch.zeros(4, 8))
    assert len(compiled) == 1


def test_a_dry_run_writes_nothing(workspace, sentiment_files, capsys, monkeypatch):
    def dry_run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["pretrain", *pretrain_args(sentiment_files), "run=x", "train.steps=3", *args, "--dry-run"]
        )
        with pytest.raises(SystemExit) as exit_info:
            run_command(pretrain_main)
        return exit_info.value.code, *capsys.readouterr()

    code, stdout, _ = dry_run()
    assert code == 0 and stdout.startswith("text     inputs found; ") and os.listdir("out") == ["cache"]
    code, _, stderr = dry_run("corpus.sources=[{files: nowhere.txt}]")
    assert code == 2 and stderr.startswith("nowhere.txt: no such file")
    config = load_config(Pretrain, [*pretrain_args(sentiment_files), "run=x", "train.steps=3"])
    prepare(config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions)
    before = sorted(os.listdir("out"))
    code, stdout, _ = dry_run()
    assert code == 0 and re.search(r"disk     .*\nmemory   about .* for 8 rows at once", stdout), stdout
    code, _, stderr = dry_run("train.batch_size=1000")
    assert code == 2 and re.match(r"train.batch_size: 1000 is more than the \d+ rows of the training set", stderr), (
        stderr
    )
    assert sorted(os.listdir("out")) == before


class Settings(Section):
    train: Train
    allow_changes: bool = False
    resumable = ("allow_changes",)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_that_cannot_be_written_is_reported(tmp_path, dry_run):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/runs.*: cannot be written"):
        Run(Settings(train=train_settings(dry_run=dry_run)), "r", folder=tmp_path / "runs" / "r").start(text="one")


def test_allow_changes_accepts_a_changed_configuration(tmp_path):
    Run(Settings(train=train_settings()), "r", folder=tmp_path).start(text="one", tokenizer="a")
    with pytest.raises(ConfigError, match="was started with another text.\n"):
        Run(Settings(train=train_settings()), "r", folder=tmp_path).start(text="two", tokenizer="a")
    with pytest.raises(ConfigError, match="train.lr=0.01, not 0.5"):
        Run(Settings(train=train_settings(lr=0.5)), "r", folder=tmp_path)
    changed = {"train.lr": [0.01, 0.5], "text": ["one", "two"]}
    Run(Settings(train=train_settings(lr=0.5), allow_changes=True), "r", folder=tmp_path).start(
        text="two", tokenizer="a"
    )
    run = Run(Settings(train=train_settings(lr=0.5)), "r", folder=tmp_path)  # as if the first one had been killed
    run.start(text="two", tokenizer="a")
    for step in (7, 9):
        run.resume_at(step)
        assert run.read_changes() == {"changes": [{"step": 7, "keys": changed}]}
    run = Run(Settings(train=train_settings(lr=0.7), allow_changes=True), "r", folder=tmp_path)
    run.start(text="two", tokenizer="a")
    run.resume_at(11)
    second = {"step": 11, "keys": {"train.lr": [0.5, 0.7]}}
    assert run.read_changes() == {"changes": [{"step": 7, "keys": changed}, second]}


def test_a_change_before_the_first_step_is_none(tmp_path):
    for lr in (0.1, 0.5):
        run = Run(Settings(train=train_settings(lr=lr), allow_changes=True), "r", folder=tmp_path)
        run.start(text="one")
        run.resume_at(0)
    assert run.read_changes() == {}


def test_remote_code_of_an_encoder_is_never_run(workspace, sentiment_files, monkeypatch):
    """A folder with custom code that would write a file is rejected in one line."""
    folder = workspace / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "theirs",
                "auto_map": {
                    "AutoConfig": "code.C",
                    "AutoModel": "code.M",
                    "AutoModelForMaskedLM": "code.M",
                    "AutoTokenizer": "code.T",
                },
            }
        )
    )
    (folder / "code.py").write_text("open('RAN', 'w')")
    shutil.copy(resolve_encoder("minilm") / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "T",
                "auto_map": {"AutoTokenizer": ["code.T", None]},
                "pad_token": "[PAD]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            }
        )
    )
    (folder / "model.safetensors").write_bytes(b"")
    corpus = f"corpus={{name: c, held_out: 0.1, sources: [{{files: '{sentiment_files}/corpus.txt'}}]}}"
    commands = [
        (
            pretrain,
            load_config(
                Pretrain, ["configs/pretrain/mlm.yaml", corpus, "init=theirs", "run=x", "train.precision=float32"]
            ),
        ),
        (
            finetune,
            load_config(
                Finetune,
                [
                    "configs/finetune/your-task.yaml",
                    "method=none",
                    f"task.train.files={sentiment_files}/labels.csv",
                    "run=x",
                    "train.precision=float32",
                    "encoder=theirs",
                ],
            ),
        ),
    ]
    for command, config in commands:
        with pytest.raises(DataError, match="^theirs: "):
            command(config)
    assert not list(workspace.rglob("RAN")) and not (workspace / "out/runs").exists()
