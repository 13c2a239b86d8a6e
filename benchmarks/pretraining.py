"""Pretraining's speed beside transformers' `run_mlm` (benchmarks/peer.py): the same model, text and machine.

    make bench
    python benchmarks/pretraining.py [sizes=minilm,scratch] [rounds=3] [seconds=5] [contenders=...] [key=value ...]

Every contender is a process of its own, so that memory is its own; they take turns of `seconds`, one working while the
others wait, after a turn that is not counted (compiling falls into it). Told are medians and extremes over the rounds. Ours
runs twice: doing what the peer does (AdamW, 15 % hidden, the rows said), and as the configuration has it. Tokens are real
ones: no padding, and of a row what the documents fill. The peer trains at its default of 8 rows a step and at ours.
`utilisation` is the share of the rate at which this machine multiplies square matrices of 4,096, measured between the
turns, at the contender's precision, and counts only the products a step must make: ours projects the hidden tokens onto the
vocabulary, and has its last layer work on those alone, the peer all. Other contenders, to be named: `ours compile as
run_mlm, 64 rows`, and, on a GPU, `ours undivided as run_mlm, 64 rows`, to which every row is one document. Writes its
section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import turns  # noqa: E402

SIZES = {
    "minilm": ["configs/pretrain/mlm.yaml"],
    "scratch": ["configs/pretrain/scratch.yaml"],
    **{f"base-{length}": ["configs/pretrain/base.yaml", f"length={length}", f"train.batch_size={32_768 // length}",
                          "train.micro_batch=none"] for length in (128, 512, 8192)},
}
BASE = "run_mlm bf16 compile"
LIKE = {"minilm": 16, "scratch": 64}  # rows a step when ours does what the peer does


def products(model, share: float, attended: float, trimmed=()) -> float:
    """Floating-point operations that the matrix products of a training step make for a token.

    share: of the tokens that are projected onto the vocabulary, and that the modules `trimmed` work on; attended: tokens that
    a token attends to, on average.
    """
    from torch import nn

    def weights(*modules) -> set:
        return {part.weight for module in modules for part in module.modules() if isinstance(part, nn.Linear)}

    inside = weights(model.base_model) - weights(*trimmed)
    config = model.config
    return (6 * (sum(weight.numel() for weight in inside) + share * sum(weight.numel() for weight in weights(model) - inside))
            + 12 * attended * config.hidden_size * config.num_hidden_layers)


def undivided(batch):
    """The same rows, each one document: what a row of one long text would cost."""
    import torch
    rows, length = batch.inputs["input_ids"].shape
    bounds = torch.arange(0, rows * length + 1, length, dtype=torch.int32)
    return type(batch)({**batch.inputs, "document_bounds": bounds}, batch.tokens)


def ours(words: list[str], change: Callable = lambda batch: batch) -> None:
    """The command itself, on its batches as `change` has them."""
    def products_of(module, config, batch, on_gpu: bool) -> float:
        # Under a mask a token's products with the whole row are made; on a GPU, those with its own document alone.
        sizes = batch.inputs["document_bounds"].diff().double()
        attended = (sizes @ sizes / sizes.sum()).item() if on_gpu else config.length
        return products(module.encoder.model, config.objective.mask_rate, attended, module.encoder.trimmed)

    turns.command([*words, "head_warmup=0", "short_rows=0"], lambda batch: batch.tokens, products_of, change)


def peer(name: str, words: list[str]) -> None:
    """run_mlm's recipe on the same documents, tokenizer and network."""
    import torch
    from transformers import AutoTokenizer

    import peer as recipe
    from data import curate
    from data.prepare import prepare
    from data.shards import Shards
    from engine.config import load
    from pretrain.config import Pretrain
    from pretrain.train import new_encoder

    config = load(Pretrain, words)
    init, folder, shards = prepare(config.corpus, config.tokenizer, config.init, config.length, config.model.positions)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = recipe.prepare(recipe.documents(curate.documents(config.corpus), 4_000), tokenizer, config.length)
    torch.manual_seed(0)
    encoder = new_encoder(config, init, Shards(shards, "train"))
    model = recipe.plain(encoder.model)
    flags, _, size = name.partition(", ")
    batch_size = int(size.split()[0]) if size else recipe.BATCH_SIZE
    taking = turns.Turns(products(model, 1.0, config.length))
    recipe.train(model, rows, tokenizer, lambda step: taking.step(batch_size * config.length), max_steps=1_000_000,
                 per_device_train_batch_size=batch_size, **recipe.FLAGS[flags])


def rows_of(size: str, names: list[str], found: dict) -> list[list[str]]:
    """The table's lines for one size."""
    first, lines = statistics.median(found[names[0]]["rates"]), []
    for name in names:
        told = found[name]
        rate = statistics.median(told["rates"])
        precision = "float32" if name.partition(",")[0] == "run_mlm" else "bfloat16"
        lines.append([size, name, f"{rate:,.0f}", f"{min(told['rates']):,.0f} to {max(told['rates']):,.0f}",
                      f"{first / rate:.2f}", f"{rate * told['products'] / statistics.median(found[precision]):.0%}",
                      f"{told['peak_bytes'] / 1e6:,.0f}"])
    return lines


def main(words: list[str]) -> None:
    if words[:1] == ["worker"]:
        name, rest = words[1], words[2:]
        if not name.startswith("ours"):
            return peer(name, rest)
        kind, _, rows = name.removesuffix(" rows").partition(" as run_mlm, ")
        like = ["train.optimizer=adamw", "objective.mask_rate=0.15", f"train.batch_size={rows}"] if rows else []
        ours([*rest, *like, *(["train.compile=true"] if kind == "ours compile" else [])],
             *([undivided] if kind == "ours undivided" else []))
        return
    import peer as recipe
    import results
    import torch
    from engine.config import load
    from pretrain.config import Pretrain
    own = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("sizes", "rounds", "seconds", "contenders"))
    rest = [word for word in words if word.split("=")[0] not in own]
    on_gpu, lines = torch.cuda.is_available(), []
    for size in own.get("sizes", "base-128,base-512,base-8192" if on_gpu else "minilm,scratch").split(","):
        rows = LIKE.get(size) or load(Pretrain, [*SIZES[size], *rest]).train.batch_size
        names = [f"ours as run_mlm, {rows} rows", "ours", *recipe.FLAGS, f"{BASE}, {rows} rows"]
        names = own["contenders"].split(";") if "contenders" in own else names
        found = turns.compare(__file__, names, int(own.get("rounds", 3)), float(own.get("seconds", 5)), [*SIZES[size], *rest])
        lines += rows_of(size, names, found)
        print("\n".join("  ".join(f"{part:>12}" for part in line) for line in lines[-len(names):]), flush=True)
    results.put(f"Speed of pretraining, on a {'GPU' if on_gpu else 'CPU'}", " ".join(["python benchmarks/pretraining.py", *words]),
                results.table(["size", "", "tokens/s", "over the rounds", "the first is x times as fast", "utilisation", "peak MB"],
                              lines))


if __name__ == "__main__":
    main(sys.argv[1:])
