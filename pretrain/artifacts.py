"""Outputs of a pretraining run: encoder folder, record, metrics, sample outputs, report, and pushed checkpoints."""

from pathlib import Path

import numpy as np

from data.encoders import read_record, resolve_encoder
from data.images.reference_outputs import encode_images
from engine.files import atomic_folder, write_json, write_text
from engine.log import get_logger
from engine.models.verify import verify_folder
from engine.runs.background import BackgroundCommand
from engine.runs.run import Run, package_versions
from engine.system import hardware
from engine.training.trainer import TrainResult
from pretrain.config import Pretrain
from pretrain.modalities import Modality
from pretrain.model.base import BaseEncoder
from pretrain.objective import BaseObjective
from pretrain.summary import format_summary, report_higher_loss
from publish.card.card import build_model_card
from publish.report.run_report import render_run_report

logger = get_logger(__name__)


class Artifacts:
    """Writer of a run's outputs, for the main process: `push` after each checkpoint, `finish` at the end."""

    def __init__(self, config: Pretrain, run: Run, encoder: BaseEncoder, modality: Modality, with_head: bool):
        self.config, self.run, self.encoder, self.with_head = config, run, encoder, with_head
        self.modality, self.init_record = modality, read_record(resolve_encoder(config.init)) if config.init else {}
        self.quality: dict = {}
        self.push_job = BackgroundCommand(run.folder / "push.log")

    def build_record(self, result: TrainResult) -> dict:
        """Build record.json: the encoder's configuration, data, training and environment as of `result.step`."""
        config, accelerator = self.config, self.modality.accelerator
        own = {"modality": config.modality} if config.modality != "text" else {}
        return {
            "kind": "encoder",
            **own,
            "run": config.run,
            "config": config.model_dump(mode="json"),
            "init": config.init,
            "init_record": self.init_record,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision.replace("no", "float32"),
            "eval": result.metrics,
            **({"quality": self.quality} if self.quality else {}),
            "versions": package_versions(),
            "hardware": hardware.hardware_info(),
            **self.run.read_changes(),
            **self.modality.build_record(self.encoder, self.with_head),
        }

    def save_encoder(self, folder: Path, result: TrainResult) -> None:
        """Write the encoder folder, with its record and model card."""
        record = self.build_record(result)
        self.modality.save_encoder(self.encoder, folder, record, build_model_card(record), self.with_head)

    def push(self, result: TrainResult) -> None:
        """Push the current encoder to a hub in the background, every `push_every` steps if no push is running."""
        every, folder = self.config.push_every, self.run.folder / "pushing"
        # A running push still reads the folder.
        if every and result.step % every == 0 and not self.push_job.is_running():
            self.save_encoder(folder, result)
            self.push_job.start(["publish.hub.push_checkpoint", f"folder={folder}", f"repo={self.config.push_to}"])

    def finish(self, result: TrainResult, quality: dict[str, dict[str, float]], objective: BaseObjective) -> None:
        """Write metrics, generator, report, sample outputs and encoder folder, and print the summary.

        The encoder folder is the last, because a run that has it is finished.

        quality: the metrics before and after training, of `compare_with_init`.
        """
        folder, self.quality = self.run.folder, quality
        metrics = {
            **({"modality": self.config.modality} if self.config.modality != "text" else {}),
            "eval": result.metrics,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "tokens_per_second": round(result.tokens / max(1e-9, result.seconds)),
            **({"quality": quality} if quality else {}),
        }
        write_json(folder / "metrics.json", metrics)
        if objective.has_generator:
            with atomic_folder(folder / "generator") as temp:
                objective.save_generator(temp, self.modality.held_out_data())
        if not objective.is_adversarial:
            report_higher_loss([entry["loss"] for entry in self.run.read_log() if entry["loss"] is not None])
        gallery = self.modality.draw_gallery(self.encoder, objective)
        cells = [(title, [[encode_cell(cell) for cell in row] for row in rows]) for title, rows in gallery]
        write_text(folder / "report.html", render_run_report(self.run, cells))
        if sample := self.modality.record_outputs(self.encoder):
            write_json(folder / "sample.json", sample)
        with atomic_folder(folder / "encoder") as temp:
            self.save_encoder(temp, result)
            if sample:
                pooling = read_record(temp).get("pooling") or "mean"
                verify_folder(temp, "AutoModel", pooling, folder / "sample.json")
        logger.info(format_summary(self.run))
        if pushed := self.push_job.wait():
            logger.info(f"  pushed          {pushed}")


def encode_cell(cell: np.ndarray | str) -> dict[str, str]:
    """Return a cell of `pretrain.objective.Gallery` as the report has it: {"image": data URL} or {"text": text}."""
    if isinstance(cell, str):
        return {"text": cell}
    return {"image": f"data:image/png;base64,{encode_images(cell[None])[0]}"}
