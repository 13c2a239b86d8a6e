"""A study from a checked configuration to its report: what may have been seen, the cells one by one, what follows.

    out/studies/NAME/   cells/*.json  times.json  study.json  study.png  study.svg  report.html

A cell is written whole when it is done, and study.json follows from the cells alone: a study that was killed goes on
with the next cell, and ends with the same file.
"""

from __future__ import annotations

import os
import shlex
import shutil

import numpy as np
import torch
from transformers.utils import logging

from data.cache import OUTPUT_DIR, fingerprint
from data.encoders import read_record, resolve_encoder
from data.tasks.task import fingerprint_inputs, read_task
from engine.errors import ConfigError, DataError
from engine.files import write_json, write_text
from finetune.heads import load_head_file
from finetune.study import contamination, report, statistics
from finetune.study.config import Study
from finetune.study.trials import TRAINED_VARIANTS, Trial, Trials, study_versions
from finetune.train import find_latest_encoder

STUDIES_FOLDER = OUTPUT_DIR / "studies"


def run_study(config: Study, args: list[str]) -> None:
    """Measure the cells that are not there yet. Raises ConfigError and DataError for the user's mistakes, first."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("finetune.study: one process; run it without accelerate launch")
    if load_head_file(config).PROBLEM_TYPE != "single_label_classification":
        raise ConfigError(f"head.name: a study is of texts with one class each, not of {config.head.name}")
    if config.selftrain.rounds:
        raise ConfigError("selftrain.rounds: a study learns from labels alone; leave it at 0")
    if config.tapt.steps:
        raise ConfigError(
            "tapt.steps: a study measures encoders as they are; pretrain on the task's texts first (tapt.steps"
            " of a fine-tuning does), and give the study that encoder"
        )
    encoder = config.encoder or find_latest_encoder()
    rows = read_task(config.task)
    resolve_encoder(encoder)
    found, measured = contamination.check_contamination(
        config.task, rows, read_record(resolve_encoder(encoder)), config.study
    )
    if not measured:
        raise DataError(
            f"task {config.task.name}: every test row also stands in the training rows or the text of the pretraining;"
            " study.contamination=flag and study.corpus_contamination=flag measure them all the same"
        )
    folder = STUDIES_FOLDER / config.run
    cells = Trials(config, encoder, rows, measured, folder)
    plan = cells.list_trials()
    if config.train.dry_run:  # the first training looks, and leaves
        cells.run_trial(next(cell for cell in plan if cell.variant in TRAINED_VARIANTS))
    folder.mkdir(parents=True, exist_ok=True)
    print(
        "\n".join(
            [
                f"study {config.run}: {len(plan)} cells, encoder {encoder}",
                *(f"  {line}" for line in contamination.describe_contamination(found.counts)),
                "  no way uses a validation label",
            ]
        ),
        flush=True,
    )

    # The newest encoder is another one tomorrow.
    command = shlex.join(["python", "-m", "finetune.study", *args, *[f"encoder={encoder}"] * (not config.encoder)])
    done: list[tuple[Trial, dict]] = []
    for number, cell in enumerate(plan):
        told = cells.load_result(cell)
        if told is None:
            left = cells.estimate_seconds_left(plan[number:], [each for each, _ in done])
            estimate = f"  about {format_duration(left)} left" if left is not None else ""
            print(f"cell {number + 1}/{len(plan)}  {cell}{estimate}", flush=True)
            told = cells.run_trial(cell)
            print(f"    {cells.metric} {told['score']:.3f}", flush=True)
        done.append((cell, told))
        last_of_size = number + 1 == len(plan) or plan[number + 1].shots != cell.shots
        if last_of_size and (number + 1 == len(plan) or cells.load_result(plan[number + 1]) is None):
            made = summarize_study(config, cells, len(plan), [result for _, result in done], found.counts, command)
            write_study(made, cells)
    shutil.rmtree(folder / "running", ignore_errors=True)
    print(report.format_study_summary(made, folder))


def format_duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def summarize_study(
    config: Study, trials: Trials, num_planned: int, results: list[dict], contamination: dict, command: str
) -> dict:
    """What study.json holds: a function of the cells' results, with no time or date in it."""
    curve = statistics.build_curves(results, TRAINED_VARIANTS)
    curve = {way: curve[way] for way in ("ours", *statistics.VARIANT_PHRASES) if way in curve}
    ours_is_trained = bool(read_record(trials.encoder_folders["ours"]))
    titles = {
        "ours": "with our pretraining" if ours_is_trained else f"{trials.encoder}, fine-tuned",
        "plain": f"without it ({trials.original_init})",
        "random": "random weights",
        "probe": "linear probe of it, frozen",
        "tfidf": "TF-IDF + logistic",
    }
    with_ours = "with our pretraining" if ours_is_trained else f"with {trials.encoder}"
    made = {
        "name": config.run,
        "task": config.task.name,
        "encoder": trials.encoder,
        "figure": trials.metric,
        "cells": {"planned": num_planned, "done": len(results)},
        "sentence": "",
        "sentences": statistics.build_sentences(curve, with_ours, statistics.VARIANT_PHRASES),
        "titles": titles,
        "ways": {way: titles[way] for way in curve},
        "left_out": {way: why for way, why in trials.skipped.items() if way in config.study.variants},
        "validation_labels": 0,
        "curve": curve,
        "paired": {way: statistics.paired_differences(curve["ours"], curve[way]) for way in curve if way != "ours"},
        "contamination": contamination,
    }
    made["sentence"] = statistics.headline(made["sentences"])
    kept = [each for each in results if "predicted" in each]
    fits = [each for each in kept if each["labels"] <= config.study.max_confusion_size] or kept[:1]
    if fits:
        best = max(fits, key=lambda each: (each["labels"], -each["seed"]))
        truth = np.array([trials.label_names.index(example.label) for example in trials.test])
        texts = ["\n".join(example.texts) for example in trials.test]
        made["shown"] = statistics.summarize_mistakes(best, truth, texts, trials.label_names, config.study.mistakes)
    return made | {
        "repeat": {
            "command": command,
            "config": config.model_dump(mode="json") | {"encoder": trials.encoder},
            "versions": study_versions(),
            "weights": {way: own for way, own in trials.weight_hashes.items() if way != "random"},
            "encoder_record": fingerprint(read_record(trials.encoder_folders["ours"])),
            "data": fingerprint(fingerprint_inputs(config.task)),
            "rows": trials.rows_fingerprint,
            "threads": torch.get_num_threads(),
            "precision": trials.accelerator.mixed_precision.replace("no", "float32"),
            "drawn": {f"{each['labels']} labels, seed {each['seed']}": each["drawn"] for each in results},
        }
    }


def write_study(summary: dict, trials: Trials) -> None:
    """study.json, the curve and the page."""
    from finetune.study.plot import plot_curves  # matplotlib takes a second to load

    write_json(trials.folder / "study.json", summary)
    plot_curves(
        summary["curve"], summary["ways"], summary["figure"], summary["contamination"]["measured"], trials.folder
    )
    drawing = (trials.folder / "study.svg").read_text(encoding="utf-8")
    write_text(trials.folder / "report.html", report.render_page(summary, drawing))
