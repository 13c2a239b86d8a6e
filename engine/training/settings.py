"""Settings of the training loop, shared by both stages."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from engine.config.schema import Fraction, Section


class Train(Section):
    """Training loop settings."""

    steps: PositiveInt
    """Optimizer steps."""
    lr: PositiveFloat
    """Peak learning rate."""
    batch_size: PositiveInt
    """Rows (or examples) per optimizer step, over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Rows per forward pass and process; none: the process's whole share. Affects memory and the dropout masks only."""
    warmup_fraction: Fraction = 0.1
    """Fraction of the steps over which the learning rate rises linearly."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning-rate decay after warmup; linear is the slanted triangle of Howard and Ruder (2018)."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW, applied to matrices only."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay rate of AdamW's first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay rate of AdamW's second moment."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping: larger gradients are scaled down to this norm."""
    average_fraction: Fraction = 0.0
    """Final fraction of the steps over which weights are averaged; the average is evaluated and saved."""
    precision: Literal["native", "bf16", "float32"] = "native"
    """Precision of matrix products; native: bf16 where the hardware supports it, else float32."""
    log_every: PositiveInt = 10
    """Steps between lines of log.jsonl."""
    eval_every: PositiveInt = 100
    """Steps between evaluations."""
    save_every: PositiveInt = 200
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of newest checkpoints to keep."""
    max_skipped_steps: PositiveInt = 10
    """Consecutive steps skipped for a non-finite loss or gradient after which training aborts."""
    max_loss_ratio: Annotated[float, Field(gt=1)] | None = None
    """Also skip steps with a loss above this multiple of a positive running mean; none: never skip a finite loss."""
    replay: PositiveInt | None = None
    """Step with a batch saved in nan-step-N to run again for inspection, without training."""
    dry_run: bool = False
    """Whether to only check inputs, disk space and memory, as --dry-run does."""

    added_later: ClassVar[tuple[str, ...]] = ("beta1",)
    resumable: ClassVar[tuple[str, ...]] = (
        "log_every",
        "save_every",
        "keep_checkpoints",
        "micro_batch_size",
        "max_skipped_steps",
        "replay",
        "dry_run",
    )
