"""Contrastive training beside sentence-transformers' `MultipleNegativesRankingLoss`: encoder, texts and batch the same.

    python benchmarks/contrastive.py [sizes=64,1024] [rounds=3] [seconds=5] [contenders=...] [steps=100] [stsb=FOLDER] [key=value ...]

Pairs are neighbouring stretches of one film review, 8 to 60 words each. Speed: pairs a second, contenders taking turns as
in benchmarks/pretraining.py, theirs and ours each in float32 and in bf16; theirs by default is float32, ours bf16 where the
machine has it. From 1,024 pairs on, both by cached gradients, at their default and ours of texts at once. Quality: as many
`steps` of 64 pairs at one rate for both, then Spearman's correlation on the STS Benchmark (stsb: a folder with its
test.csv; left out, no quality). Writes its sections of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import turns  # noqa: E402

NUM_PAIRS, MIN_WORDS, MAX_WORDS = 20_000, 8, 60
MIN_GRADCACHE_PAIRS = 1_024  # pairs from which on gradients are cached
LEARNING_RATE = 5e-5


def write_pairs(path: Path) -> None:
    """Neighbouring stretches of the reviews as a csv with columns first, second."""
    import numpy as np

    from data.config import Prepare
    from data.corpus.build import build_corpus
    from data.corpus.documents import iter_documents
    from engine.config.loader import load_config

    random = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table, written = csv.writer(file), 0
        table.writerow(["first", "second"])
        for document in iter_documents(build_corpus(load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus)):
            words = document["text"].split()
            one, other = random.integers(MIN_WORDS, MAX_WORDS + 1, size=2)
            if len(words) >= one + other:
                table.writerow([" ".join(words[:one]), " ".join(words[one : one + other])])
                written += 1
            if written == NUM_PAIRS:
                return


def headstart_args(path: Path, batch_size: int, name: str) -> list[str]:
    """The configuration of ours."""
    return [
        "configs/pretrain/mlm.yaml",
        f"objective={{name: contrastive, views: pairs, pairs: {{files: {path}}}}}",
        f"train.batch_size={batch_size}",
        f"train.lr={LEARNING_RATE}",
        f"train.precision={'float32' if 'float32' in name else 'native'}",
        *(["train.micro_batch_size=64"] if batch_size >= MIN_GRADCACHE_PAIRS else []),
    ]


def train_sentence_transformer(path: Path, batch_size: int, bf16: bool, max_steps: int, after_step) -> object:
    """sentence-transformers' trainer at its defaults; returns the model."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    from data.encoders import resolve_encoder

    class Told(TrainerCallback):
        def on_step_end(self, arguments, state, control, **rest):
            after_step()

    model = SentenceTransformer(str(resolve_encoder("minilm")), device="cpu")
    loss = (CachedMultipleNegativesRankingLoss if batch_size >= MIN_GRADCACHE_PAIRS else MultipleNegativesRankingLoss)(
        model
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            bf16=bf16,
            max_steps=max_steps,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_csv(str(path)), loss=loss, callbacks=[Told()]
        ).train()
    return model


def worker(name: str, args: list[str]) -> None:
    """A contender: `name` says whose and in which precision; words are the pairs' file, the batch size, and ours alone."""
    path, batch_size, *rest = args
    if name.startswith("ours"):
        return turns.run_contender(
            [*headstart_args(path, int(batch_size), name), *rest], lambda batch: len(batch.inputs["group_ids"])
        )
    taking = turns.TurnTaker(0.0)
    train_sentence_transformer(path, int(batch_size), "bf16" in name, 1_000_000, lambda: taking.step(int(batch_size)))


def sts_spearman(model_or_folder: Path | str, test_file: Path) -> float:
    """Spearman's correlation on the STS Benchmark, by sentence-transformers for both."""
    import numpy as np
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    model = (
        model_or_folder
        if not isinstance(model_or_folder, (str, Path))
        else SentenceTransformer(str(model_or_folder), device="cpu")
    )
    rows = list(csv.DictReader(open(test_file, encoding="utf-8")))
    one, other = (
        model.encode([row[column] for row in rows], normalize_embeddings=True) for column in ("sentence1", "sentence2")
    )
    return float(spearmanr((one * other).sum(1), np.array([float(row["score"]) for row in rows])).statistic)


def measure_quality(path: Path, steps: int, test_file: Path) -> list[list[str]]:
    """Lines of a table: whose, seconds of training, STS."""
    from data.encoders import resolve_encoder
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.train import pretrain

    run = ROOT / "out" / "runs" / "bench-contrastive"
    shutil.rmtree(run, ignore_errors=True)
    lines = [["the encoder before", "", f"{sts_spearman(resolve_encoder('minilm'), test_file):.4f}"]]
    pretrain(
        load_config(
            Pretrain,
            [
                *headstart_args(path, 64, "ours"),
                f"run={run.name}",
                f"train.steps={steps}",
                "train.warmup_fraction=0",
                f"train.eval_every={steps}",
            ],
        )
    )
    seconds = json.loads((run / "metrics.json").read_text())["seconds"]
    lines.append(["ours", f"{seconds:.0f}", f"{sts_spearman(run / 'encoder', test_file):.4f}"])
    shutil.rmtree(run)
    began = time.perf_counter()
    model = train_sentence_transformer(path, 64, False, steps, lambda: None)
    lines.append(["MNRL", f"{time.perf_counter() - began:.0f}", f"{sts_spearman(model, test_file):.4f}"])
    return lines


def main(args: list[str]) -> None:
    if args[:1] == ["worker"]:
        return worker(args[1], args[2:])
    import results

    own = {
        word.split("=")[0]: word.split("=", 1)[1]
        for word in args
        if word.split("=")[0] in ("sizes", "rounds", "seconds", "steps", "stsb", "contenders")
    }
    rest = [word for word in args if word.split("=")[0] not in own]
    command = " ".join(
        ["python benchmarks/contrastive.py", *("stsb=FOLDER" if word.startswith("stsb=") else word for word in args)]
    )
    path = ROOT / "out" / "cache" / "neighbouring-stretches.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pairs(path)
    for size in filter(None, own.get("sizes", f"64,{MIN_GRADCACHE_PAIRS}").split(",")):
        loss = "Cached MNRL" if int(size) >= MIN_GRADCACHE_PAIRS else "MNRL"
        names = own["contenders"].split(",") if "contenders" in own else ["ours", "ours float32", loss, f"{loss} bf16"]
        found = turns.compare_contenders(
            __file__, names, int(own.get("rounds", 3)), float(own.get("seconds", 5)), [str(path), size, *rest]
        )
        first, lines = statistics.median(found[names[0]]["rates"]), []
        for name in names:
            rates = found[name]["rates"]
            lines.append(
                [
                    name,
                    f"{statistics.median(rates):.1f}",
                    f"{min(rates):.1f} to {max(rates):.1f}",
                    f"{first / statistics.median(rates):.2f}",
                    f"{found[name]['peak_bytes'] / 1e6:,.0f}",
                ]
            )
            print("  ".join(f"{part:>14}" for part in lines[-1]), flush=True)
        results.write_section(
            f"Contrastive training, {size} pairs a step, on a CPU",
            command,
            results.markdown_table(["", "pairs/s", "over the rounds", "the first is x times as fast", "peak MB"], lines),
        )
    if "stsb" in own:
        steps = int(own.get("steps", 100))
        lines = measure_quality(path, steps, Path(own["stsb"]) / "test.csv")
        print("\n".join("  ".join(f"{part:>20}" for part in line) for line in lines), flush=True)
        results.write_section(
            "Contrastive training, what comes out",
            command,
            results.markdown_table([f"{steps} steps of 64 pairs", "seconds", "STS Benchmark, test"], lines),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
