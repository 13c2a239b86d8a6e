"""TODO."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from engine.config.schema import Fraction, Section


class Train(Section):
    """The training loop's settings, the same for both stages."""

    steps: PositiveInt
    """Optimizer steps."""
    lr: PositiveFloat
    """Peak learning rate."""
    batch_size: PositiveInt
    """Rows (or examples) of one optimizer step, over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Rows a process takes through the network at once; none: its whole share. Changes memory, and dropout's draws."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps over which the learning rate rises linearly."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up; linear is Howard and Ruder's slanted triangle."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW, on matrices only."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of AdamW's second moment."""
    max_grad_norm: PositiveFloat = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    average_fraction: Fraction = 0.0
    """Share of the steps, the last ones, whose weights are averaged; the mean is what is evaluated and kept."""
    precision: Literal["native", "bf16", "float32"] = "native"
    """Arithmetic of the matrix products; native: bf16 where the machine multiplies it in hardware, else float32."""
    log_every: PositiveInt = 10
    """Steps between lines of log.jsonl."""
    eval_every: PositiveInt = 100
    """Steps between evaluations."""
    save_every: PositiveInt = 200
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept, the newest ones."""
    max_skipped_steps: PositiveInt = 10
    """Steps in a row without a finite loss and gradient, whose updates are left out, after which the run ends."""
    max_loss_ratio: Annotated[float, Field(gt=1)] | None = None
    """A step whose loss is so many times the usual one is left out too; none: any finite loss is learned from."""
    replay: PositiveInt | None = None
    """A step whose batch was kept in nan-step-N: it is looked at again, and nothing is trained."""
    dry_run: bool = False
    """Whether only to look: is everything there, and is there room and memory? --dry-run says the same."""

    resumable: ClassVar[tuple[str, ...]] = (
        "log_every",
        "save_every",
        "keep_checkpoints",
        "micro_batch_size",
        "max_skipped_steps",
        "replay",
        "dry_run",
    )
