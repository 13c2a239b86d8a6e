"""Tokenizers in transformers' format: copied from an encoder, or trained on the corpus."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from data.cache import file_hash, get_or_build
from data.corpus.documents import estimate_characters, iter_documents
from data.encoders import TOKENIZER_FILES
from data.tokens.config import TokenizerConfig
from engine.errors import DataError

SPECIAL_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
MAX_WORD_CHARS = 100  # longer words become [UNK]
SCORE_TOLERANCE = 2e-4


def build_empty_tokenizer(config: TokenizerConfig) -> tuple:
    """Return (`tokenizers` tokenizer without a vocabulary, its trainer)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    algorithm, merging = config.algorithm, {"min_frequency": config.min_frequency}
    options = {"vocab_size": config.vocab_size, "special_tokens": list(SPECIAL_TOKENS.values()), "show_progress": False}
    digits = [pre_tokenizers.Digits(individual_digits=True)] * config.digits
    # NFC last: otherwise a Korean syllable would be three characters.
    stripping = [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()] * config.strip_accents
    if algorithm == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS))
        cleaning = normalizers.BertNormalizer(
            # Unlike in BERT, the accents of lowercase text are kept: vowel signs are accents too.
            clean_text=True,
            handle_chinese_chars=config.chinese_characters,
            strip_accents=False,
            lowercase=config.lowercase,
        )
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), cleaning, *stripping])
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.BertPreTokenizer()])
        return tokenizer, trainers.WordPieceTrainer(limit_alphabet=config.vocab_size // 4, **options, **merging)
    steps = [normalizers.NFC(), *[normalizers.Lowercase()] * config.lowercase, *stripping]
    han = [pre_tokenizers.Split(Regex(r"[\p{Han}]"), "isolated")] * config.chinese_characters
    if algorithm == "bpe":
        tokenizer = Tokenizer(models.BPE())
        split = [*digits, *han, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options, **merging)
    else:
        tokenizer = Tokenizer(models.Unigram())
        # Brackets are isolated, so that text never spells a special token; digits are split after words.
        brackets = pre_tokenizers.Split(Regex(r"[\[\]]"), "isolated")
        split = [brackets, pre_tokenizers.Metaspace(prepend_scheme="first"), *digits, *han]
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **options)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    return tokenizer, trainer


def train_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterator[str]]):
    """Train a `tokenizers` tokenizer; deterministic, although the trainers' hash maps differ between processes."""
    from tokenizers import AddedToken, models

    tokenizer, trainer = build_empty_tokenizer(config)
    if config.algorithm == "wordpiece":  # give it the inner letters in a fixed order
        letters: Counter = Counter()
        for text in texts():
            letters.update(tokenizer.normalizer.normalize_str(text))
        alphabet = sorted(letters.items(), key=lambda item: (-item[1], item[0]))[: trainer.limit_alphabet]
        inner = sorted(f"##{letter}" for letter, _ in alphabet if not letter.isspace())
        trainer.special_tokens = [AddedToken(token, special=True) for token in [*SPECIAL_TOKENS.values(), *inner]]
    tokenizer.train_from_iterator(texts(), trainer)
    if config.algorithm == "bpe":
        return tokenizer
    model = json.loads(tokenizer.to_str())["model"]
    rebuilt, _ = build_empty_tokenizer(config)
    if config.algorithm == "wordpiece":
        rebuilt.model = models.WordPiece(model["vocab"], unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS)
    else:
        num_special = len(SPECIAL_TOKENS)
        scores = {token: round(score, 6) for token, score in model["vocab"][num_special:]}
        # Letters kept only for coverage get slightly different scores in hash-map order; near-ties are sorted.
        letters = sorted((token for token in scores if len(token) == 1), key=lambda token: -scores[token])
        gaps = [scores[before] - scores[after] > SCORE_TOLERANCE for before, after in pairwise(letters)]
        ties = [0, *(at for at, is_gap in enumerate(gaps, 1) if is_gap), len(letters)]
        for start, end in pairwise(ties):
            tied = [scores[token] for token in letters[start:end]]
            scores |= dict(zip(sorted(letters[start:end]), tied, strict=True))
        pieces = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        vocab = [tuple(item) for item in model["vocab"][:num_special]] + pieces
        rebuilt.model = models.Unigram(vocab, unk_id=model["unk_id"])
    rebuilt.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return rebuilt


def sample_texts(documents_folder: Path, max_chars: int) -> Iterator[str]:
    """Yield texts of about `max_chars` characters in all, spread evenly over the corpus."""
    every = max(1, -(-estimate_characters(documents_folder) // max_chars))
    for number, document in enumerate(iter_documents(documents_folder)):
        if number % every == 0:
            yield document["text"]


def train_on_corpus(name: str, config: TokenizerConfig, documents_folder: Path, model_max_length: int) -> Path:
    """Train a tokenizer on a corpus folder and return its folder."""

    def build(folder: Path) -> dict:
        from tokenizers import processors

        tokenizer = train_tokenizer(config, lambda: sample_texts(documents_folder, config.sample))
        special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        templates = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]"}
        tokenizer.post_processor = processors.TemplateProcessing(**templates, special_tokens=special)
        from transformers import PreTrainedTokenizerFast

        options = {"model_max_length": model_max_length, "model_input_names": ["input_ids", "attention_mask"]}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options, **SPECIAL_TOKENS).save_pretrained(folder)
        return {"vocab_size": tokenizer.get_vocab_size()}

    inputs = {"config": config.model_dump(), "corpus": documents_folder.name, "length": model_max_length, "version": 4}
    return get_or_build("tokenizer", name, inputs, build)


def copy_tokenizer(name: str, encoder_folder: Path) -> Path:
    """Copy the tokenizer of an encoder folder and return its folder. Raises DataError if it has none.

    One in an older format, such as vocab.txt, is converted by transformers.
    """
    files = [file for file in TOKENIZER_FILES if (encoder_folder / file).is_file()]

    def build(folder: Path) -> dict:
        for file in files:
            shutil.copy(encoder_folder / file, folder / file)
        return {}

    def convert(folder: Path) -> dict:
        from engine.models.load import load_tokenizer

        tokenizer = load_tokenizer(encoder_folder) if files else None
        if tokenizer is None or not tokenizer.is_fast:
            raise DataError(f"{encoder_folder}: no tokenizer.json; a fast tokenizer is required")
        tokenizer.save_pretrained(folder)
        return {}

    inputs = {file: file_hash(encoder_folder / file) for file in files}
    return get_or_build("tokenizer", name, inputs, build if "tokenizer.json" in files else convert, quiet=True)
