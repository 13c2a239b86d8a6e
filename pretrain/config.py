"""What can be set for pretraining. Every key, with its default and meaning: `python -m pretrain --help`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from data.corpus.config import Corpus
from data.tokens.config import TokenizerConfig
from engine.config.schema import Fraction, Plugin, RunName, Section
from engine.runs.trackers import TrackerName
from engine.training.settings import Train


class ModelConfig(Section):
    """The network trained from nothing; one that continues from an encoder keeps that encoder's shape."""

    architecture: Literal["modernbert", "bert"] = "modernbert"
    """modernbert: rotary positions, GeGLU, pre-norm, local attention (Warner et al. 2024); bert: Devlin et al. 2019."""
    layers: PositiveInt = 4
    """Transformer layers."""
    hidden_size: PositiveInt = 256
    """Width of a token's vector."""
    attention_heads: PositiveInt = 4
    """Attention heads of a layer; they divide the width."""
    intermediate_size: PositiveInt = 512
    """Width inside the feed-forward part."""
    local_attention: PositiveInt = 128
    """Window in tokens of modernbert's local layers; every third layer attends to all."""
    embeddings: Literal["cooccurrence", "random"] = "cooccurrence"
    """What token vectors start at; cooccurrence: vectors counted from the text, in seconds (Levy and Goldberg 2014)."""
    positions: PositiveInt = 512
    """Longest text the network can ever take, in tokens."""


class PretrainTrain(Train):
    """The training loop's settings, and what only pretraining has a use for."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw; muon: Muon for the matrices inside the network, AdamW for the rest (Jordan et al. 2024)."""
    matrix_lr: PositiveFloat = 0.02
    """Peak rate of those matrices, under muon."""
    sharded: bool = False
    """Whether several processes hold a share each of weights, gradients and optimizer state (FSDP2), not a copy (DDP)."""
    compile: bool = False
    """Whether torch.compile translates the network's layers first: half a minute, for about a tenth more speed on a CPU."""

    resumable: ClassVar[tuple[str, ...]] = (*Train.resumable, "sharded")


class Pretrain(Section):
    """Pretrain an encoder on unlabelled text."""

    run: RunName
    """Name of the run: everything it writes is in out/runs/NAME."""
    allow_changes: bool = False
    """Whether to go on with a run although its configuration, text or labels are others than it was started with."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Where every random number comes from."""
    init: str | None = None
    """The encoder to continue from: a built-in name (minilm), a folder, a hub name; none: from nothing."""
    corpus: Corpus
    """The unlabelled text."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens in a row; documents are cut and packed to fill it."""
    short_sequence_fraction: Fraction = 0.0
    """Share of the steps, the first ones, whose rows are half as long and twice as many; masked language modelling only."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Used when init is none."""
    model: ModelConfig = ModelConfig()
    """Used when init is none."""
    dropout: Fraction = 0.0
    """Dropout while pretraining."""
    head_only_fraction: Fraction = 0.08
    """Share of the steps in which only what init did not bring (the head) is trained, when it brought anything."""
    init_fraction: Fraction = 0.0
    """Share of init's weights in those that are written, which are the mean of init's and the learned ones (Wortsman et al. 2022):
    what init knew is kept better."""
    head_lr_scale: PositiveFloat = 10.0
    """Factor on the rate of what init did not bring, when it brought anything."""
    pooling: Literal["mean", "cls"] | None = None
    """How text vectors are made, written into the encoder folder; none: as init says, else mean."""
    eval_rows: PositiveInt = 256
    """Held-out rows of an evaluation."""
    push_every: NonNegativeInt = 0
    """Steps, those at which train.save_every saves, between encoders sent to a hub while training goes on; 0: none."""
    push_to: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """OWNER/NAME on the hub: a private repository, its branch checkpoints."""
    objective: Plugin("pretrain.objectives", "mlm") = {}
    """What is learned."""
    tracker: TrackerName = "none"
    """Where else the run can be watched, besides its log.jsonl and report.html; its package is installed by its name."""
    train: PretrainTrain

    resumable: ClassVar[tuple[str, ...]] = ("allow_changes", "push_every", "push_to", "tracker")

    @model_validator(mode="after")
    def check_push(self):
        if self.push_every and not self.push_to:
            raise ValueError("push_every needs push_to=OWNER/NAME")
        if self.push_every % self.train.save_every:
            raise ValueError(f"push_every={self.push_every} is no multiple of train.save_every={self.train.save_every}")
        return self
