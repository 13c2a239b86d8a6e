"""What can be set for fine-tuning. Every key, with its default and meaning: `python -m finetune --help`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from data.tasks.task import Task
from engine.config.schema import Fraction, Plugin, RunName, Section
from engine.runs.trackers import TrackerName
from engine.training.settings import Train

DEFAULT_HEADS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
    "regression": "regression",
    "token_classification": "token_classification",
}
"""Name of the head that a task gets when none is named, by problem type."""


class FinetuneTrain(Train):
    """The training loop's settings; steps and rate may follow from the labels and the encoder."""

    steps: PositiveInt | None = None
    """Optimizer steps; none: epochs over the labels, but no fewer than min_steps and no more than max_steps."""
    epochs: PositiveFloat = 10
    """Passes over the labels, when steps is none."""
    min_steps: PositiveInt = 100
    """Fewest steps, when steps is none: tiny sets need enough of them (Zhang et al. 2021)."""
    max_steps: PositiveInt = 1200
    """Most steps, when steps is none."""
    lr: PositiveFloat | None = None
    """Peak rate of the encoder's top layer; none: lr_fraction of the rate it was pretrained at."""
    lr_fraction: PositiveFloat = 1.0
    """Share of the pretraining rate, when lr is none."""
    default_pretrain_lr: PositiveFloat = 1e-4
    """The pretraining rate assumed of an encoder whose record does not say."""
    batch_size: PositiveInt = 16
    """Examples of one optimizer step, over all processes. With sampling=class_balanced no more than there are labels, or 16."""
    sampling: Literal["shuffle", "class_balanced"] = "shuffle"
    """What comes equally often: every row; or every class, in turn, however many rows it has."""
    eval_every: PositiveInt = 50
    """Steps between evaluations on the validation rows."""
    load_best: bool = True
    """Whether the weights that did best on the validation rows are kept; false: the last ones, no validation label used."""
    patience: PositiveInt | None = 6
    """Evaluations without a better one after which training stops; the best weights are kept either way."""


class Layers(Section):
    """How the encoder's layers are taught: how fast, and from when."""

    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Factor on the rate for each layer further down (Howard and Ruder 2018)."""
    head_lr: PositiveFloat | None = None
    """Peak rate of the head; none: what its kind was measured to want."""
    train_embeddings: bool = False
    """Whether the embeddings learn too."""
    unfreeze_every: NonNegativeFloat = 0.0
    """How long the head learns alone, and then each group of layers from the top before the next joins; 0: all at once."""
    unfreeze_unit: Literal["epochs", "steps"] = "epochs"
    """What unfreeze_every counts."""
    unfreeze_group: PositiveInt = 2
    """Layers in a group."""
    freeze_at: list[Fraction] = []
    """Shares of the steps after which the lowest group stops learning, then the next one, and so on (Brock et al. 2017)."""
    freeze_min_epochs: NonNegativeFloat = 0.0
    """Passes over the labels before which none does: with labels enough for few passes, all layers have use for them."""
    num_frozen: NonNegativeInt = 0
    """Lowest layers that never learn, nor the embeddings; all, if there are fewer."""
    reinit_layers: NonNegativeInt = 0
    """Top layers that start from random weights, as their architecture draws them (Zhang et al. 2021)."""
    cache_frozen: bool = True
    """Whether the outputs of frozen lowest layers are computed once for each text and kept; the numbers stay the same."""
    cache_mb: PositiveInt = 512
    """Megabytes of them kept in memory; the rest goes to a file that is removed at the end."""
    linear_probe: bool = False
    """Nothing learns but the last linear layer, solved by logistic regression on what it reads; train.* is not used."""

    resumable: ClassVar[tuple[str, ...]] = ("cache_frozen", "cache_mb")


class Adapter(Section):
    """Small weights beside the encoder's, which then stay as they are (peft)."""

    name: Literal["none", "lora", "ia3"] = "none"
    """none; lora: matrices of low rank beside the linear layers (Hu et al. 2021); ia3: factors (Liu et al. 2022)."""
    lr_scale: PositiveFloat = 10.0
    """What the adapters' peak rate is over the one the encoder's layers would have."""
    target_modules: list[str] | None = None
    """Endings of the adapted layers' names; none: lora: all linear layers of the encoder; ia3: keys, values, feed-forward."""
    rank: PositiveInt = 8
    """Rank of LoRA's matrices."""
    alpha: PositiveFloat = 16.0
    """LoRA's product is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on what LoRA's matrices read."""
    dora: bool = False
    """Whether LoRA learns length and direction of the weights apart (Liu et al. 2024)."""
    rslora: bool = False
    """Whether LoRA is scaled by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""


class TaskAdaptive(Section):
    """Pretraining once more, on the task's own training texts without their labels (Gururangan et al. 2020)."""

    steps: NonNegativeInt = 0
    """Optimizer steps of it before fine-tuning; 0: none."""
    config: str = "configs/pretrain/mlm.yaml"
    """How: a file as `python -m pretrain` takes it."""
    keys: list[str] = []
    """More keys for it, key=value each."""


class Augment(Section):
    """Other versions of a training text, another at every visit; nothing is downloaded (Wei and Zou 2019)."""

    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a text's tokens left out."""
    swap: Fraction = 0.0
    """How often two stretches of the text change places."""
    max_span: PositiveInt = 4
    """Most tokens of such a stretch."""


class SelfTraining(Section):
    """Texts nobody has labelled, labelled by the model and learned from (Lee 2013)."""

    rounds: NonNegativeInt = 0
    """How often the model labels texts and is taught again; 0: never."""
    max_texts: PositiveInt = 2000
    """Most unlabelled texts looked at, of the training rows whose label is not taken."""
    corpus: str | None = None
    """A YAML of a corpus whose documents are labelled in the rows' place; the sentences of one are all of its class."""
    max_documents: PositiveInt = 8000
    """Most documents of it looked at, drawn by seed."""
    sentences_per_document: PositiveInt = 10
    """Most sentences of a document looked at."""
    top_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the texts, or documents, of each class that are learned from, the most confident ones."""
    min_confidence: Fraction = 0.0
    """Least confidence of one that is learned from."""
    labeled_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """How much of what is learned the labels that were given are, the model's own being the rest."""
    min_steps: PositiveInt = 1
    """Fewest optimizer steps of the second teaching and later ones, which take as many as the first unless this is more."""


class Finetune(Section):
    """Teach an encoder a task from a few labels."""

    run: RunName
    """Name of the run: everything it writes is in out/runs/NAME."""
    allow_changes: bool = False
    """Whether to go on with a run although its configuration, text or labels are others than it was started with."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Where every random number comes from, and which labels are taken."""
    encoder: str | None = None
    """A built-in name (minilm), a folder, a hub name; none: the newest encoder in out/runs."""
    task: Task
    """The labelled rows."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Longest text in tokens; the rest is cut off."""
    head: Plugin("finetune.heads", "classification") = {}
    """The head on the encoder; its default name follows from task.problem_type."""
    dropout: Fraction = 0.1
    """Dropout in the encoder's layers and before the classifier."""
    layers: Layers = Layers()
    """How the layers are taught."""
    adapter: Adapter = Adapter()
    """What learns in the layers' place."""
    tapt: TaskAdaptive = TaskAdaptive()
    """What is learned from the task's own texts before."""
    augment: Augment = Augment()
    """How training texts are varied."""
    selftrain: SelfTraining = SelfTraining()
    """What is learned from texts without labels."""
    tracker: TrackerName = "none"
    """Where else the run can be watched, besides its log.jsonl and report.html; its package is installed by its name."""
    train: FinetuneTrain = FinetuneTrain()
    baselines: bool = True
    """Whether the two reference rows are measured in the same run."""

    resumable: ClassVar[tuple[str, ...]] = ("allow_changes", "tracker")

    @model_validator(mode="before")
    @classmethod
    def set_default_head(cls, values: Any) -> Any:
        """Fill in the head that learns the task's kind of label, unless one is named."""
        task, head = (values.get(key) for key in ("task", "head")) if isinstance(values, dict) else (None, None)
        problem_type = task.get("problem_type") if isinstance(task, dict) else getattr(task, "problem_type", None)
        if problem_type in DEFAULT_HEADS and (head is None or isinstance(head, dict) and "name" not in head):
            return {**values, "head": {"name": DEFAULT_HEADS[problem_type], **(head or {})}}
        return values
