"""Tokenizers: an existing one reused, or a WordPiece trained on the documents. Both in transformers' format."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import PositiveInt

from data.curate import read_documents
from data.derived import derive, file_hash
from engine.config import Section
from engine.errors import DataError

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
           "mask_token": "[MASK]"}
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
         "added_tokens.json", "spiece.model", "sentencepiece.bpe.model")


class Tokenizer(Section):
    """The tokenizer trained when a run starts from nothing. One that continues from an encoder uses that encoder's."""

    vocab_size: PositiveInt = 16_384
    """Tokens in the vocabulary, special ones included."""
    lowercase: bool = True
    """Whether text is lower-cased and stripped of accents."""
    min_frequency: PositiveInt = 2
    """How often a pair must be seen to become a token."""


def train(name: str, config: Tokenizer, corpus: Path, length: int) -> Path:
    """A WordPiece tokenizer (Schuster and Nakajima 2012) trained on a corpus folder; returns its folder."""
    def make(folder: Path) -> dict:
        import tokenizers
        from transformers import PreTrainedTokenizerFast

        special = list(SPECIAL.values())
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=config.lowercase, strip_accents=config.lowercase)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = tokenizers.decoders.WordPiece()
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=config.vocab_size, min_frequency=config.min_frequency, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator((document["text"] for document in read_documents(corpus)), trainer)
        cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length,
                                model_input_names=["input_ids", "attention_mask"], **SPECIAL).save_pretrained(folder)
        return {"vocab_size": tokenizer.get_vocab_size()}

    return derive("tokenizer", name, {"config": config.model_dump(), "corpus": corpus.name, "length": length}, make)


def reuse(name: str, encoder: Path) -> Path:
    """The tokenizer of an encoder folder, copied beside the shards made with it. Raises DataError if it has none."""
    if not (encoder / "tokenizer.json").is_file():
        raise DataError(f"{encoder}: no tokenizer.json, so its tokenizer cannot be used")

    def make(folder: Path) -> dict:
        for file in FILES:
            if (encoder / file).is_file():
                shutil.copy(encoder / file, folder / file)
        return {}

    return derive("tokenizer", name, {"tokenizer": file_hash(encoder / "tokenizer.json")}, make)
