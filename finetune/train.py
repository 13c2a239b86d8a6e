"""From a checked configuration to a model folder: labels, encoder, head, training layer by layer, figures."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path

import torch
from transformers.utils import logging

from data import reference_outputs
from data.corpus.config import source_licenses
from data.encoders import base_model_info, original_init, read_record, resolve_encoder
from data.sources.source import display_name
from data.tasks.task import list_label_names, read_task, sample_examples
from data.tokens.tokenizer import TOKENIZER_FILES
from engine.errors import ConfigError, DataError
from engine.files import write_folder, write_json, write_text
from engine.runs.run import RUNS_FOLDER, Run, package_versions
from engine.system import hardware
from engine.training.distributed import make_accelerator as make_accelerator
from finetune.config import Finetune
from finetune.evaluation import baselines
from finetune.evaluation.summary import format_run_summary
from finetune.heads import load_head_file
from finetune.semi_supervised.self_training import load_corpus, self_train
from finetune.semi_supervised.task_adaptive import TASK_FILENAME, run_task_adaptive_pretraining
from finetune.training import FineTuneOutput, finetune_model
from finetune.validate_config import validate_config
from publish.card.card import build_model_card
from publish.report.run_report import render_run_report

MIN_CLASS_BALANCED_BATCH = (
    16  # examples of a step where classes come in turn, however few labels there are: each has partners and others
)
ACTIVATIONS = {
    "single_label_classification": partial(torch.softmax, dim=-1),
    "token_classification": partial(torch.softmax, dim=-1),
    "multi_label_classification": torch.sigmoid,
    "regression": torch.clone,
}
"""What plain transformers makes of the logits of each kind of head."""


def find_latest_encoder() -> str:
    """The encoder folder last finished, but for those adapted to one task. Raises ConfigError when there is none."""
    found = sorted(
        (path for path in RUNS_FOLDER.glob("*/encoder/record.json") if not (path.parents[1] / TASK_FILENAME).is_file()),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise ConfigError("encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm")
    return str(found[-1].parent)


def resolve_config(config: Finetune, encoder: str, folder: Path, num_examples: int) -> Finetune:
    """The configuration with what follows from the labels and the encoder written out."""
    train = config.train
    steps = train.steps or min(
        train.max_steps, max(train.min_steps, math.ceil(train.epochs * num_examples / train.batch_size))
    )
    # Where rows come class by class, and so again and again, a step of more than there are draws some of them twice.
    size = (
        min(train.batch_size, max(num_examples, MIN_CLASS_BALANCED_BATCH))
        if train.sampling == "class_balanced"
        else train.batch_size
    )
    pretrained = read_record(folder).get("config", {}).get("train", {}).get("lr") or train.default_pretrain_lr
    written = {"batch_size": size, "steps": steps, "lr": train.lr or train.lr_fraction * pretrained}
    layers = config.layers.model_copy(
        update={"head_lr": config.layers.head_lr or load_head_file(config).DEFAULT_HEAD_LR}
    )
    return config.model_copy(update={"encoder": encoder, "layers": layers, "train": train.model_copy(update=written)})


def reference_encoder(folder: Path, encoder: str) -> tuple[Path, bool, str]:
    """(folder, whether with random weights, its name) of the same network without any pretraining of ours."""
    if init := original_init(read_record(folder)):
        return resolve_encoder(init), False, f"{init}, the same network without our pretraining"
    return folder, True, "the same network from random weights"


def finetune(config: Finetune) -> None:
    """Run stage two. Raises ConfigError and DataError for the user's mistakes, before anything is written to the run."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    validate_config(config)
    accelerator, head_file = make_accelerator(config.train.precision), load_head_file(config)
    with accelerator.main_process_first():
        encoder = config.encoder or find_latest_encoder()
        folder = resolve_encoder(encoder)
        rows = read_task(config.task)
    names = list_label_names(config.task, rows)
    if not config.train.load_best:
        validation = rows.pop("validation")  # no label of theirs is used, not even to tell a figure
        if config.task.num_examples == "all" and not config.task.shots and not config.task.validation:
            rows["train"] = (
                rows["train"] + validation
            )  # split off for what is not done; what is all there is may as well teach
    splits = {**rows, "train": sample_examples(rows["train"], config.task.num_examples, config.seed, config.task.shots)}
    if config.train.batch_size < accelerator.num_processes:
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is fewer than the {accelerator.num_processes} processes"
        )
    if config.tapt.steps and not config.train.dry_run:  # minutes: once what can be told to be wrong has been told
        with accelerator.main_process_first():
            encoder = run_task_adaptive_pretraining(config, encoder, accelerator.is_main_process)
            folder = resolve_encoder(encoder)
    config = resolve_config(config, encoder, folder, len(splits["train"]))
    run = Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "model").is_dir() and (run.folder / "metrics.json").is_file():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{format_run_summary(run)}")
        return

    def learn(folder: Path, run: Run, title: str, random: bool = False) -> FineTuneOutput:
        if config.selftrain.rounds:
            return self_train(folder, config, rows["train"], splits, names, run, accelerator, title, random)
        return finetune_model(folder, config, splits, names, run, accelerator, title, random)

    taught = learn(folder, run, f"finetune {config.run}")
    compared = {}
    if config.baselines:
        if head_file.PROBLEM_TYPE in baselines.BASELINE_NAMES:
            compared["tfidf"] = baselines.tfidf_baseline(splits, names, head_file)
        if head_file.PROBLEM_TYPE == "token_classification":
            compared["majority_tag"] = baselines.majority_tag_baseline(splits)
        try:
            plain, random, name = reference_encoder(folder, encoder)
            beside = Run(config, config.run, accelerator.is_main_process, run.folder / "without_pretraining")
            plain_figures = learn(plain, beside, f"  {name}", random).metrics
            compared["without_pretraining"] = {"name": name, **plain_figures}
        except DataError as error:
            compared["without_pretraining"] = {"name": f"not measured: {error}"}

    if accelerator.is_main_process:
        shown = getattr(head_file, "REPORT_METRICS", (head_file.METRIC_FOR_BEST,))
        made = {
            "kind": "model",
            "run": config.run,
            "config": config.model_dump(mode="json"),
            "labels": names,
            "rows": {split: len(examples) for split, examples in splits.items()},
            "metrics": taught.metrics,
            "problem_type": head_file.PROBLEM_TYPE,
            "report_metrics": shown,
            "num_available_examples": len(rows["train"]),
            "steps": taught.train_result.step,
            "seconds": round(taught.train_result.seconds, 1),
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision.replace("no", "float32"),
            "baselines": compared,
            "encoder_record": read_record(folder),
            "versions": package_versions(),
            "hardware": hardware.hardware_info(),
            "licenses": {
                "labels": {display_name(config.task.train): config.task.train.license},
                "base": base_model_info(encoder, folder),
                **(
                    {"corpus": source_licenses(load_corpus(config))}
                    if config.selftrain.rounds and config.selftrain.corpus
                    else {}
                ),
            },
        }
        write_json(
            run.folder / "metrics.json",
            {
                **taught.metrics,
                **taught.details,
                "problem_type": head_file.PROBLEM_TYPE,
                "report_metrics": shown,
                "baselines": compared,
                "task": config.task.name,
                "encoder": encoder,
                "labels": len(splits["train"]),
                "num_available_examples": len(rows["train"]),
                "steps": taught.train_result.step,
                "seconds": round(taught.train_result.seconds, 1),
            },
        )

        write_json(run.folder / "test.json", reference_outputs.sample_rows(splits["test"], config.max_length))
        write_text(run.folder / "report.html", render_run_report(run))

        if taught.peft_model is not None:
            from finetune.model import adapters

            adapters.save_adapter(taught.peft_model, run.folder)
            adapters.merge_adapters(taught.peft_model)

        if calibration := taught.model.config.to_dict().get("calibration"):
            made["calibration"] = calibration
        write_json(
            run.folder / "sample.json",
            reference_outputs.record_outputs(
                taught.model,
                folder,
                [example.texts for example in reference_outputs.take_evenly(splits["test"])],
                config.max_length,
                lambda output: ACTIVATIONS[head_file.PROBLEM_TYPE](output.logits[0]),
            ),
        )

        def fill(path: Path) -> None:
            taught.model.save_pretrained(path)
            for name in TOKENIZER_FILES:
                if (folder / name).is_file():
                    shutil.copy(folder / name, path / name)
            write_json(path / "record.json", made)
            (path / "README.md").write_text(build_model_card(made), encoding="utf-8")

        write_folder(run.folder / "model", fill)
        for leftover in [*run.folder.glob("**/step-*"), *run.folder.glob("**/best")]:
            shutil.rmtree(leftover)
        print(format_run_summary(run))
    accelerator.wait_for_everyone()
