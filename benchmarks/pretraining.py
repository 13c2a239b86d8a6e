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
    **{
        f"base-{length}": [
            "configs/pretrain/base.yaml",
            f"max_length={length}",
            f"train.batch_size={32_768 // length}",
            "train.micro_batch_size=none",
        ]
        for length in (128, 512, 8192)
    },
}
FASTEST_PEER = "run_mlm bf16 compile"
MATCHED_BATCH_SIZES = {"minilm": 16, "scratch": 64}  # rows a step when ours does what the peer does


def flops_per_token(model, vocabulary_fraction: float, attended_tokens: float, sparse_modules=()) -> float:
    """Floating-point operations that the matrix products of a training step make for a token.

    vocabulary_fraction: of the tokens that are projected onto the vocabulary, and that the modules `sparse_modules` work on; attended_tokens: tokens that
    a token attends to, on average.
    """
    from torch import nn

    def weights(*modules) -> set:
        return {part.weight for module in modules for part in module.modules() if isinstance(part, nn.Linear)}

    inside = weights(model.base_model) - weights(*sparse_modules)
    config = model.config
    return (
        6
        * (
            sum(weight.numel() for weight in inside)
            + vocabulary_fraction * sum(weight.numel() for weight in weights(model) - inside)
        )
        + 12 * attended_tokens * config.hidden_size * config.num_hidden_layers
    )


def merge_documents(batch):
    """The same rows, each one document: what a row of one long text would cost."""
    import torch

    rows, length = batch.inputs["input_ids"].shape
    bounds = torch.arange(0, rows * length + 1, length, dtype=torch.int32)
    return type(batch)({**batch.inputs, "cu_seqlens": bounds}, batch.tokens)


def run_headstart(args: list[str], transform_batch: Callable = lambda batch: batch) -> None:
    """The command itself, on its batches as `transform_batch` has them."""

    def products_of(module, config, batch, on_gpu: bool) -> float:
        # Under a mask a token's products with the whole row are made; on a GPU, those with its own document alone.
        sizes = batch.inputs["cu_seqlens"].diff().double()
        attended = (sizes @ sizes / sizes.sum()).item() if on_gpu else config.max_length
        return flops_per_token(module.encoder.model, config.objective.mask_rate, attended, module.encoder.sparse_ffn)

    turns.run_contender(
        [*args, "head_only_fraction=0", "short_sequence_fraction=0"],
        lambda batch: batch.tokens,
        products_of,
        transform_batch,
    )


def run_peer_worker(name: str, args: list[str]) -> None:
    """run_mlm's recipe on the same documents, tokenizer and network."""
    import peer as recipe
    import torch
    from transformers import AutoTokenizer

    from data.corpus.build import build_corpus
    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.model.build import build_encoder

    config = load_config(Pretrain, args)
    init, folder, shards = prepare(
        config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = recipe.prepare(recipe.documents(build_corpus(config.corpus), 4_000), tokenizer, config.max_length)
    torch.manual_seed(0)
    encoder = build_encoder(config, init, Shards(shards, "train"))
    model = recipe.plain(encoder.model)
    flags, _, size = name.partition(", ")
    batch_size = int(size.split()[0]) if size else recipe.BATCH_SIZE
    taking = turns.TurnTaker(flops_per_token(model, 1.0, config.max_length))
    recipe.train(
        model,
        rows,
        tokenizer,
        lambda step: taking.step(batch_size * config.max_length),
        max_steps=1_000_000,
        per_device_train_batch_size=batch_size,
        **recipe.FLAGS[flags],
    )


def table_rows(size: str, contenders: list[str], measurements: dict) -> list[list[str]]:
    """The table's lines for one size."""
    first, lines = statistics.median(measurements[contenders[0]]["rates"]), []
    for name in contenders:
        told = measurements[name]
        rate = statistics.median(told["rates"])
        precision = "float32" if name.partition(",")[0] == "run_mlm" else "bfloat16"
        lines.append(
            [
                size,
                name,
                f"{rate:,.0f}",
                f"{min(told['rates']):,.0f} to {max(told['rates']):,.0f}",
                f"{first / rate:.2f}",
                f"{rate * told['products'] / statistics.median(measurements[precision]):.0%}",
                f"{told['peak_bytes'] / 1e6:,.0f}",
            ]
        )
    return lines


def main(args: list[str]) -> None:
    if args[:1] == ["worker"]:
        name, rest = args[1], args[2:]
        if not name.startswith("ours"):
            return run_peer_worker(name, rest)
        kind, _, rows = name.removesuffix(" rows").partition(" as run_mlm, ")
        like = ["train.optimizer=adamw", "objective.mask_rate=0.15", f"train.batch_size={rows}"] if rows else []
        run_headstart(
            [*rest, *like, *(["train.compile=true"] if kind == "ours compile" else [])],
            *([merge_documents] if kind == "ours undivided" else []),
        )
        return
    import results
    import peer as recipe
    import torch

    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    own = dict(
        word.split("=", 1) for word in args if word.split("=")[0] in ("sizes", "rounds", "seconds", "contenders")
    )
    rest = [word for word in args if word.split("=")[0] not in own]
    on_gpu, lines = torch.cuda.is_available(), []
    for size in own.get("sizes", "base-128,base-512,base-8192" if on_gpu else "minilm,scratch").split(","):
        rows = MATCHED_BATCH_SIZES.get(size) or load_config(Pretrain, [*SIZES[size], *rest]).train.batch_size
        names = [f"ours as run_mlm, {rows} rows", "ours", *recipe.FLAGS, f"{FASTEST_PEER}, {rows} rows"]
        names = own["contenders"].split(";") if "contenders" in own else names
        found = turns.compare_contenders(
            __file__, names, int(own.get("rounds", 3)), float(own.get("seconds", 5)), [*SIZES[size], *rest]
        )
        lines += table_rows(size, names, found)
        print("\n".join("  ".join(f"{part:>12}" for part in line) for line in lines[-len(names) :]), flush=True)
    results.write_section(
        f"Speed of pretraining, on a {'GPU' if on_gpu else 'CPU'}",
        " ".join(["python benchmarks/pretraining.py", *args]),
        results.markdown_table(
            ["size", "", "tokens/s", "over the rounds", "the first is x times as fast", "utilisation", "peak MB"], lines
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
