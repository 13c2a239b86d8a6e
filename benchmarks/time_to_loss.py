"""Measure how long ours takes to the loss that transformers' `run_mlm` reaches in `minutes`, on the same text.

    python benchmarks/time_to_loss.py [size=scratch] [minutes=20] [share=0.25] [lr=5e-4] [warmup=0.06]
                                      [flags="run_mlm bf16 compile"]

First `python -m pretrain`, with as many steps as fit in `share` of the minutes; then run_mlm's recipe with as many
steps as fit in `minutes`, linear decay to the end, and the best tested learning rate and warmup (docs/lab-notebook; at
its default, 5e-5, a new network learns almost nothing in that time). The loss is that of the validator: 15% of the
same held-out tokens are masked. run_mlm is evaluated with separate documents and with joined rows as in its training;
the lower loss counts. Its clock excludes evaluation and all that precedes the first step; ours starts with the
command. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import results
from pretraining import SIZES

NUM_EVALUATIONS = 12
EVALUATION_SECONDS = 2  # approximate cost of one of ours


def run_peer_worker(args: list[str], minutes: float, lr: float, warmup: float, flags: str) -> None:
    """Train with run_mlm's recipe and print a line of JSON for each evaluation."""
    import peer
    import torch
    from accelerate import Accelerator
    from transformers import AutoTokenizer

    from data.corpus.build import build_corpus
    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.model.build import build_encoder
    from pretrain.model.encoder import Encoder
    from pretrain.validation import Validator

    config = load_config(Pretrain, [*args, "model.embeddings=random"])
    max_length = config.max_length
    init, folder, shards = prepare(config.corpus, config.tokenizer, config.init, max_length, config.model.positions)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    dataset = peer.prepare(peer.load_documents(build_corpus(config.corpus)), tokenizer, max_length)
    torch.manual_seed(0)
    model = peer.to_transformers(build_encoder(config, init, Shards(shards, "train")).model)
    encoder, options = Encoder(model), {**peer.FLAGS[flags], "learning_rate": lr}
    batch_size = options["per_device_train_batch_size"] = peer.BATCH_SIZE
    precision, on_cpu = "bf16" if options.get("bf16") else "no", not torch.cuda.is_available()
    separate, joined = (
        Validator(Shards(shards, "held_out"), config.eval_rows, Accelerator(mixed_precision=precision, cpu=on_cpu))
        for _ in range(2)
    )
    for inputs in joined.mlm_batches:
        inputs["document_ids"].clamp_(max=0)
        inputs["position_ids"][:] = torch.arange(max_length)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times: list[float] = []

    def stop_trial(step: int) -> bool:
        times.append(time.perf_counter())
        # The first steps include compilation.
        return len(times) > 20 and times[-1] - times[15] > 20

    peer.train(model, dataset, tokenizer, stop_trial, max_steps=10_000, **options)
    steps = round(minutes * 60 * (len(times) - 16) / (times[-1] - times[15]))
    model.load_state_dict(initial)
    clock = {"start": time.perf_counter(), "paused": 0.0}

    def evaluate(step: int) -> bool:
        if step == 1:
            clock["start"] = time.perf_counter()
        seconds = time.perf_counter() - clock["start"] - clock["paused"]
        is_last = step >= steps or seconds > 1.1 * minutes * 60
        if is_last or step % max(1, steps // NUM_EVALUATIONS) == 0:
            pause = time.perf_counter()
            encoder.eval()
            loss = min(validator(encoder)["loss"] for validator in (separate, joined))
            point = {"step": step, "tokens": step * batch_size * max_length, "seconds": seconds, "loss": loss}
            print(json.dumps(point), flush=True)
            encoder.train()
            clock["paused"] += time.perf_counter() - pause
        return is_last

    options |= {"max_steps": steps, "warmup_steps": round(warmup * steps)}
    peer.train(model, dataset, tokenizer, evaluate, **options)


def start_peer(args: list[str], minutes: str, lr: str, warmup: str, flags: str) -> list[dict]:
    """Return run_mlm's curve: a list of {"step", "tokens", "seconds", "loss"}."""
    command = [sys.executable, __file__, "peer", minutes, lr, warmup, flags, *args]
    curve = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=results.ROOT,
        env={**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    ) as process:
        for line in process.stdout:
            if line.startswith('{"step"'):
                curve.append(json.loads(line))
                print(f"run_mlm  {curve[-1]['seconds']:6.0f} s  loss {curve[-1]['loss']:.3f}", flush=True)
    if process.returncode or not curve:
        sys.exit("run_mlm failed; for its error, run:\n" + " ".join(command))
    return curve


def run_headstart(args: list[str], seconds: float) -> tuple[list[dict], float]:
    """Return (our curve, seconds before the first step) of a training that takes `seconds`, after a short trial."""

    def run(name: str, *more: str) -> tuple[list[dict], float]:
        start, startup, folder = time.time(), 0.0, results.ROOT / "out" / "runs" / name
        command = [sys.executable, "-m", "pretrain", *args, f"run={name}", "train.save_every=1000000", *more]
        process, path = subprocess.Popen(command, cwd=results.ROOT, stdout=subprocess.DEVNULL), folder / "log.jsonl"
        while process.poll() is None:
            time.sleep(0.05)
            if not startup and path.is_file() and (lines := path.read_text().splitlines(keepends=True)):
                startup = time.time() - start - json.loads(lines[0])["seconds"] if lines[0].endswith("\n") else 0.0
        if process.returncode:
            sys.exit(f"failed: {' '.join(command)}")
        log = [json.loads(line) for line in path.read_text().splitlines()]
        shutil.rmtree(folder)
        return log, startup

    name = f"time-to-loss-{os.getpid()}"
    trial, startup = run(f"{name}-trial", "train.steps=60", "train.eval_every=60", "train.log_every=10")
    seconds_per_step = (trial[4]["seconds"] - trial[1]["seconds"]) / 30
    steps = round((seconds - startup - NUM_EVALUATIONS * EVALUATION_SECONDS) / seconds_per_step)
    log, startup = run(name, f"train.steps={steps}", f"train.eval_every={max(1, steps // NUM_EVALUATIONS)}")
    curve = [
        {key: entry[key] for key in ("step", "tokens")}
        | {"seconds": startup + entry["seconds"], "loss": entry["eval"]["loss"]}
        for entry in log
        if "eval" in entry
    ]
    return curve, startup


def seconds_to_loss(curve: list[dict], loss: float) -> float | None:
    """Return the seconds after which the linearly interpolated curve reaches `loss`, or None."""
    for before, after in pairwise(curve):
        if after["loss"] <= loss:
            share = (before["loss"] - loss) / (before["loss"] - after["loss"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def plot(curves: dict[str, list[dict]], path: Path) -> None:
    """Plot loss against minutes, readable in black and white."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "headstart"
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (name, curve), line in zip(curves.items(), ("-o", "--s"), strict=True):
        minutes, losses = [point["seconds"] / 60 for point in curve], [point["loss"] for point in curve]
        axes.plot(minutes, losses, line, color="black", markersize=4, markerfacecolor="white", label=name)
    axes.set(xlabel="minutes on this machine", ylabel="held-out loss, 15% masked (nats)")
    axes.axhline(losses[-1], color="black", linewidth=0.6, linestyle=":")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main(args: list[str]) -> None:
    """Run the benchmark, or with `peer` run_mlm's recipe."""
    if args[:1] == ["peer"]:
        return run_peer_worker(args[5:], *map(float, args[1:4]), args[4])
    defaults = {"size": "scratch", "minutes": "20", "share": "0.25", "lr": "5e-4", "warmup": "0.06"}
    options, rest = results.parse_options(args, **defaults, flags="run_mlm bf16 compile")
    size_args = SIZES[options["size"]]
    ours, startup = run_headstart([*size_args, *rest], float(options["minutes"]) * 60 * float(options["share"]))
    for point in ours:
        print(f"ours     {point['seconds']:6.0f} s  loss {point['loss']:.3f}", flush=True)
    theirs = start_peer(size_args, *(options[key] for key in ("minutes", "lr", "warmup", "flags")))
    loss, their_seconds = theirs[-1]["loss"], theirs[-1]["seconds"]
    seconds = seconds_to_loss(ours, loss)
    text = (
        f"run_mlm reaches a loss of {loss:.3f} in {their_seconds:.0f} s ({theirs[-1]['tokens']:,} tokens); ours "
        + (f"in {seconds:.0f} s, {their_seconds / seconds:.1f} times faster" if seconds else "does not")
        + f" (including {startup:.0f} s before the first step). Ours ends at {ours[-1]['loss']:.3f} after"
        f" {ours[-1]['seconds']:.0f} s ({ours[-1]['tokens']:,} tokens)."
    )
    print(text)
    peer_name = f"run_mlm, {options['flags'].removeprefix('run_mlm ')}, lr {options['lr']}"
    plot({"Headstart": ours, peer_name: theirs}, results.ROOT / "benchmarks" / "time_to_loss.svg")
    text += "\n\n![loss against minutes](time_to_loss.svg)\n\n"
    for name, curve in (("ours", ours), ("run_mlm", theirs)):
        points = (f"{point['loss']:.3f} ({point['seconds']:.0f} s)" for point in [*curve[1:-1:2], curve[-1]])
        text += f"- {name}: {', '.join(points)}\n"
    command = " ".join(["python benchmarks/time_to_loss.py", *args])
    results.write_section(f"Time to a loss, {options['size']}", command, text)


if __name__ == "__main__":
    main(sys.argv[1:])
