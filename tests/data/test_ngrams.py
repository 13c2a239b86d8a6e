"""Hashes of word n-grams: equal exactly where the words are equal, and never across two texts."""

from __future__ import annotations

import itertools
import unicodedata

import daft
import numpy as np
import pyarrow
import pytest

from data.ngrams import MAX_WORD_BYTES, WordHashes, normalize_text

LETTERS = ["a", "b", "ab", "ba", "aa", "abb", "bab", "é", "e", "日", "本", "日本", "ß", "ss", "𝒳", "x" * 300, "x" * 301]
UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER")
UNSPACED += ("THAI", "LAO ", "KHMER", "MYANMAR")


def to_arrow(texts: list[str]) -> pyarrow.Array:
    return pyarrow.array(texts, pyarrow.large_string())


def list_ngrams(texts: list[str], size: int) -> list[tuple[int, tuple[str, ...]]]:
    """(index of the text, words) of every n-gram."""
    return [
        (number, tuple(words[at : at + size]))
        for number, words in enumerate(text.split() for text in texts)
        for at in range(len(words) - size + 1)
    ]


def check_ngrams(words: WordHashes, texts: list[str], size: int) -> int:
    """Compare the hashes of one size with tuples of words; return the number of n-grams."""
    hashes, starts = words.hash_ngrams(size)
    expected = list_ngrams(texts, size)
    assert words.text_ids[starts].tolist() == [number for number, _ in expected]
    hash_by_ngram, ngram_by_hash = {}, {}
    for (_, ngram), value in zip(expected, hashes.tolist(), strict=True):
        assert hash_by_ngram.setdefault(ngram, value) == value, "the same words, another hash"
        assert ngram_by_hash.setdefault(value, ngram) == ngram, "the same hash, other words"
    assert words.hash_ngrams_at(starts, size).tolist() == hashes.tolist()
    return len(expected)


@pytest.mark.parametrize("seed", range(6))
def test_hashes_are_equal_exactly_where_the_words_are(seed):
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(LETTERS, size=random.integers(0, 30))) for _ in range(200)]
    words = WordHashes.from_arrow(to_arrow(texts))
    assert words.words_per_text(len(texts)).tolist() == [len(text.split()) for text in texts]
    assert [check_ngrams(words, texts, size) for size in (1, 2, 3, 5, 13)][-1] > 500


@pytest.mark.parametrize(
    "texts",
    [
        ["a b", "c d"],
        ["a b", "", "", "c"],
        ["", "", ""],
        [""],
        ["a"],
        ["a b c", "a b c"],
        ["", "a b"],
        ["a b", ""],
        ["é", "日 本"],
        ["a b c d e", "b c d e"],
    ],
)
def test_no_ngram_crosses_texts(texts):
    for size in (1, 2, 3, 4):
        check_ngrams(WordHashes.from_arrow(to_arrow(texts)), texts, size)


def test_no_texts_give_no_hashes():
    for array in (to_arrow([]), to_arrow(["a b"]).slice(1, 0), to_arrow(["a b"]).slice(0, 0)):
        words = WordHashes.from_arrow(array)
        assert words.hash_ngrams(1)[0].tolist() == words.words_per_text(0).tolist() == []


def test_word_order_and_boundaries_change_the_hash():
    words = ["".join(letters) for size in range(1, 11) for letters in itertools.product("ab", repeat=size)]
    check_ngrams(WordHashes.from_arrow(to_arrow([" ".join(words)])), [" ".join(words)], 1)
    pairs = [" ".join(pair) for pair in itertools.product(words[:60], repeat=2)]
    assert check_ngrams(WordHashes.from_arrow(to_arrow(pairs)), pairs, 2) == 3_600
    texts = [" ".join(order) for order in itertools.permutations(["red", "green", "blue", "grey", "black"])]
    hashes, _ = WordHashes.from_arrow(to_arrow(texts)).hash_ngrams(5)
    assert len(set(hashes.tolist())) == 120


def test_hashes_do_not_depend_on_the_surrounding_texts():
    hashes = set()
    for before, after in itertools.product(([], ["x y z"], ["x y z", "p q r"]), ([], ["u v w"])):
        words = WordHashes.from_arrow(to_arrow([*before, "one two three", *after]))
        hashes.add(words.hash_ngrams(3)[0].tolist()[len(before)])
    assert len(hashes) == 1


def test_slices_of_arrow_arrays_hash_like_copies():
    random = np.random.default_rng(9)
    texts = [" ".join(random.choice(LETTERS, size=random.integers(0, 9))) for _ in range(50)]
    array = to_arrow(texts)
    for start, size in ((0, 50), (1, 49), (7, 20), (49, 1), (50, 0), (3, 1)):
        check_ngrams(WordHashes.from_arrow(array.slice(start, size)), texts[start : start + size], 3)
    check_ngrams(WordHashes.from_arrow(array.slice(10, 30).slice(5, 10)), texts[15:25], 2)
    combined = pyarrow.chunked_array([array.slice(0, 9), array.slice(30, 5)]).combine_chunks()
    check_ngrams(WordHashes.from_arrow(combined), texts[:9] + texts[30:35], 2)


def test_every_byte_of_a_long_word_counts():
    random = np.random.default_rng(2)
    long = "".join(random.choice(list("abcdefgh"), size=3 * MAX_WORD_BYTES))
    near_limit = (MAX_WORD_BYTES - 1, MAX_WORD_BYTES, MAX_WORD_BYTES + 1)
    changed = [long[:at] + "z" + long[at + 1 :] for at in (0, 1, *near_limit, len(long) - 1)]
    truncated = [long[:length] for length in (*near_limit, 2 * MAX_WORD_BYTES)]
    texts = [f"x {word} y" for word in [long, *changed, *truncated, long]]
    assert check_ngrams(WordHashes.from_arrow(to_arrow(texts)), texts, 1) == 3 * len(texts)
    check_ngrams(WordHashes.from_arrow(to_arrow(texts)), texts, 3)


def normalize_with_a_loop(text: str) -> str:
    """Normalize a text one character at a time."""
    split = "".join(f" {char} " if unicodedata.name(char, "").startswith(UNSPACED) else char for char in text)
    return " ".join("".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in split).split()).lower()


def normalize_with_daft(texts: list[str]) -> list[str]:
    frame = daft.from_pydict({"text": texts}).select(normalize_text(daft.col("text")).alias("normalized"))
    return frame.to_pydict()["normalized"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Don't STOP -- me, now!", "don t stop me now"),
        ("  a\n\n b\t", "a b"),
        ("", ""),
        ("?!…", ""),
        ("我们说Python语言。", "我 们 说 python 语 言"),
        ("ひらカナ", "ひ ら カ ナ"),
        ("Straße 12,5 km", "straße 12 5 km"),
        ("ÀÉ n\u0303", "àé n\u0303"),
        ("snake_case", "snake case"),
        ("한국어 문장", "한국어 문장"),
    ],
)
def test_normalize_text(text, expected):
    assert normalize_with_daft([text]) == [expected] == [normalize_with_a_loop(text)]


def test_normalize_text_of_random_characters():
    random = np.random.default_rng(4)
    characters = list("aZé. \n'-_09,ßДжñ日本語かなカナไทยລາວខ្មែរမြန်မာ한국…—“”") + ["\u0301", "\u00a0", "𝒳", "😀"]
    texts = ["".join(random.choice(characters, size=random.integers(0, 40))) for _ in range(500)]
    assert normalize_with_daft(texts) == [normalize_with_a_loop(text) for text in texts]
