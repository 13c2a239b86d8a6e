"""One fine-tuning: a head put on an encoder and taught what some labelled texts say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data.cache import fingerprint
from data.sampling import class_balanced_batch, length_grouped_batch, row_generator, shard_batch
from data.tasks.task import Example, fingerprint_inputs
from engine.errors import ConfigError
from engine.runs.run import Run
from engine.training.optimizers import adamw
from engine.training.step import MicroBatch
from engine.training.trainer import TrainResult, fit
from finetune import linear_probe
from finetune.config import Finetune
from finetune.dataset import TextDataset, tokenize_examples
from finetune.evaluation.postprocess import postprocess
from finetune.heads import load_head_file
from finetune.inference import EVAL_BATCH_SIZE, predict
from finetune.model import layerwise, mean_pooling
from finetune.model.frozen_cache import FrozenLayerCache
from finetune.validate_config import validate_config

MEGA_BATCH_MULT = 8  # batches dealt out by length together: more pads less, but makes batches less random
STANDARDIZATION_TEXTS = 512  # training texts the pooled coordinates are standardised over
POOLER_SCALE = 0.1  # what a head solved afterwards reads is the mean vector this small, where tanh is nearly straight


class FineTuneOutput(NamedTuple):
    """What a fine-tuning leaves."""

    model: PreTrainedModel
    """Plain transformers."""
    head: torch.nn.Module
    """The module that was trained, which holds the model."""
    metrics: dict[str, dict[str, float]]
    """Of the test and the validation rows."""
    predictions: dict[str, np.ndarray]
    """What the head says of them."""
    train_result: TrainResult
    """How the training went."""
    details: dict
    """What else there is to tell of the test rows."""
    peft_model: torch.nn.Module | None = None
    """The model with peft's adapters, where there are some: one and the same until they are merged."""


def fit_last_layer(
    head: torch.nn.Module,
    model: PreTrainedModel,
    dataset: TextDataset,
    seed: int,
    accelerator: Accelerator,
    cross_validate: bool = True,
) -> TrainResult:
    """Solve the last linear layer on what it reads of the texts, instead of a training, or after one.

    cross_validate: whether its strength is chosen by cross-validation: not where the encoder has learned these labels already.
    """
    began = time.time()
    features = np.stack(predict(linear_probe.LastLayerInputs(model), dataset, accelerator))
    strength = None if cross_validate else 1 / np.square(features).sum(1).mean()
    linear_probe.copy_to_last_layer(
        linear_probe.fit_logistic_regression(features, dataset.labels, seed, strength), model
    )
    head.eval()
    return TrainResult(0, int(dataset.lengths.sum()), time.time() - began, {})


def standardize_on_sample(
    model: PreTrainedModel, dataset: TextDataset, constant_parameters: list[torch.nn.Parameter]
) -> None:
    """Bring what the added pooling layer gives, where there is one, to mean 0 and variance 1 over some of the texts."""
    if constant_parameters:
        count = len(dataset.lengths)  # rows stand label by label: take them from all along
        some = np.linspace(0, count - 1, min(count, STANDARDIZATION_TEXTS)).astype(int)
        mean_pooling.standardize_pooling(
            model, map(dataset.get_inputs, np.array_split(some, -(-len(some) // EVAL_BATCH_SIZE)))
        )


def finetune_model(
    folder: Path,
    config: Finetune,
    splits: dict[str, list[Example]],
    label_names: list[str],
    run: Run,
    accelerator: Accelerator,
    title: str,
    random_init: bool = False,
    on_train_end: Callable[[torch.nn.Module], None] = lambda head: None,
    text_fingerprint: str | None = None,
) -> FineTuneOutput:
    """Put the head on the encoder in `folder` and train it in `run`; random_init: from random weights.

    on_train_end: given the head once it is trained, before its figures are taken. text_fingerprint: fingerprint of what besides the task's
    rows is learned from.
    """
    head_file = load_head_file(config)
    validate_config(config)
    texts = {
        split: tokenize_examples(
            examples,
            folder,
            config.max_length,
            f"task {config.task.name}, {split}",
            head_file.encode_labels,
            label_names,
            word_labels=head_file.PROBLEM_TYPE == "token_classification",
        )
        for split, examples in splits.items()
    }
    torch.manual_seed(config.seed)
    model, constant = head_file.build(config.head, folder, label_names, config.dropout, random_init)
    depth_of_encoder = model.config.num_hidden_layers - bool(constant)
    if config.layers.reinit_layers:
        layerwise.reinitialize_top_layers(model, config.layers.reinit_layers, depth_of_encoder)
    head = head_file.Head(config.head, model)
    if hasattr(head, "set_label_stats"):
        head.set_label_stats(texts["train"].labels)
    solved = getattr(head_file, "FITS_LAST_LAYER", False)
    if not solved:
        standardize_on_sample(model, texts["train"], constant)
    adapted = None
    if config.adapter.name != "none":
        from finetune.model import adapters  # peft takes a second to load

        adapted = adapters.add_adapters(model, config.adapter, depth_of_encoder)
        constant = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        head.keys_to_ignore_on_save = {
            name for name, parameter in head.named_parameters() if not parameter.requires_grad
        }
    train, size, unmoved, lengths = config.train, config.train.batch_size, set(constant), texts["train"].lengths
    layers_alone = solved and not config.head.cross_entropy_weight  # nothing of the head learns before it is solved
    if layers_alone and config.layers.num_frozen >= depth_of_encoder:
        raise ConfigError(
            f"layers.num_frozen: {config.layers.num_frozen} are all layers, and head.name={config.head.name} has nothing else that"
            " learns; freeze fewer, or take head.cross_entropy_weight=1"
        )
    plan = layerwise.freeze_schedule(
        train.steps, depth_of_encoder, config.layers, len(lengths) / size, min_depth=int(layers_alone)
    )
    run.start(
        labels=fingerprint(fingerprint_inputs(config.task)), **({"text": text_fingerprint} if text_fingerprint else {})
    )
    trunk = FrozenLayerCache(
        model, [texts["train"], *([texts["validation"]] if train.load_best else [])], run.folder, config.layers.cache_mb
    )

    def before_step(step: int) -> None:
        deepest, stays = plan[step]
        layerwise.freeze_below(model, deepest, depth_of_encoder, unmoved)
        trunk.set_boundary(depth_of_encoder - deepest if config.layers.cache_frozen and stays else 0)

    def batches(step: int, rows: int | None) -> list[MicroBatch]:
        chosen = (
            class_balanced_batch(
                step, size, texts["train"].labels, config.seed, getattr(head_file, "SAMPLES_PER_CLASS", 1)
            )
            if train.sampling == "class_balanced"
            else length_grouped_batch(step, size, lengths, config.seed, MEGA_BATCH_MULT)
        )
        augment = config.augment if config.augment.drop or config.augment.swap else None
        return [
            texts["train"].get_batch(
                chosen[places], augment, [row_generator(config.seed, step, place) for place in places]
            )
            for places in shard_batch(size, accelerator.process_index, accelerator.num_processes, rows)
        ]

    def evaluate(split: str) -> dict[str, float]:
        return head_file.quick_metrics(predict(head, texts[split], accelerator), texts[split].labels)

    optimizer = adamw(
        head.named_parameters(),
        train,
        lambda name: layerwise.lr_scale(
            name, depth_of_encoder, config.layers, train.lr, config.adapter.lr_scale if adapted else 1.0
        ),
    )
    with mean_pooling.pool_first_token_only(model):
        if config.layers.linear_probe and not train.dry_run:
            result = fit_last_layer(head.to(accelerator.device), model, texts["train"], config.seed, accelerator)
        else:
            result = fit(
                head,
                optimizer,
                batches,
                train,
                run,
                accelerator,
                seed=config.seed,
                title=title,
                before_step=before_step,
                evaluate=lambda: evaluate("validation") if train.load_best else {},
                monitor=head_file.METRIC_FOR_BEST if train.load_best else None,
                patience=train.patience if train.load_best else None,
            )
            if solved:
                if mean_pooling.has_mean_pooling_layer(model):
                    mean_pooling.init_pooler(model, POOLER_SCALE)
                solving = fit_last_layer(head, model, texts["train"], config.seed, accelerator, cross_validate=False)
                result = replace(result, seconds=result.seconds + solving.seconds)
        on_train_end(head)
        predicted = {
            split: predict(head, texts[split], accelerator) for split in ("test", "validation") if split in texts
        }
    told = postprocess(
        head_file, head, predicted, {split: texts[split].labels for split in predicted}, label_names, train.load_best
    )
    trunk.close()
    return FineTuneOutput(model, head, told.metrics, told.predictions, result, told.details, adapted)
