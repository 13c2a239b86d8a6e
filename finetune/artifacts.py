"""Output files of a fine-tuning run: metrics, report, test rows, sample outputs, adapter and the model folder."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import Tensor
from transformers.utils import ModelOutput

from data.corpus.config import CorpusFile, source_licenses
from data.encoders import base_model_info, read_record
from data.sampling import take_evenly
from data.sources.source import display_name
from data.tasks.problem_types import ProblemType
from data.tasks.task import Example
from engine.config.loader import load_config
from engine.errors import DataError
from engine.files import write_folder, write_json, write_text
from engine.models.foreign import remove_foreign_keys
from engine.models.verify import verify_folder
from engine.runs.run import Run, package_versions
from engine.system import hardware
from finetune.config import Finetune
from finetune.held_out import HeldOut
from finetune.modalities import load_modality
from finetune.training import FineTuneOutput
from publish.card.card import build_model_card
from publish.report.run_report import render_run_report

MEASURED_TOLERANCE = {True: 1e-3, False: 0.25}
"""Largest difference of an output from the measured one, relative to values above 1; key: whether in float32."""


def activate_logits(problem_type: ProblemType, output: ModelOutput) -> Tensor:
    """Return the prediction for the only input of a batch."""
    return problem_type.activate(output.logits[0])


@dataclass(frozen=True)
class Artifacts:
    """Writer of a finished run's files. Only the main process calls `write`."""

    run: Run
    config: Finetune
    encoder_folder: Path
    splits: dict[str, list[Example]]
    label_names: list[str]
    num_available: int
    test_rows: dict
    accelerator: Accelerator

    def describe(self, output: FineTuneOutput) -> dict:
        """Return what metrics.json and record.json have in common."""
        modality = load_modality(self.config)
        kind = {
            "problem_type": modality.problem_type.name,
            "report_metrics": modality.list_report_metrics(output.metrics["test"]),
        }
        if modality.shared.name != "text":
            kind["modality"] = modality.shared.name
        return {
            **kind,
            "num_available_examples": self.num_available,
            "test_rows": self.test_rows,
            "evaluation": output.evaluation,
            "steps": output.train_result.step,
            "seconds": round(output.train_result.seconds, 1),
        }

    def summarize(self, output: FineTuneOutput, baselines: dict) -> dict:
        """Return the content of metrics.json."""
        task = {"task": self.config.task.name, "encoder": self.config.encoder}
        task |= {"num_train_examples": len(self.splits["train"]), "baselines": baselines}
        return {**output.metrics, **output.details, **task, **self.describe(output)}

    def write(self, output: FineTuneOutput, baselines: dict, held_out: HeldOut) -> None:
        """Write all files, then remove the run's checkpoints."""
        folder, model, modality = self.run.folder, output.model, load_modality(self.config)
        problem_type, shared = modality.problem_type, modality.shared
        if output.peft_model is not None:
            from finetune.model import adapters

            adapters.save_adapter(output.peft_model, folder)
            adapters.merge_adapters(output.peft_model)
        sample = self.record_sample(output)
        write_json(folder / "metrics.json", self.summarize(output, baselines))
        if rows := modality.sample_rows(self.splits["test"]):
            write_json(folder / "test.json", rows)
        write_json(folder / "mistakes.json", {"mistakes": held_out.mistakes})
        write_text(folder / "report.html", render_run_report(self.run))
        record = self.build_record(output.metrics, self.describe(output), baselines)
        if calibration := model.config.to_dict().get("calibration"):
            record["calibration"] = calibration

        def fill(path: Path) -> None:
            model.save_pretrained(path)
            modality.copy_preprocessor(self.encoder_folder, path)
            remove_foreign_keys(path)
            write_json(path / "record.json", record)
            held_out.save(path)
            (path / "README.md").write_text(build_model_card(record), encoding="utf-8")
            if sample:
                recorded = problem_type.recorded_output
                verify_folder(path, shared.auto_class(problem_type), recorded, folder / "sample.json")

        write_folder(folder / "model", fill)
        for checkpoint in [*folder.glob("**/step-*"), *folder.glob("**/best")]:
            shutil.rmtree(checkpoint)

    def record_sample(self, output: FineTuneOutput) -> dict | None:
        """Write and return outputs for some test rows, by which the saved model is checked, if the modality has any.

        Raises DataError if they are not what was measured.
        """
        modality, model = load_modality(self.config), output.model
        problem_type = modality.problem_type
        output_fn = output.head.score if problem_type.is_detector else partial(activate_logits, problem_type)
        sample = modality.record_outputs(model, self.encoder_folder, take_evenly(self.splits["test"]), output_fn)
        if sample:
            if not hasattr(model.config, "label_scale"):
                self.check_measured(sample["outputs"], output.predictions["test"])
            write_json(self.run.folder / "sample.json", sample)
        return sample

    def check_measured(self, outputs: list, predictions: list[np.ndarray]) -> None:
        """Raise DataError if recorded outputs are not the predictions that the metrics were computed from.

        outputs: for the test rows of `take_evenly`; predictions: for all test rows.
        """
        tolerance = MEASURED_TOLERANCE[self.accelerator.mixed_precision == "no"]
        for row, recorded in zip(take_evenly(range(len(predictions))), map(np.array, outputs), strict=True):
            measured = np.ravel(predictions[row])
            if recorded.shape != measured.shape:  # words' labels, for outputs of tokens
                return
            difference = np.abs(recorded - measured).max() / max(1.0, np.abs(measured).max())
            if not difference <= tolerance:
                raise DataError(
                    f"{self.run.folder}: alone, the model gives test row {row + 1} another output than measured"
                    f" ({difference:.2g} apart), so its metrics would be wrong; no model was written"
                )

    def build_record(self, metrics: dict, result: dict, baselines: dict) -> dict:
        """Return the content of the model folder's record.json, except for calibration."""
        config = self.config
        licenses = {
            "labels": {display_name(config.task.train): config.task.train.license},
            "base": base_model_info(config.encoder, self.encoder_folder),
        }
        if config.selftrain.rounds and config.selftrain.corpus:
            licenses["corpus"] = source_licenses(load_config(CorpusFile, [config.selftrain.corpus]).corpus)
        return {
            "kind": "model",
            "run": config.run,
            "config": config.model_dump(mode="json"),
            "label_names": self.label_names,
            "rows": {split: len(examples) for split, examples in self.splits.items()},
            "metrics": metrics,
            **result,
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision.replace("no", "float32"),
            "baselines": baselines,
            "encoder_record": read_record(self.encoder_folder),
            "versions": package_versions(),
            "hardware": hardware.hardware_info(),
            **self.run.read_changes(),
            "licenses": licenses,
        }
