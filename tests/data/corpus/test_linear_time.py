"""Cleaning and splitting take linear time on hostile text, with the results of the plain, slow patterns."""

import html
import random
import re
import time
import unicodedata
from collections import Counter

import pytest

from data.corpus.clean import clean_text, mask_pii
from data.corpus.config import Clean
from data.corpus.sentence_dedup import split_sentences

PLAIN_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"')\]]*\s+|[。！？]+|\n+|$)", re.DOTALL)
PLAIN_EMAIL = re.compile(r"\b[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+\b")
MASKING = Clean(mask_pii=True)


def random_texts(alphabet: str, count: int = 20_000, longest: int = 16) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(alphabet, k=rng.randint(1, longest))) for _ in range(count)]


def test_sentences_are_those_of_the_plain_pattern():
    for text in random_texts("ab .!?…\"')\n。"):
        assert split_sentences(text) == PLAIN_SENTENCE.findall(text), text


def test_addresses_are_those_of_the_plain_pattern():
    for text in random_texts("ab@.-+%' _"):
        assert mask_pii(text, Counter()) == PLAIN_EMAIL.sub("[email]", text), text


def test_long_runs_of_marks_are_normalized_as_unicode_says():
    rng = random.Random(1)
    marks = "\u0301\u0323\u0308\u0327\u0345\u05b0\u3099\u20d0\u2026\u1161"
    for _ in range(300):
        text = "e" + "".join(rng.choices(marks, k=rng.randint(30, 60))) + "o"
        assert clean_text(text, Clean(encoding=False)) == unicodedata.normalize("NFC", text)


def test_character_references_are_resolved_as_by_the_standard_library():
    for digits in ("65", "0065", "0" * 40 + "65", "9" * 7, "9" * 30, "0" * 30, "1114111", "1114112"):
        text = f"a &#{digits}; b"
        assert clean_text(text) == clean_text(html.unescape(text)), digits


@pytest.mark.parametrize(
    "pattern", ["<a ", '<a b="', "<!--", "....", "a.a.a @", "\u0301", "&#1", "&#9", "?!", ".'", "1:"]
)
def test_time_is_linear(pattern):
    text = "x" + pattern * (200_000 // len(pattern))
    start = time.perf_counter()
    clean_text(text, MASKING)
    split_sentences(text)
    assert time.perf_counter() - start < 10
