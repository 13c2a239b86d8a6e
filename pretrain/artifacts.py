"""What a pretraining leaves: the encoder folder, its record and figures, a sample of what it says; on the way, what is pushed."""

from __future__ import annotations

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
from pretrain.summary import summary
from publish.card.card import build_model_card
from publish.report.run_report import render_run_report


class Artifacts:
    """The main process's part of `pretrain` that writes; `finish` once, `push` after each checkpoint."""

    def __init__(
        self,
        config: Pretrain,
        run: Run,
        encoder: Encoder,
        init_folder: Path | None,
        tokenizer_folder: Path,
        shards_folder: Path,
        accelerator: Accelerator,
        with_head: bool,
    ):
        self.config, self.run, self.encoder, self.init_folder, self.tokenizer_folder = (
            config,
            run,
            encoder,
            init_folder,
            tokenizer_folder,
        )
        self.shards_folder, self.accelerator, self.with_head = shards_folder, accelerator, with_head
        self.push_job = BackgroundCommand(run.folder / "push.log")

    def build_record(self, result: TrainResult) -> dict:
        """All that is known of the encoder as it is after `result.step`."""
        config = self.config
        return {
            "kind": "encoder",
            "run": config.run,
            "config": config.model_dump(mode="json"),
            "init": config.init,
            "init_record": read_record(self.init_folder) if self.init_folder else {},
            "documents": {key: value for key, value in read_manifest(self.shards_folder).items() if key != "inputs"},
            "shards": self.shards_folder.name,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision.replace("no", "float32"),
            "eval": result.metrics,
            "max_length": config.max_length,
            "versions": package_versions(),
            "hardware": hardware.hardware_info(),
            "text": corpus_summary(self.shards_folder),
            "pooling": self.encoder.pooling,
            "has_mlm_head": self.with_head,
            "licenses": {
                "corpus": source_licenses(config.corpus),
                "base": base_model_info(config.init, self.init_folder),
            },
        }

    def save_encoder(self, folder: Path, result: TrainResult) -> None:
        """Write the encoder folder."""
        made = self.build_record(result)
        save_encoder(self.encoder, folder, self.tokenizer_folder, made, build_model_card(made), self.with_head)

    def push(self, result: TrainResult) -> None:
        """Have the encoder of now sent to a hub beside the training, when its turn has come and none is under way."""
        every, folder = self.config.push_every, self.run.folder / "pushing"
        # The folder must not change under the one that sends it.
        if every and result.step % every == 0 and not self.push_job.is_running():
            self.save_encoder(folder, result)
            self.push_job.start(["publish.hub.push_checkpoint", f"folder={folder}", f"repo={self.config.push_to}"])

    def finish(self, result: TrainResult) -> None:
        """Write figures, the sample and the encoder folder, and tell of the run."""
        write_json(
            self.run.folder / "metrics.json",
            {
                "held_out": result.metrics,
                "steps": result.step,
                "tokens": result.tokens,
                "seconds": round(result.seconds, 1),
                "tokens_per_second": round(result.tokens / result.seconds),
            },
        )
        pooled = (
            (lambda output: output.last_hidden_state[0].mean(0))
            if self.encoder.pooling == "mean"
            else lambda output: output.last_hidden_state[0, 0]
        )
        texts = reference_outputs.decode_texts(Shards(self.shards_folder, "held_out"), self.tokenizer_folder)
        write_json(
            self.run.folder / "sample.json",
            reference_outputs.record_outputs(
                self.encoder.model.base_model, self.tokenizer_folder, texts, self.config.max_length, pooled
            ),
        )
        self.save_encoder(self.run.folder / "encoder", result)
        write_text(self.run.folder / "report.html", render_run_report(self.run))
        print(summary(self.run))
        if pushed := self.push_job.wait():
            print(f"  pushed          {pushed}")
