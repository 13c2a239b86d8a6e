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

from data import labelled
from data.derived import OUT, fingerprint
from data.encoders import locate, record_of
from engine.errors import ConfigError, DataError
from engine.files import write_json, write_text
from finetune.study import compare, leaks, report
from finetune.study.cells import TAUGHT, Cell, Cells, versions
from finetune.study.config import Study
from finetune.teaching import head_of
from finetune.train import newest_encoder

STUDIES = OUT / "studies"


def study(config: Study, words: list[str]) -> None:
    """Measure the cells that are not there yet. Raises ConfigError and DataError for the user's mistakes, first."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("finetune.study: one process; run it without accelerate launch")
    if head_of(config).KIND != "class":
        raise ConfigError(f"head.name: a study is of texts with one class each, not of {config.head.name}")
    if config.selftrain.rounds:
        raise ConfigError("selftrain.rounds: a study learns from labels alone; leave it at 0")
    if config.adapt.steps:
        raise ConfigError("adapt.steps: a study measures encoders as they are; pretrain on the task's texts first (adapt.steps"
                          " of a fine-tuning does), and give the study that encoder")
    encoder = config.encoder or newest_encoder()
    rows = labelled.read(config.task)
    locate(encoder)
    found, measured = leaks.look(config.task, rows, record_of(locate(encoder)), config.study)
    if not measured:
        raise DataError(f"task {config.task.name}: every test row also stands in the training rows or the text of the pretraining;"
                        " study.contamination=flag and study.corpus_contamination=flag measure them all the same")
    folder = STUDIES / config.run
    cells = Cells(config, encoder, rows, measured, folder)
    plan = cells.plan()
    if config.train.check:  # the first training looks, and leaves
        cells.run(next(cell for cell in plan if cell.way in TAUGHT))
    folder.mkdir(parents=True, exist_ok=True)
    print("\n".join([f"study {config.run}: {len(plan)} cells, encoder {encoder}",
                     *(f"  {line}" for line in leaks.lines(found.told)),
                     "  no way uses a validation label"]), flush=True)

    # The newest encoder is another one tomorrow.
    command = shlex.join(["python", "-m", "finetune.study", *words, *[f"encoder={encoder}"] * (not config.encoder)])
    done: list[tuple[Cell, dict]] = []
    for number, cell in enumerate(plan):
        told = cells.read(cell)
        if told is None:
            left = cells.seconds_left(plan[number:], [each for each, _ in done])
            estimate = f"  about {clock(left)} left" if left is not None else ""
            print(f"cell {number + 1}/{len(plan)}  {cell}{estimate}", flush=True)
            told = cells.run(cell)
            print(f"    {cells.monitor} {told['score']:.3f}", flush=True)
        done.append((cell, told))
        last_of_size = number + 1 == len(plan) or plan[number + 1].size != cell.size
        if last_of_size and (number + 1 == len(plan) or cells.read(plan[number + 1]) is None):
            made = conclusion(config, cells, len(plan), [result for _, result in done], found.told, command)
            write(made, cells)
    shutil.rmtree(folder / "running", ignore_errors=True)
    print(report.summary(made, folder))


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def conclusion(config: Study, cells: Cells, planned: int, results: list[dict], seen: dict, command: str) -> dict:
    """What study.json holds: a function of the cells' results, with no time or date in it."""
    curve = compare.curves(results, TAUGHT)
    curve = {way: curve[way] for way in ("ours", *compare.BY_WAY) if way in curve}
    ours_is_trained = bool(record_of(cells.at["ours"]))
    titles = {"ours": "with our pretraining" if ours_is_trained else f"{cells.encoder}, fine-tuned",
              "plain": f"without it ({cells.plain_name})", "random": "random weights",
              "probe": "linear probe of it, frozen", "tfidf": "TF-IDF + logistic"}
    with_ours = "with our pretraining" if ours_is_trained else f"with {cells.encoder}"
    made = {"name": config.run, "task": config.task.name, "encoder": cells.encoder, "figure": cells.monitor,
            "cells": {"planned": planned, "done": len(results)}, "sentence": "",
            "sentences": compare.sentences(curve, with_ours, compare.BY_WAY),
            "titles": titles, "ways": {way: titles[way] for way in curve},
            "left_out": {way: why for way, why in cells.left_out.items() if way in config.study.ways},
            "validation_labels": 0, "curve": curve,
            "paired": {way: compare.differences(curve["ours"], curve[way]) for way in curve if way != "ours"},
            "contamination": seen}
    made["sentence"] = compare.headline(made["sentences"])
    kept = [each for each in results if "predicted" in each]
    fits = [each for each in kept if each["labels"] <= config.study.shown] or kept[:1]
    if fits:
        best = max(fits, key=lambda each: (each["labels"], -each["seed"]))
        truth = np.array([cells.names.index(example.label) for example in cells.test])
        texts = ["\n".join(example.texts) for example in cells.test]
        made["shown"] = compare.shown_mistakes(best, truth, texts, cells.names, config.study.mistakes)
    return made | {"repeat": {
        "command": command, "config": config.model_dump(mode="json") | {"encoder": cells.encoder},
        "versions": versions(),
        "weights": {way: own for way, own in cells.weights.items() if way != "random"},
        "encoder_record": fingerprint(record_of(cells.at["ours"])), "data": fingerprint(labelled.identity(config.task)),
        "rows": cells.rows, "threads": torch.get_num_threads(),
        "precision": cells.accelerator.mixed_precision.replace("no", "float32"),
        "drawn": {f"{each['labels']} labels, seed {each['seed']}": each["drawn"] for each in results}}}


def write(made: dict, cells: Cells) -> None:
    """study.json, the curve and the page."""
    from finetune.study.plot import plot  # matplotlib takes a second to load
    write_json(cells.folder / "study.json", made)
    plot(made["curve"], made["ways"], made["figure"], made["contamination"]["measured"], cells.folder)
    drawing = (cells.folder / "study.svg").read_text(encoding="utf-8")
    write_text(cells.folder / "report.html", report.page(made, drawing))
