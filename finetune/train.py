"""The fine-tuning stage: from a configuration to a model folder."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.utils import logging

from data.cache import fingerprint
from data.encoders import hash_weights, read_record, resolve_encoder
from data.tasks.splits import Example
from data.tasks.task import check_split, fingerprint_inputs, list_label_names, read_all, sample_examples
from engine.errors import ConfigError, DataError
from engine.files import read_json
from engine.log import get_logger
from engine.runs.run import RUNS_FOLDER, Run
from engine.training.distributed import make_accelerator
from finetune.artifacts import Artifacts
from finetune.class_texts import choose_class_texts
from finetune.config import Finetune
from finetune.detector import collect_detector, fit_detector, select_normal_rows
from finetune.evaluation.baselines import Reference, measure_simple_baselines, reference_encoder
from finetune.evaluation.summary import ScoreTable, format_outputs, format_scores
from finetune.evaluation.test_rows import inspect_test_rows
from finetune.heads import classification, load_head_file
from finetune.held_out import collect_held_out
from finetune.method import resolve_method
from finetune.modalities import load_modality
from finetune.semi_supervised.self_training import SelfTrainer
from finetune.semi_supervised.task_adaptive import TASK_FILENAME, run_task_adaptive_pretraining
from finetune.training import FineTuneOutput, TaskData, finetune_model
from finetune.validate_config import validate_config
from publish.card.card import describe_test_rows

logger = get_logger(__name__)

NUM_EVALUATIONS, MIN_EVAL_STEPS = 10, 50  # with all labels, one every 50 steps would take a quarter of the time
MIN_CLASS_BALANCED_BATCH = 16  # enough for every example to have positives and negatives, however few labels there are


def find_latest_encoder(modality: str) -> str:
    """Return the newest encoder folder of a modality in out/runs, except task-adapted ones.

    Raise ConfigError if there is none.
    """
    records = RUNS_FOLDER.glob("*/encoder/record.json")
    for path in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
        is_adapted = (path.parents[1] / TASK_FILENAME).is_file()
        if not is_adapted and read_json(path).get("modality", "text") == modality:
            return str(path.parent)
    raise ConfigError("encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm")


def resolve_config(config: Finetune, encoder: str, folder: Path, num_examples: int) -> Finetune:
    """Return the configuration with the values that depend on the training set and the encoder filled in."""
    train, size = config.train, config.train.batch_size
    epoch_steps = math.ceil(train.epochs * num_examples / size)
    if train.sampling == "class_balanced" and num_examples:  # a batch larger than the training set would repeat rows
        size = min(size, max(num_examples, MIN_CLASS_BALANCED_BATCH))
    pretrain_lr = read_record(folder).get("config", {}).get("train", {}).get("lr") or 0.0
    steps = train.steps or min(train.max_steps, max(train.min_steps, epoch_steps))
    resolved = {
        "batch_size": size,
        "steps": steps,
        "eval_every": train.eval_every or max(MIN_EVAL_STEPS, math.ceil(steps / NUM_EVALUATIONS)),
        "lr": train.lr or train.lr_fraction * max(pretrain_lr, train.default_pretrain_lr),
    }
    head_lr = config.layers.head_lr or load_head_file(config).DEFAULT_HEAD_LR
    layers = config.layers.model_copy(update={"head_lr": head_lr})
    return config.model_copy(update={"encoder": encoder, "layers": layers, "train": train.model_copy(update=resolved)})


def sample_splits(config: Finetune, rows: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """Return the splits with the configured number of training rows; without the validation rows if they are not used.

    In that case they are removed from `rows`, and become training rows if these are too few, or if all labels are used.
    Raises DataError if there are none although they are needed.
    """
    task, reserve = config.task, []
    if not config.train.load_best:
        validation = rows.pop("validation")  # unused, not even for metrics
        reserve = [] if task.validation else validation  # it was split off the training rows
        if task.num_examples == "all" and not task.shots:
            rows["train"] += reserve
    else:
        others = [] if task.test or task.role else rows["test"]  # split off the same rows
        check_split(task, "validation", rows["validation"], len(rows["train"] + others))
    return {**rows, "train": sample_examples(rows["train"], task.num_examples, config.seed, task.shots, reserve)}


def to_probe(config: Finetune) -> Finetune:
    """Return the configuration that only fits the last layer, for random weights as a baseline of few labels.

    The steps that a few labels allow train nothing into random weights, and would double the time of a run.
    """
    changes = {key: type(getattr(config, key))() for key in ("adapter", "augment")}
    changes |= {"head": classification.Config(pooling=config.head.pooling)}
    changes |= {"layers": config.layers.model_copy(update={"linear_probe": True})}
    return config.model_copy(update=changes)


def describe_failure(error: DataError) -> dict[str, str]:
    """Return the entry of a baseline that cannot be measured."""
    return {"name": f"not measured: {error}"}


def measure_baselines(
    artifacts: Artifacts, output: FineTuneOutput, train_reference: Callable[[Reference], dict]
) -> dict[str, dict]:
    """Return the name and metrics of each baseline, and print the table.

    The lines for the encoder and for the baselines that train no network are printed first, because the reference can
    take as long as the encoder. train_reference: train the same network without this pretraining, return the metrics.
    """
    config, splits = artifacts.config, artifacts.splits
    if not config.baselines:
        logger.info(ScoreTable(artifacts.summarize(output, {})).format())
        return {}
    baselines = measure_simple_baselines(load_modality(config), splits, artifacts.label_names)
    fits_last_layer = getattr(load_head_file(config), "FITS_LAST_LAYER", False)
    try:
        reference = reference_encoder(artifacts.encoder_folder, fits_last_layer and bool(splits["train"]))
    except DataError as error:
        reference, measured = None, describe_failure(error)
    table = ScoreTable(artifacts.summarize(output, baselines), [reference.name] if reference else [])
    logger.info(table.format())
    if reference:
        try:
            measured = {"name": reference.name, **train_reference(reference)}
        except DataError as error:
            measured = describe_failure(error)
    logger.info(table.format_row(measured["name"], measured.get("test")))
    return baselines | {"without_pretraining": measured}


def check_batch_size(batch_size: int, num_processes: int) -> None:
    """Raise ConfigError if there is not a row for each process."""
    if batch_size < num_processes:
        raise ConfigError(f"train.batch_size: {batch_size} is fewer than the {num_processes} processes")


def quiet_transformers() -> None:
    """Show no warning and no progress bar of transformers."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def finetune(config: Finetune, args: Sequence[str] = ()) -> None:
    """Run the fine-tuning stage. Raise ConfigError or DataError for user mistakes before the run folder is written.

    args: what `load_config` read the configuration from; the settings in them are kept when method=auto chooses others.
    """
    quiet_transformers()
    validate_config(config)
    accelerator = make_accelerator(config.train.precision)
    with accelerator.main_process_first():
        encoder = config.encoder or find_latest_encoder(config.task.modality)
        folder = resolve_encoder(encoder)
        rows, unlabeled = read_all(config.task, config.train.load_best and config.method != "auto")
    label_names = list_label_names(config.task, rows)
    if is_detector := config.task.load_problem_type().is_detector:
        config, label_names = select_normal_rows(config, rows, label_names)
    config = resolve_method(config, folder, rows | {"unlabeled": unlabeled}, label_names, args)
    splits = sample_splits(config, rows)
    check_batch_size(config.train.batch_size, accelerator.num_processes)
    if config.tapt.steps and not config.train.dry_run:  # takes minutes, so it comes after all checks
        with accelerator.main_process_first():
            encoder = run_task_adaptive_pretraining(config, encoder, accelerator.is_main_process)
            folder = resolve_encoder(encoder)
    config = resolve_config(config, encoder, folder, len(splits["train"]))
    labels = fingerprint(fingerprint_inputs(config.task))
    run = Run(config, config.run, accelerator.is_main_process, fingerprints={"labels": labels})
    if run.is_finished:
        run.compare(labels=labels, encoder=hash_weights(folder))
        logger.info(f"{run.folder} is finished.\n{format_scores(run)}\n{format_outputs(run)}")
        return

    modality = load_modality(config)
    all_rows = rows["train"] + unlabeled
    data = TaskData(splits, label_names, None, choose_class_texts(modality, splits["train"], all_rows, label_names))
    test_rows = inspect_test_rows(modality, config.task, splits, label_names) if accelerator.is_main_process else {}
    if test_rows.get("overlap", {}).get("exact"):  # before the time is spent; the result has the line in any case
        logger.info("\n".join(f"  {line}" for line in describe_test_rows({"test_rows": test_rows})))

    def train(folder: Path, run: Run, title: str, random_init: bool = False) -> FineTuneOutput:
        if config.selftrain.rounds:
            return SelfTrainer(folder, config, all_rows, data, run, accelerator, title, random_init).train()
        fit = fit_detector if is_detector else finetune_model
        return fit(folder, config, data, run, accelerator, title, random_init)

    def train_reference(reference: Reference) -> dict:
        reference_run = Run(config, config.run, accelerator.is_main_process, run.folder / "without_pretraining")
        title = f"  {reference.name}"
        if reference.is_frozen:
            options = to_probe(config), data, reference_run, accelerator, title, True
            return finetune_model(reference.folder, *options).metrics
        return train(reference.folder, reference_run, title, reference.random_init).metrics

    output, num_available = train(folder, run, f"finetune {config.run}"), max(len(rows["train"]), len(splits["train"]))
    artifacts = Artifacts(run, config, folder, splits, label_names, num_available, test_rows, accelerator)
    baselines = measure_baselines(artifacts, output, train_reference)
    collect = collect_detector if is_detector else collect_held_out
    held_out = collect(modality, output, splits, label_names, folder, accelerator)
    if accelerator.is_main_process:
        artifacts.write(output, baselines, held_out)
        logger.info(format_outputs(run))
    accelerator.wait_for_everyone()
