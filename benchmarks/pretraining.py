"""Pretraining's speed beside transformers' `run_mlm` (benchmarks/peer.py): the same model, text, rows, batch and machine.

    python benchmarks/pretraining.py [sizes=minilm,scratch] [rounds=3] [seconds=8] [batch_size=N]
    make bench                                                         the same, and writes benchmarks/RESULTS.md

Every contender is a process of its own, so that memory is its own; they take turns of `seconds`, one working while the
others wait, after a turn that is not counted (compiling falls into it). Told are medians and extremes over the rounds.
Tokens are real ones: no padding, and of a row what the documents fill.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
SIZES = {
    "minilm": ["configs/pretrain/default.yaml"],
    "scratch": ["configs/pretrain/scratch.yaml"],
    **{f"base-{length}": ["configs/pretrain/base.yaml", f"length={length}", f"train.batch_size={32_768 // length}"]
       for length in (128, 512, 8192)},
}


class Turns:
    """A worker's side of taking turns: `step(tokens)` after each step, which waits while it is another's turn."""

    def __init__(self):
        self.ends, self.tokens, self.began = 0.0, 0, 0.0
        self.wait()

    def wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self.tokens, self.began = 0, time.perf_counter()
        self.ends = self.began + float(line)

    def step(self, tokens: int) -> None:
        self.tokens += tokens
        if time.perf_counter() >= self.ends:
            synchronize()
            seconds = time.perf_counter() - self.began
            print(json.dumps({"tokens": self.tokens, "seconds": seconds, "peak_bytes": peak_bytes()}), file=sys.stderr)
            self.wait()


def synchronize() -> None:
    import torch
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Of the GPU's memory where there is one, else of the process's."""
    import torch
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def ours(words: list[str]) -> None:
    """The command itself, run for ever, told of every step."""
    import pretrain.train as stage
    from engine.config import load
    from pretrain.config import Pretrain

    config = load(Pretrain, [*words, f"run=bench-{os.getpid()}", "train.steps=1000000", "train.save_every=1000000",
                             "train.eval_every=1000000"])
    fit = stage.fit

    def told(module, optimizer, batches, *arguments, after_step: Callable[[int], None], **rest):
        turns, tokens = Turns(), {}

        def counted(step: int):
            made = batches(step)
            tokens[step] = sum(batch.tokens for batch in made)
            return made

        def after(step: int) -> None:
            after_step(step)
            turns.step(tokens.pop(step))

        return fit(module, optimizer, counted, *arguments, after_step=after, **rest)

    stage.fit = told
    stage.pretrain(config)


def peer(name: str, words: list[str]) -> None:
    """run_mlm's recipe on the same documents, tokenizer and network."""
    import torch
    from transformers import AutoTokenizer

    import peer as recipe
    from data import curate
    from data.prepare import prepare
    from data.shards import Shards
    from engine.config import load
    from pretrain.config import Pretrain
    from pretrain.train import new_encoder

    config = load(Pretrain, words)
    init, folder, shards = prepare(config.corpus, config.tokenizer, config.init, config.length, config.model.positions)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = recipe.prepare(recipe.documents(curate.documents(config.corpus), 4_000), tokenizer, config.length)
    torch.manual_seed(0)
    encoder = new_encoder(config, init, Shards(shards, "train"))
    model, flags = recipe.plain(encoder.model), dict(recipe.FLAGS[name])
    batch_size = flags.pop("per_device_train_batch_size", config.train.batch_size)
    turns = Turns()
    recipe.train(model, rows, tokenizer, lambda step: turns.step(batch_size * config.length), max_steps=1_000_000,
                 per_device_train_batch_size=batch_size, **flags)


def contend(name: str, words: list[str]) -> subprocess.Popen:
    """Start a contender; it answers each number of seconds on its input with a line on its error output."""
    return subprocess.Popen([sys.executable, __file__, "worker", name, *words], stdin=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT,
                            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"})


def turn(process: subprocess.Popen, seconds: float) -> dict:
    """One turn's figures. Exits with what the contender said when it died."""
    said = []
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    for line in process.stderr:
        if line.startswith('{"tokens"'):
            return json.loads(line)
        said.append(line)
    sys.exit("".join(said[-30:]))


def compare(size: str, names: list[str], rounds: int, seconds: float, words: list[str]) -> dict[str, dict]:
    """{contender: {"tokens_per_second": [a round each], "peak_bytes"}}, measured in turns."""
    processes = {name: contend(name, [*SIZES[size], *words]) for name in names}
    found: dict[str, dict] = {name: {"tokens_per_second": []} for name in names}
    for name in names:
        turn(processes[name], seconds)
    for _ in range(rounds):
        for name in names:
            told = turn(processes[name], seconds)
            found[name]["tokens_per_second"].append(told["tokens"] / told["seconds"])
            found[name]["peak_bytes"] = told["peak_bytes"]
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return found


def main(words: list[str]) -> None:
    if words[:1] == ["worker"]:
        name, rest = words[1], words[2:]
        return ours(rest) if name == "ours" else peer(name, rest)
    import peer as recipe
    own = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("sizes", "rounds", "seconds", "contenders"))
    rest = [word for word in words if word.split("=")[0] not in own]
    names = own.get("contenders", ",".join(["ours", *recipe.FLAGS])).split(",")
    for size in own.get("sizes", "minilm,scratch").split(","):
        found = compare(size, names, int(own.get("rounds", 3)), float(own.get("seconds", 8)), rest)
        first = statistics.median(found[names[0]]["tokens_per_second"])
        for name, told in found.items():
            rates = told["tokens_per_second"]
            print(f"{size:<9} {name:<22} {statistics.median(rates):>8,.0f} tokens/s [{min(rates):,.0f}, {max(rates):,.0f}]"
                  f"  ours is {first / statistics.median(rates):.2f} times as fast"
                  f"  {told['peak_bytes'] / 2**20:,.0f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
