"""From files to documents: filter rules, counts, deduplication of sentences, caching, interrupted runs, the command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, environment, run_module, start_module

from data.cache import read_manifest
from data.config import Prepare
from data.corpus import extract
from data.corpus.build import build_corpus
from data.corpus.clean import clean_text
from data.corpus.config import Corpus, CorpusSource, source_licenses
from data.corpus.documents import count_copies, iter_documents
from data.corpus.filters import ALL_RULES_OFF
from data.corpus.sentence_dedup import split_sentences
from data.prepare import prepare
from data.sources.source import resolve_files
from engine.config.loader import load_config
from engine.errors import DataError, TransferError

OFF = {"min_words": 0, "min_letters": 0, "max_repeated_lines": 1, "max_compression": 1000}
NOUNS = "river stone lamp wagon orchard window kettle hill gate meadow bridge candle mill cellar boat".split()
VERBS = "holds finds leaves paints carries turns follows keeps".split()
BPE = {"algorithm": "bpe", "vocab_size": 400}  # its training is deterministic
SYLLABLES = "bar den fol gim hur jas kel lom nav pir".split()
REASONS = [
    "kept",
    "min_words",
    "min_letters",
    "max_repeated_lines",
    "max_compression",
    "exact duplicate",
    "near duplicate",
    "contains test text",
]


def sentence(random: np.random.Generator) -> str:
    """Return a unique sentence of about a dozen words."""
    names = ["".join(random.choice(SYLLABLES, 3)).capitalize() for _ in range(5)]
    return (
        f"{names[0]} {random.choice(VERBS)} the {random.choice(NOUNS)} of {names[1]} and {names[2]}"
        f" {random.choice(VERBS)} a {random.choice(NOUNS)} with {names[3]} {names[4]}."
    )


def text(random: np.random.Generator, count: int = 4) -> str:
    return " ".join(sentence(random) for _ in range(count))


def write_files(folder: Path, files: int, rows: int, seed: int = 0) -> Path:
    """Write .jsonl files with an exact and a near duplicate, a text without letters and an empty text in each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    texts = [text(random) for _ in range(files * rows)]
    for number in range(files):
        lines = texts[number * rows : (number + 1) * rows]
        other = texts[(number * 7 + 3) % len(texts)]
        lines += [other, other.replace(other.split()[9], "Something", 1), "12 34 56 78 !!", "  "]
        (folder / f"{number:02}.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in lines))
    return folder


def make_corpus(folder: Path, texts: list[str], **keys) -> Corpus:
    """Return a corpus of one file of these texts, without filters or deduplication unless `keys` set them."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return Corpus(
        name="made",
        **{
            "sources": [{"files": "texts.jsonl"}],
            "filter": OFF,
            "deduplicate": {"exact": False, "near": False},
            **keys,
        },
    )


def kept_texts(folder: Path) -> list[str]:
    return [document["text"] for document in iter_documents(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_corpus_can_select_the_folders_of_its_texts(tmp_path):
    for name in ("fish", "birds"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text(f"a text about {name}")
    source = {"files": "texts", "where": {"folder": "fish"}}
    corpus = Corpus(name="animals", sources=[source], filter=OFF)
    assert [document["text"] for document in iter_documents(build_corpus(corpus))] == ["a text about fish"]
    (tmp_path / "texts" / "fish").rename(tmp_path / "texts" / "mammals")
    (tmp_path / "texts" / "birds").rename(tmp_path / "texts" / "fish")
    assert [document["text"] for document in iter_documents(build_corpus(corpus))] == ["a text about birds"]


def test_sources_of_one_name_keep_their_licenses():
    subsets = [("a", None), ("b", "mit"), ("c", None)]
    sources = [{"hub": "o/d", "subset": name, "license": terms} for name, terms in subsets]
    assert source_licenses(Corpus(name="c", sources=sources)) == {"o/d": None, "o/d (2)": "mit"}


# ---- rules ----------------------------------------------------------------------------------------------------------


def count_lines(texts: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in texts)


def count_letters(word: str) -> int:
    return sum(
        char.isalpha() or re.match(r"[\u0300-\u036f\u0900-\u0903\u093e-\u094d]", char) is not None for char in word
    )


STOP = "the be to of and that have with".split()
RULES = {  # rule: (value, function that returns whether it drops a text)
    "min_words": (6, lambda t: len(t.split()) < 6),
    "max_words": (40, lambda t: len(t.split()) > 40),
    "min_characters": (25, lambda t: len(t) < 25),
    "min_letters": (0.7, lambda t: count_letters(t) / len("".join(t.split())) < 0.7),
    "max_repeated_lines": (0.4, lambda t: 1 - len(set(t.split("\n"))) / len(t.split("\n")) > 0.4),
    "max_compression": (3.0, lambda t: len(t.encode()) / len(zlib.compress(t.encode())) > 3),
    "mean_word_length": ([3, 7], lambda t: not 3 <= len("".join(t.split())) / len(t.split()) <= 7),
    "max_symbol_words": (0.1, lambda t: max(t.count("#"), len(re.findall(r"\.\.\.|…", t))) / len(t.split()) > 0.1),
    "min_alphabetic_words": (0.8, lambda t: sum(count_letters(w) > 0 for w in t.split()) / len(t.split()) < 0.8),
    "max_bullet_lines": (0.5, lambda t: count_lines(t.split("\n"), r"^[•‣▪●*-]\s") / len(t.split("\n")) > 0.5),
    "max_ellipsis_lines": (0.3, lambda t: count_lines(t.split("\n"), r"(\.\.\.|…)$") / len(t.split("\n")) > 0.3),
    "min_stop_words": (2, lambda t: sum(w in STOP for w in re.findall(r"\w+", t.lower())) < 2),
}


def odd_texts() -> list[str]:
    """Return texts that fail each of the rules, and plain ones."""
    random, texts = np.random.default_rng(3), []
    pieces = [
        "river",
        "the",
        "a",
        "of",
        "#tag",
        "#",
        "...",
        "…",
        "12",
        "3,400",
        "--",
        "extraordinarily",
        "Ünder",
        "日本語",
        "हिन्दी",
        "na\u0308ive",
        "ok...",
        "AND",
        "thereof",
        "http",
        "x2",
        "(with)",
        "•",
        "-",
    ]
    for _ in range(250):
        line = [" ".join(random.choice(pieces, random.integers(1, 10))) for _ in range(random.integers(1, 6))]
        start = random.choice(["", "- ", "• ", "* "], p=[0.4, 0.2, 0.2, 0.2])
        end = random.choice(["", "...", " …"])
        lines = [f"{start}{each}{end}" for each in random.choice(line, len(line) + random.integers(0, 4))]
        texts.append("\n".join(lines))
    texts += [text(random, count) for count in (1, 2, 3, 8)]
    texts += ["same words again " * count for count in (2, 5, 30, 300)]
    return list(dict.fromkeys(clean_text(each) for each in texts))


def is_clear(rule: str, text: str) -> bool:
    """Return whether the rule has the same result for every implementation of zlib."""
    return rule != "max_compression" or not 2.8 < len(text.encode()) / len(zlib.compress(text.encode())) < 3.2


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_drops_the_same_texts_as_its_python_version(tmp_path, rule):
    value, drops = RULES[rule]
    texts = [each for each in odd_texts() if is_clear(rule, each)]
    expected = [each for each in texts if not drops(each)]
    assert 4 <= len(texts) - len(expected) and len(expected) >= 4
    folder = build_corpus(make_corpus(tmp_path, texts, filter=OFF | {rule: value}))
    assert kept_texts(folder) == expected
    manifest = read_manifest(folder)
    dropped = [each for each in texts if drops(each)]
    assert manifest["dropped"][rule] == {"documents": len(dropped), "words": sum(len(each.split()) for each in dropped)}
    assert manifest["examples"][rule] == [each[:300] for each in dropped[:10]]
    assert manifest["kept"] == {"documents": len(expected), "words": sum(len(each.split()) for each in expected)}


def test_the_drop_reason_is_the_first_failed_rule(tmp_path):
    texts, order = odd_texts(), list(RULES)
    texts = [each for each in texts if is_clear("max_compression", each)]
    folder = build_corpus(make_corpus(tmp_path, texts, filter={rule: value for rule, (value, _) in RULES.items()}))
    names = read_manifest(folder)["reasons"]
    reasons = [names[number] for number in np.fromfile(folder / "dropped.bin", np.uint8)]
    assert names == ["kept", *order, *REASONS[-3:]]
    assert reasons == [next((rule for rule in order if RULES[rule][1](each)), "kept") for each in texts]
    assert len(set(reasons)) > 7


def test_default_filters_only_drop_clear_garbage(tmp_path):
    random = np.random.default_rng(0)
    good = [text(random), "好的文章没有空格也可以留下来。", "Короткая строка.", "Yes.", "हिन्दी में एक वाक्य"]
    poor = {
        "1 2 3 4 5 6 7 8 9": "min_letters",
        "line\n" * 9 + "other": "max_repeated_lines",
        "again and again " * 400: "max_compression",
    }
    folder = build_corpus(make_corpus(tmp_path, [*good, *poor], filter={}))
    assert kept_texts(folder) == good
    dropped = read_manifest(folder)["dropped"]
    assert {reason: counts["documents"] for reason, counts in dropped.items()} == {
        reason: int(reason in poor.values()) for reason in REASONS[1:]
    }


def test_languages_are_filtered(tmp_path):
    english = [
        "The weather was cold and everyone stayed at home with a book.",
        "We walked over the hill to the old mill.",
    ]
    german = [
        "Das Wetter war kalt und alle blieben mit einem Buch zu Hause.",
        "Wir gingen über den Hügel zur alten Mühle.",
    ]
    french = ["Il faisait froid et tout le monde restait à la maison avec un livre."]
    texts = [english[0], german[0], french[0], german[1], english[1]]
    for languages, expected in ((["en"], english), (["de", "fr"], [german[0], french[0], german[1]]), ([], texts)):
        folder = build_corpus(make_corpus(tmp_path, texts, filter=OFF | {"languages": languages}))
        assert kept_texts(folder) == expected
        dropped = read_manifest(folder)["dropped"].get("languages", {"documents": 0})
        assert dropped["documents"] == len(texts) - len(expected)


def test_the_manifest_has_counts_and_examples(tmp_path):
    random = np.random.default_rng(1)
    good = [text(random) for _ in range(30)]
    poor = [f"{number} {number} 5" for number in range(25)]
    texts = [*good, *poor, "  ", "", "<br/>", *good[:12], good[0].upper()]
    folder = build_corpus(make_corpus(tmp_path, texts, filter={}, deduplicate={}))
    manifest = read_manifest(folder)
    assert manifest["read"] | {"words": 0, "fixed": {}} == {
        "files": 1,
        "rows": 71,
        "empty_rows": 3,
        "documents": 68,
        "words": 0,
        "fixed": {},
        "problems": [],
    }
    assert {reason: counts["documents"] for reason, counts in manifest["dropped"].items() if counts["documents"]} == {
        "min_letters": 25,
        "exact duplicate": 13,
    }
    assert manifest["kept"]["documents"] == 30 and kept_texts(folder) == good
    assert manifest["read"]["words"] == manifest["kept"]["words"] + sum(
        counts["words"] for counts in manifest["dropped"].values()
    )
    assert manifest["examples"]["min_letters"] == poor[:10]
    assert manifest["examples"]["exact duplicate"] == [each[:300] for each in good[:10]]
    assert all(len(each) <= 300 for examples in manifest["examples"].values() for each in examples)
    most = manifest["most_duplicated"]
    assert most[0] == {"copies": 3, "text": good[0][:300]} and len(most) == 10
    assert {each["copies"] for each in most[1:]} == {2}
    names = np.array(manifest["reasons"])[np.fromfile(folder / "dropped.bin", np.uint8)]
    assert names.tolist() == ["kept"] * 30 + ["min_letters"] * 25 + ["exact duplicate"] * 13


# ---- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "One. Two! Three?",
        "No end",
        "A line\nanother line\nthird.",
        'He answered "yes." Then he left...  Really?!',
        "日本。語！",
        "...",
        "Dr. No went. U.S.A. remains",
        "a.b.c",
        "x\n. y",
        "e.g.\n\n!?",
    ],
)
def test_sentences_joined_are_the_text(text):
    assert "".join(split_sentences(text)) == text and all(split_sentences(text))


def test_sentences_end_at_punctuation_and_lines():
    assert split_sentences("One. Two! Three?") == ["One. ", "Two! ", "Three?"]
    assert split_sentences("first line\nsecond") == ["first line\n", "second"]
    assert split_sentences("日本。語！x") == ["日本。", "語！", "x"]


def test_sentence_deduplication_matches_a_python_version(tmp_path):
    random = np.random.default_rng(6)
    pool = [sentence(random) for _ in range(40)] + ["Too short to count.", "Yes!", "No."]
    texts = []
    for _ in range(120):
        sentences = random.choice(pool, random.integers(1, 6), replace=False)
        sentences = [each.upper() if random.random() < 0.1 else each for each in sentences]
        texts.append(str(random.choice(["\n", " "])).join(sentences))
    seen, expected, num_dropped = set(), [], 0
    for each in texts:
        left = []
        for piece in split_sentences(each):
            normalized = " ".join(re.findall(r"\w+", piece)).casefold()
            repeated = len(normalized.split()) >= 10 and normalized in seen
            seen.add(normalized)
            num_dropped += repeated
            left += [] if repeated else [piece]
        expected += [joined] if (joined := "".join(left).strip()) else []
    folder = build_corpus(make_corpus(tmp_path, texts, deduplicate={"exact": False, "near": False, "sentences": True}))
    assert kept_texts(folder) == expected
    num_read = sum(len(split_sentences(each)) for each in texts)
    assert read_manifest(folder)["sentences"] == {"read": num_read, "dropped": num_dropped} and num_dropped > 100
    assert {path.name for path in folder.iterdir()} == {"dropped.bin", "sentences.bin", "manifest.json"}


def test_texts_without_repeated_sentences_are_unchanged(tmp_path):
    random = np.random.default_rng(2)
    texts = [text(random).replace(". ", random.choice([".\n", "... ", '." ', "! "]), 2) for _ in range(50)]
    texts.insert(3, texts[0])  # dropped as a duplicate, so its sentences occur once
    folder = build_corpus(make_corpus(tmp_path, texts, deduplicate={"sentences": True}))
    assert kept_texts(folder) == texts[:3] + texts[4:] and read_manifest(folder)["sentences"]["dropped"] == 0


# ---- caching --------------------------------------------------------------------------------------------------------


def prepare_shards(folder: Path, **keys) -> Path:
    """Return the shards of a folder of text."""
    corpus = Corpus(name="made", sources=[{"files": str(folder)}], held_out=0.1, **keys)
    config = Prepare(corpus=corpus, tokenizer=BPE, max_length=32)
    return prepare(config.corpus, config.tokenizer, None, config.max_length)[-1].resolve()


def modification_times() -> dict[str, int]:
    """Return the modification time of each derived folder."""
    return {str(path): path.stat().st_mtime_ns for path in Path("out").glob("*/*") if path.parent.name != "cache"}


def test_two_runs_write_identical_files(tmp_path, monkeypatch):
    write_files(tmp_path / "text", 6, 40)
    built = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shards = prepare_shards(tmp_path / "text")
        (dropped,) = Path("out/corpus").glob("*/dropped.bin")
        built.append((shards.name, dropped.read_bytes(), contents(shards)))
    assert built[0] == built[1] and len(built[0][1]) == 6 * 43 and len(set(built[0][1])) == 4


TRAIN_TOKENIZERS = """
from data.corpus.build import build_corpus
from data.corpus.config import Corpus, CorpusSource
from data.tokens.config import TokenizerConfig
from data.tokens.tokenizer import train_on_corpus
corpus = build_corpus(Corpus(name="made", sources=[{"files": "text"}]))
for algorithm in ("wordpiece", "bpe", "unigram"):
    train_on_corpus(algorithm, TokenizerConfig(algorithm=algorithm, vocab_size=400), corpus, 128)
"""


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory) -> list[dict[str, dict]]:
    """{algorithm: tokenizer.json} of two processes, trained on the same text."""
    folder = write_files(tmp_path_factory.mktemp("trained") / "text", 1, 200).parent
    tokenizers = []
    for seed in ("1", "2"):
        (folder / seed).mkdir()
        (folder / seed / "text").symlink_to(folder / "text")
        subprocess.run(
            [sys.executable, "-c", TRAIN_TOKENIZERS],
            cwd=folder / seed,
            env=environment(PYTHONHASHSEED=seed),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        tokenizers.append(
            {
                path.parent.name.rsplit("-")[0]: json.loads(path.read_text())
                for path in (folder / seed / "out/tokenizer").glob("*/tokenizer.json")
            }
        )
    return tokenizers


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_two_processes_train_the_same_tokenizer(trained_twice, algorithm):
    first, second = (each[algorithm] for each in trained_twice)
    assert first["model"]["vocab"] == second["model"]["vocab"] and first == second


def test_the_kept_documents_do_not_depend_on_the_bucket_size(tmp_path, monkeypatch):
    write_files(tmp_path / "text", 16, 20)
    kept = []
    for size, folders in ((2**26, 1), (2**15, None), (1, None)):
        (tmp_path / str(size)).mkdir()
        monkeypatch.chdir(tmp_path / str(size))
        monkeypatch.setattr(extract, "BUCKET_BYTES", size)
        folder = build_corpus(
            Corpus(name="made", sources=[{"files": str(tmp_path / "text")}], deduplicate={"near": False})
        )
        manifest = read_manifest(folder)
        assert (len(manifest["text_folders"]) == 1) == (folders == 1)
        texts = kept_texts(folder)
        assert len(texts) == len(set(texts))
        # Without near duplicates, of which another could come first.
        counts = {reason: each["documents"] for reason, each in manifest["dropped"].items()}
        kept.append((sorted(texts), counts, manifest["kept"]))
    assert kept[0] == kept[1] == kept[2]


def test_a_second_run_rebuilds_nothing(tmp_path, capsys):
    write_files(tmp_path / "text", 4, 20)
    shards = prepare_shards(tmp_path / "text")
    before = modification_times()
    assert {Path(path).parent.name for path in before} == {"text", "signals", "corpus", "tokenizer", "shards"}
    capsys.readouterr()
    assert prepare_shards(tmp_path / "text") == shards
    assert modification_times() == before and not capsys.readouterr().out


@pytest.mark.parametrize(
    "keys, rebuilt",
    [
        ({"filter": {"min_words": 3}}, {"signals", "corpus", "tokenizer", "shards"}),
        ({"deduplicate": {"similarity": 0.9}}, {"corpus", "tokenizer", "shards"}),
        ({"clean": {"mask_pii": True}}, {"text", "signals", "corpus", "tokenizer", "shards"}),
    ],
)
def test_a_changed_setting_rebuilds_only_what_depends_on_it(tmp_path, keys, rebuilt):
    write_files(tmp_path / "text", 2, 20)
    prepare_shards(tmp_path / "text")
    before = modification_times()
    prepare_shards(tmp_path / "text", **keys)
    after = modification_times()
    assert {path: after[path] for path in before} == before
    assert {Path(path).parent.name for path in after.keys() - before.keys()} == rebuilt


def test_an_added_file_rebuilds_only_its_bucket(tmp_path, monkeypatch):
    write_files(tmp_path / "text", 20, 20)
    monkeypatch.setattr(
        extract, "BUCKET_BYTES", sum(path.stat().st_size for path in (tmp_path / "text").iterdir()) // 6
    )
    old = prepare_shards(tmp_path / "text")
    before = modification_times()
    count = sum("out/text/" in path for path in before)
    assert count > 4
    (tmp_path / "text" / "20.jsonl").write_text(json.dumps({"text": text(np.random.default_rng(99))}) + "\n")
    new = prepare_shards(tmp_path / "text")
    after = modification_times()
    assert {path: after[path] for path in before} == before and new != old
    kinds = [Path(path).parent.name for path in after.keys() - before.keys()]
    assert sorted(kinds) == ["corpus", "shards", "signals", "text", "tokenizer"]
    folder = next(path for path in Path("out/corpus").iterdir() if str(path) not in before)
    assert sum(part["documents"] for part in read_manifest(folder)["text_folders"]) == 20 * 23 + 1


def test_changed_content_rebuilds_the_corpus_and_a_changed_name_does_not(tmp_path):
    write_files(tmp_path / "text", 1, 20)
    shards = prepare_shards(tmp_path / "text")
    (tmp_path / "text" / "00.jsonl").rename(tmp_path / "text" / "01.jsonl")
    assert prepare_shards(tmp_path / "text") == shards
    with open(tmp_path / "text" / "01.jsonl", "a") as file:
        file.write(json.dumps({"text": "Another line, added later on."}) + "\n")
    assert prepare_shards(tmp_path / "text") != shards


def test_files_of_an_archive_are_all_read_once_in_any_buckets(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    texts = [text(random) for _ in range(48)]
    with zipfile.ZipFile("texts.zip", "w") as archive:
        for number in range(0, len(texts), 4):
            lines = "".join(json.dumps({"text": each}) + "\n" for each in texts[number : number + 4])
            archive.writestr(f"{number:02}.jsonl", lines)
    monkeypatch.setattr(extract, "BUCKET_BYTES", 1000)
    folder = build_corpus(Corpus(name="made", sources=[{"files": "texts.zip", "member": "*.jsonl"}]))
    assert len(read_manifest(folder)["text_folders"]) > 4 and sorted(kept_texts(folder)) == sorted(texts)


@pytest.mark.parametrize(
    "names, columns", [(("rows.txt", "rows.jsonl"), []), (("rows.csv", "rows.tsv"), ["text", "source"])]
)
def test_a_name_that_means_another_format_is_another_corpus(tmp_path, names, columns):
    rows = [json.dumps({"text": each}) if not columns else f"{each}\tweb" for each in ("first text", "second text")]
    Path(names[0]).write_text("\n".join(rows))
    keys = {"filter": OFF, "deduplicate": {"near": False}}
    old = build_corpus(Corpus(name="made", sources=[{"files": names[0], "columns": columns}], **keys))
    assert sorted(kept_texts(old)) != ["first text", "second text"]
    Path(names[0]).rename(names[1])
    new = build_corpus(Corpus(name="made", sources=[{"files": names[1], "columns": columns}], **keys))
    assert sorted(kept_texts(new)) == ["first text", "second text"]


def test_a_file_named_twice_is_read_once_and_its_copies_are_dropped(tmp_path):
    path = str(write_files(tmp_path / "text", 1, 20) / "00.jsonl")
    sources = [{"files": path}, {"files": path, "weight": 2}]
    folder = build_corpus(Corpus(name="made", sources=sources))
    twice, once = read_manifest(folder), read_manifest(build_corpus(Corpus(name="once", sources=sources[:1])))
    assert twice["read"]["documents"] == 2 * once["read"]["documents"] and len(list(Path("out/text").iterdir())) == 1
    assert {document["copies"] for document in iter_documents(folder)} == {1}
    assert twice["kept"] == once["kept"] and twice["dropped"]["near duplicate"] == once["dropped"]["near duplicate"]


def test_weights_repeat_and_sample_documents(tmp_path):
    random = np.random.default_rng(0)
    texts = [text(random) for _ in range(400)]
    for weight, low, high in ((3, 1200, 1200), (0.5, 150, 250), (2.5, 950, 1050)):
        corpus = make_corpus(tmp_path, texts, sources=[{"files": "texts.jsonl", "weight": weight}])
        copies = [document["copies"] for document in iter_documents(build_corpus(corpus))]
        assert low <= sum(copies) <= high and set(copies) <= {int(weight), int(weight) + 1} - {0}
    assert count_copies("a text", 0.5) == count_copies("a text", 0.5)


# ---- processes ------------------------------------------------------------------------------------------------------

SMALL_BUCKETS = (
    "import runpy; import data.corpus.extract; data.corpus.extract.BUCKET_BYTES = 2**17;"
    "runpy.run_module('data', run_name='__main__')"
)
ARGS = [
    "corpus.name=made",
    "corpus.sources=[{files: text}]",
    "corpus.held_out=0.1",
    "max_length=32",
    "tokenizer.vocab_size=400",
    "tokenizer.algorithm=bpe",
]


def test_a_killed_run_resumes_and_builds_the_same_shards(tmp_path):
    write_files(tmp_path / "text", 16, 120)
    command, prefix = [SMALL_BUCKETS, *ARGS], (sys.executable, "-c")
    for name in ("uninterrupted", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").symlink_to(tmp_path / "text")
    done = run_module(*command, prefix=prefix, cwd=tmp_path / "uninterrupted", fresh=True)
    assert done.returncode == 0, done.stderr
    out, unfinished = tmp_path / "killed" / "out", set()
    # Each run is killed at a later stage, while it writes one folder and has finished some others.
    for kind, num_finished in (("text", 3), ("signals", 2), ("tokenizer", 0), ("shards", 0)):
        process = start_module(*command, prefix=("-c",), cwd=tmp_path / "killed")
        deadline = time.time() + 60
        while process.poll() is None and time.time() < deadline:
            names = os.listdir(out / kind) if (out / kind).is_dir() else []
            is_writing = any(".unfinished-" in name for name in names)
            if is_writing and sum(not name.startswith(".") for name in names) >= num_finished:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL, f"the run ended before it wrote {kind}"
        unfinished |= {path.parent.name for path in out.glob("*/.*.unfinished-*")}
        finished = {path: path.stat().st_mtime_ns for path in out.glob("*/[!.]*/manifest.json")}
        assert not (kind == "shards" and not finished)
    assert len(unfinished) >= 3, "too few kills interrupted the writing of a folder"
    done = run_module(*command, prefix=prefix, cwd=tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    # Folders finished before the last kill were not rebuilt, and no unfinished folder is left.
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(out.glob("*/.*"))
    first, second = (next((tmp_path / name / "out/shards").iterdir()) for name in ("uninterrupted", "killed"))
    assert first.name == second.name and contents(first) == contents(second)


class Page(HTMLParser):
    """The addresses that a browser would fetch, the tags, and the visible text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched, self.tags, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "data", "action", "srcset")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_command_prints_a_summary_and_writes_reports(tmp_path):
    folder = write_files(tmp_path / "text", 3, 60)
    hostile = '<script src="http://elsewhere.example/x.js">alert(1)</script> & <img src=http://elsewhere.example/i.png>'
    random = np.random.default_rng(50)
    lines = [f"{text(random, 1)} {hostile}"] * 2 + [text(random)]
    (folder / "hostile.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in lines))
    done = run_module("data", *ARGS, "corpus.clean.html=false", "corpus.sources=[{files: text, language: en}]")
    assert done.returncode == 0, done.stderr
    (shards,) = Path("out/shards").iterdir()
    report = json.loads((shards / "report.json").read_text())
    names = {path.name for path in shards.iterdir()}
    assert names == {"train", "held_out", "manifest.json", "report.json", "README.md", "report.html"}

    # The counts of all steps add up to the documents in the shards.
    left = {"documents": report["read"]["documents"], "words": report["read"]["words"]}
    assert report["read"]["rows"] == 3 * 64 + 3 == left["documents"] + report["read"]["empty_rows"]
    for reason in REASONS[1:]:
        left = {unit: count - report["dropped"][reason][unit] for unit, count in left.items()}
    assert left == report["kept"]
    assert (
        left["documents"]
        == report["train"]["documents"] + report["held_out"]["documents"]
        == sum(report["length_histogram"])
    )
    ends = [np.fromfile(shards / split / "documents.bin", np.int64) for split in ("train", "held_out")]
    assert [(len(each) - 1, int(each[-1])) for each in ends] == [
        (report[split]["documents"], report[split]["tokens"]) for split in ("train", "held_out")
    ]
    assert report["dropped"]["min_letters"]["documents"] == 3 and report["read"]["empty_rows"] == 3
    assert report["dropped"]["exact duplicate"]["documents"] >= 1 <= report["dropped"]["near duplicate"]["documents"]

    # The terminal, the README and the page show the same counts.
    tokens = sum(report[split]["tokens"] for split in ("train", "held_out"))
    page = Page((shards / "report.html").read_text())
    for shown in (done.stdout, (shards / "README.md").read_text(), " ".join(page.text)):
        for line in (
            ("read and cleaned", report["read"]["documents"], report["read"]["words"]),
            ("less: min_letters", report["read"]["documents"] - 3),
            ("in shards", left["documents"], left["words"], tokens),
        ):
            cells = [re.escape(f"{each:,}" if isinstance(each, int) else each) for each in line]
            assert re.search(r"[\s|]+".join(cells), shown), line
        assert "3 of 195 rows were empty" in shown
    assert f"shards      {shards}\n" in done.stdout and f"report      {shards}/report.html" in done.stdout
    assert not done.stderr.strip(), done.stderr

    # The page is self-contained and escapes the texts.
    assert page.fetched == [] and not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert "svg" in page.tags and "@import" not in "".join(page.text) and "url(" not in "".join(page.text)
    assert any(hostile in each for each in page.text), "the page must show the escaped text"
    assert any("text (en)" in each for each in page.text)

    again = run_module("data", *ARGS, "corpus.clean.html=false", "corpus.sources=[{files: text, language: en}]")
    assert again.returncode == 0 and "built out" not in again.stdout
    assert done.stdout.endswith(again.stdout) and "in shards" in again.stdout


@pytest.mark.parametrize(
    "args, expected",
    [
        (["corpus.sources=[{files: nowhere.jsonl}]"], "nowhere.jsonl: no such file"),
        (["corpus.sources=[{files: good.jsonl, text: txt}]"], "good.jsonl row 1: no column 'txt' (nearest: text)"),
        (["corpus.sources=[{files: blank.jsonl}]"], "corpus made: no text in blank.jsonl (2 rows read, all empty)"),
        (
            ["corpus.sources=[{files: good.jsonl}]", "corpus.filter.min_words=1000"],
            "corpus made: no text is left of good.jsonl ({'min_words': 3})",
        ),
        (
            ["corpus.sources=[{files: good.jsonl}]", "tokenizer.algorithm=wordpeice"],
            "tokenizer.algorithm: 'wordpeice' is none of wordpiece, bpe, unigram (nearest: wordpiece)",
        ),
        (
            ["corpus.sources=[{files: good.jsonl}]", "corpus.decontaminate.tasks=[nowhere.yaml]"],
            "nowhere.yaml: no such file",
        ),
        (
            ["corpus.sources=[{files: good.jsonl}]", "corpus.deduplicate.similarity=2"],
            "corpus.deduplicate.similarity: must be less than or equal to 1, not 2",
        ),
        (["corpus.sources=[{files: empty}]"], "empty: no file in this folder has a known extension"),
    ],
)
def test_a_user_error_is_one_line_with_exit_code_2(tmp_path, args, expected):
    good = [json.dumps({"text": text(np.random.default_rng(seed))}) + "\n" for seed in range(3)]
    (tmp_path / "good.jsonl").write_text("".join(good))
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    (tmp_path / "empty").mkdir()
    done = run_module("data", "corpus.name=made", *args)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith(expected), done.stderr
    assert not list(Path("out").glob("*/.*")) and not list(Path("out").glob("corpus/*"))


def test_help_lists_the_keys(tmp_path):
    done = run_module("data", "--help")
    assert done.returncode == 0
    for key in (
        "corpus.sources",
        "deduplicate.similarity",
        "decontaminate.action",
        "filter.min_letters",
        "clean.mask_pii",
        "tokenizer.algorithm",
        "max_length",
    ):
        assert key in done.stdout, key


def test_processes_read_buckets_and_report_user_errors(tmp_path, monkeypatch):
    from data.corpus import runner

    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(extract, "BUCKET_BYTES", 2**15)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = write_files(tmp_path / "text", 6, 40)
    parallel = build_corpus(Corpus(name="made", sources=[{"files": str(folder)}], deduplicate={"near": False}))
    texts = sorted(kept_texts(parallel))
    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 2**40)
    (tmp_path / "serial").mkdir()
    monkeypatch.chdir(tmp_path / "serial")
    serial = build_corpus(Corpus(name="made", sources=[{"files": str(folder)}], deduplicate={"near": False}))
    assert serial.name == parallel.name and sorted(kept_texts(serial)) == texts
    assert (serial / "dropped.bin").read_bytes() == (tmp_path / parallel / "dropped.bin").read_bytes()
    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 0)
    with pytest.raises(DataError, match=r"no column 'txt' \(nearest: text\)"):
        build_corpus(Corpus(name="wrong", sources=[{"files": str(folder), "text": "txt"}]))


def test_a_corpus_file_and_arguments_give_the_same_corpus(tmp_path):
    (tmp_path / "made.yaml").write_text("corpus: {name: made, sources: [{files: text}], deduplicate: {near: false}}\n")
    args = ["corpus.name=made", "corpus.sources=[{files: text}]", "corpus.deduplicate.near=false"]
    assert load_config(Prepare, ["made.yaml"]) == load_config(Prepare, args)


class SignedTexts(BaseHTTPRequestHandler):
    """Serves texts to those who know the signature."""

    def do_GET(self):
        body = b"\n\n".join(b"A film of number %d, and one more word." % number for number in range(50))
        self.send_response(200 if "sig=s3cret" in self.path else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


class UnsteadyTexts(SignedTexts):
    """Breaks off in the middle of the texts once `num_whole` requests have been answered."""

    num_requests, num_whole = 0, 1_000

    def do_GET(self):
        body = b"\n\n".join(b"A film of number %d, and one more word." % number for number in range(5_000))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            type(self).num_requests += 1
            self.close_connection = self.num_requests > self.num_whole
            self.wfile.write(body[: len(body) // 2] if self.close_connection else body)


def test_texts_that_a_broken_connection_cuts_off_are_not_stored():
    with ThreadingHTTPServer(("127.0.0.1", 0), UnsteadyTexts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = CorpusSource(files=f"http://127.0.0.1:{server.server_port}/texts.txt")
        corpus = Corpus(name="c", sources=[source], filter=OFF, deduplicate={"exact": False, "near": False})
        resolve_files(source)
        UnsteadyTexts.num_whole = 2 * UnsteadyTexts.num_requests  # the file is found a second time, then cut
        with pytest.raises(TransferError, match="texts.txt: the transfer failed .*; run the command again"):
            build_corpus(corpus)
        UnsteadyTexts.num_whole = 1_000
        assert len(kept_texts(build_corpus(corpus))) == 5_000
        server.shutdown()


def test_texts_of_an_address_with_credentials_are_read_without_filters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), SignedTexts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/texts.txt?sig=s3cret"
        steps = {"filter": ALL_RULES_OFF, "deduplicate": {"exact": False, "near": False}}
        folder = build_corpus(Corpus(name="c", sources=[{"files": url}], **steps))
        assert len(list(iter_documents(folder))) == 50
        server.shutdown()
    assert not any(b"s3cret" in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())
