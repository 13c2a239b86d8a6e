"""Measure what pretraining gains and costs: linear probes with few labels and STS, of encoders and averages of them.

    python benchmarks/transfer.py minilm out/runs/default/encoder [tasks=sentiment,spam] [labels=100] [seeds=10]
                                  [rows=2000] [fractions=0,0.3,0.5] [sts=STSB/dev.csv] [data=FOLDER]

The other encoders are compared with the first, seed by seed: mean accuracy of logistic regression on frozen embeddings,
mean difference and its 95% confidence interval (Student's t). A seed is a stratified sample of labels. The probes are
scored on the other training rows, at most `rows` in all, so that no test row decides about a default. fractions: also
measure averages of an encoder's weights with the first encoder's, with these fractions of the first, as
`init_fraction` makes them. sts: a file with columns sentence1, sentence2 and score. tasks: YAML files, or names of
benchmarks/tasks.py, which finds trec/, subj/ and banking77/ in the folder `data`.
Measured values are reused from out/transfer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import results
import tasks

CACHE_FOLDER = results.ROOT / "out" / "transfer"
MAX_LENGTH = 256


def load_task(name: str, data_folder: str | None):
    """Return the task of this name: of benchmarks/tasks.py, or a YAML file."""
    from data.tasks.task import TaskFile
    from engine.config.loader import load_config

    is_file = name.endswith(".yaml")
    return load_config(TaskFile, [name] if is_file else tasks.task_args(name, data_folder or "")).task


def average_weights(start: Path, end: Path, fraction: float, folder: Path) -> Path:
    """Write the encoder of `end` to `folder`, with `fraction` of the weights of `start`; return the folder."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(end, folder)
    first, last = (load_file(path / "model.safetensors") for path in (start, end))
    # A masked-language model has the name of its base model as prefix.
    first |= {name.partition(".")[2]: weight for name, weight in first.items()}
    mixed = {}
    for name, weight in last.items():
        initial = first.get(name, first.get(name.partition(".")[2]))
        is_shared = initial is not None and weight.is_floating_point()
        mixed[name] = weight.lerp(initial, fraction) if is_shared else weight
    save_file(mixed, folder / "model.safetensors", {"format": "pt"})
    return folder


def probe_accuracies(embed_texts, task, num_examples: int, num_seeds: int, max_rows: int) -> list[float]:
    """Return the accuracy on the other training rows of a linear probe of each sample of `num_examples` labels."""
    import random

    from data.tasks.task import read_task, sample_examples
    from pretrain.evaluate.embeddings import linear_probe_accuracy

    rows = read_task(task)
    splits = {split: random.Random(0).sample(rows[split], len(rows[split])) for split in ("train", "validation")}
    splits = {"train": splits["train"][:max_rows], "validation": splits["validation"][: max_rows // 8]}
    embeddings = {split: embed_texts([each.texts[0] for each in examples]) for split, examples in splits.items()}
    labels = {split: np.array([each.label for each in examples]) for split, examples in splits.items()}
    index, accuracies = {id(example): number for number, example in enumerate(splits["train"])}, []
    for seed in range(num_seeds):
        sample = [index[id(example)] for example in sample_examples(splits["train"], num_examples, seed)]
        others = np.setdiff1d(np.arange(len(index)), sample)
        test = {"test": embeddings["train"][others]}, {"test": labels["train"][others]}
        accuracies.append(linear_probe_accuracy(embeddings | test[0], labels | test[1], sample))
    return accuracies


def measure(folder: Path, options: dict[str, str | None]) -> dict[str, list[float]]:
    """Return {task or "sts": values} of the encoder in `folder`: a value per seed, and one of STS."""
    from data.cache import file_hash, fingerprint
    from data.tasks.task import fingerprint_inputs
    from engine.files import write_json
    from pretrain.evaluate.config import STSSource
    from pretrain.evaluate.embeddings import build_encoder_embedder, load_sts_pairs, sts_spearman

    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    measured, embed_texts, weights = {}, None, file_hash(folder / "model.safetensors")
    loaded = [load_task(name, options["data"]) for name in options["tasks"].split(",") if name]
    by_name = {task.name: task for task in loaded}
    counts = [int(options[name]) for name in ("labels", "seeds", "rows")]
    inputs = {name: [fingerprint_inputs(task), *counts] for name, task in by_name.items()}
    if options["sts"]:
        inputs["sts"] = [file_hash(Path(options["sts"]))]
    for name, parts in inputs.items():
        path = CACHE_FOLDER / f"{name}-{fingerprint([weights, *parts])}.json"
        if not path.is_file():
            embed_texts = embed_texts or build_encoder_embedder(folder, MAX_LENGTH)[0]
            if name == "sts":
                first, second, scores = zip(*load_sts_pairs(STSSource(files=options["sts"])), strict=True)
                values = [sts_spearman(embed_texts(list(first)), embed_texts(list(second)), np.array(scores))]
            else:
                values = probe_accuracies(embed_texts, by_name[name], *counts)
            write_json(path, values)
        measured[name] = json.loads(path.read_text())
    return measured


def format_line(title: str, measured: dict[str, list[float]], reference: dict[str, list[float]] | None) -> str:
    """Format the values of one encoder, with the difference from `reference` in points."""
    cells = [f"{title:<44}"]
    for name, values in measured.items():
        cell = f"{name} {np.mean(values):.4f}"
        if reference:
            gain = 100 * (np.array(values) - reference[name])
            half, mean = results.half_interval(gain), gain.mean()
            cell += f" {mean:+.2f}" + (f" [{mean - half:+.2f}, {mean + half:+.2f}]" if len(gain) > 1 else "")
        cells.append(cell)
    return "  ".join(cells)


def main(args: list[str]) -> None:
    """Print a line for each encoder, and for each fraction of it."""
    from data.encoders import resolve_encoder

    defaults = {"tasks": "sentiment", "labels": "100", "seeds": "10", "rows": "2000", "fractions": "0"}
    options, encoders = results.parse_options(args, **defaults, sts=None, data=None)
    start = resolve_encoder(encoders[0])
    reference = measure(start, options)
    print(format_line(encoders[0], reference, None), flush=True)
    for encoder in encoders[1:]:
        for fraction in map(float, options["fractions"].split(",")):
            with tempfile.TemporaryDirectory() as temp:
                folder = resolve_encoder(encoder)
                folder = average_weights(start, folder, fraction, Path(temp) / "encoder") if fraction else folder
                title = f"{encoder}, {fraction} of {encoders[0]}" if fraction else encoder
                print(format_line(title, measure(folder, options), reference), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
