"""From files to documents: every rule against a slow one, what is told, what is redone, what a killed run leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, environment, run_module

from data.cache import read_manifest
from data.config import Prepare
from data.corpus import extract
from data.corpus.build import build_corpus
from data.corpus.clean import clean_text
from data.corpus.config import Corpus
from data.corpus.documents import count_copies as document_copies, iter_documents
from data.corpus.sentence_dedup import split_sentences
from data.prepare import prepare
from engine.config.loader import load_config
from engine.errors import DataError
from engine.files import is_other_process_running

OFF = {"min_words": 0, "min_letters": 0, "max_repeated_lines": 1, "max_compression": 1000}
NOUNS = "river stone lamp wagon orchard window kettle hill gate meadow bridge candle mill cellar boat".split()
VERBS = "holds finds leaves mends carries turns follows keeps".split()
BPE = {"algorithm": "bpe", "vocab_size": 400}  # the algorithm whose training always gave the same vocabulary
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
    """A sentence of about a dozen words that stands nowhere else."""
    names = ["".join(random.choice(SYLLABLES, 3)).capitalize() for _ in range(5)]
    return (
        f"{names[0]} {random.choice(VERBS)} the {random.choice(NOUNS)} of {names[1]} and {names[2]}"
        f" {random.choice(VERBS)} a {random.choice(NOUNS)} with {names[3]} {names[4]}."
    )


def text(random: np.random.Generator, count: int = 4) -> str:
    return " ".join(sentence(random) for _ in range(count))


def made_files(folder: Path, files: int, rows: int, seed: int = 0) -> Path:
    """A folder of .jsonl files, with an exact and a near duplicate, a poor text and an empty one in each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    texts = [text(random) for _ in range(files * rows)]
    for number in range(files):
        own = texts[number * rows : (number + 1) * rows]
        other = texts[(number * 7 + 3) % len(texts)]
        own += [other, other.replace(other.split()[9], "Something", 1), "12 34 56 78 !!", "  "]
        (folder / f"{number:02}.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in own))
    return folder


def corpus_of(folder: Path, texts: list[str], **keys) -> Corpus:
    """A corpus of one file of these texts, nothing dropped but for what `keys` say."""
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


def kept_of(folder: Path) -> list[str]:
    return [document["text"] for document in iter_documents(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but those that hold times or names of folders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- rules ----------------------------------------------------------------------------------------------------------


def lines_with(texts: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in texts)


def letters(word: str) -> int:
    return sum(one.isalpha() or re.match(r"[\u0300-\u036f\u0900-\u0903\u093e-\u094d]", one) is not None for one in word)


STOP = "the be to of and that have with".split()
RULES = {  # rule: (its value, whether it drops a text)
    "min_words": (6, lambda t: len(t.split()) < 6),
    "max_words": (40, lambda t: len(t.split()) > 40),
    "min_characters": (25, lambda t: len(t) < 25),
    "min_letters": (0.7, lambda t: letters(t) / len("".join(t.split())) < 0.7),
    "max_repeated_lines": (0.4, lambda t: 1 - len(set(t.split("\n"))) / len(t.split("\n")) > 0.4),
    "max_compression": (3.0, lambda t: len(t.encode()) / len(zlib.compress(t.encode())) > 3),
    "mean_word_length": ([3, 7], lambda t: not 3 <= len("".join(t.split())) / len(t.split()) <= 7),
    "max_symbol_words": (0.1, lambda t: max(t.count("#"), len(re.findall(r"\.\.\.|…", t))) / len(t.split()) > 0.1),
    "min_alphabetic_words": (0.8, lambda t: sum(letters(w) > 0 for w in t.split()) / len(t.split()) < 0.8),
    "max_bullet_lines": (0.5, lambda t: lines_with(t.split("\n"), r"^[•‣▪●*-]\s") / len(t.split("\n")) > 0.5),
    "max_ellipsis_lines": (0.3, lambda t: lines_with(t.split("\n"), r"(\.\.\.|…)$") / len(t.split("\n")) > 0.3),
    "min_stop_words": (2, lambda t: sum(w in STOP for w in re.findall(r"\w+", t.lower())) < 2),
}


def odd_texts() -> list[str]:
    """Texts of every kind that a rule looks for, and plain ones."""
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


def clear(rule: str, own: str) -> bool:
    """Whether the answer is the same for every implementation of zlib."""
    return rule != "max_compression" or not 2.8 < len(own.encode()) / len(zlib.compress(own.encode())) < 3.2


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_drops_what_its_slow_version_drops(tmp_path, rule):
    value, drops = RULES[rule]
    texts = [each for each in odd_texts() if clear(rule, each)]
    expected = [each for each in texts if not drops(each)]
    assert 4 <= len(texts) - len(expected) and len(expected) >= 4
    folder = build_corpus(corpus_of(tmp_path, texts, filter=OFF | {rule: value}))
    assert kept_of(folder) == expected
    told = read_manifest(folder)
    gone = [each for each in texts if drops(each)]
    assert told["dropped"][rule] == {"documents": len(gone), "words": sum(len(each.split()) for each in gone)}
    assert told["examples"][rule] == [each[:300] for each in gone[:10]]
    assert told["kept"] == {"documents": len(expected), "words": sum(len(each.split()) for each in expected)}


def test_the_first_rule_that_fails_is_the_reason(tmp_path):
    texts, order = odd_texts(), list(RULES)
    texts = [each for each in texts if clear("max_compression", each)]
    folder = build_corpus(corpus_of(tmp_path, texts, filter={rule: value for rule, (value, _) in RULES.items()}))
    names = read_manifest(folder)["reasons"]
    found = [names[number] for number in np.fromfile(folder / "dropped.bin", np.uint8)]
    assert names == ["kept", *order, *REASONS[-3:]]
    assert found == [next((rule for rule in order if RULES[rule][1](each)), "kept") for each in texts]
    assert len(set(found)) > 7


def test_by_default_only_clear_rubbish_goes(tmp_path):
    random = np.random.default_rng(0)
    good = [text(random), "好的文章没有空格也可以留下来。", "Короткая строка.", "Yes.", "हिन्दी में एक वाक्य"]
    poor = {
        "1 2 3 4 5 6 7 8 9": "min_letters",
        "line\n" * 9 + "other": "max_repeated_lines",
        "again and again " * 400: "max_compression",
    }
    folder = build_corpus(corpus_of(tmp_path, [*good, *poor], filter={}))
    assert kept_of(folder) == good
    told = read_manifest(folder)["dropped"]
    assert {reason: own["documents"] for reason, own in told.items()} == {
        reason: int(reason in poor.values()) for reason in REASONS[1:]
    }


def test_languages(tmp_path):
    english = [
        "The weather was cold and everybody stayed at home with a book.",
        "We walked over the hill to the old mill.",
    ]
    german = [
        "Das Wetter war kalt und alle blieben mit einem Buch zu Hause.",
        "Wir gingen über den Hügel zur alten Mühle.",
    ]
    french = ["Il faisait froid et tout le monde restait à la maison avec un livre."]
    texts = [english[0], german[0], french[0], german[1], english[1]]
    for languages, expected in ((["en"], english), (["de", "fr"], [german[0], french[0], german[1]]), ([], texts)):
        folder = build_corpus(corpus_of(tmp_path, texts, filter=OFF | {"languages": languages}))
        assert kept_of(folder) == expected
        told = read_manifest(folder)["dropped"].get("languages", {"documents": 0})
        assert told["documents"] == len(texts) - len(expected)


def test_counts_and_examples(tmp_path):
    random = np.random.default_rng(1)
    good = [text(random) for _ in range(30)]
    poor = [f"{number} {number} 5" for number in range(25)]
    texts = [*good, *poor, "  ", "", "<br/>", *good[:12], good[0].upper()]
    folder = build_corpus(corpus_of(tmp_path, texts, filter={}, deduplicate={}))
    told = read_manifest(folder)
    assert told["read"] | {"words": 0, "fixed": {}} == {
        "files": 1,
        "rows": 71,
        "empty": 3,
        "documents": 68,
        "words": 0,
        "fixed": {},
        "problems": [],
    }
    assert {reason: own["documents"] for reason, own in told["dropped"].items() if own["documents"]} == {
        "min_letters": 25,
        "exact duplicate": 13,
    }
    assert told["kept"]["documents"] == 30 and kept_of(folder) == good
    assert told["read"]["words"] == told["kept"]["words"] + sum(own["words"] for own in told["dropped"].values())
    assert told["examples"]["min_letters"] == poor[:10]
    assert told["examples"]["exact duplicate"] == [each[:300] for each in good[:10]]
    assert all(len(each) <= 300 for examples in told["examples"].values() for each in examples)
    assert told["most_duplicated"][0] == {"copies": 3, "text": good[0][:300]} and len(told["most_duplicated"]) == 10
    assert {each["copies"] for each in told["most_duplicated"][1:]} == {2}
    names = np.array(told["reasons"])[np.fromfile(folder / "dropped.bin", np.uint8)]
    assert names.tolist() == ["kept"] * 30 + ["min_letters"] * 25 + ["exact duplicate"] * 13


# ---- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        "One. Two! Three?",
        "No end",
        "A line\nanother line\nthird.",
        'He said "yes." Then he left...  Really?!',
        "日本。語！",
        "...",
        "Dr. No went. U.S.A. stands",
        "a.b.c",
        "x\n. y",
        "e.g.\n\n!?",
    ],
)
def test_sentences_joined_are_the_text(own):
    assert "".join(split_sentences(own)) == own and all(split_sentences(own))


def test_sentences_are_cut_where_they_end():
    assert split_sentences("One. Two! Three?") == ["One. ", "Two! ", "Three?"]
    assert split_sentences("first line\nsecond") == ["first line\n", "second"]
    assert split_sentences("日本。語！x") == ["日本。", "語！", "x"]


def test_repeated_sentences_against_a_slow_version(tmp_path):
    random = np.random.default_rng(6)
    pool = [sentence(random) for _ in range(40)] + ["Too short to count.", "Yes!", "No."]
    texts = []
    for _ in range(120):
        own = random.choice(pool, random.integers(1, 6), replace=False)
        own = [each.upper() if random.random() < 0.1 else each for each in own]
        texts.append(str(random.choice(["\n", " "])).join(own))
    seen, expected, gone = set(), [], 0
    for each in texts:
        left = []
        for piece in split_sentences(each):
            plain = " ".join(re.findall(r"\w+", piece)).casefold()
            again = len(plain.split()) >= 10 and plain in seen
            seen.add(plain)
            gone += again
            left += [] if again else [piece]
        expected += [joined] if (joined := "".join(left).strip()) else []
    folder = build_corpus(corpus_of(tmp_path, texts, deduplicate={"exact": False, "near": False, "sentences": True}))
    assert kept_of(folder) == expected
    told = read_manifest(folder)["sentences"]
    assert told == {"read": sum(len(split_sentences(each)) for each in texts), "dropped": gone} and gone > 100
    assert {path.name for path in folder.iterdir()} == {"dropped.bin", "sentences.bin", "manifest.json"}


def test_without_repeated_sentences_texts_stay_as_they_are(tmp_path):
    random = np.random.default_rng(2)
    texts = [text(random).replace(". ", random.choice([".\n", "... ", '." ', "! "]), 2) for _ in range(50)]
    texts.insert(3, texts[0])  # dropped whole, so its sentences are seen once only
    folder = build_corpus(corpus_of(tmp_path, texts, deduplicate={"sentences": True}))
    assert kept_of(folder) == texts[:3] + texts[4:] and read_manifest(folder)["sentences"]["dropped"] == 0


# ---- once and again -------------------------------------------------------------------------------------------------


def prepared(folder: Path, **keys) -> Path:
    """The shards of a folder of text."""
    corpus = Corpus(name="made", sources=[{"files": str(folder)}], held_out=0.1, **keys)
    config = Prepare(corpus=corpus, tokenizer=BPE, max_length=32)
    return prepare(config.corpus, config.tokenizer, None, config.max_length)[-1].resolve()


def written() -> dict[str, int]:
    """When each derived folder was last changed."""
    return {str(path): path.stat().st_mtime_ns for path in Path("out").glob("*/*") if path.parent.name != "cache"}


def test_two_runs_write_the_same_bytes(tmp_path, monkeypatch):
    made_files(tmp_path / "text", 6, 40)
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shards = prepared(tmp_path / "text")
        (dropped,) = Path("out/corpus").glob("*/dropped.bin")
        made.append((shards.name, dropped.read_bytes(), contents(shards)))
    assert made[0] == made[1] and len(made[0][1]) == 6 * 43 and len(set(made[0][1])) == 4


TRAINED = """
from pathlib import Path
from data import tokenizer
from data.config import Corpus, Tokenizer
from data.curate import build_corpus
corpus = build_corpus(Corpus(name="made", sources=[{"files": "text"}]))
for algorithm in ("wordpiece", "bpe", "unigram"):
    tokenizer.train(algorithm, Tokenizer(algorithm=algorithm, vocab_size=400), corpus, 128)
"""


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory) -> list[dict[str, dict]]:
    """Of two processes, {algorithm: tokenizer.json} trained on the same text."""
    folder = made_files(tmp_path_factory.mktemp("trained") / "text", 1, 200).parent
    found = []
    for seed in ("1", "2"):
        (folder / seed).mkdir()
        (folder / seed / "text").symlink_to(folder / "text")
        subprocess.run(
            [sys.executable, "-c", TRAINED],
            cwd=folder / seed,
            env=environment(PYTHONHASHSEED=seed),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found.append(
            {
                path.parent.name.rsplit("-")[0]: json.loads(path.read_text())
                for path in (folder / seed / "out/tokenizer").glob("*/tokenizer.json")
            }
        )
    return found


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_two_processes_train_the_same_tokenizer(trained_twice, algorithm):
    one, other = (each[algorithm] for each in trained_twice)
    assert one["model"]["vocab"] == other["model"]["vocab"] and one == other


def test_what_is_kept_does_not_hang_on_the_size_of_buckets(tmp_path, monkeypatch):
    made_files(tmp_path / "text", 16, 20)
    kept = []
    for size, folders in ((2**26, 1), (2**15, None), (1, None)):
        place = tmp_path / str(size)
        place.mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setattr(extract, "BUCKET_BYTES", size)
        found = build_corpus(
            Corpus(name="made", sources=[{"files": str(tmp_path / "text")}], deduplicate={"near": False})
        )
        told = read_manifest(found)
        assert (len(told["texts"]) == 1) == (folders == 1)
        own = kept_of(found)
        assert len(own) == len(set(own))
        # Of near copies another may come first; whatever else there is stays.
        counts = {reason: each["documents"] for reason, each in told["dropped"].items()}
        kept.append((sorted(own), counts, told["kept"]))
    assert kept[0] == kept[1] == kept[2]


def test_a_second_run_does_nothing(tmp_path, capsys):
    made_files(tmp_path / "text", 4, 20)
    shards = prepared(tmp_path / "text")
    before = written()
    assert {Path(path).parent.name for path in before} == {"text", "marks", "corpus", "tokenizer", "shards"}
    capsys.readouterr()
    assert prepared(tmp_path / "text") == shards
    assert written() == before and not capsys.readouterr().out


@pytest.mark.parametrize(
    "keys, redone",
    [
        ({"filter": {"min_words": 3}}, {"marks", "corpus", "tokenizer", "shards"}),
        ({"deduplicate": {"similarity": 0.9}}, {"corpus", "tokenizer", "shards"}),
        ({"clean": {"personal": True}}, {"text", "marks", "corpus", "tokenizer", "shards"}),
    ],
)
def test_another_setting_redoes_what_follows_from_it(tmp_path, keys, redone):
    made_files(tmp_path / "text", 2, 20)
    prepared(tmp_path / "text")
    before = written()
    prepared(tmp_path / "text", **keys)
    after = written()
    assert {path: after[path] for path in before} == before
    assert {Path(path).parent.name for path in after.keys() - before.keys()} == redone


def test_a_file_that_is_added_redoes_its_own_bucket(tmp_path, monkeypatch):
    made_files(tmp_path / "text", 20, 20)
    monkeypatch.setattr(
        extract, "BUCKET_BYTES", sum(path.stat().st_size for path in (tmp_path / "text").iterdir()) // 6
    )
    one = prepared(tmp_path / "text")
    before = written()
    count = sum("out/text/" in path for path in before)
    assert count > 4
    (tmp_path / "text" / "20.jsonl").write_text(json.dumps({"text": text(np.random.default_rng(99))}) + "\n")
    other = prepared(tmp_path / "text")
    after = written()
    assert {path: after[path] for path in before} == before and other != one
    new = [Path(path).parent.name for path in after.keys() - before.keys()]
    assert sorted(new) == ["corpus", "marks", "shards", "text", "tokenizer"]
    parts = read_manifest(next(path for path in Path("out/corpus").iterdir() if str(path) not in before))["texts"]
    assert sum(part["documents"] for part in parts) == 20 * 23 + 1


def test_a_change_inside_a_file_is_seen_and_a_new_name_alone_is_not(tmp_path):
    made_files(tmp_path / "text", 1, 20)
    one = prepared(tmp_path / "text")
    (tmp_path / "text" / "00.jsonl").rename(tmp_path / "text" / "01.jsonl")
    assert prepared(tmp_path / "text") == one
    with open(tmp_path / "text" / "01.jsonl", "a") as file:
        file.write(json.dumps({"text": "A line of its own, added later on."}) + "\n")
    assert prepared(tmp_path / "text") != one


def test_the_same_file_twice_is_read_once_and_its_copies_dropped(tmp_path):
    path = str(made_files(tmp_path / "text", 1, 20) / "00.jsonl")
    sources = [{"files": path}, {"files": path, "weight": 2}]
    folder = build_corpus(Corpus(name="made", sources=sources))
    told, once = read_manifest(folder), read_manifest(build_corpus(Corpus(name="once", sources=sources[:1])))
    assert told["read"]["documents"] == 2 * once["read"]["documents"] and len(list(Path("out/text").iterdir())) == 1
    assert {document["copies"] for document in iter_documents(folder)} == {1}
    assert told["kept"] == once["kept"] and told["dropped"]["near duplicate"] == once["dropped"]["near duplicate"]


def test_weights_are_copies_and_shares(tmp_path):
    random = np.random.default_rng(0)
    texts = [text(random) for _ in range(400)]
    for weight, low, high in ((3, 1200, 1200), (0.5, 150, 250), (2.5, 950, 1050)):
        corpus = corpus_of(tmp_path, texts, sources=[{"files": "texts.jsonl", "weight": weight}])
        copies = [document["copies"] for document in iter_documents(build_corpus(corpus))]
        assert low <= sum(copies) <= high and set(copies) <= {int(weight), int(weight) + 1} - {0}
    assert document_copies("a text", 0.5) == document_copies("a text", 0.5)


# ---- processes ------------------------------------------------------------------------------------------------------

SMALL_BUCKETS = (
    "import runpy, sys; import data.corpus.extract; data.corpus.extract.BUCKET = 2**17;"
    "runpy.run_module('data', run_name='__main__')"
)
WORDS = [
    "corpus.name=made",
    "corpus.sources=[{files: text}]",
    "corpus.held_out=0.1",
    "max_length=32",
    "tokenizer.vocab_size=400",
    "tokenizer.algorithm=bpe",
]


def test_a_killed_run_goes_on_and_ends_with_the_same_shards(tmp_path):
    made_files(tmp_path / "text", 16, 120)
    command = [sys.executable, "-c", SMALL_BUCKETS, *WORDS]
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").symlink_to(tmp_path / "text")
    whole = subprocess.run(command, cwd=tmp_path / "undisturbed", env=environment(), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    place, left = tmp_path / "killed" / "out", set()
    # Killed once when some texts are there and one is being written, then later and later.
    for kind, there in (("text", 3), ("marks", 2), ("tokenizer", 0), ("shards", 0)):
        process = subprocess.Popen(
            command, cwd=tmp_path / "killed", env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.time() + 60
        while process.poll() is None and time.time() < until:
            names = os.listdir(place / kind) if (place / kind).is_dir() else []
            begun = any(".unfinished-" in name for name in names)
            if begun and sum(not name.startswith(".") for name in names) >= there:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"ended by itself before it was writing {kind}"
        assert not is_other_process_running(process.pid)
        left |= {path.parent.name for path in place.glob("*/.*.unfinished-*")}
        finished = {path: path.stat().st_mtime_ns for path in place.glob("*/[!.]*/manifest.json")}
        assert not (kind == "shards" and not finished)
    assert len(left) >= 3, "hardly any of the kills met a folder half written"
    last = subprocess.run(command, cwd=tmp_path / "killed", env=environment(), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    # What was finished before the last kill has not been done again, and nothing half written is left.
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(place.glob("*/.*"))
    one, other = (next((tmp_path / name / "out/shards").iterdir()) for name in ("undisturbed", "killed"))
    assert one.name == other.name and contents(one) == contents(other)


class Page(HTMLParser):
    """What a browser would be asked to fetch or run, the tags in order, and the text that is seen."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched, self.tags, self.seen = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "data", "action", "srcset")]

    def handle_data(self, data):
        self.seen.append(data)


def test_the_command_its_summary_and_its_report(tmp_path):
    folder = made_files(tmp_path / "text", 3, 60)
    hostile = '<script src="http://elsewhere.example/x.js">alert(1)</script> & <img src=http://elsewhere.example/i.png>'
    random = np.random.default_rng(50)
    own = f"{text(random, 1)} {hostile}"
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in [own, own, text(random)]))
    done = run_module("data", *WORDS, "corpus.clean.html=false", "corpus.sources=[{files: text, language: en}]")
    assert done.returncode == 0, done.stderr
    (shards,) = Path("out/shards").iterdir()
    report = json.loads((shards / "report.json").read_text())
    names = {path.name for path in shards.iterdir()}
    assert names == {"train", "held_out", "manifest.json", "report.json", "README.md", "report.html"}

    # The counts add up, step by step, and the shards hold what is left.
    left = {"documents": report["read"]["documents"], "words": report["read"]["words"]}
    assert report["read"]["rows"] == 3 * 64 + 3 == left["documents"] + report["read"]["empty"]
    for reason in REASONS[1:]:
        left = {what: count - report["dropped"][reason][what] for what, count in left.items()}
    assert left == report["kept"]
    assert left["documents"] == report["train"]["documents"] + report["held_out"]["documents"] == sum(report["length_histogram"])
    ends = [np.fromfile(shards / split / "documents.bin", np.int64) for split in ("train", "held_out")]
    assert [(len(each) - 1, int(each[-1])) for each in ends] == [
        (report[split]["documents"], report[split]["tokens"]) for split in ("train", "held_out")
    ]
    assert report["dropped"]["min_letters"]["documents"] == 3 and report["read"]["empty"] == 3
    assert report["dropped"]["exact duplicate"]["documents"] >= 1 <= report["dropped"]["near duplicate"]["documents"]

    # The same figures stand in the terminal, in the README and on the page.
    tokens = sum(report[split]["tokens"] for split in ("train", "held_out"))
    page = Page((shards / "report.html").read_text())
    for shown in (done.stdout, (shards / "README.md").read_text(), " ".join(page.seen)):
        for line in (
            ("read and cleaned", report["read"]["documents"], report["read"]["words"]),
            ("less: min_letters", report["read"]["documents"] - 3),
            ("in shards", left["documents"], left["words"], tokens),
        ):
            figures = [re.escape(f"{each:,}" if isinstance(each, int) else each) for each in line]
            assert re.search(r"[\s|]+".join(figures), shown), line
        assert "3 of 195 rows held no text" in shown
    assert f"shards      {shards}\n" in done.stdout and f"report      {shards}/report.html" in done.stdout
    assert not done.stderr.strip(), done.stderr

    # The page needs nothing else, and shows foreign text as text.
    assert page.fetched == [] and not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert "svg" in page.tags and "@import" not in "".join(page.seen) and "url(" not in "".join(page.seen)
    assert any(hostile in each for each in page.seen), "the escaped text is to be read on the page"
    assert any("text (en)" in each for each in page.seen)

    again = run_module("data", *WORDS, "corpus.clean.html=false", "corpus.sources=[{files: text, language: en}]")
    assert again.returncode == 0 and "built out" not in again.stdout
    assert done.stdout.endswith(again.stdout) and "in shards" in again.stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        (["corpus.sources=[{files: nowhere.jsonl}]"], "nowhere.jsonl: no such file"),
        (["corpus.sources=[{files: good.jsonl, text: txt}]"], "good.jsonl: no column 'txt' (nearest: text)"),
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
        (["corpus.sources=[{files: empty}]"], "empty: no file in this folder has an ending that is known"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, words, expected):
    good = [json.dumps({"text": text(np.random.default_rng(seed))}) + "\n" for seed in range(3)]
    (tmp_path / "good.jsonl").write_text("".join(good))
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    (tmp_path / "empty").mkdir()
    done = run_module("data", "corpus.name=made", *words)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith(expected), done.stderr
    assert not list(Path("out").glob("*/.*")) and not list(Path("out").glob("corpus/*"))


def test_help_names_every_key(tmp_path):
    done = run_module("data", "--help")
    assert done.returncode == 0
    for key in (
        "corpus.sources",
        "deduplicate.similarity",
        "decontaminate.action",
        "filter.min_letters",
        "clean.mask_pii",
        "tokenizer.algorithm",
        "length",
    ):
        assert key in done.stdout, key


def test_many_buckets_are_read_by_processes_and_their_mistakes_told(tmp_path, monkeypatch):
    from data.corpus import runner

    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(extract, "BUCKET_BYTES", 2**15)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = made_files(tmp_path / "text", 6, 40)
    found = build_corpus(Corpus(name="made", sources=[{"files": str(folder)}], deduplicate={"near": False}))
    one = sorted(kept_of(found))
    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 2**40)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    other = build_corpus(Corpus(name="made", sources=[{"files": str(folder)}], deduplicate={"near": False}))
    assert other.name == found.name and sorted(kept_of(other)) == one
    assert (other / "dropped.bin").read_bytes() == (tmp_path / found / "dropped.bin").read_bytes()
    monkeypatch.setattr(runner, "MIN_PARALLEL_BYTES", 0)
    with pytest.raises(DataError, match=r"no column 'txt' \(nearest: text\)"):
        build_corpus(Corpus(name="wrong", sources=[{"files": str(folder), "text": "txt"}]))


def test_a_corpus_file_and_words_are_the_same_corpus(tmp_path):
    (tmp_path / "own.yaml").write_text("corpus: {name: made, sources: [{files: text}], deduplicate: {near: false}}\n")
    one = load_config(Prepare, ["own.yaml"])
    assert one == load_config(
        Prepare, ["corpus.name=made", "corpus.sources=[{files: text}]", "corpus.deduplicate.near=false"]
    )
