"""Configuration of fine-tuning, for any modality. `python -m finetune --help` lists every key with its meaning."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from data.tasks.problem_types import load_problem_type
from data.tasks.task import Task
from engine.config.schema import FileName, Fraction, Plugin, Section, choose_plugin_schema, list_plugins
from engine.runs.trackers import TrackerName
from engine.training.settings import Train

METHODS_FOLDER = Path(__file__).parents[1] / "configs" / "method"


class FinetuneTrain(Train):
    """Settings of the training loop."""

    steps: PositiveInt | None = None
    """Optimizer steps; none: `epochs` over the training set, between min_steps and max_steps."""
    epochs: PositiveFloat = 10
    """Passes over the training set, if steps is none."""
    min_steps: PositiveInt = 100
    """Minimum number of steps, if steps is none: tiny training sets need enough of them (Zhang et al. 2021)."""
    max_steps: PositiveInt = 1200
    """Maximum number of steps, if steps is none."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the encoder's top layer; none: lr_fraction of the pretraining learning rate."""
    lr_fraction: PositiveFloat = 1.0
    """Fraction of the pretraining learning rate, if lr is none."""
    default_pretrain_lr: PositiveFloat = 1e-4
    """Pretraining learning rate to assume if the encoder's record has none, or a lower one."""
    batch_size: PositiveInt = 16
    """Global batch size in examples. With sampling=class_balanced at most the training set's size, or 16."""
    sampling: Literal["shuffle", "class_balanced"] = "shuffle"
    """shuffle: all rows equally often; class_balanced: all classes equally often, in turn."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations on the validation set; none: a tenth of the steps, or 50 if that is more."""
    eval_rows: PositiveInt = 5000
    """Maximum number of validation rows per evaluation during training; the final metrics are of all."""
    load_best: bool = True
    """Whether to end with the weights that score best on the validation set; false: the last ones, no validation."""
    patience: PositiveInt | None = 6
    """Number of evaluations without improvement after which training stops."""

    added_later: ClassVar[tuple[str, ...]] = (*Train.added_later, "eval_rows")


class Layers(Section):
    """Layer-wise learning rates and freezing of the encoder."""

    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Learning-rate factor from each layer to the one below (Howard and Ruder 2018)."""
    head_lr: PositiveFloat | None = None
    """Peak learning rate of the head; none: the head's measured default."""
    train_embeddings: bool = False
    """Whether to train the embeddings."""
    unfreeze_every: NonNegativeFloat = 0.0
    """Time until the next group of layers is unfrozen, from the top, after the head alone; 0: train all at once."""
    unfreeze_unit: Literal["epochs", "steps"] = "epochs"
    """Unit of unfreeze_every."""
    unfreeze_group: PositiveInt = 2
    """Number of layers in a group."""
    freeze_at: list[Fraction] = []
    """Fractions of training after which the lowest group, then the next one, ... is frozen (Brock et al. 2017)."""
    freeze_min_epochs: NonNegativeFloat = 0.0
    """Epochs before which freeze_at freezes nothing: with many labels and few epochs, all layers still improve."""
    num_frozen: NonNegativeInt = 0
    """Number of lowest layers, and the embeddings, that are always frozen."""
    reinit_layers: NonNegativeInt = 0
    """Number of top layers to reinitialize with random weights (Zhang et al. 2021)."""
    cache_frozen: bool = True
    """Whether to cache the frozen lowest layers' hidden states of each text. Does not change the results."""
    cache_mb: PositiveInt = 512
    """Memory for the cache in MB; the rest goes to a temporary file."""
    linear_probe: bool = False
    """Whether to only fit the last linear layer, by logistic regression on its inputs; train.* is not used."""

    resumable: ClassVar[tuple[str, ...]] = ("cache_frozen", "cache_mb")


class Adapter(Section):
    """Parameter-efficient adapters (peft) on a frozen encoder."""

    name: Literal["none", "lora", "ia3"] = "none"
    """none; lora: low-rank matrices on the linear layers (Hu et al. 2021); ia3: scaling vectors (Liu et al. 2022)."""
    lr_scale: PositiveFloat = 10.0
    """Learning-rate multiplier for the adapters, relative to the layer they are in."""
    target_modules: list[str] | None = None
    """Name endings of the layers to adapt; none: for lora all linear layers, for ia3 keys, values and feed-forward."""
    rank: PositiveInt = 8
    """Rank of LoRA's matrices."""
    alpha: PositiveFloat = 16.0
    """LoRA's scale: its product is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the input of LoRA's matrices."""
    dora: bool = False
    """Whether to train magnitude and direction of the weights separately (DoRA, Liu et al. 2024)."""
    rslora: bool = False
    """Whether to scale LoRA by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""


class ClassNames(Section):
    """Class names as training texts, of tasks with one class per text; `task.descriptions` replaces them."""

    weight: NonNegativeFloat = 4.0
    """Weight of a class's own texts in the fit of the last layer, in labeled rows; 0: train on no such texts."""
    templates: Annotated[list[Annotated[str, Field(pattern=r"\{name\}")]], Field(min_length=1)] | None = None
    """Texts of each class, with {name} for its name; none: the name, and on English text three sentences with it."""
    max_shots: PositiveInt = 32
    """Labels of a class that its first text is for: with half as many it has two, and from twice as many on none."""


class TaskAdaptive(Section):
    """Task-adaptive pretraining on the unlabeled training texts (TAPT, Gururangan et al. 2020)."""

    steps: NonNegativeInt = 0
    """Optimizer steps of pretraining before fine-tuning; 0: none."""
    config: str = "configs/pretrain/mlm.yaml"
    """Configuration file for `python -m pretrain`."""
    keys: list[str] = []
    """Further pretraining keys, as key=value."""


class SelfTraining(Section):
    """Self-training on pseudo-labeled text (Lee 2013)."""

    rounds: NonNegativeInt = 0
    """Number of times the model labels texts and is trained again; 0: no self-training."""
    teacher: Literal["finetuned", "frozen"] = "finetuned"
    """What labels the texts in the first round: the fine-tuned model, or a regression on the features of all layers of
    the frozen encoder, which takes seconds; only for images."""
    max_texts: PositiveInt = 2000
    """Maximum number of unlabeled texts to label, from the training rows used without their label."""
    corpus: str | None = None
    """Corpus YAML with documents to label instead of rows; all sentences of a document get its class."""
    max_documents: PositiveInt = 8000
    """Maximum number of documents to label, sampled by seed."""
    sentences_per_document: PositiveInt = 10
    """Maximum number of sentences to read in a document."""
    top_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Fraction of the texts or documents predicted as each class to train on, the most confident ones."""
    min_confidence: Fraction = 0.0
    """Minimum confidence of a pseudo-label."""
    labeled_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Fraction of the training examples that have a given label; the rest are pseudo-labeled."""
    min_steps: PositiveInt = 1
    """Minimum number of optimizer steps from the second training on, if that is more than the first has."""


class Finetune(Section):
    """Fine-tune an encoder on a task with few labels."""

    run: FileName
    """Name of the run; its folder is out/runs/NAME."""
    allow_changes: bool = False
    """Whether to resume a run even though its configuration, text or labels have changed."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed, also for sampling labels."""
    encoder: str | None = None
    """Built-in name (minilm), folder or Hub name of the encoder; none: the newest encoder in out/runs."""
    task: Task
    """The labeled rows."""
    method: FileName | None = None
    """File of configs/method to load too; auto: one chosen by the labels per class and the unlabeled text, below the
    settings of your own; none: the settings as they are."""
    unlabeled: bool = True
    """Whether method=auto may use the training rows that are not sampled, or have no label, as unlabeled text."""
    head: Plugin("finetune.heads", "classification") = {}
    """Head on the encoder; its default name follows from task.problem_type."""
    dropout: Fraction = 0.1
    """Dropout in the encoder's layers and before the classifier."""
    layers: Layers = Layers()
    """Layer-wise learning rates and freezing."""
    adapter: Adapter = Adapter()
    """Adapters to train instead of the encoder's layers."""
    class_names: ClassNames = ClassNames()
    """Class names as training texts."""
    tapt: TaskAdaptive = TaskAdaptive()
    """Task-adaptive pretraining before fine-tuning."""
    selftrain: SelfTraining = SelfTraining()
    """Self-training on unlabeled text."""
    tracker: TrackerName = "none"
    """Experiment tracker, in addition to log.jsonl and report.html; install the package of that name."""
    train: FinetuneTrain = FinetuneTrain()
    baselines: bool = True
    """Whether to measure the baselines in the same run."""

    resumable: ClassVar[tuple[str, ...]] = ("allow_changes", "method", "tracker", "unlabeled")  # method: a name
    added_later: ClassVar[tuple[str, ...]] = ("method", "unlabeled")
    presets: ClassVar[dict[str, Path]] = {"method": METHODS_FOLDER}

    @classmethod
    def choose_schema(cls, tree: dict) -> type[Section]:
        """Return the schema of the task's modality."""
        if cls is not Finetune:
            return cls
        task = tree.get("task")
        return choose_plugin_schema("finetune.modalities", "task.modality", task if isinstance(task, dict) else {})

    @model_validator(mode="before")
    @classmethod
    def set_default_head(cls, values: Any) -> Any:
        """Set the head of the task's problem type, unless the configuration names one."""
        task, head = (values.get(key) for key in ("task", "head")) if isinstance(values, dict) else (None, None)
        problem_type = task.get("problem_type") if isinstance(task, dict) else getattr(task, "problem_type", None)
        is_known = problem_type in list_plugins("data.tasks.problem_types")
        if is_known and (head is None or isinstance(head, dict) and "name" not in head):
            return {**values, "head": {"name": load_problem_type(problem_type).default_head, **(head or {})}}
        return values
