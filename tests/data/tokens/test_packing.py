"""Splitting documents into pieces and packing pieces into rows, compared with plain loops."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.tokens.packing import MIN_FILL, pack_rows, sentence_end_ids, split_documents, to_byte_level


def best_fit_decreasing(lengths: np.ndarray, row_length: int) -> list[int]:
    """The free positions of each row, ascending, when pieces are placed one at a time."""
    rows: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [free for free in rows if free >= length]
        if fitting:
            rows.remove(min(fitting))
        rows.append((min(fitting) if fitting else row_length) - length)
    return sorted(rows)


def packed(lengths: np.ndarray, row_length: int) -> list[list[int]]:
    """The rows, each a list of pieces."""
    pieces, starts = pack_rows(lengths, row_length)
    assert starts[0] == 0 and starts[-1] == len(pieces) and (np.diff(starts) > 0).all()
    return [pieces[start:end].tolist() for start, end in pairwise(starts)]


@pytest.mark.parametrize("seed", range(40))
def test_pack_rows_is_best_fit_decreasing(seed):
    random = np.random.default_rng(seed)
    row_length = int(random.choice([8, 17, 64, 128]))
    low = int(random.integers(1, row_length // 2))
    lengths = random.integers(low, random.integers(low + 1, row_length + 2), size=random.integers(0, 300))
    rows = packed(lengths, row_length)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    used = [int(lengths[row].sum()) for row in rows]
    assert max(used, default=0) <= row_length
    assert sorted(row_length - count for count in used) == best_fit_decreasing(lengths, row_length)


@pytest.mark.parametrize("low, high", [(3, 129), (3, 30), (43, 65), (128, 129)])
def test_packing_wastes_few_positions(low, high):
    lengths = np.random.default_rng(1).integers(low, high, size=3_000)
    # No three pieces of 43 or more positions share a row, and no two of 65 or more.
    bound = max(lengths.sum() / 128, (lengths > 128 / 3).sum() / 2, (lengths > 64).sum())
    assert len(packed(lengths, 128)) <= 1.02 * bound + 1


def test_packing_no_piece_one_piece_and_equal_pieces():
    assert packed(np.zeros(0, np.int64), 8) == [] and packed(np.array([8]), 8) == [[0]]
    rows = packed(np.full(1_001, 3), 8)
    assert Counter(map(len, rows)) == {2: 500, 1: 1}


def test_packing_is_deterministic():
    lengths = np.random.default_rng(0).integers(3, 129, size=2_000)
    assert packed(lengths, 128) == packed(lengths.copy(), 128)


def test_copies_of_a_document_rarely_share_a_row():
    lengths = np.repeat(np.random.default_rng(0).integers(8, 40, size=5_000), 3)  # three copies of each document
    shared = sum(len(row) - len({piece // 3 for piece in row}) for row in packed(lengths, 128))
    assert shared / len(lengths) < 0.02


def split_with_a_loop(start: int, end: int, size: int, ends: set[int]) -> list[list[int]]:
    """One document: a piece stops after the last sentence end that fills it beyond MIN_FILL, else where full."""
    pieces = []
    while end - start > size:
        stop = start + size
        for position in range(start + size - 1, start + int(MIN_FILL * size) - 1, -1):
            if position in ends:
                stop = position + 1
                break
        pieces.append([start, stop - start])
        start = stop
    return [*pieces, *([[start, end - start]] * (end > start))]


@pytest.mark.parametrize("size", [1, 2, 7, 30, 126])
@pytest.mark.parametrize("rate", [0, 0.02, 0.2, 1])
def test_split_documents_matches_a_loop(size, rate):
    random = np.random.default_rng(size)
    lengths = random.integers(0, 5 * size, size=120) * random.integers(0, 2, size=120)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.flatnonzero(random.random(bounds[-1]) < rate)
    pieces = split_documents(bounds, size, ends).tolist()
    documents, ends = pairwise(bounds.tolist()), set(ends.tolist())
    assert pieces == [piece for start, end in documents for piece in split_with_a_loop(start, end, size, ends)]


def test_pieces_cover_each_document_and_end_with_a_sentence_if_possible():
    random = np.random.default_rng(3)
    bounds = np.concatenate([[0], np.cumsum(random.integers(0, 900, size=200))])
    ends = np.flatnonzero(random.random(bounds[-1]) < 0.1)
    pieces = split_documents(bounds, 100, ends)
    starts, after = pieces[:, 0], pieces.sum(1)
    assert starts[0] == 0 and after[-1] == bounds[-1] and np.array_equal(starts[1:], after[:-1])
    assert pieces[:, 1].min() > 0 and pieces[:, 1].max() <= 100
    assert set(bounds.tolist()) <= {0, *after.tolist()}, "no piece crosses from one document to the next"
    inner = pieces[~np.isin(after, bounds)]
    ended = np.isin(inner.sum(1) - 1, ends)
    # Each of the last twenty positions ends a sentence with probability 0.1.
    assert (inner[~ended, 1] == 100).all() and abs(ended.mean() - (1 - 0.9**20)) < 0.05
    assert inner[ended, 1].min() > MIN_FILL * 100


def test_splitting_no_documents_gives_no_pieces():
    ends = np.array([], np.int64)
    for bounds in ([0], [0, 0], [0, 0, 0]):
        pieces = split_documents(np.array(bounds), 5, ends)
        assert pieces.shape == (0, 2) and pieces.dtype == np.int64
    assert split_documents(np.array([0, 0, 5, 5]), 5, ends).tolist() == [[0, 5]]


TEXT = [
    'One. Two! Three? Four; five… six... seven: eight, "nine" (ten).',
    "千里之行。始于足下！好吗？",
    "плохо. хорошо!",
] * 9


def train_tokenizer(kind: str) -> tokenizers.Tokenizer:
    """A small tokenizer of the given kind."""
    options = {"vocab_size": 400, "special_tokens": ["[UNK]"], "show_progress": False}
    if kind == "wordpiece":
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trainer = trainers.WordPieceTrainer(**options)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "bpe":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **options)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_sentence_ends_are_found_in_every_kind_of_vocabulary(kind):
    tokenizer = train_tokenizer(kind)
    ends = set(sentence_end_ids(tokenizer.get_vocab()).tolist())
    strip = str.maketrans("", "", " ▁#")
    for token, number in tokenizer.get_vocab().items():
        text = tokenizer.decode([number]) if kind == "bpe" else token.translate(strip)
        assert (number in ends) == (text.strip() in {".", "!", "?", ";", "…", "...", "。", "！", "？"}), token
    for text, count in (("One. Two! Three?", 3), ("始于足下！好。", 2), ("no, end: here", 0)):
        assert sum(number in ends for number in tokenizer.encode(text, add_special_tokens=False).ids) == count, text


def test_to_byte_level_matches_the_byte_level_tokenizer():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("a b", "。", "é\n\t", "".join(map(chr, range(300))), "👍"):
        assert to_byte_level(text) == "".join(piece for piece, _ in byte_level.pre_tokenize_str(text))
