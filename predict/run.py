"""Predict the rows of a source part by part, resume where it ended, and join the parts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from data.cache import OUTPUT_DIR, fingerprint
from data.classifier import Classifier
from data.encoders import hash_weights
from data.images.sources import complete_image_source
from data.shortcut import name_run
from data.sources.source import Source, display_name, get_format, resolve_files
from engine.errors import ConfigError
from engine.files import read_json, write_json, write_text
from engine.log import get_logger
from engine.models.embed import Inputs, run_stream
from engine.runs.progress import Progress
from engine.training.distributed import make_accelerator
from predict.config import EXTENSIONS, OutputFormat, Predict
from predict.image_rows import ImageTable, is_file_table, list_images, open_image_table
from predict.mixed_precision import predict_inputs
from predict.output import Writer
from predict.predictions import Decider, Prediction
from predict.rows import Item, Table, complete_text_source, iter_texts, open_table, skip
from predict.summary import PartStatistics, Summary
from predict.why import Explainer, list_reasons

logger = get_logger(__name__)

MAX_NAMED = 5  # images that cannot be read
PART_ROWS = 2_048  # rows of a part; they are sorted by length together
INPUT_FORMATS: dict[str, OutputFormat] = {"json": "jsonl", "parquet": "parquet", "arrow": "parquet"}


@dataclass(frozen=True)
class Output:
    """Where the results of a command are."""

    path: Path
    format: OutputFormat

    @property
    def parts(self) -> Path:
        """The folder of the parts, until the file is complete."""
        return self.path.with_name(f".{self.path.name}.parts")

    def sibling(self, suffix: str) -> Path:
        """Return a file next to the output: of its name without extension, unless another output has that one."""
        name = self.path.name
        stem = name.removesuffix(self.path.suffix)
        summary = self.path.with_name(f"{stem}.summary.json")
        owner = read_json(summary).get("rows_path", name) if summary.is_file() else name
        return self.path.with_name(f"{stem if Path(owner).name == name else name}{suffix}")


def choose_output(config: Predict, source: Source) -> Output:
    """Return the file to write and its format. Raises ConfigError for an extension that cannot be used."""
    is_table = is_file_table(source)
    found = INPUT_FORMATS.get(get_format(source, resolve_files(source)[0]).name if is_table else "", "csv")
    if config.output is None:
        chosen = config.format or found
        name = name_run(resolve_files(source)[0] if is_table and source.files else display_name(source))
        return Output(OUTPUT_DIR / "predictions" / name / f"labels.{chosen}", chosen)
    path = Path(config.output)
    chosen = config.format or EXTENSIONS.get(path.suffix.lower())
    if chosen is None:
        raise ConfigError(f"output: {path} has none of the extensions {', '.join(EXTENSIONS)}; or set format")
    if path.is_dir():
        raise ConfigError(f"output: {path} is a folder")
    if path.suffix == ".html":
        raise ConfigError(f"output: {path} would be the report; choose another name for the rows")
    return Output(path, chosen)


class PredictRun:
    """The prediction of a table. Raises ConfigError or DataError before anything is written."""

    def __init__(self, config: Predict, classifier: Classifier, accelerator: Accelerator):
        self.config, self.classifier, self.accelerator = config, classifier, accelerator
        self.decider = Decider(classifier, config.precision)
        self.is_text = classifier.modality.name == "text"
        source = complete_text_source(config.source) if self.is_text else complete_image_source(config.source)
        self.output = choose_output(config, source)
        trained = find_trained_columns(classifier)
        open_rows = open_table if self.is_text else open_image_table
        self.table = open_rows(source, classifier.modality, classifier.problem_type, config.text, trained)
        self.new_columns = self.name_columns(self.table)
        self.writer = Writer(self.output.format, [*self.table.all_columns, *self.new_columns.values()], config.raw)
        self.fingerprint, self.num_broken = self.compute_fingerprint(), 0

    def name_columns(self, table: Table) -> dict[str, str]:
        """Return the names of the new columns; all start with `predicted_` if the table has one of theirs."""
        columns = self.decider.list_columns() + ["why"] * self.config.why
        prefix = ""
        while any(f"{prefix}{name}" in table.all_columns for name in columns):
            prefix += "predicted_"
        return {name: f"{prefix}{name}" for name in columns}

    def compute_fingerprint(self) -> str:
        """Return a fingerprint of all that the output depends on."""
        config = self.config.model_dump(mode="json", exclude={"source", "output", "overwrite", "num_doubtful", "texts"})
        folder = self.classifier.folder
        inputs = {"rows": self.table.fingerprint_rows(), "columns": self.writer.columns, "part": PART_ROWS}
        inputs["precision"] = self.accelerator.mixed_precision
        settings = read_json(folder / "config.json")
        return fingerprint([config, inputs, settings, hash_weights(folder), self.output.format])

    def run(self) -> Summary:
        """Predict all rows that are not predicted yet; return the summary."""
        path, parts = self.output.path, self.output.parts
        summary_path = self.output.sibling(".summary.json")
        is_main = self.accelerator.is_main_process
        if path.is_file():
            summary = read_json(summary_path) if summary_path.is_file() else {}
            if summary.get("fingerprint") == self.fingerprint:
                logger.info(f"{path} is finished.")
                return Summary.from_json({**summary, "page_path": str(self.output.sibling(".html"))})
            # A file next to this command's parts is its own: it was stopped after joining them.
            if not (self.config.overwrite or self.has_parts()):
                raise ConfigError(f"output: {path} is there, by another command; choose another, or overwrite=true")
        num_done = self.prepare_parts() if is_main else 0
        num_done = broadcast_object_list([num_done])[0] if self.accelerator.num_processes > 1 else num_done
        self.predict_parts(num_done)
        if not is_main:
            return Summary()
        names = sorted(parts.glob("part-*.json"))
        self.writer.join([name.with_suffix(f".{self.output.format}") for name in names], path)
        summary = Summary.from_parts(map(read_json, names), self.classifier, self.config)
        summary.fingerprint, summary.rows_path = self.fingerprint, str(path)
        summary.page_path = str(self.output.sibling(".html"))
        self.write_reports(summary)
        write_json(summary_path, summary.to_json())
        shutil.rmtree(parts)
        return summary

    def write_reports(self, summary: Summary) -> None:
        """Write the page."""
        from predict.page import render_page

        pictures = {}
        if isinstance(self.table, ImageTable):
            from predict.pictures import draw_pictures

            has_heat_maps = self.config.why and not self.classifier.detector  # which gives an input no label
            pictures = draw_pictures(summary.doubtful, self.table, self.classifier, has_heat_maps)
        write_text(Path(summary.page_path), render_page(summary, pictures))

    def has_parts(self) -> bool:
        """Return whether there are parts, and of this command."""
        mark = self.output.parts / "fingerprint.json"
        return mark.is_file() and read_json(mark).get("fingerprint") == self.fingerprint

    def prepare_parts(self) -> int:
        """Return the number of complete parts; remove those of another command."""
        parts = self.output.parts
        if parts.is_dir() and not self.has_parts():
            logger.info(f"note: {parts} is of other rows, another model or other settings; starting again")
            shutil.rmtree(parts)
        parts.mkdir(parents=True, exist_ok=True)
        write_json(parts / "fingerprint.json", {"fingerprint": self.fingerprint})
        number = 0
        while (parts / f"part-{number:06}.json").is_file():
            number += 1
        return number

    def make_inputs(self, items: list[Item]) -> Inputs:
        """Return the inputs of the rows; note the first token of each word, and the images that cannot be read."""
        inputs = self.classifier.read([item.load or item.example for item in items])
        for line in mark_broken(items, inputs) if self.accelerator.is_main_process else []:
            self.num_broken += 1
            if self.num_broken <= MAX_NAMED:
                logger.info(f"note: {line}; it gets no label")
        if self.classifier.problem_type.labels_words:
            for item, words in zip(items, inputs.labels, strict=True):
                item.first_tokens = words[1]
        return inputs

    def iter_predictions(self, items: Iterator[Item]) -> Iterator[tuple[Item, Prediction]]:
        """Yield each row with its prediction, in order."""
        self.classifier.place(self.accelerator.device)
        # An image takes far more memory than a text, and nothing is gained from sorting images by length.
        window = PART_ROWS if self.is_text else self.config.batch_size * self.accelerator.num_processes
        count = PART_ROWS
        while count == PART_ROWS:  # by the part, so that batches are the same after resuming
            count = 0
            for item, output in run_stream(islice(items, PART_ROWS), self.run_network, window):
                prediction, count = self.decider.decide(item, output), count + 1
                if self.explainer and self.accelerator.is_main_process:
                    prediction.why = self.explainer.explain(item, prediction)
                yield item, prediction

    def run_network(self, items: list[Item]) -> list[np.ndarray]:
        """Return the network's outputs for some rows."""
        return predict_inputs(self.classifier, self.make_inputs(items), self.accelerator, self.config.batch_size)

    @cached_property
    def explainer(self) -> Explainer | None:
        """What finds reasons, if they are asked for."""
        return Explainer(self.classifier) if self.config.why else None

    def predict_parts(self, num_done: int) -> None:
        """Write the parts from number `num_done` on, and with each its statistics, which make it complete."""
        total, done = self.table.num_rows, min(self.table.num_rows, num_done * PART_ROWS)
        if done == total:
            return
        if done:
            logger.info(f"resuming after row {done:,}")
        rows, statistics = [], PartStatistics(done, self.config.num_doubtful)
        is_main = self.accelerator.is_main_process
        with Progress("predict", total, done, is_main, "row") as progress:
            for item, prediction in self.iter_predictions(skip(self.table.iter_items(), done)):
                values = prediction.to_columns()
                rows.append(item.row | {new: values[name] for name, new in self.new_columns.items()})
                statistics.add(item, prediction)
                done += 1
                if len(rows) == PART_ROWS or done == total:
                    if is_main:
                        stem = self.output.parts / f"part-{(done - 1) // PART_ROWS:06}"
                        self.writer.write_part(stem.with_suffix(f".{self.output.format}"), rows)
                        write_json(stem.with_suffix(".json"), statistics.to_json())
                    progress.update(done, f"{progress.rate(done):,.0f} rows/s")
                    rows, statistics = [], PartStatistics(done, self.config.num_doubtful)


def find_trained_columns(classifier: Classifier) -> str | list[str] | None:
    """Return the columns of the inputs in the training rows, None if they are unknown."""
    task = classifier.record.get("config", {}).get("task", {})
    return task.get("text") if classifier.modality.name == "text" else task.get("train", {}).get("image")


def mark_broken(items: list[Item], inputs: Inputs) -> list[str]:
    """Mark the rows with an image that cannot be read; return a line for each."""
    broken = [(item, problem) for item, problem in zip(items, getattr(inputs, "problems", ()), strict=False) if problem]
    for item, _ in broken:
        item.is_empty = True
    return [f"{item.text}: {problem}" for item, problem in broken]


def predict_texts(config: Predict, classifier: Classifier) -> list[str]:
    """Return a line for each text or image: its label and probability."""
    decider, accelerator = Decider(classifier, config.precision), make_accelerator(config.dtype)
    modality, problem_type = classifier.modality, classifier.problem_type
    if modality.name == "text":
        items = iter_texts(config.texts, modality, problem_type, find_trained_columns(classifier))
    else:
        items = list_images(config.texts)
    inputs = classifier.read([item.load or item.example for item in items])
    broken, lines = iter(mark_broken(items, inputs)), []
    outputs = predict_inputs(classifier.place(accelerator.device), inputs, accelerator, config.batch_size)
    explainer = Explainer(classifier) if config.why else None
    for number, (item, output) in enumerate(zip(items, outputs, strict=True)):
        if classifier.problem_type.labels_words:
            item.first_tokens = inputs.labels[number][1]
        prediction = decider.decide(item, output)
        lines.append(f"none  {next(broken)}" if item.is_empty else format_line(prediction, item.text))
        if explainer and not item.is_empty:
            lines += [f"    {line}" for line in list_reasons(explainer.explain(item, prediction))]
    return lines


def format_line(prediction: Prediction, text: str) -> str:
    """Return a prediction as a line, followed by its text."""
    label, probability = prediction.label, prediction.probability
    if isinstance(label, list) and label and isinstance(label[0], dict):
        found = ", ".join(f"{span['label']} {span['text']!r} {span['probability']:.3f}" for span in label)
    elif isinstance(label, list):
        found = ", ".join(f"{name} {value:.3f}" for name, value in zip(label, probability, strict=True)) or "none"
    elif prediction.score is not None:
        found = f"{label}  {prediction.score:.4g}"
    else:
        found = f"{label}" if probability is None else f"{label}  {probability:.3f}"
    if isinstance(label, list) and not label:
        found = "none"
    notes = [name for name in ("unsure", "unlike") if getattr(prediction, name)]
    return "  ".join([found, *notes, text])


def predict(config: Predict) -> None:
    """Run the command. Raises ConfigError or DataError for a user's mistake before anything is written."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if bool(config.texts) == bool(config.source):
        raise ConfigError("give rows, file=FILE or source.hub=OWNER/NAME, or texts or images as arguments")
    start = time.monotonic()
    classifier = Classifier(config.model, config.max_length)
    if config.texts:
        logger.info("\n".join(predict_texts(config, classifier)))
        return
    accelerator = make_accelerator(config.dtype)
    run = PredictRun(config, classifier, accelerator)
    summary = run.run()
    if accelerator.is_main_process:
        logger.info("\n".join(summary.describe(time.monotonic() - start)))
    accelerator.wait_for_everyone()
