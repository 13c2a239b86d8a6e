"""TF-IDF and one-hot features: of words, or of characters where words are not set apart by spaces, as in Chinese."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data.tasks.overlap import UNSPACED_SCRIPTS

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

UNSPACED_PATTERN = re.compile(f"[{UNSPACED_SCRIPTS}]")
CHARACTER_NGRAMS = (1, 3)


def has_spaces(texts: list[str]) -> bool:
    """Return whether at least as many words are set apart by spaces as there are characters of scripts without them."""
    return sum(len(text.split()) for text in texts) >= sum(len(UNSPACED_PATTERN.findall(text)) for text in texts)


def describe_tfidf(texts: list[str]) -> str:
    """Return the name of the features of `tfidf_vectorizer`."""
    return "TF-IDF" if has_spaces(texts) else "TF-IDF of characters"


def describe_one_hot(texts: list[str]) -> str:
    """Return the name of the features of `one_hot_vectorizer`."""
    return "one-hot words" if has_spaces(texts) else "one-hot characters"


def one_hot_vectorizer(texts: list[str]) -> TfidfVectorizer:
    """Return a vectorizer to fit on these texts: 1 for each word, or character, that a text has, and else 0."""
    vectorizer = tfidf_vectorizer(texts, (1, 1))
    return vectorizer.set_params(ngram_range=(1, 1), binary=True, use_idf=False, sublinear_tf=False, norm=None)


def tfidf_vectorizer(texts: list[str], word_ngrams: tuple[int, int]) -> TfidfVectorizer:
    """Return TF-IDF to fit on these texts, of n-grams of words or characters.

    If no text has a word of two letters, everything between spaces is a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not has_spaces(texts):
        return TfidfVectorizer(analyzer="char", ngram_range=CHARACTER_NGRAMS, sublinear_tf=True)
    vectorizer = TfidfVectorizer(ngram_range=word_ngrams, sublinear_tf=True)
    if not any(map(re.compile(vectorizer.token_pattern).search, texts)):
        vectorizer.set_params(token_pattern=r"\S+")
    return vectorizer
