"""Fine-tune several encoders on the same labels with the same seeds, and compare them pair by pair.

    python benchmarks/paired.py minilm out/runs/default/encoder task=sentiment labels=100,500 seeds=5 [key=value ...]

The first encoder is what the others are held against: mean, spread, mean difference and its 95 % interval (Student's t
over the paired seeds). Finished runs are in out/runs and not done again.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.cache import file_hash, fingerprint  # noqa: E402
from data.encoders import resolve_encoder  # noqa: E402
from engine.config.loader import load_config  # noqa: E402
from finetune.config import Finetune  # noqa: E402


def finetune_and_score(encoder: str, task: str, num_examples: str, seed: int, args: list[str]) -> tuple[float, float]:
    """(test accuracy, seconds of training) of one fine-tuning run."""
    from finetune.train import finetune

    name = re.sub(r"\W+", "-", encoder.removeprefix("out/runs/").removesuffix("/encoder")).strip("-")
    weights = file_hash(resolve_encoder(encoder) / "model.safetensors")
    config = load_config(
        Finetune,
        [
            f"configs/finetune/{task}.yaml",
            "run=paired",
            f"encoder={encoder}",
            f"task.num_examples={num_examples}",
            f"seed={seed}",
            "baselines=false",
            *args,
        ],
    )
    told = fingerprint([config.model_dump(mode="json"), weights])[:6]  # with other defaults it is another run
    run = f"paired-{task}-{name}-{num_examples}-{seed}-{told}"
    folder = Path("out/runs") / run
    if not (folder / "metrics.json").is_file():
        with contextlib.redirect_stdout(io.StringIO()):
            finetune(config.model_copy(update={"run": run}))
        for weights in folder.glob("model/*.safetensors"):
            weights.unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["test"]["accuracy"], metrics["seconds"]


def main(args: list[str]) -> None:
    """Print a line for each encoder and number of labels as it is done."""
    own = dict(word.split("=", 1) for word in args if re.match(r"(task|labels|seeds)=", word))
    encoders = [word for word in args if "=" not in word]
    rest = [word for word in args if "=" in word and not re.match(r"(task|labels|seeds)=", word)]
    for labels in own.get("labels", "100,500").split(","):
        first = None
        for encoder in encoders:
            runs = [
                finetune_and_score(encoder, own.get("task", "sentiment"), labels, seed, rest)
                for seed in range(int(own.get("seeds", 5)))
            ]
            scores, seconds = np.array(runs).T
            line = (
                f"{labels:>5} labels  {encoder:<44} {scores.mean():.4f}  sd {scores.std(ddof=1):.4f}  "
                f"{np.round(scores, 3).tolist()}  {np.median(seconds):.0f} s"
            )
            if first is None:
                first = scores
            else:
                gain = scores - first
                half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
                line += f"  gain {100 * gain.mean():+.2f} points [{100 * (gain.mean() - half):+.2f}, {100 * (gain.mean() + half):+.2f}]"
            print(line, " ".join(rest), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
