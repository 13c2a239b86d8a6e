"""Compare objective skipgram with gensim's word2vec: same tokens, passes, vocabulary, width, window, on one thread.

    pip install --target FOLDER gensim
    python benchmarks/word_vectors.py gensim=FOLDER sts=stsb/test.csv [passes=2] [key=value ...]

A text's embedding is the mean of its tokens' vectors, for both; "weighted": by smoothed inverse frequency (Arora et al.
2017), the default of ours. Seconds are those of the processor during training; ours include an evaluation and a
checkpoint. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import results

CONFIG = "configs/pretrain/skipgram.yaml"
SMOOTHING = 1e-3


def train_ours(config) -> tuple[np.ndarray, float]:
    """Run our command; return the vectors, (vocabulary, width), and the seconds of the training loop."""
    from safetensors.numpy import load_file

    import pretrain.train as stage

    seconds = []

    class TimedTrainer(stage.Trainer):
        def fit(self):
            start = time.process_time()
            result = super().fit()
            seconds.append(time.process_time() - start)
            return result

    stage.Trainer = TimedTrainer
    folder = results.ROOT / "out" / "runs" / config.run
    try:
        stage.pretrain(config)
        weights = load_file(folder / "encoder" / "0_StaticEmbedding" / "model.safetensors")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return weights["embedding.weight"], seconds[0]


def train_gensim(config, shards, passes: int) -> tuple[np.ndarray, float]:
    """Train word2vec on the ids of the same pieces; return the vectors, (vocabulary, width), and the seconds."""
    from gensim.models import Word2Vec

    objective = config.objective
    texts = [[str(token) for token in shards.tokens[start : start + size]] for start, size in shards.pieces]
    options = {"window": objective.window, "negative": objective.negatives, "sample": objective.subsample}
    model = Word2Vec(vector_size=config.model.hidden_size, sg=1, min_count=1, workers=1, seed=config.seed, **options)
    model.build_vocab(texts)
    start = time.process_time()
    model.train(texts, total_examples=len(texts), epochs=passes)
    seconds = time.process_time() - start
    vectors = np.zeros((shards.vocab_size, config.model.hidden_size), np.float32)
    for token, index in model.wv.key_to_index.items():
        vectors[int(token)] = model.wv.vectors[index]
    return vectors, seconds


def measure_sts(vectors: np.ndarray, tokenizer, pairs: list) -> float:
    """Return Spearman's correlation of the cosines of the texts' mean vectors with the scores."""
    from pretrain.evaluate.embeddings import sts_spearman

    def embed(texts: tuple[str, ...]) -> np.ndarray:
        ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return np.stack([vectors[each].mean(0) if each else np.zeros(vectors.shape[1]) for each in ids])

    first, second, scores = zip(*pairs, strict=True)
    return sts_spearman(embed(first), embed(second), np.array(scores))


def main(args: list[str]) -> None:
    """Run the benchmark."""
    import torch
    from transformers import AutoTokenizer

    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.evaluate.config import STSSource
    from pretrain.evaluate.embeddings import load_sts_pairs

    torch.set_num_threads(1)
    options, rest = results.parse_options(args, gensim=None, sts=None, passes="2")
    sys.path.append(options["gensim"])
    words, passes = [CONFIG, *rest, f"run=bench-{os.getpid()}"], int(options["passes"])
    config = load_config(Pretrain, words)
    _, tokenizer_folder, folder = prepare(
        config.corpus, config.tokenizer, None, config.max_length, config.model.positions
    )
    shards, pairs = Shards(folder, "train"), load_sts_pairs(STSSource(files=options["sts"]))
    steps = math.ceil(passes * len(shards) / config.train.batch_size)
    every = [f"train.{name}={steps}" for name in ("steps", "eval_every", "save_every")]
    config = load_config(Pretrain, [*words, *every, "objective.smoothing=none"])
    counts = shards.token_counts()
    weights = (SMOOTHING / (SMOOTHING + counts / counts.sum()))[:, None].astype(np.float32)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    rows = []
    for name, (vectors, seconds) in {
        "gensim": train_gensim(config, shards, passes),
        "ours": train_ours(config),
    }.items():
        rate = passes * int(shards.pieces[:, 1].sum()) / seconds
        scores = [f"{measure_sts(each, tokenizer, pairs):.3f}" for each in (vectors, vectors * weights)]
        rows.append([name, *scores, f"{seconds:.1f}", f"{rate:,.0f}"])
        print("  ".join(f"{cell:>12}" for cell in rows[-1]), flush=True)
    header = ["", f"STS, {Path(options['sts']).name}", "STS, weighted", "seconds", "tokens/s"]
    given = [f"passes={passes}", *rest]
    command = " ".join(["python benchmarks/word_vectors.py gensim=FOLDER sts=FILE", *given])
    results.write_section("Word vectors", command, results.markdown_table(header, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
