"""Duplicates, compared with a reference that compares every pair, for any chunk size."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import networkx
import numpy as np
import pytest

from data.cache import read_manifest
from data.corpus import deduplicate, signals
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.deduplicate import (
    ConcatenatedArray,
    find_equal_keys,
    find_exact_duplicates,
    find_near_duplicates,
    merge_groups,
)

VOCABULARY = [
    f"{a}{b}"
    for a in ("ba", "do", "fi", "gu", "ke", "la", "mo", "ni", "pe", "ru") * 2
    for b in ("mar", "tel", "sin", "kov", "dun", "rap", "lis", "vog", "hem", "zat")
]


def words(random: np.random.Generator, count: int) -> list[str]:
    return [
        f"{word}{number}"
        for word, number in zip(random.choice(VOCABULARY, count), random.integers(0, 50, count), strict=True)
    ]


def replace_words(random: np.random.Generator, text: list[str], indices: list[int]) -> list[str]:
    """Return a copy of the words with new ones at these indices."""
    copy = list(text)
    for index, word in zip(indices, words(random, len(indices)), strict=True):
        copy[index] = f"{word}x"
    return copy


def grams(text: str) -> set[tuple[str, ...]]:
    tokens = text.lower().replace(".", " ").replace(",", " ").split()
    return {tuple(tokens[at : at + 5]) for at in range(len(tokens) - 4)}


def reference_groups(texts: list[str], similarity: float) -> list[int]:
    """Return for each text the first one linked to it, by the true Jaccard similarity of every pair."""
    graph, sets = networkx.Graph(), [grams(text) for text in texts]
    graph.add_nodes_from(range(len(texts)))
    graph.add_edges_from(
        (a, b)
        for a in range(len(texts))
        for b in range(a)
        if sets[a] and sets[b] and len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= similarity
    )
    first = [0] * len(texts)
    for group in networkx.connected_components(graph):
        for number in group:
            first[number] = min(group)
    return first


def drop_reasons(folder: Path, texts: list[str], **deduplicate) -> list[str]:
    """Return the drop reason of each text in a corpus that is only deduplicated."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = Corpus(
        name="made",
        sources=[{"files": str(folder / "texts.jsonl")}],
        deduplicate=deduplicate,
        filter={"min_words": 0, "min_letters": 0, "max_repeated_lines": 1, "max_compression": 1000},
    )
    corpus_folder = build_corpus(corpus)
    names = read_manifest(corpus_folder)["reasons"]
    return [names[number] for number in np.fromfile(corpus_folder / "dropped.bin", np.uint8)]


def read_signatures(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the signatures of texts."""
    drop_reasons(folder, texts, near=True, exact=False)
    (path,) = (folder / "out/signals").glob("*/signature.bin")
    return np.fromfile(path, np.uint32).reshape(len(texts), signals.NUM_HASHES)


def on_disk(folder: Path, array: np.ndarray, *cuts: int) -> ConcatenatedArray:
    """Return an array in several files, cut at these rows."""
    bounds = [0, *cuts, len(array)]
    paths = []
    for number, (start, end) in enumerate(pairwise(bounds)):
        paths.append(folder / f"{number}.bin")
        paths[-1].write_bytes(array[start:end].tobytes())
    return ConcatenatedArray(paths, array.dtype, 1 if array.ndim == 1 else array.shape[1])


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def planted_duplicates() -> tuple[list[str], list[int]]:
    """(texts, the first of each group): chains of near duplicates, and texts with little in common."""
    random, texts = np.random.default_rng(5), []
    for number in range(40):
        text = words(random, 80)
        texts.append(text)
        for step in range(number % 4):  # a chain: each differs from the previous one in one more word
            texts.append(replace_words(random, texts[-1], [10 + 20 * step]))
        texts.append(text[:20] + words(random, 60))  # a quarter in common is no duplicate
    order = random.permutation(len(texts))
    texts = [" ".join(texts[index]) for index in order]
    first = reference_groups(texts, 0.6)
    assert first == reference_groups(texts, 0.75) == reference_groups(texts, 0.3), (
        "the groups must not depend on errors of the estimate"
    )
    return texts, first


def test_near_duplicates_are_the_groups_of_the_true_similarity(tmp_path, planted_duplicates):
    texts, first = planted_duplicates
    reasons = drop_reasons(tmp_path, texts)
    assert reasons == ["kept" if before == number else "near duplicate" for number, before in enumerate(first)]
    assert reasons.count("near duplicate") == 60


def test_signatures_estimate_the_true_similarity(tmp_path):
    random, texts = np.random.default_rng(1), []
    for number in range(60):
        text = words(random, 200)
        texts += [" ".join(text), " ".join(text[: 20 + 3 * number] + words(random, 180 - 3 * number))]
    signatures = read_signatures(tmp_path, texts)
    true = [len(grams(a) & grams(b)) / len(grams(a) | grams(b)) for a, b in zip(texts[::2], texts[1::2], strict=True)]
    errors = (signatures[::2] == signatures[1::2]).mean(1) - true
    # The standard deviation of an estimate from 100 hashes is at most 0.05.
    assert abs(errors.mean()) < 0.02 and errors.std() < 0.06 and min(true) < 0.1 and max(true) > 0.9


def test_near_duplicates_are_groups_of_similar_signatures_in_several_files(tmp_path, monkeypatch):
    random, rows = np.random.default_rng(0), []
    for number in range(150):
        row = random.integers(0, 2**32 - 1, signals.NUM_HASHES, dtype=np.uint32)
        for _ in range(1 + number % 5):
            copy = row.copy()
            copy[random.choice(signals.NUM_HASHES, 8, replace=False)] = random.integers(0, 2**32 - 1, 8)
            rows.append(copy)
    signatures = np.stack(rows)[random.permutation(len(rows))]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(signatures)))
    is_similar = (signatures[:, None] == signatures[None]).mean(2) >= 0.6
    graph.add_edges_from(np.argwhere(is_similar).tolist())
    expected = np.zeros(len(signatures), int)
    for group in networkx.connected_components(graph):
        expected[list(group)] = min(group)
    is_candidate = np.ones(len(signatures), bool)
    progress = []
    first = find_near_duplicates(on_disk(tmp_path, signatures), is_candidate, 0.6, progress.append)
    assert first.tolist() == expected.tolist() and progress == list(range(deduplicate.NUM_BANDS + 1))
    arrays = on_disk(tmp_path, signatures, 0, 1, 100, 100, 333)
    assert find_near_duplicates(arrays, is_candidate, 0.6).tolist() == expected.tolist()
    monkeypatch.setattr(deduplicate, "CHUNK_HASHES", 50)
    monkeypatch.setattr(deduplicate, "CHUNK_PAIRS", 3)
    assert find_near_duplicates(arrays, is_candidate, 0.6).tolist() == expected.tolist()


def test_only_candidates_with_similar_signatures_are_near_duplicates(tmp_path):
    random = np.random.default_rng(3)
    row = random.integers(0, 2**32 - 1, signals.NUM_HASHES, dtype=np.uint32)
    half = row.copy()
    half[:50] += 1  # twelve bands agree, but only half of the hashes
    arrays = on_disk(tmp_path, np.stack([row, row, half, row]))
    assert find_near_duplicates(arrays, np.array([True] * 4), 0.6).tolist() == [0, 0, 2, 0]
    assert find_near_duplicates(arrays, np.array([True] * 4), 0.4).tolist() == [0, 0, 0, 0]
    assert find_near_duplicates(arrays, np.array([False, True, True, True]), 0.6).tolist() == [0, 1, 2, 1]


def test_texts_of_fewer_than_five_words_are_never_near_duplicates(tmp_path):
    texts = [
        "red stone wall here",
        "Red stone, wall here",
        "red stone wall",
        "stone",
        "five red stones lie here",
        "five red stones lie there",
        "four. red. stones, lie",
        "...",
        "a b c d e f g h",
        "A b c d e, f g h!",
    ]
    assert drop_reasons(tmp_path, texts, exact=False) == ["kept"] * 9 + ["near duplicate"]
    assert (read_signatures(tmp_path, texts)[:4] == signals.NO_SIGNATURE).all()


def test_exact_duplicates_have_the_same_words(tmp_path):
    random = np.random.default_rng(8)
    texts = []
    for _ in range(300):
        tokens = words(random, 3) if random.random() < 0.5 else [f"w{random.integers(0, 6)}" for _ in range(3)]
        tokens = [word.upper() if random.random() < 0.2 else word for word in tokens]
        texts.append(random.choice([" ", ", ", "\n", " -- "]).join(tokens) + random.choice(["", ".", " !"]))
    texts += ["日本 語", "日本語", "Ünder", "under"]
    seen, expected = set(), []
    for text in texts:
        normalized = " ".join(text.lower().translate(str.maketrans(".,-!", "    ")).split()).replace(
            "日本語", "日本 語"
        )
        expected.append("exact duplicate" if normalized in seen else "kept")
        seen.add(normalized)
    assert expected.count("exact duplicate") > 30
    assert drop_reasons(tmp_path, texts, near=False) == expected
    assert set(drop_reasons(tmp_path, texts, exact=False, near=False)) == {"kept"}


def test_exact_duplicates_match_a_dictionary_for_any_chunk_size(tmp_path, monkeypatch):
    random = np.random.default_rng(7)
    hashes = random.choice(random.integers(0, 2**63, 300, dtype=np.uint64), 1_000)
    is_candidate = random.random(1_000) < 0.8
    expected, before = list(range(1_000)), {}
    for number, (value, selected) in enumerate(zip(hashes.tolist(), is_candidate, strict=True)):
        if selected:
            expected[number] = before.setdefault(value, number)
    arrays = on_disk(tmp_path, hashes, 10, 10, 700)
    for chunk_size in (2**23, 1_000, 999, 64, 1):
        monkeypatch.setattr(deduplicate, "CHUNK_HASHES", chunk_size)
        assert find_exact_duplicates(arrays, is_candidate).tolist() == expected
        later = np.concatenate([later for _, later in find_equal_keys(arrays, is_candidate)])
        assert len(later) == len(set(later.tolist())) == sum(a != b for a, b in enumerate(expected))


def test_concatenated_array_reads_several_files_as_one(tmp_path):
    array = np.random.default_rng(0).integers(0, 2**32, (200_000, 3), dtype=np.uint32)
    arrays = on_disk(tmp_path, array, 0, 70_000, 70_000, 70_001)
    assert len(arrays) == len(array)
    starts, blocks = zip(*((start, np.array(block)) for start, block in arrays.iter_blocks(2**14)), strict=True)
    assert (np.concatenate(blocks) == array).all() and max(map(len, blocks)) <= 2**14
    assert list(starts) == np.concatenate([[0], np.cumsum([len(block) for block in blocks])])[:-1].tolist()
    indices = np.random.default_rng(1).integers(0, len(array), 1_000)
    assert (arrays.take(indices) == array[indices]).all()
    assert arrays.take(np.zeros(0, np.int64)).shape == (0, 3)
    assert not list(find_equal_keys(on_disk(tmp_path, np.zeros(0, np.uint64)), np.zeros(0, bool)))


@pytest.mark.parametrize("seed", range(8))
def test_merged_groups_are_connected_components(seed):
    random = np.random.default_rng(seed)
    count, graph = 200, networkx.Graph()
    graph.add_nodes_from(range(count))
    first = np.arange(count)
    for _ in range(3):  # groups grow over several rounds, like over several bands
        starts = np.unique(first)
        left, right = random.choice(starts, (2, random.integers(1, 40)))
        graph.add_edges_from(zip(left.tolist(), right.tolist(), strict=True))
        first = merge_groups(first, left, right)
        for group in networkx.connected_components(graph):
            assert {int(first[number]) for number in group} == {min(group)}
