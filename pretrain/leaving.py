"""What a pretraining leaves: the encoder folder, its record and figures, a sample of what it says; on the way, what is pushed."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from data import sample
from data.config import licences
from data.derived import manifest
from data.encoders import base_of, record_of
from data.report import told
from data.shards import Shards
from engine import machine, record
from engine.background import Background
from engine.files import write_json, write_text
from engine.loop import Result
from pretrain.config import Pretrain
from pretrain.encoder import Encoder, save
from pretrain.report import summary
from publish.card import card
from publish.report import page_of


class Leaving:
    """The main process's part of `pretrain` that writes; `finish` once, `push` after each checkpoint."""

    def __init__(self, config: Pretrain, run: record.Run, encoder: Encoder, init: Path | None, tokenizer: Path, shards: Path,
                 accelerator: Accelerator, with_head: bool):
        self.config, self.run, self.encoder, self.init, self.tokenizer = config, run, encoder, init, tokenizer
        self.shards, self.accelerator, self.with_head = shards, accelerator, with_head
        self.beside = Background(run.folder / "push.log")

    def record(self, result: Result) -> dict:
        """All that is known of the encoder as it is after `result.step`."""
        config = self.config
        return {
            "kind": "encoder", "run": config.run, "config": config.model_dump(mode="json"),
            "init": config.init, "init_record": record_of(self.init) if self.init else {},
            "documents": {key: value for key, value in manifest(self.shards).items() if key != "inputs"},
            "shards": self.shards.name, "steps": result.step, "tokens": result.tokens,
            "seconds": round(result.seconds, 1), "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision.replace("no", "float32"), "evaluation": result.evaluation,
            "longest_text": config.length, "versions": record.versions(), "hardware": machine.describe(),
            "text": told(self.shards), "pooling": self.encoder.pooling, "with_head": self.with_head,
            "licences": {"corpus": licences(config.corpus), "base": base_of(config.init, self.init)},
        }

    def save(self, folder: Path, result: Result) -> None:
        """Write the encoder folder."""
        made = self.record(result)
        save(self.encoder, folder, self.tokenizer, made, card(made), self.with_head)

    def push(self, result: Result) -> None:
        """Have the encoder of now sent to a hub beside the training, when its turn has come and none is under way."""
        every, folder = self.config.push_every, self.run.folder / "pushing"
        # The folder must not change under the one that sends it.
        if every and result.step % every == 0 and not self.beside.is_running():
            self.save(folder, result)
            self.beside.start(["publish.push", f"folder={folder}", f"repo={self.config.push_to}"])

    def finish(self, result: Result) -> None:
        """Write figures, the sample and the encoder folder, and tell of the run."""
        write_json(self.run.folder / "metrics.json", {
            "held_out": result.evaluation, "steps": result.step, "tokens": result.tokens,
            "seconds": round(result.seconds, 1), "tokens_per_second": round(result.tokens / result.seconds)})
        pooled = ((lambda output: output.last_hidden_state[0].mean(0)) if self.encoder.pooling == "mean" else
                  lambda output: output.last_hidden_state[0, 0])
        texts = sample.of_shards(Shards(self.shards, "held_out"), self.tokenizer)
        write_json(self.run.folder / "sample.json", sample.sample(
            self.encoder.model.base_model, self.tokenizer, texts, self.config.length, pooled))
        self.save(self.run.folder / "encoder", result)
        write_text(self.run.folder / "report.html", page_of(self.run))
        print(summary(self.run))
        if pushed := self.beside.end():
            print(f"  pushed          {pushed}")
