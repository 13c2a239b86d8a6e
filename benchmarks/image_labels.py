"""Measure what fine-tuning on images, and pretraining from scratch, are worth with few labels.

    python benchmarks/image_labels.py solar [seeds=5] [labels=32,100,all]
    python benchmarks/image_labels.py fashion [seeds=5] [seconds=600] [objectives=contrastive,simsiam,mae]

`solar` fine-tunes EfficientNet-Lite0 on solar cells, `make finetune TASK=solar`, with the same 600 test cells for every
seed. `fashion` pretrains new networks on Fashion-MNIST (official split) for the same CPU seconds each and compares them
on 100 labels, by `make compare-objectives`. Finished runs are not repeated. Writes sections of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import results

from compare import report

RUNS = results.ROOT / "out" / "runs"


def finetune(args: list[str], run: str) -> dict:
    """Return metrics.json of a fine-tuning, which is run unless it is finished."""
    path = RUNS / run / "metrics.json"
    if not path.is_file():
        command = [sys.executable, "-m", "finetune", *args, f"run={run}"]
        subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads(path.read_text(encoding="utf-8"))
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
        args = ["configs/finetune/solar.yaml", f"task.num_examples={number}"]
        args += ["baselines=false"]
        tests = [finetune([*args, f"seed={seed}"], run)["test"] for seed, run in runs.items()]
        metrics = {name: [test[name] for test in tests] for name in ("auroc", "f1_macro")}
        lines.append([number, *map(describe, metrics.values()), " ".join(f"{value:.3f}" for value in metrics["auroc"])])
        table = results.markdown_table(["labels", "AUROC", "macro F1", "AUROC by seed"], lines)
        note = f"`make finetune TASK=solar`, 600 test cells, means of {seeds} seeds (standard deviation)."
        body = f"{note}\n\n{table}"
        results.write_section("Solar cells by number of labels", "python benchmarks/image_labels.py solar", body)
    print(body)


def measure_fashion(seeds: int, seconds: float, objectives: list[str]) -> None:
    """Compare objectives on new networks with 100 labels."""
    args = ["corpus=fashion-mnist", "init=none", f"objectives=[{','.join(objectives)}]", f"budget={seconds}"]
    args += [f"seeds={seeds}", "shots=[10]", "name=bench-fashion"]
    subprocess.run([sys.executable, "-m", "compare", *args], cwd=results.ROOT, check=True)
    path = results.ROOT / "out" / "comparisons" / "bench-fashion" / "report.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    header, lines = report.flatten(report.league_header(summary), list(map(report.league_row, summary["rows"])))
    note = f"`make compare-objectives`, 100 labels, {seeds} samples of labels, 10,000 test images: accuracy in %."
    body = f"{note} {summary['sentence']}\n\n{results.markdown_table(header, lines)}"
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
