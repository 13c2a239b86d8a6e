"""Entities found by ours and by transformers' `run_ner` recipe: encoder, sentences and seeds the same.

    python benchmarks/entities.py data=FOLDER [seeds=3] [who=ours,run_ner] [key=value ...]

data: a folder with train.conll, dev.conll, test.conll (WNUT-17, Derczynski et al. 2017, say). Theirs is the recipe at
its defaults: AutoModelForTokenClassification, the first token of a word labelled, HF `Trainer` with 5e-5, 3 epochs of
batches of 8, linear decay, no warm-up, float32, the last weights; "run_ner bf16" is the same with its flag. Ours is
configs/finetune/your-entities.yaml, its best weights by the dev rows; key=value is for ours alone. Both are scored by
one function (seqeval, strict IOB2), words that were cut off being O. They take turns, each run a process on one thread,
its seconds from the rows to what is said of the test. A run that was made is kept in out/entities. Writes its section
of benchmarks/RESULTS.md.
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
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CACHE_FOLDER = ROOT / "out" / "entities"
METRICS = ("f1", "precision", "recall", "accuracy")


def headstart_args(data_folder: str, seed: int) -> list[str]:
    """The configuration of ours."""
    return [
        "configs/finetune/your-entities.yaml",
        f"run=bench-entities-{seed}",
        f"seed={seed}",
        "encoder=minilm",
        *(
            f"task.{split}.files={data_folder}/{name}.conll"
            for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
        ),
        "baselines=false",
    ]


def run_headstart(args: list[str]) -> dict[str, dict[str, float]]:
    """Figures of a fine-tuning by the command's own function."""
    from engine.config.loader import load_config
    from finetune.config import Finetune
    from finetune.train import finetune

    config = load_config(Finetune, args)
    run = ROOT / "out" / "runs" / config.run
    shutil.rmtree(run, ignore_errors=True)
    finetune(config)
    told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    shutil.rmtree(run)
    return {split: told[split] for split in ("validation", "test")}


def run_ner_recipe(args: list[str], bf16: bool) -> dict[str, dict[str, float]]:
    """Figures of the recipe on the rows that the configuration of ours reads."""
    import numpy as np
    from datasets import Dataset
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from data.encoders import resolve_encoder
    from data.tasks.task import list_label_names, read_task
    from engine.config.loader import load_config
    from finetune.config import Finetune
    from finetune.evaluation import metrics

    config = load_config(Finetune, args)
    set_seed(config.seed)
    splits = read_task(config.task, "tags")
    names = list_label_names(config.task, splits)
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))

    def encoded(rows: dict) -> dict:
        """A batch of rows as token ids with the tag of a word at its first token, -100 elsewhere."""
        found = tokenizer(rows["tokens"], truncation=True, is_split_into_words=True)
        found["labels"] = []
        for row, tags in enumerate(rows["tags"]):
            places = found.word_ids(row)
            found["labels"].append(
                [
                    -100 if word is None or word == before else names.index(tags[word])
                    for before, word in zip([None, *places], places)
                ]
            )
        return found

    sets = {
        split: Dataset.from_dict(
            {
                "tokens": [example.texts[0].split(" ") for example in rows],
                "tags": [list(example.label) for example in rows],
            }
        ).map(encoded, batched=True)
        for split, rows in splits.items()
    }
    model = AutoModelForTokenClassification.from_pretrained(
        resolve_encoder("minilm"),
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            seed=config.seed,
            bf16=bf16,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sets["train"],
            processing_class=tokenizer,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        trainer.train()
        figures = {}
        for split in ("validation", "test"):
            said = trainer.predict(sets[split]).predictions.argmax(-1)
            predicted = []
            for row, example in enumerate(splits[split]):
                # A word without a token of its own, or cut off, is found to be no entity.
                tags, places = (
                    ["O"] * len(example.label),
                    tokenizer(example.texts[0].split(" "), truncation=True, is_split_into_words=True).word_ids(),
                )
                for place in np.flatnonzero(np.array(sets[split][row]["labels"]) != -100):
                    tags[places[place]] = names[said[row, place]]
                predicted.append(tags)
            figures[split] = metrics.entity_metrics(predicted, [list(example.label) for example in splits[split]])
    return figures


def run_trial(contender: str, args: list[str]) -> None:
    """One run; prints its figures."""
    import torch
    import transformers  # noqa: F401  so that the seconds hold no import of it

    torch.set_num_threads(1)
    began, used = time.time(), time.process_time()
    figures = run_headstart(args) if contender == "ours" else run_ner_recipe(args, "bf16" in contender)
    print(json.dumps({**figures, "seconds": time.time() - began, "cpu_seconds": time.process_time() - used}))


def main(args: list[str]) -> None:
    if args[:1] == ["cell"]:
        return run_trial(args[1], args[2:])
    import results

    own = dict(word.split("=", 1) for word in args if word.split("=")[0] in ("data", "seeds", "who"))
    rest = [word for word in args if word.split("=")[0] not in own]
    found: dict[str, list[dict]] = {who: [] for who in own.get("who", "ours,run_ner").split(",")}
    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in range(int(own.get("seeds", 3))):
        for who in found:
            path = (
                CACHE_FOLDER / f"{'-'.join([who, str(seed), *(rest if who == 'ours' else [])]).replace('/', '_')}.json"
            )
            if not path.is_file():
                done = subprocess.run(
                    [
                        sys.executable,
                        __file__,
                        "cell",
                        who,
                        *headstart_args(own["data"], seed),
                        *(rest if who == "ours" else []),
                    ],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                )
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                path.write_text(done.stdout.strip().splitlines()[-1])
            found[who].append(json.loads(path.read_text()))
            print(path.stem, path.read_text(), flush=True)
    lines = []
    for who, runs in found.items():
        f1 = [run["test"]["f1"] for run in runs]
        lines.append(
            [
                who,
                *(f"{statistics.mean(run['test'][name] for run in runs):.4f}" for name in METRICS),
                f"{min(f1):.4f} to {max(f1):.4f}",
                f"{statistics.mean(run['validation']['f1'] for run in runs):.4f}",
                f"{statistics.median(run['seconds'] for run in runs):.0f}",
                f"{statistics.median(run['cpu_seconds'] for run in runs):.0f}",
            ]
        )
    told = ["data=FOLDER" if word.startswith("data=") else f"'{word}'" if " " in word else word for word in args]
    command = " ".join(["python benchmarks/entities.py", *told])
    body = results.markdown_table(
        [
            f"means over {own.get('seeds', 3)} seeds",
            *(f"test {name}" for name in METRICS),
            "test f1 over the seeds",
            "dev f1",
            "seconds",
            "of the processor",
        ],
        lines,
    )
    print(body)
    results.write_section("Entities", command, body)


if __name__ == "__main__":
    main(sys.argv[1:])
