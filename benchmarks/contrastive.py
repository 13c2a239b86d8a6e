"""Compare contrastive training with sentence-transformers' `MultipleNegativesRankingLoss` (MNRL).

    python benchmarks/contrastive.py [sizes=64,1024] [rounds=3] [seconds=5] [contenders=...] [steps=100] [stsb=FOLDER]
                                     [key=value ...]

Encoder, texts and batch are the same. Pairs are adjacent spans of a movie review, 8 to 60 words each. Speed: pairs per
second of alternating contenders (benchmarks/turns.py), both in float32 and bf16; MNRL's default is float32, ours is
bf16 where the machine supports it. From 1,024 pairs on both cache gradients, with their default micro-batches.
Quality: `steps` steps of 64 pairs at one learning rate, then Spearman's correlation on the STS Benchmark (stsb: a
folder with its test.csv; without it, quality is not measured). Writes its sections of benchmarks/RESULTS.md.
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

import results
import turns

NUM_PAIRS, MIN_WORDS, MAX_WORDS = 20_000, 8, 60
MIN_GRADCACHE_PAIRS = 1_024  # smallest batch with cached gradients
LEARNING_RATE = 5e-5


def write_pairs(path: Path) -> None:
    """Write adjacent spans of the reviews to a csv with columns first, second."""
    import numpy as np

    from data.config import Prepare
    from data.corpus.build import build_corpus
    from data.corpus.documents import iter_documents
    from engine.config.loader import load_config

    rng = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table, num_written = csv.writer(file), 0
        table.writerow(["first", "second"])
        for document in iter_documents(build_corpus(load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus)):
            words = document["text"].split()
            first, second = rng.integers(MIN_WORDS, MAX_WORDS + 1, size=2)
            if len(words) >= first + second:
                table.writerow([" ".join(words[:first]), " ".join(words[first : first + second])])
                num_written += 1
            if num_written == NUM_PAIRS:
                return


def headstart_args(path: Path | str, batch_size: int, name: str) -> list[str]:
    """Return our arguments."""
    return [
        "configs/pretrain/mlm.yaml",
        f"objective={{name: contrastive, views: pairs, pairs: {{files: {path}}}}}",
        f"train.batch_size={batch_size}",
        f"train.lr={LEARNING_RATE}",
        f"train.precision={'float32' if 'float32' in name else 'native'}",
        *(["train.micro_batch_size=64"] if batch_size >= MIN_GRADCACHE_PAIRS else []),
    ]


def train_sentence_transformer(path: Path | str, batch_size: int, bf16: bool, max_steps: int, after_step) -> object:
    """Train with sentence-transformers' trainer at its defaults and return the model."""
    import sentence_transformers as st
    from datasets import Dataset
    from sentence_transformers import losses
    from transformers import TrainerCallback

    from data.encoders import resolve_encoder

    class StepCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            after_step()

    is_cached = batch_size >= MIN_GRADCACHE_PAIRS
    model = st.SentenceTransformer(str(resolve_encoder("minilm")), device="cpu", trust_remote_code=False)
    loss = losses.CachedMultipleNegativesRankingLoss if is_cached else losses.MultipleNegativesRankingLoss
    with tempfile.TemporaryDirectory() as folder:
        arguments = st.SentenceTransformerTrainingArguments(
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
        dataset = Dataset.from_csv(str(path))
        callbacks = [StepCallback()]
        st.SentenceTransformerTrainer(
            model, arguments, train_dataset=dataset, loss=loss(model), callbacks=callbacks
        ).train()
    return model


def run_worker(name: str, args: list[str]) -> None:
    """Run a contender. name: ours or MNRL, with the precision; args: file of pairs, batch size, our arguments."""
    path, batch_size, rest = args[0], int(args[1]), args[2:]
    if name.startswith("ours"):
        pretrain_args = [*headstart_args(path, batch_size, name), *rest]
        return turns.run_contender(pretrain_args, lambda batch: len(batch.inputs["group_ids"]))
    turn_taker = turns.TurnTaker(0.0)
    train_sentence_transformer(path, batch_size, "bf16" in name, 1_000_000, lambda: turn_taker.record_step(batch_size))


def sts_spearman(model, test_file: Path) -> float:
    """Return Spearman's correlation of a sentence-transformers model on the STS Benchmark."""
    import numpy as np
    from scipy.stats import spearmanr

    rows = list(csv.DictReader(open(test_file, encoding="utf-8")))
    first, second = (
        model.encode([row[column] for row in rows], normalize_embeddings=True) for column in ("sentence1", "sentence2")
    )
    return float(spearmanr((first * second).sum(1), np.array([float(row["score"]) for row in rows])).statistic)


def measure_quality(path: Path, steps: int, test_file: Path) -> list[list[str]]:
    """Return table rows: encoder, seconds of training, correlation."""
    from sentence_transformers import SentenceTransformer

    from data.encoders import resolve_encoder
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.train import pretrain

    def score(folder: Path) -> str:
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)
        return f"{sts_spearman(model, test_file):.4f}"

    run = results.ROOT / "out" / "runs" / "bench-contrastive"
    shutil.rmtree(run, ignore_errors=True)
    rows = [["before training", "", score(resolve_encoder("minilm"))]]
    args = [f"run={run.name}", f"train.steps={steps}", "train.warmup_fraction=0", f"train.eval_every={steps}"]
    pretrain(load_config(Pretrain, [*headstart_args(path, 64, "ours"), *args]))
    seconds = json.loads((run / "metrics.json").read_text())["seconds"]
    rows.append(["ours", f"{seconds:.0f}", score(run / "encoder")])
    shutil.rmtree(run)
    start = time.perf_counter()
    model = train_sentence_transformer(path, 64, False, steps, lambda: None)
    rows.append(["MNRL", f"{time.perf_counter() - start:.0f}", f"{sts_spearman(model, test_file):.4f}"])
    return rows


def main(args: list[str]) -> None:
    """Run the benchmark, or with `worker` one contender."""
    if args[:1] == ["worker"]:
        return run_worker(args[1], args[2:])
    defaults = {"sizes": f"64,{MIN_GRADCACHE_PAIRS}", "rounds": "3", "seconds": "5", "steps": "100"}
    options, rest = results.parse_options(args, **defaults, stsb=None, contenders=None)
    public_args = ["stsb=FOLDER" if arg.startswith("stsb=") else arg for arg in args]
    command = " ".join(["python benchmarks/contrastive.py", *public_args])
    path = results.ROOT / "out" / "cache" / "adjacent-spans.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pairs(path)
    for size in filter(None, options["sizes"].split(",")):
        loss = "Cached MNRL" if int(size) >= MIN_GRADCACHE_PAIRS else "MNRL"
        names = ["ours", "ours float32", loss, f"{loss} bf16"]
        if options["contenders"]:
            names = options["contenders"].split(",")
        rounds, seconds = int(options["rounds"]), float(options["seconds"])
        measurements = turns.compare_contenders(__file__, names, rounds, seconds, [str(path), size, *rest])
        first, rows = statistics.median(measurements[names[0]]["rates"]), []
        for name in names:
            rates, peak = measurements[name]["rates"], measurements[name]["peak_bytes"]
            speedup = f"{first / statistics.median(rates):.2f}"
            rows.append([name, *turns.summarize_rates(rates, 1), speedup, f"{peak / 1e6:,.0f}"])
            print("  ".join(f"{cell:>14}" for cell in rows[-1]), flush=True)
        table = results.markdown_table(["", "pairs/s", "range", "speedup of the first row", "peak MB"], rows)
        results.write_section(f"Contrastive training, {size} pairs a step, on a CPU", command, table)
    if options["stsb"]:
        steps = int(options["steps"])
        rows = measure_quality(path, steps, Path(options["stsb"]) / "test.csv")
        print("\n".join("  ".join(f"{cell:>20}" for cell in row) for row in rows), flush=True)
        table = results.markdown_table([f"{steps} steps of 64 pairs", "seconds", "STS Benchmark, test"], rows)
        results.write_section("Contrastive training, quality", command, table)


if __name__ == "__main__":
    main(sys.argv[1:])
