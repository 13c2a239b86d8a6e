"""Outputs of a pretraining run: encoder folder, record, metrics, sample outputs, report, and pushed checkpoints."""

from pathlib import Path

from accelerate import Accelerator

from data import reference_outputs
from data.cache import read_manifest
from data.corpus.config import source_licenses
from data.corpus.report import corpus_summary
from data.encoders import base_model_info, read_record
from data.tokens.shards import Shards
from engine.files import write_json, write_text
from engine.runs.background import BackgroundCommand
from engine.runs.run import Run, package_versions
from engine.system import hardware
from engine.training.trainer import TrainResult
from pretrain.config import Pretrain
from pretrain.model.encoder import Encoder, save_encoder
from pretrain.summary import format_summary
from publish.card.card import build_model_card
from publish.report.run_report import render_run_report

Folders = tuple[Path | None, Path, Path]
"""Of init, tokenizer and shards."""


class Artifacts:
    """Writer of a run's outputs, for the main process: `push` after each checkpoint, `finish` at the end."""

    def __init__(
        self, config: Pretrain, run: Run, encoder: Encoder, folders: Folders, accelerator: Accelerator, with_head: bool
    ):
        self.config, self.run, self.encoder, self.with_head = config, run, encoder, with_head
        self.init_folder, self.tokenizer_folder, self.shards_folder = folders
        self.accelerator, self.push_job = accelerator, BackgroundCommand(run.folder / "push.log")

    def build_record(self, result: TrainResult) -> dict:
        """Build record.json: the encoder's configuration, data, training and environment as of `result.step`."""
        config, init_folder, shards_folder = self.config, self.init_folder, self.shards_folder
        manifest = read_manifest(shards_folder)
        return {
            "kind": "encoder",
            "run": config.run,
            "config": config.model_dump(mode="json"),
            "init": config.init,
            "init_record": read_record(init_folder) if init_folder else {},
            "shards_manifest": {key: value for key, value in manifest.items() if key != "inputs"},
            "shards": shards_folder.name,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision.replace("no", "float32"),
            "eval": result.metrics,
            "max_length": config.max_length,
            "versions": package_versions(),
            "hardware": hardware.hardware_info(),
            "corpus_summary": corpus_summary(shards_folder),
            "pooling": self.encoder.pooling,
            "has_mlm_head": self.with_head,
            "licenses": {"corpus": source_licenses(config.corpus), "base": base_model_info(config.init, init_folder)},
        }

    def save_encoder(self, folder: Path, result: TrainResult) -> None:
        """Write the encoder folder, with its record and model card."""
        record = self.build_record(result)
        save_encoder(self.encoder, folder, self.tokenizer_folder, record, build_model_card(record), self.with_head)

    def push(self, result: TrainResult) -> None:
        """Push the current encoder to a hub in the background, every `push_every` steps if no push is running."""
        every, folder = self.config.push_every, self.run.folder / "pushing"
        # A running push still reads the folder.
        if every and result.step % every == 0 and not self.push_job.is_running():
            self.save_encoder(folder, result)
            self.push_job.start(["publish.hub.push_checkpoint", f"folder={folder}", f"repo={self.config.push_to}"])

    def finish(self, result: TrainResult) -> None:
        """Write metrics, sample outputs, encoder folder and report, and print the summary."""
        folder, encoder, tokenizer_folder = self.run.folder, self.encoder, self.tokenizer_folder
        metrics = {
            "eval": result.metrics,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "tokens_per_second": round(result.tokens / result.seconds),
        }
        write_json(folder / "metrics.json", metrics)

        def pool(output):
            states = output.last_hidden_state[0]
            return states.mean(0) if encoder.pooling == "mean" else states[0]

        model, max_length = encoder.model.base_model, self.config.max_length
        texts = reference_outputs.decode_texts(Shards(self.shards_folder, "held_out"), tokenizer_folder)
        sample = reference_outputs.record_outputs(model, tokenizer_folder, texts, max_length, pool)
        write_json(folder / "sample.json", sample)
        self.save_encoder(folder / "encoder", result)
        write_text(folder / "report.html", render_run_report(self.run))
        print(format_summary(self.run))
        if pushed := self.push_job.wait():
            print(f"  pushed          {pushed}")
