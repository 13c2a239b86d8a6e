"""Pretraining's speed beside transformers' `run_mlm` (benchmarks/peer.py): the same model, text and machine.

    make bench
    python benchmarks/pretraining.py [sizes=minilm,scratch] [rounds=4] [seconds=5] [contenders=...] [key=value ...]

Every contender is a process of its own, so that memory is its own; they take turns of `seconds`, one working while the
others wait, after a turn that is not counted (compiling falls into it). Told are medians and extremes over the rounds. Ours
runs twice: doing what the peer does (AdamW, 15 % hidden, the rows said), and as the configuration has it.
Tokens are real ones: no padding, and of a row what the documents fill. The peer trains at its default of 8 rows a step and
at ours. `utilisation` is the share of the rate at which this machine multiplies square matrices of 4,096, measured between
the turns, at the contender's precision, and counts only the products a step must make: ours projects the hidden tokens
onto the vocabulary, the peer all. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
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
    **{f"base-{length}": ["configs/pretrain/base.yaml", f"length={length}", f"train.batch_size={32_768 // length}",
                          "train.micro_batch=none"] for length in (128, 512, 8192)},
}
BASE = "run_mlm bf16 compile"
LIKE = {"minilm": 16, "scratch": 64}  # rows a step when ours does what the peer does


class Turns:
    """A worker's side of taking turns: `step(tokens)` after each step, which waits while it is another's turn."""

    def __init__(self, products: float):
        """products: floating-point operations a token."""
        self.ends, self.tokens, self.began, self.products = 0.0, 0, 0.0, products
        self.wait()

    def wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self.tokens, self.began = 0, time.perf_counter()
        self.ends = self.began + float(line)

    def step(self, tokens: int) -> None:
        self.tokens += tokens
        if time.perf_counter() >= self.ends:
            synchronize()
            seconds = time.perf_counter() - self.began
            print(json.dumps({"tokens": self.tokens, "seconds": seconds, "peak_bytes": peak_bytes(),
                              "products": self.products}), file=sys.stderr)
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


def products(model, share: float, attended: float) -> float:
    """Floating-point operations that the matrix products of a training step make for a token.

    share: of the tokens that are projected onto the vocabulary; attended: tokens that a token attends to, on average.
    """
    from torch import nn

    inside = {module.weight for module in model.base_model.modules() if isinstance(module, nn.Linear)}
    head = {module.weight for module in model.modules() if isinstance(module, nn.Linear)} - inside
    config = model.config
    return (6 * (sum(weight.numel() for weight in inside) + share * sum(weight.numel() for weight in head))
            + 12 * attended * config.hidden_size * config.num_hidden_layers)


def matrix_rate(precision: str, size: int = 4096) -> float:
    """Floating-point operations a second of a product of two square matrices."""
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = (torch.randn(size, size, dtype=getattr(torch, precision), device=device) for _ in range(2))
    for times in (1, 2 if device == "cpu" else 50):
        synchronize()
        began = time.perf_counter()
        for _ in range(times):
            one @ other
        synchronize()
    return 2 * size**3 * times / (time.perf_counter() - began)


def ours(words: list[str]) -> None:
    """The command itself, run for ever, told of every step."""
    import pretrain.train as stage
    from engine.config import load
    from pretrain.config import Pretrain

    name = f"bench-{os.getpid()}"
    config = load(Pretrain, [*words, f"run={name}", "train.steps=1000000", "train.save_every=1000000", "head_warmup=0",
                             "train.eval_every=1000000"])
    atexit.register(shutil.rmtree, ROOT / "out" / "runs" / name, ignore_errors=True)
    fit = stage.fit

    def told(module, optimizer, batches, train, run, accelerator, *, after_step: Callable[[int], None], **rest):
        # Under a mask a token's products with the whole row are made; on a GPU, those with its own document alone.
        sizes = batches(0)[0].inputs["document_bounds"].diff().double()
        attended = (sizes @ sizes / sizes.sum()).item() if accelerator.device.type == "cuda" else config.length
        turns, tokens = Turns(products(module.encoder.model, config.objective.mask_rate, attended)), {}

        def counted(step: int):
            made = batches(step)
            tokens[step] = sum(batch.tokens for batch in made)
            return made

        def after(step: int) -> None:
            after_step(step)
            turns.step(tokens.pop(step))

        return fit(module, optimizer, counted, train, run, accelerator, after_step=after, **rest)

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
    model = recipe.plain(encoder.model)
    flags, _, size = name.partition(", ")
    batch_size = int(size.split()[0]) if size else recipe.BATCH_SIZE
    turns = Turns(products(model, 1.0, config.length))
    recipe.train(model, rows, tokenizer, lambda step: turns.step(batch_size * config.length), max_steps=1_000_000,
                 per_device_train_batch_size=batch_size, **recipe.FLAGS[flags])


def contend(name: str, words: list[str]) -> subprocess.Popen:
    """Start a contender; it answers each number of seconds on its input with a line on its error output."""
    return subprocess.Popen([sys.executable, __file__, "worker", name, *words], stdin=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT,
                            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"})


def turn(process: subprocess.Popen, seconds: float) -> dict:
    """One turn's figures. Exits with what the contender said when it died."""
    said = []
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    for line in process.stderr:
        if line.startswith('{"tokens"'):
            return json.loads(line)
        said.append(line)
    sys.exit("".join(said[-30:]))


def compare(size: str, names: list[str], rounds: int, seconds: float, words: list[str]) -> dict[str, dict]:
    """{contender: {"tokens_per_second": [a round each], "peak_bytes", "products"}}, measured in turns; and under
    "float32" and "bfloat16" the rate of matrix products."""
    processes = {name: contend(name, [*SIZES[size], *words]) for name in names}
    found: dict = {name: {"tokens_per_second": []} for name in names} | {"float32": [], "bfloat16": []}
    for name in names:
        turn(processes[name], seconds)
    for _ in range(rounds):
        for name in names:
            told = turn(processes[name], seconds)
            found[name]["tokens_per_second"].append(told["tokens"] / told["seconds"])
            found[name] |= {"peak_bytes": told["peak_bytes"], "products": told["products"]}
        for precision in ("float32", "bfloat16"):
            found[precision].append(matrix_rate(precision))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return found


def rows_of(size: str, names: list[str], found: dict) -> list[list[str]]:
    """The table's lines for one size."""
    first, lines = statistics.median(found[names[0]]["tokens_per_second"]), []
    for name in names:
        told = found[name]
        rate = statistics.median(told["tokens_per_second"])
        precision = "float32" if name.partition(",")[0] == "run_mlm" else "bfloat16"
        lines.append([size, name, f"{rate:,.0f}", f"{min(told['tokens_per_second']):,.0f} to {max(told['tokens_per_second']):,.0f}",
                      f"{first / rate:.2f}", f"{rate * told['products'] / statistics.median(found[precision]):.0%}",
                      f"{told['peak_bytes'] / 1e6:,.0f}"])
    return lines


def main(words: list[str]) -> None:
    if words[:1] == ["worker"]:
        name, rest = words[1], words[2:]
        if not name.startswith("ours"):
            return peer(name, rest)
        rows = name.removeprefix("ours").removeprefix(" as run_mlm, ").removesuffix(" rows")
        like = ["train.optimizer=adamw", "objective.mask_rate=0.15", f"train.batch_size={rows}"]
        return ours([*rest, *(like if rows else [])])
    import peer as recipe
    import results
    import torch
    from engine.config import load
    from pretrain.config import Pretrain
    own = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("sizes", "rounds", "seconds", "contenders"))
    rest = [word for word in words if word.split("=")[0] not in own]
    on_gpu, lines = torch.cuda.is_available(), []
    for size in own.get("sizes", "base-128,base-512,base-8192" if on_gpu else "minilm,scratch").split(","):
        rows = LIKE.get(size) or load(Pretrain, [*SIZES[size], *rest]).train.batch_size
        names = [f"ours as run_mlm, {rows} rows", "ours", *recipe.FLAGS, f"{BASE}, {rows} rows"]
        names = own["contenders"].split(";") if "contenders" in own else names
        found = compare(size, names, int(own.get("rounds", 4)), float(own.get("seconds", 5)), rest)
        lines += rows_of(size, names, found)
        print("\n".join("  ".join(f"{part:>12}" for part in line) for line in lines[-len(names):]), flush=True)
    results.put(f"Speed of pretraining, on a {'GPU' if on_gpu else 'CPU'}", " ".join(["python benchmarks/pretraining.py", *words]),
                results.table(["size", "", "tokens/s", "over the rounds", "the first is x times as fast", "utilisation", "peak MB"],
                              lines))


if __name__ == "__main__":
    main(sys.argv[1:])
