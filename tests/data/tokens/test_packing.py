"""Documents cut into pieces, pieces packed into rows: against slow loops that do it one at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.tokens.packing import MIN_FILL, pack_rows, sentence_end_ids, split_documents, to_byte_level


def room_left(costs: np.ndarray, length: int) -> list[int]:
    """Best-fit decreasing, a piece at a time: the room left in each row, ascending."""
    rows: list[int] = []
    for cost in sorted(costs.tolist(), reverse=True):
        fitting = [room for room in rows if room >= cost]
        if fitting:
            rows.remove(min(fitting))
        rows.append((min(fitting) if fitting else length) - cost)
    return sorted(rows)


def packed(costs: np.ndarray, length: int) -> list[list[int]]:
    """The rows, each a list of pieces."""
    pieces, starts = pack_rows(costs, length)
    assert starts[0] == 0 and starts[-1] == len(pieces) and (np.diff(starts) > 0).all()
    return [pieces[start:end].tolist() for start, end in zip(starts[:-1], starts[1:])]


@pytest.mark.parametrize("seed", range(40))
def test_pack_is_best_fit_decreasing(seed):
    random = np.random.default_rng(seed)
    length = int(random.choice([8, 17, 64, 128]))
    low = int(random.integers(1, length // 2))
    costs = random.integers(low, random.integers(low + 1, length + 2), size=random.integers(0, 300))
    rows = packed(costs, length)
    assert sorted(piece for row in rows for piece in row) == list(range(len(costs)))
    used = [int(costs[row].sum()) for row in rows]
    assert max(used, default=0) <= length
    assert sorted(length - each for each in used) == room_left(costs, length)


@pytest.mark.parametrize("low, high", [(3, 129), (3, 30), (43, 65), (128, 129)])
def test_pack_wastes_little(low, high):
    costs = np.random.default_rng(1).integers(low, high, size=3_000)
    # Of pieces from 43 positions on no three share a row, of those from 65 on no two.
    bound = max(costs.sum() / 128, (costs > 128 / 3).sum() / 2, (costs > 64).sum())
    assert len(packed(costs, 128)) <= 1.02 * bound + 1


def test_pack_of_nothing_of_one_and_of_equal_pieces():
    assert packed(np.zeros(0, np.int64), 8) == [] and packed(np.array([8]), 8) == [[0]]
    rows = packed(np.full(1_001, 3), 8)
    assert Counter(map(len, rows)) == {2: 500, 1: 1}


def test_packing_is_the_same_each_time():
    costs = np.random.default_rng(0).integers(3, 129, size=2_000)
    assert packed(costs, 128) == packed(costs.copy(), 128)


def test_repeats_of_a_document_do_not_share_a_row():
    lengths = np.repeat(np.random.default_rng(0).integers(8, 40, size=5_000), 3)  # each document three times over
    shared = sum(len(row) - len({piece // 3 for piece in row}) for row in packed(lengths, 128))
    assert shared / len(lengths) < 0.02


def cut_slowly(start: int, end: int, size: int, ends: set[int]) -> list[list[int]]:
    """One document, a place at a time: the last good end that fills the piece by more than EARLIEST, else where full."""
    pieces = []
    while end - start > size:
        after = start + size
        for place in range(start + size - 1, start + int(MIN_FILL * size) - 1, -1):
            if place in ends:
                after = place + 1
                break
        pieces.append([start, after - start])
        start = after
    return [*pieces, *([[start, end - start]] * (end > start))]


@pytest.mark.parametrize("size", [1, 2, 7, 30, 126])
@pytest.mark.parametrize("rate", [0, 0.02, 0.2, 1])
def test_pieces_of_is_a_slow_loop(size, rate):
    random = np.random.default_rng(size)
    lengths = random.integers(0, 5 * size, size=120) * random.integers(0, 2, size=120)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.flatnonzero(random.random(bounds[-1]) < rate)
    pieces = split_documents(bounds, size, ends).tolist()
    listed = set(ends.tolist())
    assert pieces == [
        piece
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist())
        for piece in cut_slowly(start, end, size, listed)
    ]


def test_pieces_cover_each_document_and_end_with_a_sentence_where_they_can():
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
    # Of twenty places, each the end of a sentence at one in ten.
    assert (inner[~ended, 1] == 100).all() and abs(ended.mean() - (1 - 0.9**20)) < 0.05
    assert inner[ended, 1].min() > MIN_FILL * 100


def test_pieces_of_no_documents():
    none = np.array([], np.int64)
    for bounds in ([0], [0, 0], [0, 0, 0]):
        found = split_documents(np.array(bounds), 5, none)
        assert found.shape == (0, 2) and found.dtype == np.int64
    assert split_documents(np.array([0, 0, 5, 5]), 5, none).tolist() == [[0, 5]]


TEXT = [
    'One. Two! Three? Four; five… six... seven: eight, "nine" (ten).',
    "千里之行。始于足下！好吗？",
    "плохо. хорошо!",
] * 9


def trained(kind: str) -> tokenizers.Tokenizer:
    """A small tokenizer of a kind."""
    special = {"vocab_size": 400, "special_tokens": ["[UNK]"], "show_progress": False}
    if kind == "wordpiece":
        made, trainer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(**special)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "bpe":
        made = tokenizers.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special)
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        made, trainer = tokenizers.Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token="[UNK]", **special)
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(TEXT, trainer)
    return made


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_sentence_ends_of_every_kind_of_vocabulary(kind):
    made = trained(kind)
    ends = set(sentence_end_ids(made.get_vocab()).tolist())
    strip = str.maketrans("", "", " ▁#")
    for token, number in made.get_vocab().items():
        text = made.decode([number]) if kind == "bpe" else token.translate(strip)
        assert (number in ends) == (text.strip() in {".", "!", "?", ";", "…", "...", "。", "！", "？"}), token
    for text, count in (("One. Two! Three?", 3), ("始于足下！好。", 2), ("no, end: here", 0)):
        assert sum(number in ends for number in made.encode(text, add_special_tokens=False).ids) == count, text


def test_byte_token_is_how_a_byte_level_tokenizer_spells():
    made = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("a b", "。", "é\n\t", "".join(map(chr, range(300))), "👍"):
        assert to_byte_level(text) == "".join(piece for piece, _ in made.pre_tokenize_str(text))
