"""Windows of words hashed at once: equal exactly where the words are, and never across two texts."""

from __future__ import annotations

import itertools
import unicodedata

import daft
import numpy as np
import pyarrow
import pytest

from data.ngrams import MAX_WORD_BYTES, WordHashes, normalize_text

LETTERS = ["a", "b", "ab", "ba", "aa", "abb", "bab", "é", "e", "日", "本", "日本", "ß", "ss", "𝒳", "x" * 300, "x" * 301]
APART = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA LETTER",
    "KATAKANA LETTER",
    "THAI",
    "LAO ",
    "KHMER",
    "MYANMAR",
)


def large(texts: list[str]) -> pyarrow.Array:
    return pyarrow.array(texts, pyarrow.large_string())


def slow_windows(texts: list[str], size: int) -> list[tuple[int, tuple[str, ...]]]:
    """(number of the text, its words) of every window."""
    return [
        (number, tuple(words[at : at + size]))
        for number, words in enumerate(text.split() for text in texts)
        for at in range(len(words) - size + 1)
    ]


def agrees(words: WordHashes, texts: list[str], size: int) -> int:
    """Check one size of window against tuples of words; returns how many windows there are."""
    hashes, at = words.hash_ngrams(size)
    expected = slow_windows(texts, size)
    assert words.text_ids[at].tolist() == [number for number, _ in expected]
    hash_of, window_of = {}, {}
    for (_, window), one in zip(expected, hashes.tolist(), strict=True):
        assert hash_of.setdefault(window, one) == one, "the same words, another hash"
        assert window_of.setdefault(one, window) == window, "the same hash, other words"
    assert words.hash_ngrams_at(at, size).tolist() == hashes.tolist()
    return len(expected)


@pytest.mark.parametrize("seed", range(6))
def test_windows_are_equal_exactly_where_their_words_are(seed):
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(LETTERS, size=random.integers(0, 30))) for _ in range(200)]
    words = WordHashes.from_arrow(large(texts))
    assert words.words_per_text(len(texts)).tolist() == [len(text.split()) for text in texts]
    assert [agrees(words, texts, size) for size in (1, 2, 3, 5, 13)][-1] > 500


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
def test_no_window_crosses_from_one_text_to_another(texts):
    for size in (1, 2, 3, 4):
        agrees(WordHashes.from_arrow(large(texts)), texts, size)


def test_no_texts_at_all():
    for array in (large([]), large(["a b"]).slice(1, 0), large(["a b"]).slice(0, 0)):
        words = WordHashes.from_arrow(array)
        assert words.hash_ngrams(1)[0].tolist() == words.words_per_text(0).tolist() == []


def test_order_and_where_a_word_ends_count():
    every = ["".join(letters) for size in range(1, 11) for letters in itertools.product("ab", repeat=size)]
    agrees(WordHashes.from_arrow(large([" ".join(every)])), [" ".join(every)], 1)
    pairs = [" ".join(pair) for pair in itertools.product(every[:60], repeat=2)]
    assert agrees(WordHashes.from_arrow(large(pairs)), pairs, 2) == 3_600
    texts = [" ".join(order) for order in itertools.permutations(["red", "green", "blue", "grey", "black"])]
    hashes, _ = WordHashes.from_arrow(large(texts)).hash_ngrams(5)
    assert len(set(hashes.tolist())) == 120


def test_hashes_do_not_depend_on_what_stands_around():
    hashes = {
        tuple(
            WordHashes.from_arrow(large([*before, "one two three", *after]))
            .hash_ngrams(3)[0]
            .tolist()[len(before) :][:1]
        )
        for before in ([], ["x y z"], ["x y z", "p q r"])
        for after in ([], ["u v w"])
    }
    assert len(hashes) == 1


def test_slices_of_arrow_arrays():
    random = np.random.default_rng(9)
    texts = [" ".join(random.choice(LETTERS, size=random.integers(0, 9))) for _ in range(50)]
    array = large(texts)
    for start, size in ((0, 50), (1, 49), (7, 20), (49, 1), (50, 0), (3, 1)):
        agrees(WordHashes.from_arrow(array.slice(start, size)), texts[start : start + size], 3)
    agrees(WordHashes.from_arrow(array.slice(10, 30).slice(5, 10)), texts[15:25], 2)
    agrees(
        WordHashes.from_arrow(pyarrow.chunked_array([array.slice(0, 9), array.slice(30, 5)]).combine_chunks()),
        texts[:9] + texts[30:35],
        2,
    )


def test_very_long_words():
    random = np.random.default_rng(2)
    long = "".join(random.choice(list("abcdefgh"), size=3 * MAX_WORD_BYTES))
    changed = [
        long[:at] + "z" + long[at + 1 :]
        for at in (0, 1, MAX_WORD_BYTES - 1, MAX_WORD_BYTES, MAX_WORD_BYTES + 1, len(long) - 1)
    ]
    lengths = [
        long[: MAX_WORD_BYTES - 1],
        long[:MAX_WORD_BYTES],
        long[: MAX_WORD_BYTES + 1],
        long[: 2 * MAX_WORD_BYTES],
    ]
    texts = [f"x {word} y" for word in [long, *changed, *lengths, long]]
    assert agrees(WordHashes.from_arrow(large(texts)), texts, 1) == 3 * len(texts)
    agrees(WordHashes.from_arrow(large(texts)), texts, 3)


def slow_compared(text: str) -> str:
    """A text as it is compared, a character at a time."""
    apart = "".join(f" {one} " if unicodedata.name(one, "").startswith(APART) else one for one in text)
    return " ".join("".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in apart).split()).lower()


def fast_compared(texts: list[str]) -> list[str]:
    return (
        daft.from_pydict({"text": texts}).select(normalize_text(daft.col("text")).alias("plain")).to_pydict()["plain"]
    )


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
def test_what_is_compared(text, expected):
    assert fast_compared([text]) == [expected] == [slow_compared(text)]


def test_what_is_compared_of_random_characters():
    random = np.random.default_rng(4)
    characters = list("aZé. \n'-_09,ßДжñ日本語かなカナไทยລາວខ្មែរမြန်မာ한국…—“”") + ["\u0301", "\u00a0", "𝒳", "😀"]
    texts = ["".join(random.choice(characters, size=random.integers(0, 40))) for _ in range(500)]
    assert fast_compared(texts) == [slow_compared(text) for text in texts]
