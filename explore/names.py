"""Names of clusters by class-based TF-IDF (Grootendorst 2022), in any language, and their typical texts.

A word of more than half of the clusters names none of them, so no list of stop words is needed.
"""

from __future__ import annotations

import numpy as np

from data.tasks.tfidf import has_spaces
from explore.choose import sample_indices

NUM_TERMS = 4
NUM_TYPICAL = 3
MAX_NAMED = 40_000  # texts to count words of
MAX_FEATURES = 100_000
MAX_TERM_CHARS = 30
COMMON_SHARE = 0.25  # of the largest share in a cluster; a term that often in over half of them is common
NAME_STREAM = 2**36 + 5


def count_terms(texts: list[str], owners: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    """Return (counts of terms in clusters, float64 (clusters, terms); the terms).

    Terms are words and pairs of words or, where words are not set apart by spaces, two to four characters.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    options = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b[^\W\d_][\w'’-]+\b"}
    if not has_spaces(texts[:1_000]):
        options = {"ngram_range": (2, 4), "analyzer": "char", "lowercase": False}
    min_count = 2 if len(texts) > 200 else 1
    try:
        vectorizer = CountVectorizer(**options, min_df=min_count, max_features=MAX_FEATURES, binary=True)
        counts = vectorizer.fit_transform(texts)
    except ValueError:  # no term at all
        return np.zeros((count, 0)), []
    members = csr_matrix((np.ones(len(owners)), (owners, np.arange(len(owners)))), (count, len(owners)))
    return (members @ counts).toarray(), list(vectorizer.get_feature_names_out())


def score_terms(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the class-based TF-IDF of terms, (clusters, terms), 0 for a term of more than half of the clusters.

    counts: of texts with a term, (clusters, terms); sizes: texts of each cluster, (clusters,).
    """
    totals, of_cluster = counts.sum(0), np.maximum(counts.sum(1, keepdims=True), 1)
    scores = counts / of_cluster * np.log(1 + counts.sum() / len(counts) / np.maximum(totals, 1))
    shares = counts / np.maximum(sizes, 1)[:, None]
    is_common = (shares > COMMON_SHARE * shares.max(0, initial=0)).mean(0) > 0.5
    scores[:, is_common & (len(sizes) > 2)] = 0
    return scores


def pick_terms(scores: np.ndarray, terms: list[str]) -> list[str]:
    """Return the best terms of a cluster, none within another."""
    picked: list[str] = []
    for index in np.argsort(-scores, kind="stable")[: 12 * NUM_TERMS]:
        term = terms[index].strip()
        if len(picked) == NUM_TERMS or scores[index] <= 0:
            break
        words = set(term.split())
        if not term or len(term) > MAX_TERM_CHARS or any(words & set(each.split()) or term in each for each in picked):
            continue
        picked.append(term)
    return picked


def name_clusters(texts: list[str], clusters: np.ndarray, count: int, seed: int) -> list[str]:
    """Return a name for each cluster, such as `card, payment, declined`; its number if no term is its own.

    clusters: int32 (texts,), -1 for none.
    """
    chosen = sample_indices(np.flatnonzero(clusters >= 0), MAX_NAMED, seed, NAME_STREAM)
    counts, terms = count_terms([texts[index] for index in chosen], clusters[chosen], count)
    scores = score_terms(counts, np.bincount(clusters[chosen], minlength=count))
    return [", ".join(pick_terms(row, terms)) or f"cluster {number}" for number, row in enumerate(scores)]


def find_typical(points: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return (how typical each input is of its cluster, from 0 to 1, float32 (inputs,); the most typical of each)."""
    typicality, typical = np.zeros(len(points), np.float32), []
    for cluster in range(count):
        members = np.flatnonzero(clusters == cluster)
        distances = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
        order = np.argsort(distances, kind="stable")
        typicality[members[order]] = 1 - np.arange(len(members)) / max(1, len(members))
        typical.append(members[order[:NUM_TYPICAL]])
    return typicality, typical
