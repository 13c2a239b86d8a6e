"""Pretraining on text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from data.corpus.config import Corpus, source_licenses
from data.tokens.config import TokenizerConfig
from engine.config.schema import Fraction
from engine.errors import ConfigError
from engine.log import get_logger
from pretrain import modalities
from pretrain.config import ModelConfig, Pretrain
from pretrain.evaluate.config import STSSource

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.model.encoder import Encoder

logger = get_logger(__name__)


class Config(Pretrain):
    """Pretrain an encoder on unlabeled text."""

    corpus: Corpus
    """The unlabeled text."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens per row; documents are split and packed to fill it."""
    short_sequence_fraction: Fraction = 0.0
    """Fraction of the steps, at the start, with twice as many rows of half the length; only for objective.name=mlm."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Only used without init."""
    model: ModelConfig = ModelConfig()
    """Only used without init."""
    pooling: Literal["mean", "cls", "lasttoken"] | None = None
    """Pooling of token states to a text embedding, saved with the encoder; none: as in init, or else mean."""
    sts: STSSource | None = None
    """Scored sentence pairs, to measure general quality before and after training with init; none: not measured."""

    added_later: ClassVar[tuple[str, ...]] = (*Pretrain.added_later, "sts")


class Modality(modalities.Modality):
    """Packed rows of tokens, and masked-language models."""

    config: Config

    def validate_config(self) -> None:
        """Raise ConfigError for settings that cannot be combined."""
        config = self.config
        config.objective.validate_training(config.train.batch_size, config.dropout, config.max_length)
        if config.train.optimizer == "muon" and getattr(config.objective, "is_static", False):
            raise ConfigError("train.optimizer: muon is for the matrices of layers, and vectors have none; adamw")
        if config.short_sequence_fraction and (config.objective.name != "mlm" or config.max_length < 16):
            raise ConfigError(
                "short_sequence_fraction: needs objective.name=mlm and max_length of at least 16; leave it out"
            )

    def prepare(self) -> dict[str, str]:
        """Build documents, tokenizer and shards."""
        from data.cache import read_manifest
        from data.corpus.report import format_brief_summary
        from data.encoders import describe_lost_modules, hash_weights, read_record, resolve_encoder
        from data.prepare import prepare

        config, self.sts_pairs = self.config, []
        if config.sts and config.init:
            from pretrain.evaluate.embeddings import load_sts_pairs

            self.sts_pairs = load_sts_pairs(config.sts)
        common = (config.corpus, config.tokenizer, config.init)
        with self.accelerator.main_process_first():
            if config.init:
                init = resolve_encoder(config.init)
                read_record(init)  # first: its record goes into that of the new encoder
                if lost := describe_lost_modules(init):
                    logger.info(lost)
            folders = prepare(*common, config.max_length, config.model.positions)
            self.init_folder, self.tokenizer_folder, self.shards_folder = folders
            self.short_folder = None
            if config.short_sequence_fraction:
                self.short_folder = prepare(*common, config.max_length // 2, config.model.positions)[2]
            logger.info(format_brief_summary(self.shards_folder))
        inputs = read_manifest(self.shards_folder)["inputs"]
        fingerprints = {"text": inputs["documents"], "tokenizer": inputs["tokenizer"]}
        return fingerprints | ({"init": hash_weights(self.init_folder)} if self.init_folder else {})

    def resolve_objective(self) -> Config:
        """Choose the objective by the length of the documents if none is given, and log the choice."""
        if self.config.objective.name == "auto":
            from data.tokens.shards import Shards
            from pretrain.objectives.auto import choose_objective

            shards, train = Shards(self.shards_folder, "train"), self.config.train
            choice = choose_objective(shards, bool(self.config.init), train.batch_size)
            steps = train.steps or choice.steps
            train = train.model_copy(update={"steps": steps})
            self.config = self.config.model_copy(update={"objective": choice.objective, "train": train})
            self.validate_config()
            logger.info(f"objective: {choice.reason}; {steps:,} steps")
        return self.config

    def build_encoder(self) -> Encoder:
        """Return a masked-language model."""
        from data.tokens.shards import Shards
        from pretrain.model.build import build_encoder

        return build_encoder(self.config, self.init_folder, Shards(self.shards_folder, "train"))

    def build_dataset(self, objective_file: ModuleType) -> Any:
        """Return the objective's `Dataset`, or two views of each text for an objective without one."""
        from data.tokens.shards import Shards
        from pretrain.pairs import ViewDataset

        dataset_class = self.find_dataset(objective_file) or ViewDataset
        self.dataset, self.short_dataset = (
            dataset_class(self.config.objective, Shards(folder, "train"), self.tokenizer_folder) if folder else None
            for folder in (self.shards_folder, self.short_folder)
        )
        return self.dataset

    def dataset_at(self, step: int) -> tuple[Any, int]:
        """Return the rows of half the length, twice as many, in the first steps if configured."""
        short_steps = round(self.config.short_sequence_fraction * self.config.train.steps)
        return (self.short_dataset, 2) if step < short_steps else (self.dataset, 1)

    @cached_property
    def held_out(self) -> Any:
        """The held-out shards."""
        from data.tokens.shards import Shards

        return Shards(self.shards_folder, "held_out")

    def build_validator(self, with_head: bool) -> Callable[[Encoder], dict[str, float]]:
        """Return the masked-language loss and retrieval on held-out text."""
        from pretrain.validation import Validator

        self.validator = Validator(self.held_out, self.config.eval_rows, self.accelerator, with_head)
        return self.validator

    def measure_quality(self, encoder: Encoder) -> tuple[dict[str, float], Tensor | None]:
        """Return (retrieval on held-out text and STS if configured, embeddings of held-out texts)."""
        from pretrain.validation import retrieval_metrics

        halves = self.validator.embed_halves(encoder)
        metrics, names = retrieval_metrics(halves), ("retrieval_acc@1", "num_candidates")
        quality = {name: metrics[name] for name in names if name in metrics}
        if self.sts_pairs:
            quality["sts_spearman"] = self.measure_sts(encoder)
        return quality, halves[:, 0]

    def measure_sts(self, encoder: Encoder) -> float:
        """Return Spearman's correlation on the scored pairs of `sts`."""
        import numpy as np

        from data.tasks.task import Example
        from data.tokens.dataset import tokenize_examples
        from engine.models.embed import Embedder, run_batches
        from pretrain.evaluate.embeddings import sts_spearman

        first, second, scores = zip(*self.sts_pairs, strict=True)
        examples = [Example((text,), "") for text in (*first, *second)]
        dataset = tokenize_examples(
            examples, self.init_folder, self.config.max_length, self.config.init, allow_empty=True
        )
        embeddings = np.stack(
            run_batches(Embedder(encoder.model.base_model, encoder.pooling), dataset, self.accelerator)
        )
        return sts_spearman(embeddings[: len(first)], embeddings[len(first) :], np.array(scores))

    def build_record(self, encoder: Encoder, with_head: bool) -> dict:
        """Return the manifest of the shards, the summary of the corpus, licenses, and pooling."""
        from data.cache import read_manifest
        from data.corpus.report import corpus_summary
        from data.encoders import base_model_info

        config, manifest = self.config, read_manifest(self.shards_folder)
        base = base_model_info(config.init, self.init_folder)
        return {
            "shards_manifest": {key: value for key, value in manifest.items() if key != "inputs"},
            "shards": self.shards_folder.name,
            "max_length": config.max_length,
            "corpus_summary": corpus_summary(self.shards_folder),
            "pooling": encoder.pooling,
            "has_mlm_head": with_head,
            **({"is_static": True} if getattr(config.objective, "is_static", False) else {}),
            "licenses": {"corpus": source_licenses(config.corpus), "base": base},
        }

    def record_outputs(self, encoder: Encoder) -> dict:
        """Return embeddings of a few held-out texts."""
        import torch

        from data.reference_outputs import decode_texts
        from engine.models.embed import pool

        def output_fn(output):
            states = output.last_hidden_state
            return pool(states, torch.ones(states.shape[:2], dtype=torch.long), encoder.pooling)[0]

        texts = decode_texts(self.held_out, self.tokenizer_folder)
        model, max_length = encoder.model.base_model, self.config.max_length
        return self.shared.record_outputs(model, self.tokenizer_folder, texts, max_length, output_fn)

    def save_encoder(self, encoder: Encoder, folder: Path, record: dict, card: str, with_head: bool) -> None:
        """Write a folder that plain transformers and sentence-transformers load."""
        from pretrain.model.encoder import save_encoder
        from pretrain.model.static_encoder import StaticEncoder, save_static_encoder

        if isinstance(encoder, StaticEncoder):
            save_static_encoder(encoder, folder, self.tokenizer_folder, record, card)
            return
        save_encoder(encoder, folder, self.tokenizer_folder, record, card, with_head, self.init_folder)
