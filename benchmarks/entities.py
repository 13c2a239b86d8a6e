"""Compare token classification with transformers' `run_ner` recipe: encoder, sentences and seeds are the same.

    python benchmarks/entities.py data=FOLDER [seeds=3] [contenders=ours,run_ner] [key=value ...]

data: a folder with train.conll, dev.conll and test.conll, such as WNUT-17 (Derczynski et al. 2017). `run_ner` is the
recipe at its defaults: AutoModelForTokenClassification, the first token of a word labeled, HF `Trainer` with 5e-5, 3
epochs of batches of 8, linear decay, no warmup, float32, last weights; "run_ner bf16" adds its flag. Ours is
configs/finetune/your-entities.yaml with the checkpoint that is best on dev; key=value applies to ours alone. Both are
scored by one function (seqeval, strict IOB2), with O for truncated words. Contenders alternate, each run a process
with one thread; seconds count from reading the rows to the test predictions. Finished runs are cached in out/entities.
Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

import results

from engine.models import LOAD_KWARGS, LOAD_WEIGHTS_KWARGS

CACHE_FOLDER = results.ROOT / "out" / "entities"
METRICS = ("f1", "precision", "recall", "accuracy")


def headstart_args(data_folder: str, seed: int) -> list[str]:
    """Return our arguments."""
    files = {"train": "train", "validation": "dev", "test": "test"}
    return [
        "configs/finetune/your-entities.yaml",
        f"run=bench-entities-{seed}",
        f"seed={seed}",
        "encoder=minilm",
        *(f"task.{split}.files={data_folder}/{name}.conll" for split, name in files.items()),
        "baselines=false",
    ]


def run_headstart(args: list[str]) -> dict[str, dict[str, float]]:
    """Fine-tune with our command and return its metrics by split."""
    from engine.config.loader import load_config
    from finetune.config import Finetune
    from finetune.train import finetune

    config = load_config(Finetune, args)
    run = results.ROOT / "out" / "runs" / config.run
    shutil.rmtree(run, ignore_errors=True)
    finetune(config)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    shutil.rmtree(run)
    return {split: metrics[split] for split in ("validation", "test")}


def run_ner_recipe(args: list[str], bf16: bool) -> dict[str, dict[str, float]]:
    """Fine-tune with the recipe on the rows of our configuration and return its metrics by split."""
    import numpy as np
    import transformers as hf
    from datasets import Dataset

    from data.encoders import resolve_encoder
    from data.tasks import metrics
    from data.tasks.task import list_label_names, read_task
    from engine.config.loader import load_config
    from finetune.config import Finetune

    config = load_config(Finetune, args)
    hf.set_seed(config.seed)
    splits = read_task(config.task)
    names = list_label_names(config.task, splits)
    encoder = resolve_encoder("minilm")
    tokenizer = hf.AutoTokenizer.from_pretrained(encoder, **LOAD_KWARGS)

    def encode(rows: dict) -> dict:
        """Tokenize rows; the first token of each word gets its tag, others -100."""
        batch = tokenizer(rows["tokens"], truncation=True, is_split_into_words=True)
        batch["labels"] = []
        for row, tags in enumerate(rows["tags"]):
            words = batch.word_ids(row)
            batch["labels"].append(
                [
                    -100 if word is None or word == previous else names.index(tags[word])
                    for previous, word in pairwise([None, *words])
                ]
            )
        return batch

    datasets = {}
    for split, rows in splits.items():
        tokens = [example.texts[0].split(" ") for example in rows]
        dataset = Dataset.from_dict({"tokens": tokens, "tags": [list(example.label) for example in rows]})
        datasets[split] = dataset.map(encode, batched=True)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    options = {"num_labels": len(names), **labels}
    model = hf.AutoModelForTokenClassification.from_pretrained(encoder, **options, **LOAD_WEIGHTS_KWARGS)
    silent = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = hf.Trainer(
            model,
            hf.TrainingArguments(folder, seed=config.seed, bf16=bf16, use_cpu=True, **silent),
            train_dataset=datasets["train"],
            processing_class=tokenizer,
            data_collator=hf.DataCollatorForTokenClassification(tokenizer),
        )
        trainer.train()
        scores = {}
        for split in ("validation", "test"):
            predictions = trainer.predict(datasets[split]).predictions.argmax(-1)
            predicted_tags = []
            for row, example in enumerate(splits[split]):
                # O for words that are truncated or have no token.
                tags, words = ["O"] * len(example.label), example.texts[0].split(" ")
                word_ids = tokenizer(words, truncation=True, is_split_into_words=True).word_ids()
                for position in np.flatnonzero(np.array(datasets[split][row]["labels"]) != -100):
                    tags[word_ids[position]] = names[predictions[row, position]]
                predicted_tags.append(tags)
            scores[split] = metrics.entity_metrics(predicted_tags, [list(example.label) for example in splits[split]])
    return scores


def run_trial(contender: str, args: list[str]) -> None:
    """Run one contender and print its metrics."""
    import torch

    # Imported before the clock starts, which should not include it.
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    start, cpu_start = time.time(), time.process_time()
    scores = run_headstart(args) if contender == "ours" else run_ner_recipe(args, "bf16" in contender)
    times = {"seconds": time.time() - start, "cpu_seconds": time.process_time() - cpu_start}
    print(json.dumps(scores | times))


def main(args: list[str]) -> None:
    """Run the benchmark, or with `trial` one contender."""
    if args[:1] == ["trial"]:
        return run_trial(args[1], args[2:])
    options, rest = results.parse_options(args, data=None, seeds="3", contenders="ours,run_ner")
    runs: dict[str, list[dict]] = {name: [] for name in options["contenders"].split(",")}
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in range(int(options["seeds"])):
        for name in runs:
            extra = rest if name == "ours" else []
            path = CACHE_FOLDER / f"{'-'.join([name, str(seed), *extra]).replace('/', '_')}.json"
            if not path.is_file():
                done = subprocess.run(
                    [sys.executable, __file__, "trial", name, *headstart_args(options["data"], seed), *extra],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    cwd=results.ROOT,
                )
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                path.write_text(done.stdout.strip().splitlines()[-1])
            runs[name].append(json.loads(path.read_text()))
            print(path.stem, path.read_text(), flush=True)
    rows = []
    for name, scores in runs.items():
        f1 = [score["test"]["f1"] for score in scores]
        dev = statistics.mean(score["validation"]["f1"] for score in scores)
        means = [f"{statistics.mean(score['test'][metric] for score in scores):.4f}" for metric in METRICS]
        times = [f"{statistics.median(score[key] for score in scores):.0f}" for key in ("seconds", "cpu_seconds")]
        rows.append([name, *means, f"{min(f1):.4f} to {max(f1):.4f}", f"{dev:.4f}", *times])
    shown = ["data=FOLDER" if arg.startswith("data=") else f"'{arg}'" if " " in arg else arg for arg in args]
    tests = [f"test {metric}" for metric in METRICS]
    header = [f"means over {options['seeds']} seeds", *tests, "range of test f1", "dev f1", "seconds", "CPU seconds"]
    table = results.markdown_table(header, rows)
    print(table)
    results.write_section("Entities", " ".join(["python benchmarks/entities.py", *shown]), table)


if __name__ == "__main__":
    main(sys.argv[1:])
