"""Tokenizers: an existing one reused, or one trained on the documents. Both in transformers' format."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from data.cache import file_hash, get_or_build
from data.corpus.documents import estimate_characters, iter_documents
from data.tokens.config import TokenizerConfig
from engine.errors import DataError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MAX_WORD_CHARS = 100  # characters; a longer one is unknown
SCORE_TOLERANCE = 2e-4
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def build_empty_tokenizer(config: TokenizerConfig) -> tuple:
    """(a tokenizer of `tokenizers` without a vocabulary, the trainer that gives it one)."""
    from tokenizers import Regex, Tokenizer as Empty, decoders, models, normalizers, pre_tokenizers, trainers

    special = {"vocab_size": config.vocab_size, "special_tokens": list(SPECIAL_TOKENS.values()), "show_progress": False}
    digits = [pre_tokenizers.Digits(individual_digits=True)] * config.digits
    accents = (
        config.strip_accents
        if config.strip_accents is not None
        else (config.lowercase and config.algorithm == "wordpiece")
    )
    if config.algorithm == "wordpiece":
        tokenizer = Empty(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS))
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=config.chinese_characters,
            strip_accents=accents,
            lowercase=config.lowercase,
        )
        tokenizer.decoder = decoders.WordPiece()
        split = [pre_tokenizers.BertPreTokenizer()]
        trainer = trainers.WordPieceTrainer(
            min_frequency=config.min_frequency, limit_alphabet=config.vocab_size // 4, **special
        )
    else:
        steps = [normalizers.NFC(), *[normalizers.Lowercase()] * config.lowercase]
        if accents:
            steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
        tokenizer = Empty(models.BPE() if config.algorithm == "bpe" else models.Unigram())
        tokenizer.normalizer = normalizers.Sequence(steps)
        apart = [pre_tokenizers.Split(Regex(r"[\p{Han}]"), "isolated")] * config.chinese_characters
        if config.algorithm == "bpe":
            split = [*apart, pre_tokenizers.ByteLevel(add_prefix_space=False)]
            tokenizer.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                min_frequency=config.min_frequency, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special
            )
        else:
            # Marks of special tokens stand alone, so that text never spells one; digits come apart after words do.
            split = [
                pre_tokenizers.Split(Regex(r"[\[\]]"), "isolated"),
                pre_tokenizers.Metaspace(prepend_scheme="first"),
                *digits,
                *apart,
            ]
            tokenizer.decoder = decoders.Metaspace()
            trainer = trainers.UnigramTrainer(unk_token="[UNK]", **special)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*(digits if config.algorithm != "unigram" else []), *split])
    return tokenizer, trainer


def train_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterator[str]]):
    """A tokenizer of `tokenizers` with its vocabulary, the same whenever it is trained on the same texts.

    The trainers walk hash maps, whose order changes from process to process. So wordpiece is given the inner pieces of
    one letter in an order of ours, and unigram's scores are rounded and its pieces sorted.
    """
    from tokenizers import AddedToken, models

    tokenizer, trainer = build_empty_tokenizer(config)
    if config.algorithm == "wordpiece":
        letters: Counter = Counter()
        for text in texts():
            letters.update(tokenizer.normalizer.normalize_str(text))
        most = sorted(letters.items(), key=lambda each: (-each[1], each[0]))[: trainer.limit_alphabet]
        inner = sorted(f"##{letter}" for letter, _ in most if not letter.isspace())
        trainer.special_tokens = [AddedToken(token, special=True) for token in [*SPECIAL_TOKENS.values(), *inner]]
    tokenizer.train_from_iterator(texts(), trainer)
    if config.algorithm == "bpe":
        return tokenizer
    model = json.loads(tokenizer.to_str())["model"]
    if config.algorithm == "wordpiece":
        rebuilt = models.WordPiece(model["vocab"], unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS)
    else:
        count = len(SPECIAL_TOKENS)
        scores = {token: round(score, 6) for token, score in model["vocab"][count:]}
        # Letters kept only so that nothing is unknown get scores a little apart, in the order of a hash map: sorted here.
        letters = sorted((token for token in scores if len(token) == 1), key=lambda token: -scores[token])
        runs = [
            0,
            *(at for at in range(1, len(letters)) if scores[letters[at - 1]] - scores[letters[at]] > SCORE_TOLERANCE),
            len(letters),
        ]
        for start, end in zip(runs[:-1], runs[1:]):
            scores |= dict(zip(sorted(letters[start:end]), [scores[token] for token in letters[start:end]]))
        pieces = sorted(scores.items(), key=lambda each: (-each[1], each[0]))
        rebuilt = models.Unigram([tuple(each) for each in model["vocab"][:count]] + pieces, unk_id=model["unk_id"])
    again, _ = build_empty_tokenizer(config)
    again.model = rebuilt
    again.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return again


def sample_texts(documents_folder: Path, max_chars: int) -> Iterator[str]:
    """Texts of about so many characters, spread evenly over the corpus; all of it when there is no more."""
    every = max(1, -(-estimate_characters(documents_folder) // max_chars))
    for number, document in enumerate(iter_documents(documents_folder)):
        if number % every == 0:
            yield document["text"]


def train_on_corpus(name: str, config: TokenizerConfig, documents_folder: Path, model_max_length: int) -> Path:
    """A tokenizer trained on a corpus folder; returns its folder."""

    def make(folder: Path) -> dict:
        from tokenizers import processors

        tokenizer = train_tokenizer(config, lambda: sample_texts(documents_folder, config.sample))
        cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
        )
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=model_max_length,
            model_input_names=["input_ids", "attention_mask"],
            **SPECIAL_TOKENS,
        ).save_pretrained(folder)
        return {"vocab_size": tokenizer.get_vocab_size()}

    return get_or_build(
        "tokenizer",
        name,
        {"config": config.model_dump(), "corpus": documents_folder.name, "length": model_max_length, "version": 3},
        make,
    )


def copy_tokenizer(name: str, encoder_folder: Path) -> Path:
    """The tokenizer of an encoder folder, copied beside the shards made with it. Raises DataError if it has none."""
    if not (encoder_folder / "tokenizer.json").is_file():
        raise DataError(f"{encoder_folder}: no tokenizer.json, so its tokenizer cannot be used")

    def make(folder: Path) -> dict:
        for file in TOKENIZER_FILES:
            if (encoder_folder / file).is_file():
                shutil.copy(encoder_folder / file, folder / file)
        return {}

    return get_or_build(
        "tokenizer", name, {"tokenizer": file_hash(encoder_folder / "tokenizer.json")}, make, quiet=True
    )
