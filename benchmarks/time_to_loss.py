"""How long ours needs for the loss that transformers' `run_mlm` reaches in `minutes`, on the same text, network and machine.

    python benchmarks/time_to_loss.py [size=scratch] [minutes=20] [share=0.25] [lr=5e-4] [warmup=0.06]
                                      [flags="run_mlm bf16 compile"]

First `python -m pretrain`, its steps filled to `share` of the minutes after a short trial; then the peer, its steps filled to
`minutes`, its linear decay ending there, at the rate `lr` and with a warm-up, the best of those tried
(docs/lab-notebook; at its own
default, 5e-5, a network from nothing learns next to nothing in that time). The loss is the fixed one: 15 % of the same
held-out tokens hidden; of the peer, the lower of two: with documents kept apart, and with rows read as it reads them in
training. The peer's clock stands still while it is evaluated and before its first step; ours runs from the command on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import results  # noqa: E402
from pretraining import SIZES  # noqa: E402

NUM_EVALUATIONS = 12
EVALUATION_SECONDS = 2  # what one takes of our clock, about


def run_peer_worker(args: list[str], minutes: float, lr: float, warmup: float, flags: str) -> None:
    """Worker: train by the peer's recipe and print a line of JSON for each evaluation."""
    import peer as recipe
    import torch
    from accelerate import Accelerator
    from transformers import AutoTokenizer

    from data.corpus.build import build_corpus
    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.model.encoder import Encoder
    from pretrain.model.build import build_encoder
    from pretrain.validation import Validator

    config = load_config(Pretrain, [*args, "model.embeddings=random"])
    init, folder, shards = prepare(
        config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = recipe.prepare(recipe.documents(build_corpus(config.corpus)), tokenizer, config.max_length)
    torch.manual_seed(0)
    model = recipe.plain(build_encoder(config, init, Shards(shards, "train")).model)
    encoder, options = Encoder(model), dict(recipe.FLAGS[flags])
    batch_size = options["per_device_train_batch_size"] = recipe.BATCH_SIZE
    apart, joined = (
        Validator(
            Shards(shards, "held_out"),
            config.eval_rows,
            Accelerator(mixed_precision="bf16" if options.get("bf16") else "no", cpu=not torch.cuda.is_available()),
        )
        for _ in range(2)
    )
    for batch in joined.mlm_batches:
        batch.inputs["document_ids"].clamp_(max=0)
        batch.inputs["position_ids"][:] = torch.arange(config.max_length)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times: list[float] = []

    def trial(step: int) -> bool:
        times.append(time.perf_counter())
        # The first steps, in which the network is compiled, are not the pace of the rest.
        return len(times) > 20 and times[-1] - times[15] > 20

    recipe.train(model, rows, tokenizer, trial, max_steps=10_000, learning_rate=lr, **options)
    steps = round(minutes * 60 * (len(times) - 16) / (times[-1] - times[15]))
    model.load_state_dict(kept)
    clock = {"began": time.perf_counter(), "paused": 0.0}

    def told(step: int) -> bool:
        if step == 1:
            clock["began"] = time.perf_counter()
        seconds = time.perf_counter() - clock["began"] - clock["paused"]
        over = step >= steps or seconds > 1.1 * minutes * 60
        if over or step % max(1, steps // NUM_EVALUATIONS) == 0:
            stopped = time.perf_counter()
            encoder.eval()
            print(
                json.dumps(
                    {
                        "step": step,
                        "tokens": step * batch_size * config.max_length,
                        "seconds": seconds,
                        "loss": min(held_out(encoder)["loss"] for held_out in (apart, joined)),
                    }
                ),
                flush=True,
            )
            encoder.train()
            clock["paused"] += time.perf_counter() - stopped
        return over

    recipe.train(
        model, rows, tokenizer, told, max_steps=steps, learning_rate=lr, warmup_steps=round(warmup * steps), **options
    )


def start_peer(args: list[str], minutes: str, lr: str, warmup: str, flags: str) -> list[dict]:
    """The peer's curve: a list of {"step", "tokens", "seconds", "loss"}."""
    command = [sys.executable, __file__, "peer", minutes, lr, warmup, flags, *args]
    curve = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    ) as process:
        for line in process.stdout:
            if line.startswith('{"step"'):
                curve.append(json.loads(line))
                print(f"run_mlm  {curve[-1]['seconds']:6.0f} s  loss {curve[-1]['loss']:.3f}", flush=True)
    if process.returncode or not curve:
        sys.exit("the peer failed: run it alone to see why:\n" + " ".join(command))
    return curve


def run_headstart(args: list[str], seconds: float) -> tuple[list[dict], float]:
    """(our curve, seconds before the first step): a trial of a few steps for the pace, then steps to fill `seconds`."""

    def run(name: str, *more: str) -> tuple[list[dict], float]:
        began, folder = time.time(), ROOT / "out" / "runs" / name
        subprocess.run(
            [sys.executable, "-m", "pretrain", *args, f"run={name}", "train.save_every=1000000", *more],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        wall, metrics = time.time() - began, json.loads((folder / "metrics.json").read_text())
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        shutil.rmtree(folder)
        return log, wall - metrics["seconds"]

    name = f"time-to-loss-{os.getpid()}"
    trial, start = run(f"{name}-trial", "train.steps=60", "train.eval_every=60", "train.log_every=10")
    pace = (trial[4]["seconds"] - trial[1]["seconds"]) / 30
    steps = round((seconds - start - NUM_EVALUATIONS * EVALUATION_SECONDS) / pace)
    log, start = run(name, f"train.steps={steps}", f"train.eval_every={max(1, steps // NUM_EVALUATIONS)}")
    return [
        {
            "step": entry["step"],
            "tokens": entry["tokens"],
            "seconds": start + entry["seconds"],
            "loss": entry["eval"]["loss"],
        }
        for entry in log
        if "eval" in entry
    ], start


def seconds_to_loss(curve: list[dict], loss: float) -> float | None:
    """Seconds after which the curve, straight between its points, is at `loss`; None when it never is."""
    for before, after in zip(curve, curve[1:]):
        if after["loss"] <= loss:
            share = (before["loss"] - loss) / (before["loss"] - after["loss"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def plot(curves: dict[str, list[dict]], path: Path) -> None:
    """Loss against minutes, readable in black and white."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "headstart"
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("-o", "--s")):
        axes.plot(
            [point["seconds"] / 60 for point in curve],
            [point["loss"] for point in curve],
            style,
            color="black",
            markersize=4,
            markerfacecolor="white",
            label=name,
        )
    axes.set(xlabel="minutes on this machine", ylabel="held-out loss, 15 % hidden (nats)")
    last = list(curves.values())[-1][-1]["loss"]
    axes.axhline(last, color="black", linewidth=0.6, linestyle=":")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main(args: list[str]) -> None:
    if args[:1] == ["peer"]:
        return run_peer_worker(args[5:], *map(float, args[1:4]), args[4])
    own = {
        "size": "scratch",
        "minutes": "20",
        "share": "0.25",
        "lr": "5e-4",
        "warmup": "0.06",
        "flags": "run_mlm bf16 compile",
    }
    own |= dict(word.split("=", 1) for word in args if word.split("=")[0] in own)
    rest = [*SIZES[own["size"]], *(word for word in args if word.split("=")[0] not in own)]
    minutes = float(own["minutes"])
    ours, start = run_headstart(rest, minutes * 60 * float(own["share"]))
    for point in ours:
        print(f"ours     {point['seconds']:6.0f} s  loss {point['loss']:.3f}", flush=True)
    theirs = start_peer(SIZES[own["size"]], own["minutes"], own["lr"], own["warmup"], own["flags"])
    loss, wanted = theirs[-1]["loss"], theirs[-1]["seconds"]
    seconds = seconds_to_loss(ours, loss)
    told = (
        f"run_mlm reaches {loss:.3f} in {wanted:.0f} s ({theirs[-1]['tokens']:,} tokens); ours "
        + (f"in {seconds:.0f} s, {wanted / seconds:.1f} times sooner" if seconds else "does not")
        + f" (its first {start:.0f} s before the first step), and ends at {ours[-1]['loss']:.3f} after"
        f" {ours[-1]['seconds']:.0f} s ({ours[-1]['tokens']:,} tokens)."
    )
    print(told)
    plot(
        {"Headstart": ours, f"run_mlm, {own['flags'].removeprefix('run_mlm ')}, lr {own['lr']}": theirs},
        ROOT / "benchmarks" / "time_to_loss.svg",
    )
    curves = [
        [name, *(f"{point['loss']:.3f} ({point['seconds']:.0f} s)" for point in [*curve[1:-1:2], curve[-1]])]
        for name, curve in (("ours", ours), ("run_mlm", theirs))
    ]
    results.write_section(
        f"Time to a loss, {own['size']}",
        " ".join(["python benchmarks/time_to_loss.py", *args]),
        told
        + "\n\n![loss against minutes](time_to_loss.svg)\n\n"
        + "\n".join("- " + curve[0] + ": " + ", ".join(curve[1:]) for curve in curves),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
