"""One fine-tuning run: put a head on an encoder and train it on labeled examples."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data.cache import fingerprint
from data.encoders import hash_weights
from data.sampling import class_balanced_batch, length_grouped_batch, row_generator, shard_batch, take_evenly
from data.tasks.label_propagation import weigh_texts
from data.tasks.linear_probe import fit_logistic_regression
from data.tasks.task import Example, fingerprint_inputs
from engine.errors import ConfigError, DataError, UserError, first_line
from engine.models.embed import BATCH_SIZE, Subset, run_batches
from engine.runs.run import Run
from engine.training.optimizers import adamw
from engine.training.step import MicroBatch
from engine.training.trainer import Callbacks, Trainer, TrainerOptions, TrainResult
from finetune import linear_probe
from finetune.config import Finetune
from finetune.evaluation.postprocess import postprocess
from finetune.heads import load_head_file
from finetune.modalities import load_modality
from finetune.model import layerwise
from finetune.model.network import get_last_linear
from finetune.model.pooled_states import PooledStates
from finetune.validate_config import validate_config

MEGA_BATCH_MULT = 8  # batches grouped by length together: more means less padding, but less random batches
PADDING_TOLERANCE = 1e-3  # largest difference of a text's outputs in a batch, relative to the largest of them
STANDARDIZATION_INPUTS = 512  # training inputs that the pooled coordinates are standardized on


@dataclass
class TaskData:
    """The labeled examples of a task."""

    splits: dict[str, list[Example]]
    """Examples of "train", "validation" and "test"."""
    label_names: list[str]
    text_fingerprint: str | None = None
    """Fingerprint of training text other than the task's rows."""
    class_texts: list[Example] = field(default_factory=list)
    """Texts made of the names of classes, to train on too."""


class FineTuneOutput(NamedTuple):
    """A fine-tuned model, its metrics and predictions."""

    model: PreTrainedModel
    """Plain transformers model."""
    head: torch.nn.Module
    """The trained module, which wraps the model."""
    metrics: dict[str, dict[str, float]]
    """Metrics of the test and validation sets."""
    predictions: dict[str, np.ndarray]
    """Predictions on both."""
    train_result: TrainResult
    """Steps, tokens and seconds of training."""
    details: dict
    """Further results on the test set."""
    peft_model: torch.nn.Module | None = None
    """The model with peft's adapters, if it has any: the same object as `model` until they are merged."""
    labels: dict[str, np.ndarray | list[np.ndarray]] | None = None
    """Labels of both, as in the data sets."""
    evaluation: dict | None = None
    """Rows and seconds of evaluations, and texts that were cut at the maximum length, for metrics.json."""
    test_vectors: np.ndarray | None = None
    """Vectors of the test inputs, by the modality's `pool_states`, float32 (inputs, width)."""


class FineTuner:
    """The model, data and schedules of one fine-tuning run. Raise ConfigError if nothing would be trained."""

    def __init__(
        self, folder: Path, config: Finetune, data: TaskData, run: Run, accelerator: Accelerator, random_init: bool
    ):
        self.config, self.run, self.accelerator, self.head_file = config, run, accelerator, load_head_file(config)
        self.modality, layers, task = load_modality(config), config.layers, config.task
        self.problem_type = self.modality.problem_type
        self.num_labeled = len(data.splits["train"])
        splits = data.splits | {"train": data.splits["train"] + data.class_texts}
        self.inputs = {
            split: self.modality.build_dataset(rows, folder, f"task {task.name}, {split}", data.label_names)
            for split, rows in splits.items()
        }
        self.evaluations: list[float] = []  # seconds of each evaluation during training
        self.augmentation = self.modality.get_augmentation()
        torch.manual_seed(config.seed)
        self.network = self.modality.build_network(folder, data.label_names, random_init)
        self.model, self.num_layers = self.network.model, self.network.num_layers
        if layers.reinit_layers:
            layerwise.reinitialize_top_layers(self.model, layers.reinit_layers, self.num_layers)
        self.head = self.head_file.Head(config.head, self.network, self.problem_type)
        self.head.set_label_stats(self.inputs["train"].labels[: self.num_labeled])
        self.fits_last_layer = getattr(self.head_file, "FITS_LAST_LAYER", False)
        if not self.fits_last_layer or self.network.needs_standardization:
            self.standardize_on_sample()
        constant, self.peft_model = self.network.constant, None
        if config.adapter.name != "none":
            from finetune.model import adapters  # peft takes a second to load

            self.peft_model = adapters.add_adapters(self.model, config.adapter, self.num_layers)
            constant = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
            self.head.keys_to_ignore_on_save = {
                name for name, parameter in self.head.named_parameters() if not parameter.requires_grad
            }
        below = self.try_first_batch(folder)
        self.always_frozen, self.depths = set(constant), layerwise.find_depths(self.model, self.num_layers, below)
        only_layers = self.fits_last_layer and not config.head.cross_entropy_weight  # no gradient above the encoder
        if only_layers and layers.num_frozen and layers.num_frozen >= self.num_layers:
            raise ConfigError(
                f"layers.num_frozen: {layers.num_frozen} freezes all layers, and head.name={config.head.name} trains"
                " nothing else; freeze fewer, or set head.cross_entropy_weight=1"
            )
        epoch = len(self.inputs["train"].lengths) / config.train.batch_size
        self.schedule = layerwise.freeze_schedule(
            config.train.steps, self.num_layers, layers, epoch, min_depth=int(only_layers)
        )
        cached_splits = [self.inputs[split] for split in ("train", *(["validation"] if config.train.load_best else []))]
        self.frozen_cache = self.network.cache_frozen_layers(cached_splits, run.folder, layers.cache_mb)

    @torch.no_grad()
    def try_first_batch(self, folder: Path) -> set[torch.nn.Module]:
        """Raise DataError if the network cannot read a batch, or if its outputs for a text depend on the padding.

        Returns the modules that are used before the lowest layer.
        """
        inputs, name = self.inputs["train"], f"{folder}: with head.name={self.config.head.name}, its architecture"
        order = np.argsort(inputs.lengths, kind="stable")
        was_training = self.head.training
        self.head.eval()
        try:
            batch = inputs.get_batch(order[[0, -1]])
            self.head(**batch.inputs)
            together = self.head.logits({key: value for key, value in batch.inputs.items() if key != "labels"})
            with layerwise.record_modules_below(self.model) as below:
                alone = self.head.logits(inputs.get_inputs(order[:1]))
        except UserError:
            raise
        except Exception as error:
            raise DataError(f"{name} cannot be trained ({first_line(error)})") from None
        self.head.train(was_training)
        together = together[:1, : alone.shape[1]]
        if (together - alone).abs().max() > PADDING_TOLERANCE * alone.abs().max().clamp(min=0.1):
            raise DataError(f"{name} gives a text other outputs in a batch than alone, because padding changes them")
        return below

    def standardize_on_sample(self) -> None:
        """Adapt the network's constant parameters to a sample of the training inputs."""
        inputs = self.inputs["train"]
        num_inputs = self.num_labeled
        # Rows are sorted by label, so take them at even distances.
        sample = np.linspace(0, num_inputs - 1, min(num_inputs, STANDARDIZATION_INPUTS)).astype(int)
        batches = np.array_split(sample, -(-len(sample) // BATCH_SIZE))
        self.network.standardize(map(inputs.get_inputs, batches))

    def before_step(self, step: int) -> None:
        """Freeze the layers that are not trained at this step."""
        depth, is_stable = self.schedule[step]
        layerwise.freeze_below(self.depths, depth, self.always_frozen)
        self.frozen_cache.set_boundary(self.num_layers - depth if self.config.layers.cache_frozen and is_stable else 0)

    def get_micro_batches(self, step: int, rows: int | None) -> list[MicroBatch]:
        """Return this process's micro-batches of a step, `rows` rows each."""
        inputs, seed, accelerator = self.inputs["train"], self.config.seed, self.accelerator
        size = self.config.train.batch_size
        if self.config.train.sampling == "class_balanced":
            per_class = getattr(self.head_file, "SAMPLES_PER_CLASS", 1)
            batch = class_balanced_batch(step, size, inputs.labels, seed, per_class)
        else:
            batch = length_grouped_batch(step, size, inputs.lengths, seed, MEGA_BATCH_MULT)
        return [
            inputs.get_batch(batch[indices], self.augmentation, [row_generator(seed, step, index) for index in indices])
            for indices in shard_batch(size, accelerator.process_index, accelerator.num_processes, rows)
        ]

    def evaluate(self) -> dict[str, float]:
        """Return the metrics on the validation set, or none if it is not used."""
        if not self.config.train.load_best:
            return {}
        start, validation = time.monotonic(), self.inputs["validation"]
        labels, rows = validation.labels, take_evenly(range(len(validation.lengths)), self.config.train.eval_rows)
        if len(rows) < len(labels):  # rows are sorted by label, so these have the same classes
            labels = labels[rows] if isinstance(labels, np.ndarray) else [labels[row] for row in rows]
        predictions = run_batches(self.head, Subset(validation, np.array(rows)), self.accelerator)
        metrics = self.problem_type.quick_metrics(predictions, labels)
        self.evaluations.append(time.monotonic() - start)
        return metrics

    def predict_splits(self) -> tuple[dict[str, list[np.ndarray]], np.ndarray | None]:
        """Return the predictions on the test and validation sets, as far as there are any, and the test vectors."""
        outputs, vectors = {}, None
        if "validation" in self.inputs:
            outputs["validation"] = run_batches(self.head, self.inputs["validation"], self.accelerator)
        if "test" in self.inputs:
            self.frozen_cache.set_boundary(0)  # it skips the layer that the vectors are of
            module = PooledStates(self.head, self.modality.shared)
            rows = run_batches(module, self.inputs["test"], self.accelerator)
            outputs = {"test": [prediction for prediction, _ in rows], **outputs}
            vectors = np.stack([vector for _, vector in rows])
        return outputs, vectors

    def describe_evaluation(self, seconds: float) -> dict:
        """Return the rows and seconds of evaluations for metrics.json. seconds: of the final one, on all rows."""
        num_rows = {split: len(inputs.lengths) for split, inputs in self.inputs.items()} | {"train": self.num_labeled}
        details = {"rows": num_rows, "final_seconds": round(seconds, 1)}
        if evaluations := sum(bool(entry.get("eval")) for entry in self.run.read_log()):
            details["rows_per_evaluation"] = min(num_rows["validation"], self.config.train.eval_rows)
            details["evaluations"] = evaluations
        if self.evaluations:  # of this process, which may have made none since the training was resumed
            details["seconds_per_evaluation"] = round(sum(self.evaluations) / len(self.evaluations), 2)
        truncated = {split: getattr(inputs, "num_truncated", 0) for split, inputs in self.inputs.items()}
        if any(truncated.values()):
            details |= {"truncated": truncated, "max_length": self.inputs["train"].max_length}
        return details

    def lr_scale(self, name: str) -> float:
        """Return the factor on the scheduled learning rate of a parameter."""
        scale = self.config.adapter.lr_scale if self.peft_model else 1.0
        depth = self.depths.parameters.get(self.head.get_parameter(name), 0)  # a head may have weights of its own
        return layerwise.lr_scale(depth, self.config.layers, self.config.train.lr, scale)

    def fit_last_layer(self, cross_validate: bool) -> TrainResult:
        """Fit the last linear layer by logistic regression on its inputs, instead of training or after it.

        cross_validate: choose C by cross-validation. Not if the encoder has already been trained on these labels.
        """
        start, inputs = time.monotonic(), self.inputs["train"]
        features = np.stack(run_batches(linear_probe.LastLayerInputs(self.network), inputs, self.accelerator))
        c = None if cross_validate else 1 / np.square(features).sum(1).mean()
        weights = weigh_texts(inputs.labels, self.num_labeled, self.config.class_names.weight)
        has_bias, seed = get_last_linear(self.model).bias is not None, self.config.seed
        classifier = fit_logistic_regression(features, inputs.labels, seed, c, weights, has_bias)
        linear_probe.copy_to_last_layer(classifier, self.model)
        self.head.eval()
        return TrainResult(0, int(inputs.lengths.sum()), time.monotonic() - start, {})

    def train(self, title: str) -> TrainResult:
        """Train the head and the layers, or only fit the last layer if the configuration is a linear probe."""
        train = self.config.train
        optimizer = adamw(self.head.named_parameters(), train, self.lr_scale)
        if self.config.layers.linear_probe and not train.dry_run:
            self.head.to(self.accelerator.device)
            return self.fit_last_layer(cross_validate=True)
        callbacks = Callbacks(before_step=self.before_step, evaluate=self.evaluate)
        options = TrainerOptions(self.config.seed, title, unit=self.modality.shared.unit)
        if train.load_best:
            options = replace(options, monitor=self.problem_type.metric_for_best, patience=train.patience)
        batches, run = self.get_micro_batches, self.run
        result = Trainer(self.head, optimizer, batches, train, run, self.accelerator, callbacks, options).fit()
        self.before_step(result.step - 1)  # a process that resumes a finished training has made no step
        if not self.fits_last_layer:
            return result
        self.network.prepare_last_layer_fit()
        return replace(result, seconds=result.seconds + self.fit_last_layer(cross_validate=False).seconds)


def finetune_model(
    folder: Path,
    config: Finetune,
    data: TaskData,
    run: Run,
    accelerator: Accelerator,
    title: str,
    random_init: bool = False,
    on_train_end: Callable[[torch.nn.Module], None] = lambda head: None,
) -> FineTuneOutput:
    """Put the head on the encoder in `folder` and train it in `run`.

    random_init: start from random weights. on_train_end: called with the trained head before evaluation.
    """
    validate_config(config)
    tuner = FineTuner(folder, config, data, run, accelerator, random_init)
    extra = {"text": data.text_fingerprint} if data.text_fingerprint else {}
    run.start(labels=fingerprint(fingerprint_inputs(config.task)), encoder=hash_weights(folder), **extra)
    head, inputs = tuner.head, tuner.inputs
    with tuner.network.training_forward():
        result = tuner.train(title)
        on_train_end(head)
        start = time.monotonic()
        outputs, vectors = tuner.predict_splits()
        evaluation = tuner.describe_evaluation(time.monotonic() - start)
    labels = {split: inputs[split].labels for split in outputs}
    final = postprocess(tuner.problem_type, head, outputs, labels, data.label_names, config.train.load_best)
    tuner.frozen_cache.close()
    results = final.metrics, final.predictions, result, final.details
    return FineTuneOutput(tuner.model, head, *results, tuner.peft_model, labels, evaluation, vectors)
