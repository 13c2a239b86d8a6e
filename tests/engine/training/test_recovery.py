"""What has been done is never lost: signals, damaged and unfinished checkpoints, a full disk, numbers gone bad, two at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from helpers import ROOT, environment, pretrain_args, run_module
from tiny_training import TinyNet, full_batch, run_training, train_settings

from data.encoders import resolve_encoder
from data.prepare import prepare
from data.sampling import shuffled_batch
from engine.checkpointing import checkpoint
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

sys.path.append(str(ROOT / "benchmarks"))
import crash  # noqa: E402

CHECKPOINT = ("step-000010/model.safetensors", "step-000010/optimizer.safetensors")


def same(one, other) -> bool:
    """Whether two runs ended with the same weights, optimizer state and log, but for the clock."""

    def told(folder):
        return [
            {key: value for key, value in json.loads(line).items() if not re.search("second", key)}
            for line in (folder / "log.jsonl").read_text().splitlines()
        ]

    return told(one) == told(other) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in CHECKPOINT
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_the_step_and_leaves(tmp_path, cpu_accelerator, number, code):
    config = train_settings(save_every=100, log_every=4, micro_batch=3)
    run_training(tmp_path / "whole", cpu_accelerator, config, 0.4)

    def asks(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(CommandExit, match="stopped after step 5 of 10, saved; the same command goes on") as left:
        run_training(tmp_path / "cut", cpu_accelerator, config, 0.4, after_step=asks)
    assert left.value.exit_code == code and signal.getsignal(number) is before
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "cut")] == ["step-000005"]
    run_training(tmp_path / "cut", cpu_accelerator, config, 0.4)
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_and_nothing_shows(workspace, sentiment_files, kills):
    """As benchmarks/crash.py does a hundred times: while starting, between checkpoints, while one is written."""
    words = [
        *pretrain_args(sentiment_files),
        "dropout=0.1",
        f"train.steps={40 * kills}",
        "train.save_every=7",
        "train.log_every=1",
    ]
    told = crash.crash(workspace, words, kills, seed=kills)
    assert (
        sum(told["moments"].values()) == kills and told["lost"] == 0 and not told["other"] and len(told["same"]) == 4
    ), told


def test_the_command_leaves_with_143_and_one_line(workspace, sentiment_files):
    """While one process trains, a second in the same folder is refused; then the first is asked to stop."""
    words = [
        *pretrain_args(sentiment_files),
        "run=long",
        "train.steps=100000",
        "train.eval_every=100000",
        "train.save_every=100000",
    ]
    first = subprocess.Popen(
        [sys.executable, "-m", "pretrain", *words],
        env=environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    log = workspace / "out/runs/long/log.jsonl"
    while not log.is_file():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.1)
    second = run_module("pretrain", *words)
    assert second.returncode == 2 and len(second.stderr.strip().splitlines()) == 2, second.stderr
    assert second.stderr.startswith(f"out/runs/long: process {first.pid} on "), second.stderr
    first.terminate()
    said = first.communicate(timeout=30)[1]
    assert first.returncode == 143 and re.fullmatch(
        r"out/runs/long: stopped after step \d+ of 100000, saved; the same command goes on\n", said
    ), said
    kept = checkpoint.list_checkpoints(workspace / "out/runs/long")
    assert len(kept) == 1 and checkpoint.find_damage(kept[0]) is None and int(kept[0].name[5:]) > 10


def spoilt(path, how: str) -> None:
    """Damage a file as disks do."""
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut off": content[: len(content) // 2],
            "empty": b"",
            "a bit turned": bytes([*content[:-1], content[-1] ^ 1]),
            "other": b"{}",
        }[how]
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["cut off", "empty", "a bit turned", "other"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, cpu_accelerator, capsys, name, how):
    config = train_settings(save_every=3)
    run_training(tmp_path / "whole", cpu_accelerator, config)
    with pytest.raises(InterruptedError):
        run_training(tmp_path / "cut", cpu_accelerator, config, fail_at_step=8)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "cut")] == ["step-000003", "step-000006"]
    spoilt(tmp_path / "cut/step-000006" / name, how)
    run_training(tmp_path / "cut", cpu_accelerator, config)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}/cut/step-000006: damaged ("), said
    assert same(tmp_path / "whole", tmp_path / "cut") and (tmp_path / "cut/step-000006.damaged").is_dir()


def test_when_no_checkpoint_is_whole_nothing_is_begun_anew(tmp_path, cpu_accelerator):
    with pytest.raises(InterruptedError):
        run_training(tmp_path, cpu_accelerator, train_settings(save_every=3), fail_at_step=8)
    for kept in checkpoint.list_checkpoints(tmp_path):
        spoilt(kept / "model.safetensors", "cut off")
    with pytest.raises(DataError, match="no checkpoint is whole, step-000003 being the last of them"):
        run_training(tmp_path, cpu_accelerator, train_settings(save_every=3))
    assert (tmp_path / "step-000003").is_dir() and (tmp_path / "step-000006.damaged").is_dir()


def test_damaged_best_weights_are_told_and_the_last_ones_taken(tmp_path, cpu_accelerator, capsys):
    scores = {2: 1.0, 4: 9.0, 6: 2.0}

    def go(folder, spoils: bool):
        steps = iter(sorted(scores))

        def evaluate() -> dict[str, float]:
            step = next(steps)
            if step == 6 and spoils:
                while "9.0" not in (folder / "best/state.json").read_text():  # it is written while training goes on
                    time.sleep(0.01)
                spoilt(folder / "best/model.safetensors", "a bit turned")
            return {"score": scores[step]}

        return run_training(
            folder, cpu_accelerator, train_settings(steps=6, eval_every=2), monitor="score", evaluate=evaluate
        )

    _, _, kept = go(tmp_path / "one", False)
    assert kept.metrics == {"score": 9.0, "step": 4} and "best" not in capsys.readouterr().err
    _, _, last = go(tmp_path / "two", True)
    assert last.metrics == {"score": 2.0} and "two/best: damaged" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk can only be mounted by root")
def test_a_full_disk_stops_with_one_line_and_loses_nothing(tmp_path, cpu_accelerator):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        config = train_settings(save_every=2)

        def fills(step: int) -> None:
            if step == 4:
                while not (small / "run/step-000004").is_dir():  # it is written while training goes on
                    time.sleep(0.01)
                with open(small / "others", "wb") as file, pytest.raises(OSError):
                    while True:
                        file.write(bytes(1024))
                        file.flush()

        with pytest.raises((DataError, OSError)) as told:
            run_training(small / "run", cpu_accelerator, config, after_step=fills)
        kept = [path.name for path in checkpoint.list_checkpoints(small / "run")]
        assert kept == ["step-000002", "step-000004"] and not list((small / "run").glob(".step*"))
        if told.type is DataError:
            assert "the disk is full" in str(told.value) and "The newest checkpoint is step-000004" in str(told.value)
        (small / "others").unlink()
        run_training(tmp_path / "whole", cpu_accelerator, config)
        run_training(small / "run", cpu_accelerator, config)
        assert same(tmp_path / "whole", small / "run")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


class Sometimes(TinyNet):
    """A net whose loss is spoilt at some steps."""

    at: dict[int, float] = {}
    step = -1

    def forward(self, **inputs):
        output = super().forward(**inputs)
        if self.training and self.step in self.at:
            output = output._replace(loss=output.loss * self.at[self.step])
        return output


def spoils(at: dict[int, float], monkeypatch):
    """Hooks that make the loss of a step another; at: factors by step."""
    monkeypatch.setattr("tiny_training.TinyNet", Sometimes)

    def hooks(module: Sometimes) -> dict:
        module.at = at
        return {"before_step": lambda step: setattr(module, "step", step)}

    return hooks


@pytest.mark.parametrize("with_muon", [False, True])
def test_a_step_that_is_no_number_leaves_everything_as_it_was(
    tmp_path, cpu_accelerator, monkeypatch, capsys, with_muon
):
    """The weights after a bad step are those before it, bit for bit, and so is the optimizer's state, its count of steps too."""
    seen = []

    def after(module, step: int) -> None:
        seen.append([parameter.detach().clone() for parameter in module.parameters()])

    bad = spoils({3: float("nan"), 6: float("inf")}, monkeypatch)
    module, run, result = run_training(
        tmp_path,
        cpu_accelerator,
        train_settings(log_every=1),
        make_hooks=lambda module: {**bad(module), "after_step": partial(after, module)},
        use_muon=with_muon,
    )
    for step, (old, new) in enumerate(zip(seen, seen[1:]), 1):
        still = all(torch.equal(a, b) for a, b in zip(old, new))
        assert still == (step in (3, 6)), step
    log = run.read_log()
    assert [entry["skipped_steps"] for entry in log] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert log[3]["loss"] is None and log[3]["grad_norm"] is None and log[4]["loss"] > 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2 and said[0].startswith("step 4: the loss or its gradient is not finite"), said
    assert sorted(path.name for path in tmp_path.glob("nan-step-*")) == ["nan-step-4", "nan-step-7"]
    # The kept batch shows the same again, and nothing is trained.
    before = (tmp_path / "log.jsonl").read_bytes()

    def as_then(module) -> dict:
        module.at, module.step = {3: float("nan")}, 3
        return {}

    with pytest.raises(CommandExit) as left:
        run_training(
            tmp_path, cpu_accelerator, train_settings(log_every=1, replay=4), make_hooks=as_then, use_muon=with_muon
        )
    assert left.value.exit_code == 0 and "batch-0-0.safetensors: loss nan" in str(left.value), str(left.value)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="has kept no bad batch of step 5"):
        run_training(tmp_path, cpu_accelerator, train_settings(log_every=1, replay=5), use_muon=with_muon)


def test_too_many_bad_steps_in_a_row_end_the_run_and_the_good_checkpoint_stays(tmp_path, cpu_accelerator, monkeypatch):
    hooks = spoils({step: float("nan") for step in range(5, 10)}, monkeypatch)
    with pytest.raises(
        DataError, match="3 steps in a row without a usable gradient, the last of them step 8.*step-000006"
    ):
        run_training(tmp_path, cpu_accelerator, train_settings(most_skipped=3, save_every=2), make_hooks=hooks)
    assert len(list(tmp_path.glob("nan-step-*"))) == 3


def test_a_jump_of_the_loss_is_left_out_when_asked_and_resumes_the_same(tmp_path, cpu_accelerator, monkeypatch):
    config = train_settings(steps=40, spike=5.0, save_every=8, log_every=4)
    for name, stop in (("whole", None), ("cut", 33)):
        hooks = spoils({2: 50.0, 30: 50.0, 35: 50.0}, monkeypatch)
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
        "step 2 is too early to tell"
    )
    assert (
        run_training(tmp_path / "off", cpu_accelerator, train_settings(steps=40), make_hooks=hooks)[1].read_log()[-1][
            "skipped_steps"
        ]
        == 0
    )


def test_memory_and_room_are_told_before(tmp_path, cpu_accelerator, monkeypatch):
    module, inputs = TinyNet(), {name: value[: preflight.PROBE_ROWS] for name, value in full_batch(0).items()}
    told = preflight.check(module, inputs, tmp_path, train_settings(), cpu_accelerator)
    assert told.startswith("disk ") and "memory   about" in told
    monkeypatch.setattr(preflight, "free_memory", lambda device: 2_000)
    with pytest.raises(
        ConfigError,
        match=r"train.micro_batch_size: a step needs about .*\n\d+ rows would fit: train.micro_batch_size=\d+",
    ):
        preflight.check(module, inputs, tmp_path, train_settings(batch_size=1000), cpu_accelerator)
    monkeypatch.setattr(preflight, "free_disk", lambda folder: 10)
    with pytest.raises(ConfigError, match="train.keep_checkpoints: the disk of"):
        preflight.check(module, inputs, tmp_path, train_settings(), cpu_accelerator)


def test_memory_that_runs_out_is_one_line(tmp_path, cpu_accelerator, monkeypatch):
    class Greedy(TinyNet):
        def forward(self, **inputs):
            if self.training and len(inputs["x"]) > preflight.PROBE_ROWS:
                torch.empty(2**60)
            return super().forward(**inputs)

    monkeypatch.setattr("tiny_training.TinyNet", Greedy)
    with pytest.raises(
        ConfigError, match="memory ran out with 8 rows at once; train.micro_batch_size=4 gives the same result"
    ):
        run_training(tmp_path, cpu_accelerator, train_settings())
    run_training(tmp_path, cpu_accelerator, train_settings(micro_batch=2))


def test_any_step_of_any_corpus_is_found_at_once():
    began = time.perf_counter()
    assert len(set(shuffled_batch(10**12, 512, 10**11, 0))) == 512
    assert time.perf_counter() - began < 1


def test_what_a_row_keeps_is_what_autograd_keeps():
    """Against a network whose activations can be counted by hand: linear, tanh, linear."""
    from accelerate import Accelerator

    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    forward = module.forward
    module.forward = lambda input: forward(input)
    kept = [
        preflight.activation_bytes(module, {"input": torch.zeros(rows, 8)}, Accelerator(cpu=True)) for rows in (2, 4)
    ]
    assert kept == [2 * 4 * (8 + 16), 4 * 4 * (8 + 16)]


def test_looking_only_writes_nothing(workspace, sentiment_files, capsys, monkeypatch):
    def look(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["pretrain", *pretrain_args(sentiment_files), "run=look", "train.steps=3", *words, "--dry-run"]
        )
        with pytest.raises(SystemExit) as left:
            run_command(pretrain_main)
        return left.value.code, *capsys.readouterr()

    code, said, _ = look()
    assert code == 0 and said.startswith("text     inputs found; ") and os.listdir("out") == ["cache"]
    code, _, wrong = look("corpus.sources=[{files: nowhere.txt}]")
    assert code == 2 and wrong.startswith("nowhere.txt: no such file")
    config = load_config(Pretrain, [*pretrain_args(sentiment_files), "run=look", "train.steps=3"])
    prepare(config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions)
    there = sorted(os.listdir("out"))
    code, said, _ = look()
    assert code == 0 and re.search(r"disk     .*\nmemory   about .* for 8 rows at once", said), said
    code, _, wrong = look("train.batch_size=1000")
    assert code == 2 and re.match(r"train.batch_size: 1000 is more than the \d+ rows that the text makes", wrong), wrong
    assert sorted(os.listdir("out")) == there


class Settings(Section):
    train: Train
    changed: bool = False


@pytest.mark.parametrize("check", [False, True])
def test_a_folder_that_cannot_be_written_is_told(tmp_path, check):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/runs.*: cannot be written"):
        Run(Settings(train=train_settings(check=check)), "r", folder=tmp_path / "runs" / "r").start(text="one")


def test_a_change_is_allowed_when_told(tmp_path):
    Run(Settings(train=train_settings()), "r", folder=tmp_path).start(text="one", tokenizer="a")
    with pytest.raises(ConfigError, match="was started with another text.\n"):
        Run(Settings(train=train_settings()), "r", folder=tmp_path).start(text="two", tokenizer="a")
    with pytest.raises(ConfigError, match="train.lr=0.01, not 0.5"):
        Run(Settings(train=train_settings(lr=0.5)), "r", folder=tmp_path)
    Run(Settings(train=train_settings(lr=0.5), changed=True), "r", folder=tmp_path).start(text="two", tokenizer="a")
    Run(Settings(train=train_settings(lr=0.5)), "r", folder=tmp_path).start(text="two", tokenizer="a")


def test_code_that_comes_with_an_encoder_is_never_run(workspace, sentiment_files, monkeypatch):
    """A folder whose configuration asks for code of its own, which would leave a file behind: one line, and no file."""
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
