"""Measure what fine-tuning on images, and pretraining from nothing, are worth with few labels.

    python benchmarks/image_labels.py solar [seeds=5] [labels=32,100,all]
    python benchmarks/image_labels.py fashion [seeds=5] [seconds=600] [objectives=contrastive,simsiam,mae]

`solar` fine-tunes EfficientNet-Lite0 on solar cells, `make finetune TASK=solar`, with the same 600 test cells for every
seed. `fashion` pretrains new networks on Fashion-MNIST (official split) for the same CPU seconds each, and
compares them with random weights on 100 labels, paired by seed. Runs in out/runs are not repeated. Writes sections of
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import results

RUNS = results.ROOT / "out" / "runs"
PROBE_STEPS = 30  # steps by which the speed of an objective is measured
NETWORKS = {
    "mae": ["model={architecture: vit, layers: 4, hidden_size: 128, patch_size: 4}"],
    "dino": ["model={architecture: vit, layers: 4, hidden_size: 128, patch_size: 4}"],
}
FASHION = "/usr/share/datasets/fashion-mnist"
FASHION_TASK = {
    "name": "fashion-mnist",
    "modality": "images",
    "train": {
        "idx": f"{FASHION}/train-images-idx3-ubyte.gz",
        "idx_labels": f"{FASHION}/train-labels-idx1-ubyte.gz",
        "license": "mit",
    },
    "test": {"idx": f"{FASHION}/t10k-images-idx3-ubyte.gz", "idx_labels": f"{FASHION}/t10k-labels-idx1-ubyte.gz"},
    "pixels": {"size": 28, "channels": 1},
}


def run_command(module: str, args: list[str], run: str) -> float:
    """Run a command unless its run is finished; return its CPU seconds, 0 if it was."""
    finished = RUNS / run / ("metrics.json" if module == "finetune" else "encoder/config.json")
    if finished.is_file():
        return 0.0
    start = os.times()
    command = [sys.executable, "-m", module, *args, f"run={run}"]
    subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    end = os.times()
    return end.children_user + end.children_system - start.children_user - start.children_system


def finetune(args: list[str], run: str) -> dict:
    """Return metrics.json of a fine-tuning."""
    run_command("finetune", args, run)
    metrics = json.loads((RUNS / run / "metrics.json").read_text(encoding="utf-8"))
    print(run, {name: round(metrics["test"][name], 3) for name in metrics["report_metrics"]}, flush=True)
    return metrics


def describe(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ({statistics.stdev(values) if len(values) > 1 else 0:.3f})"


def measure_solar(seeds: int, labels: list[str]) -> None:
    """Fine-tune on several numbers of labels."""
    lines = []
    for number in labels:
        runs = {seed: f"bench-solar-{number}-{seed}" for seed in range(seeds)}
        args = ["configs/finetune/solar.yaml", f"task.num_examples={'null' if number == 'all' else number}"]
        args += ["baselines=false"]
        tests = [finetune([*args, f"seed={seed}"], run)["test"] for seed, run in runs.items()]
        metrics = {name: [test[name] for test in tests] for name in ("auroc", "f1_macro")}
        lines.append([number, *map(describe, metrics.values()), " ".join(f"{value:.3f}" for value in metrics["auroc"])])
        table = results.markdown_table(["labels", "AUROC", "macro F1", "AUROC by seed"], lines)
        note = f"`make finetune TASK=solar`, 600 test cells, means of {seeds} seeds (standard deviation)."
        body = f"{note}\n\n{table}"
        results.write_section("Solar cells by number of labels", "python benchmarks/image_labels.py solar", body)
    print(body)


def pretrain(objective: str, seconds: float) -> tuple[list[str], float]:
    """Pretrain a new network for so many CPU seconds; return the arguments of its encoder and the seconds it took."""
    args = ["configs/pretrain/images-scratch.yaml", f"objective={{name: {objective}}}", *NETWORKS.get(objective, [])]
    run = f"bench-fashion-{objective}-{seconds:.0f}"
    record = RUNS / f"{run}.json"
    if not record.is_file():
        short = [run_command("pretrain", [*args, f"train.steps={steps}"], f"{run}-speed-{steps}") for steps in (5, 35)]
        steps = max(20, int(seconds * PROBE_STEPS / (short[1] - short[0])))
        spent = run_command("pretrain", [*args, f"train.steps={steps}"], run)
        record.write_text(json.dumps({"steps": steps, "seconds": spent}), encoding="utf-8")
    found = json.loads(record.read_text(encoding="utf-8"))
    print(objective, found, flush=True)
    return [f"encoder=out/runs/{run}/encoder"], found["seconds"]


def measure_fashion(seeds: int, seconds: float, objectives: list[str]) -> None:
    """Compare pretrained weights with random ones on 100 labels."""
    lines = []
    for objective in objectives:
        encoder, spent = pretrain(objective, seconds)
        for method in ("fewshot", "probe"):
            args = ["configs/finetune/images.yaml", f"task={json.dumps(FASHION_TASK)}", "task.num_examples=100"]
            args += [*encoder, f"method={method}"]
            runs = [
                finetune([*args, f"seed={seed}"], f"bench-fashion-{objective}-{method}-{seed}") for seed in range(seeds)
            ]
            values = {
                "pretrained": [run["test"]["accuracy"] for run in runs],
                "random": [run["baselines"]["without_pretraining"]["test"]["accuracy"] for run in runs],
            }
            gains = [100 * (one - other) for one, other in zip(values["pretrained"], values["random"], strict=True)]
            gain = f"{statistics.mean(gains):+.1f} ± {results.half_interval(gains):.1f}"
            lines.append([objective, f"{spent:.0f}", method, *map(describe, values.values()), gain])
            print(lines[-1], flush=True)
    header = ["objective", "CPU seconds", "method", "pretrained", "random weights", "gain in points"]
    note = f"Accuracy on the 10,000 test images, 100 labels, {seeds} paired seeds (standard deviation; 95% interval)."
    note += " `mae` has a ViT of four layers, the others a ResNet."
    body = f"{note}\n\n{results.markdown_table(header, lines)}"
    print(body)
    results.write_section("Fashion-MNIST from nothing", "python benchmarks/image_labels.py fashion", body)


def main(args: list[str]) -> None:
    """Run the benchmarks that are named."""
    defaults = {"seeds": "5", "labels": "32,100,all", "seconds": "600", "objectives": "contrastive,simsiam,mae"}
    options, names = results.parse_options(args, **defaults)
    seeds = int(options["seeds"])
    if "solar" in names:
        measure_solar(seeds, options["labels"].split(","))
    if "fashion" in names:
        measure_fashion(seeds, float(options["seconds"]), options["objectives"].split(","))


if __name__ == "__main__":
    main(sys.argv[1:])
