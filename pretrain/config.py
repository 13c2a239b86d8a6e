"""Configuration of pretraining, for any modality. `python -m pretrain --help` lists every key with its meaning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from engine.config.schema import FileName, Fraction, Plugin, PluginName, Section, choose_plugin_schema
from engine.runs.trackers import TrackerName
from engine.training.settings import Train

DEFAULT_INIT_FRACTION = 0.6  # with init (docs/lab-notebook)
DEFAULT_STEPS = 400


class ModelConfig(Section):
    """The shape of a new model; with `init`, the shape is that of the existing encoder."""

    architecture: Literal["modernbert", "bert", "llama"] = "modernbert"
    """modernbert: rotary positions, GeGLU, pre-norm, local attention (Warner et al. 2024); bert: Devlin et al. 2019;
    llama: Touvron et al. 2023, only for objective.name=causal, which takes all three."""
    layers: PositiveInt = 4
    """Number of transformer layers."""
    hidden_size: PositiveInt = 256
    """Width of the hidden states."""
    attention_heads: PositiveInt = 4
    """Attention heads per layer; must divide hidden_size."""
    intermediate_size: PositiveInt = 512
    """Width of the feed-forward layers."""
    local_attention: PositiveInt = 128
    """Attention window, in tokens, of modernbert's local layers; every third layer is global."""
    embeddings: Literal["cooccurrence", "random"] = "cooccurrence"
    """Initial token embeddings; cooccurrence: computed from corpus statistics in seconds (Levy and Goldberg 2014)."""
    positions: PositiveInt = 512
    """Maximum text length of the model, in tokens."""


class ImageModel(Section):
    """The shape of a new image model; with `init`, the shape is that of the existing encoder."""

    architecture: Literal["resnet", "convnextv2", "efficientnet", "vit", "dinov2"] = "resnet"
    """resnet: fast on a CPU (He et al. 2015); efficientnet: Tan and Le 2019; convnextv2: convolutions without batch
    normalization (Woo et al. 2023); vit, dinov2: transformers on patches (Dosovitskiy et al. 2021, Oquab et al.
    2023)."""
    layers: PositiveInt = 4
    """Number of layers; those of convolutional networks are in four stages, as many in each."""
    hidden_size: PositiveInt = 256
    """Width of embeddings; the stages of a convolutional network have an eighth, a quarter, a half, and all of it."""
    attention_heads: PositiveInt = 4
    """Attention heads per layer of a transformer; must divide hidden_size."""
    patch_size: PositiveInt = 4
    """Side of the patches, in pixels, that transformers and convnextv2 read."""


class PretrainTrain(Train):
    """Training loop settings, including those only of pretraining."""

    steps: PositiveInt | None = None
    """Optimizer steps; none: 400, or fewer where objective.name=auto finds short texts."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: Muon for the hidden weight matrices, AdamW for the rest (Jordan et al. 2024)."""
    matrix_lr: PositiveFloat = 0.02
    """Peak learning rate of the hidden weight matrices with muon."""
    sharded: bool = False
    """Whether to shard weights, gradients and optimizer state over the processes (FSDP2) instead of copies (DDP)."""
    compile: bool = False
    """Whether to use torch.compile on the layers: takes half a minute, and is about 10 % faster on a CPU."""

    resumable: ClassVar[tuple[str, ...]] = (*Train.resumable, "sharded")


class Pretrain(Section):
    """Pretrain an encoder on unlabeled data."""

    run: FileName
    """Name of the run; its outputs are in out/runs/NAME."""
    allow_changes: bool = False
    """Whether to resume a run with a different configuration, text or tokenizer than it was started with."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all random numbers."""
    modality: PluginName("data.modalities") = "text"
    """Kind of the inputs; it decides which further keys there are."""
    init: str | None = None
    """The encoder to continue from: a built-in name (minilm), a folder or a Hub name; none: a new model."""
    dropout: Fraction = 0.0
    """Dropout during pretraining."""
    head_only_fraction: Fraction = 0.08
    """Fraction of the steps, at the start, that train only the new parameters (the head), with init."""
    init_fraction: Fraction | None = None
    """Fraction of init's weights in the saved ones, an average with the trained ones that forgets less (Wortsman et al.
    2022); none: 0.6 with init, 0 without and with objective.name=causal or vae."""
    head_lr_scale: PositiveFloat = 10.0
    """Learning rate multiplier of the new parameters (the head), with init."""
    eval_rows: PositiveInt = 256
    """Held-out rows per evaluation."""
    push_every: NonNegativeInt = 0
    """Steps between pushes of the encoder to the Hub during training, a multiple of train.save_every; 0: never."""
    push_to: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Hub repository to push to, OWNER/NAME: private, branch `checkpoints`."""
    objective: Plugin("pretrain.objectives", "auto") = {}
    """The pretraining objective."""
    tracker: TrackerName = "none"
    """Experiment tracker, in addition to log.jsonl and report.html; its package must be installed."""
    train: PretrainTrain

    added_later: ClassVar[tuple[str, ...]] = ("modality",)
    help_first: ClassVar[tuple[str, ...]] = ("run", "init", "objective", "train")
    resumable: ClassVar[tuple[str, ...]] = ("allow_changes", "push_every", "push_to", "tracker")

    @model_validator(mode="before")
    @classmethod
    def resolve_defaults(cls, values: Any) -> Any:
        """Set the defaults that depend on other keys; those that depend on the corpus are left to the modality."""
        if not isinstance(values, dict):
            return values
        resolved, objective, train = dict(values), values.get("objective"), values.get("train")
        if values.get("init_fraction") in (None, "none"):
            is_new = values.get("init") in (None, "none")
            # The mean of weights that read in both directions with some that read in one is neither, and the decoder
            # of vae fits the trained weights alone.
            is_fixed = isinstance(objective, dict) and objective.get("name") in ("causal", "vae")
            resolved["init_fraction"] = 0.0 if is_new or is_fixed else DEFAULT_INIT_FRACTION
        if isinstance(objective, dict) and objective and "name" not in objective:
            objective = resolved["objective"] = {"name": "mlm", **objective}
        is_named = isinstance(objective, dict) and objective.get("name", "auto") != "auto"
        if is_named and isinstance(train, dict) and train.get("steps") in (None, "none"):
            resolved["train"] = {**train, "steps": DEFAULT_STEPS}
        return resolved

    @classmethod
    def choose_schema(cls, tree: dict) -> type[Section]:
        """Return the schema of the modality."""
        return choose_plugin_schema("pretrain.modalities", "modality", tree) if cls is Pretrain else cls

    @model_validator(mode="after")
    def check_push(self) -> Pretrain:
        """Reject a push_every without push_to, or between checkpoints."""
        push_every, save_every = self.push_every, self.train.save_every
        if push_every and not self.push_to:
            raise ValueError("push_every needs push_to=OWNER/NAME")
        if push_every % save_every:
            raise ValueError(f"push_every={push_every} is not a multiple of train.save_every={save_every}")
        return self
