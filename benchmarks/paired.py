"""Fine-tune several encoders on the same labels with the same seeds and compare them seed by seed.

    python benchmarks/paired.py minilm out/runs/default/encoder task=sentiment labels=100,500 seeds=5 [key=value ...]

The other encoders are compared with the first: mean, standard deviation, mean difference and its 95% confidence
interval (Student's t over paired seeds). Finished runs are reused from out/runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import results

from data.cache import file_hash, fingerprint
from data.encoders import resolve_encoder
from engine.config.loader import load_config
from finetune.config import Finetune


def finetune_and_score(encoder: str, task: str, num_examples: str, seed: int, args: list[str]) -> tuple[float, float]:
    """Return (test accuracy, seconds of training) of one fine-tuning run."""
    from finetune.train import finetune

    name = re.sub(r"\W+", "-", encoder.removeprefix("out/runs/").removesuffix("/encoder")).strip("-")
    weights = file_hash(resolve_encoder(encoder) / "model.safetensors")
    task_args = [f"configs/finetune/{task}.yaml", "run=paired", f"encoder={encoder}", "baselines=false"]
    args = [*task_args, f"task.num_examples={num_examples}", f"seed={seed}", *args]
    config = load_config(Finetune, args)
    # The fingerprint distinguishes runs with other defaults.
    inputs = fingerprint([config.model_dump(mode="json"), weights])[:6]
    run = f"paired-{task}-{name}-{num_examples}-{seed}-{inputs}"
    folder = Path("out/runs") / run
    if not (folder / "metrics.json").is_file():
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config.model_copy(update={"run": run}), args)
        for path in folder.glob("model/*.safetensors"):
            path.unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["test"]["accuracy"], metrics["seconds"]


def main(args: list[str]) -> None:
    """Print a line for each encoder and number of labels."""
    options, rest = results.parse_options(args, task="sentiment", labels="500", seeds="5")
    encoders, rest = [arg for arg in rest if "=" not in arg], [arg for arg in rest if "=" in arg]
    for labels in options["labels"].split(","):
        reference = None
        for encoder in encoders:
            runs = [
                finetune_and_score(encoder, options["task"], labels, seed, rest)
                for seed in range(int(options["seeds"]))
            ]
            scores, seconds = np.array(runs).T
            line = (
                f"{labels:>5} labels  {encoder:<44} {scores.mean():.4f}  sd {scores.std(ddof=1):.4f}  "
                f"{np.round(scores, 3).tolist()}  {np.median(seconds):.0f} s"
            )
            if reference is None:
                reference = scores
            else:
                gain, half = (scores - reference).mean(), results.half_interval(scores - reference)
                line += f"  gain {100 * gain:+.2f} points [{100 * (gain - half):+.2f}, {100 * (gain + half):+.2f}]"
            print(line, " ".join(rest), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
