"""Compare pretraining speed with transformers' `run_mlm` (benchmarks/peer.py): same model, text and machine.

    make bench
    python benchmarks/pretraining.py [sizes=minilm,scratch] [rounds=3] [seconds=5] [contenders=...] [key=value ...]

Contenders are processes that alternate in turns of `seconds`; the first turn of each, which includes compilation, is
not counted. Reported are medians and ranges over the rounds. Ours runs twice: configured like run_mlm (AdamW, 15%
masked, the given batch size) and with its own configuration. Tokens exclude padding. run_mlm trains with its default
of 8 rows per step and with ours. Utilization is relative to the rate at which this machine multiplies square matrices
of 4,096 in a burst, measured between the turns in the contender's precision (a line below the table has the rate over
two seconds), and counts only the products that a step needs: ours
projects masked tokens only onto the vocabulary and computes its last layer for them alone, run_mlm does so for all
tokens. Other contenders by name: `ours compile as run_mlm, 64 rows`, and on a GPU `ours undivided as run_mlm, 64
rows`, with one document per row. Writes its section of benchmarks/RESULTS.md.

    python benchmarks/pretraining.py causal [sizes=causal,causal-minilm] ...     # next tokens, compared with run_clm
    python benchmarks/pretraining.py images ...                                  # benchmarks/image_pretraining.py

Of next tokens all are projected onto the vocabulary, and a line has the loss per token of the same weights by both.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import image_pretraining
import results
import turns

BASE_ARGS = ["configs/pretrain/base.yaml", "train.micro_batch_size=none"]
SIZES = {
    "minilm": ["configs/pretrain/mlm.yaml"],
    "scratch": ["configs/pretrain/scratch.yaml"],
    "causal": ["configs/pretrain/causal.yaml"],
    "causal-minilm": ["configs/pretrain/mlm.yaml", "objective={name: causal}"],
    **{
        f"base-{length}": [*BASE_ARGS, f"max_length={length}", f"train.batch_size={32_768 // length}"]
        for length in (128, 512, 8192)
    },
}
FASTEST_PEER = "run_mlm bf16 compile"
FASTEST_LONG_PEER, LONG = "run_mlm bf16", 8192  # tokens; compiling costs transformers its flash attention
MATCHED_BATCH_SIZES = {"minilm": 16, "scratch": 64}  # rows per step of ours configured like run_mlm
LOSS_ROWS = 4  # that both compute the loss of


def flops_per_token(model, vocabulary_fraction: float, attended_tokens: float, sparse_modules=()) -> float:
    """Return the floating-point operations per token of the matrix products of a training step.

    vocabulary_fraction: fraction of tokens that are projected onto the vocabulary and pass through `sparse_modules`;
    attended_tokens: mean number of tokens that a token attends to.
    """
    from torch import nn

    def weights(*modules) -> set:
        return {part.weight for module in modules for part in module.modules() if isinstance(part, nn.Linear)}

    dense = weights(model.base_model) - weights(*sparse_modules)
    num_dense, num_sparse = (sum(each.numel() for each in part) for part in (dense, weights(model) - dense))
    attention = 12 * attended_tokens * model.config.hidden_size * model.config.num_hidden_layers
    return 6 * (num_dense + vocabulary_fraction * num_sparse) + attention


def merge_documents(batch):
    """Return the same rows as one document each, at the cost of rows of one long text."""
    import torch

    rows, length = batch.inputs["input_ids"].shape
    bounds = torch.arange(0, rows * length + 1, length, dtype=torch.int32)
    return type(batch)({**batch.inputs, "cu_seqlens": bounds}, batch.num_tokens)


def run_headstart(args: list[str], transform_batch: Callable = lambda batch: batch) -> None:
    """Run our command as a contender."""

    def compute_flops(module, config, batch, on_gpu: bool) -> float:
        # A mask multiplies each token with its whole row; on a GPU only with its own document.
        sizes = batch.inputs["cu_seqlens"].diff().double()
        attended = (sizes @ sizes / sizes.sum()).item() if on_gpu else config.max_length
        encoder, predicted = module.encoder, getattr(config.objective, "mask_rate", 1.0)
        return flops_per_token(encoder.model, predicted, attended, encoder.sparse_ffn)

    fixed = ["head_only_fraction=0", "short_sequence_fraction=0"]
    turns.run_contender([*args, *fixed], lambda batch: batch.num_tokens, compute_flops, transform_batch)


def run_peer_worker(name: str, args: list[str]) -> None:
    """Run run_mlm's recipe, or run_clm's, as a contender, with the same documents, tokenizer and network."""
    import peer
    import torch
    from transformers import AutoTokenizer

    from data.corpus.build import build_corpus
    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.model.build import build_encoder

    config = load_config(Pretrain, args)
    max_length = config.max_length
    init, folder, shards = prepare(config.corpus, config.tokenizer, config.init, max_length, config.model.positions)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    dataset = peer.prepare(peer.load_documents(build_corpus(config.corpus), 4_000), tokenizer, max_length)
    torch.manual_seed(0)
    model = peer.to_transformers(build_encoder(config, init, Shards(shards, "train")).model)
    flags, _, size = name.replace("run_clm", "run_mlm").partition(", ")
    batch_size = int(size.split()[0]) if size else peer.BATCH_SIZE
    turn_taker = turns.TurnTaker(flops_per_token(model, 1.0, max_length))
    flags = {"max_steps": 1_000_000, "per_device_train_batch_size": batch_size, **peer.FLAGS[flags]}
    is_causal = name.startswith("run_clm")
    count = batch_size * max_length
    peer.train(model, dataset, tokenizer, lambda step: turn_taker.record_step(count), is_causal, **flags)


def compare_losses(args: list[str]) -> str:
    """Return a sentence with the loss per token of the initial network by our objective and by transformers."""
    import peer
    import torch
    from torch.nn import functional as F

    from data.prepare import prepare
    from data.tokens.shards import Shards
    from engine.config.loader import load_config
    from pretrain.config import Pretrain
    from pretrain.model.build import build_encoder
    from pretrain.objectives import causal

    config = load_config(Pretrain, args)
    init, _, folder = prepare(config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions)
    shards = Shards(folder, "train")
    objective = causal.Objective(config.objective, build_encoder(config, init, shards)).eval()
    inputs = causal.Dataset(config.objective, shards).collate(list(range(LOSS_ROWS)), []).inputs
    with torch.no_grad():
        output = objective(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            half = objective(**inputs)
        model, losses = peer.to_transformers(objective.encoder.model).eval(), []
        for ids, documents in zip(inputs["input_ids"], inputs["document_ids"], strict=True):
            for number in range(int(documents.max()) + 1):
                text = ids[documents == number][None]
                losses += F.cross_entropy(model(input_ids=text).logits[0, :-1], text[0, 1:], reduction="none")
    ours, ours_half = output.loss / output.count, half.loss / half.count
    theirs = torch.stack(losses).mean()
    return f"Loss per token: ours {ours:.5f}, in bf16 {ours_half:.5f}; transformers {theirs:.5f}, in float32."


def table_rows(size: str, contenders: list[str], measurements: dict) -> list[list[str]]:
    """Return the table rows of one size."""
    first, rows = statistics.median(measurements[contenders[0]]["rates"]), []
    for name in contenders:
        report = measurements[name]
        rate = statistics.median(report["rates"])
        precision = "float32" if name.partition(",")[0] in ("run_mlm", "run_clm") else "bfloat16"
        utilization = f"{rate * report['flops_per_item'] / statistics.median(measurements[precision]):.0%}"
        peak = f"{report['peak_bytes'] / 1e6:,.0f}"
        rows.append([size, name, *turns.summarize_rates(report["rates"]), f"{first / rate:.2f}", utilization, peak])
    return rows


def run_worker(name: str, args: list[str]) -> None:
    """Run the contender of this name."""
    if not name.startswith("ours"):
        return run_peer_worker(name, args)
    kind, _, rows = name.removesuffix(" rows").replace("run_clm", "run_mlm").partition(" as run_mlm, ")
    like_peer = ["train.optimizer=adamw", f"train.batch_size={rows}"] if rows else []
    if rows and "run_mlm" in name:
        like_peer.append("objective.mask_rate=0.15")
    compiled = ["train.compile=true"] if kind == "ours compile" else []
    run_headstart([*args, *like_peer, *compiled], *([merge_documents] if kind == "ours undivided" else []))


def main(args: list[str]) -> None:
    """Run the benchmark, or with `worker` one contender."""
    if args[:1] == ["worker"]:
        return run_worker(args[1], args[2:])
    if args[:1] == ["images"]:
        return image_pretraining.main(args[1:])
    import peer
    import torch

    from engine.config.loader import load_config
    from pretrain.config import Pretrain

    on_gpu, rows, notes = torch.cuda.is_available(), [], []
    is_causal, command = args[:1] == ["causal"], " ".join(["python benchmarks/pretraining.py", *args])
    args, recipe = (args[1:], "run_clm") if is_causal else (args, "run_mlm")
    sizes = "base-128,base-512,base-8192" if on_gpu else "minilm,scratch"
    sizes = "causal,causal-minilm" if is_causal else sizes
    options, rest = results.parse_options(args, sizes=sizes, rounds="3", seconds="5", contenders=None)
    for size in options["sizes"].split(","):
        pretrain_args = [*SIZES[size], *rest]
        config = load_config(Pretrain, pretrain_args)
        batch_size = MATCHED_BATCH_SIZES.get(size) or config.train.batch_size
        fastest = FASTEST_LONG_PEER if config.max_length >= LONG else FASTEST_PEER
        names = [f"ours as run_mlm, {batch_size} rows", "ours", *peer.FLAGS, f"{fastest}, {batch_size} rows"]
        names = [name.replace("run_mlm", recipe) for name in names]
        if options["contenders"]:
            names = options["contenders"].split(";")
        rounds, seconds = int(options["rounds"]), float(options["seconds"])
        measurements = turns.compare_contenders(__file__, names, rounds, seconds, pretrain_args)
        rows += table_rows(size, names, measurements)
        burst, sustained = (statistics.median(measurements[key]) / 1e12 for key in ("bfloat16", "bfloat16 sustained"))
        notes.append(
            f"{size}: matrix products in bf16 at {burst:.3f} TFLOP/s in a burst, {sustained:.3f} over two seconds."
        )
        if is_causal:
            notes.append(f"{size}: {compare_losses(pretrain_args)}")
        print("\n".join("  ".join(f"{cell:>12}" for cell in row) for row in rows[-len(names) :]), flush=True)
    header = ["size", "", "tokens/s", "range", "speedup of the first row", "utilization", "peak MB"]
    title = f"Speed of {'next-token prediction' if is_causal else 'pretraining'}, on a {'GPU' if on_gpu else 'CPU'}"
    results.write_section(title, command, "\n\n".join([results.markdown_table(header, rows), *notes]))


if __name__ == "__main__":
    main(sys.argv[1:])
