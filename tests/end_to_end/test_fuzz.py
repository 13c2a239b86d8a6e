"""Whatever a person or a broken disk puts before us: an error of ours or success, never a traceback, never a file elsewhere.

`make test` tries a few dozen inputs of each kind; `make test-all`, or `pytest -m slow tests/test_fuzz.py`, over ten thousand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT
from hypothesis import HealthCheck, given, settings, strategies as st

from data.cache import OUTPUT_DIR
from data.config import Prepare
from data.corpus.config import Corpus
from data.corpus.extract import BucketReader, split_into_buckets
from data.encoders import read_pooling, read_record
from data.sources.wheels import fetch_wheel_member
from data.tasks.task import LABEL_PARSERS, Task, TaskFile, read_task
from data.tokens.shards import Shards
from engine.checkpointing import checkpoint
from engine.config.help import list_keys
from engine.config.loader import load_config, read_yaml, validate
from engine.errors import UserError
from engine.runs.run import Run
from finetune.config import Finetune
from finetune.study.config import Study
from pretrain.config import Pretrain

SCHEMAS = (Pretrain, Finetune, Prepare, Study)
FEW, MANY = 30, 2_000
ODD = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ufeff",
        "\u202e",
        "\ud800",
        "..",
        "../x",
        "/etc/passwd",
        "~",
        "-",
        "=",
        ":",
        "{",
        "[",
        "&a [*a]",
        "&a {b: *a}",
        "*a",
        "!!python/object:os.system",
        "!!binary x",
        "<<: 1",
        "0x1F",
        "1e999",
        "-1e-9",
        ".nan",
        ".inf",
        "none",
        "null",
        "no",
        "true",
        "2026-11-21",
        "1_000",
        "'",
        '"',
        "%",
        "{}",
        "[]",
        "[" * 4_000,
        "9" * 5_000,
        "{files: x.csv}",
        "{name: mlm}",
        "a: b: c",
        "a\tb",
        "\r",
        "out/runs/x/encoder",
        "configs",
        "hub:x",
    ]
)
TEXT = st.one_of(ODD, st.text(max_size=30), st.integers().map(str), st.floats().map(str))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXT, inside, max_size=4),
    max_leaves=12,
)


@cache
def known_keys(schema: type) -> list[str]:
    return [key.replace("[]", "") for key in list_keys(schema)]


@pytest.fixture
def fuzzed(tmp_path, monkeypatch) -> Callable:
    """fuzzed(strategy, attempt, examples): nothing but errors of ours, and nothing written outside of the working folder."""
    place = tmp_path / "above" / "place"
    place.mkdir(parents=True)
    (place / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(place)

    def run(strategy: st.SearchStrategy, attempt: Callable, examples: int) -> None:
        tried = []

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def one(drawn) -> None:
            tried.append(1)
            try:
                attempt(drawn)
            except UserError as error:
                assert str(error).strip() and "Traceback" not in str(error)
            assert [path.name for path in tmp_path.iterdir()] == ["above"]
            assert [path.name for path in (tmp_path / "above").iterdir()] == ["place"]

        one()
        assert len(tried) >= min(examples, FEW)

    return run


examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@examples
def test_words(fuzzed, examples):
    def word(schema: type) -> st.SearchStrategy:
        key = st.one_of(
            st.sampled_from(known_keys(schema)), TEXT, st.sampled_from(known_keys(schema)).map(lambda key: key[:-1])
        )
        files = [str(path) for path in Path("configs").rglob("*.yaml")]
        return st.one_of(st.builds("{}={}".format, key, TEXT), TEXT, st.sampled_from(files), TEXT.map("{}.yaml".format))

    fuzzed(
        st.sampled_from(SCHEMAS).flatmap(lambda schema: st.tuples(st.just(schema), st.lists(word(schema), max_size=6))),
        lambda drawn: load_config(drawn[0], drawn[1]),
        examples,
    )


@examples
def test_yaml_files(fuzzed, examples):
    good = [path.read_text() for path in Path("configs").rglob("*.yaml")]
    lines = st.lists(
        st.one_of(
            st.sampled_from([line for text in good for line in text.splitlines()]),
            st.builds("{}: {}".format, TEXT, TEXT),
        ),
        max_size=12,
    ).map("\n".join)
    content = st.one_of(lines.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60))

    def attempt(drawn) -> None:
        schema, first, second = drawn
        Path("a.yaml").write_bytes(first)
        Path("b.yaml").write_bytes(second)
        for words in (["a.yaml"], ["a.yaml", "b.yaml", "run=x"]):
            try:
                load_config(schema, words)
            except UserError as error:
                assert str(error)
        validate(TaskFile, read_yaml(Path("a.yaml")))

    fuzzed(st.tuples(st.sampled_from(SCHEMAS), content, content), attempt, examples)


def mutated(content: bytes) -> st.SearchStrategy:
    """The bytes with some of them cut out, put in twice or made others."""

    def apply(cuts: list[tuple[int, int, bytes]]) -> bytes:
        found = content
        for start, length, put in cuts:
            start %= len(found) + 1
            found = found[:start] + put + found[start + length :]
        return found

    return st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=8)), max_size=5).map(apply)


ROWS = [
    {
        "text": f'words, of row {number}\nand "more"',
        "label": "no" if number % 3 else "yes",
        "tags": ["O", "B-x"],
        "n": number,
    }
    for number in range(24)
]
CSV = "text,label,n\n" + "".join(f'"words of, row {row["n"]}",{row["label"]},{row["n"]}\n' for row in ROWS)
JSONL = "".join(
    json.dumps({**row, "text": row["text"].split()[:2] if row["n"] % 2 else row["text"]}) + "\n" for row in ROWS
)
CONLL = "".join(f"word\tO\nAnna{row['n']}\tB-person\nRome\tI-place\n\n" for row in ROWS)


@examples
def test_files_of_labels_and_of_text(fuzzed, examples):
    content = st.one_of(
        mutated(CSV.encode()),
        mutated(JSONL.encode()),
        mutated(CONLL.encode()),
        st.binary(max_size=200),
        st.lists(JSON, max_size=12).map(lambda rows: "\n".join(map(json.dumps, rows)).encode("utf-8", "replace")),
    )
    suffix = st.sampled_from(
        [
            ".csv",
            ".tsv",
            ".jsonl",
            ".json",
            ".txt",
            ".conll",
            ".parquet",
            ".arrow",
            ".warc",
            ".xml",
            ".csv.gz",
            ".txt.xz",
            ".jsonl.bz2",
            ".csv.zst",
            ".exe",
            "",
        ]
    )
    options = st.fixed_dictionaries(
        {},
        optional={
            "separator": st.sampled_from([";", "\t", "", "ab", '"', "\n"]),
            "quotes": st.booleans(),
            "format": st.sampled_from(["csv", "json", "text", "conll", "xml", "parquet", "arrow", "warc"]),
            "where": st.dictionaries(TEXT, TEXT, max_size=1),
            "element": st.just("a"),
            "unit": st.sampled_from(["line", "document"]),
        },
    )
    task = st.fixed_dictionaries(
        {
            "text": st.sampled_from(["text", "n", "tokens", ["text", "label"], ""]),
            "label": st.sampled_from(["label", "n", "tags", "text", "x"]),
        },
        optional={"deduplicate": st.booleans(), "label_names": st.dictionaries(TEXT, TEXT, max_size=2)},
    )

    def attempt(drawn) -> None:
        content, suffix, options, told, kind = drawn
        name = f"rows{suffix}"
        Path(name).write_bytes(content)
        source = {"files": name, **options}
        try:
            rows = read_task(validate(Task, {"name": "t", "train": source, **told}), kind)
            assert all(rows[split] for split in ("train", "validation", "test"))
        except UserError as error:
            assert str(error)
        finally:
            text = told["text"] if isinstance(told["text"], str) else "text"
            corpus = validate(Corpus, {"name": "c", "sources": [{**source, "text": text}]})
            for part in split_into_buckets(corpus.sources[0], corpus.clean):
                assert all(isinstance(text, str) and text for text, _ in BucketReader(part).iter_texts())
            Path(name).unlink()

    fuzzed(st.tuples(content, suffix, options, task, st.sampled_from(list(LABEL_PARSERS))), attempt, examples)


@examples
def test_wheels(fuzzed, examples):
    names = st.one_of(
        TEXT,
        st.sampled_from(["a/b.csv", "a/../../../b", "/a", "a/", "a//b", "a\\..\\b", "C:\\x", "b" * 300, "a/./b", "."]),
    )

    def packed(entries: list[tuple[str, bytes]]) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), content)
        return made.getvalue()

    whole = st.lists(st.tuples(names, st.binary(max_size=50)), max_size=4)
    wheel = st.one_of(whole.map(packed), whole.map(packed).flatmap(mutated), st.binary(max_size=80))

    def attempt(drawn) -> None:
        content, member, right = drawn
        digest = hashlib.sha256(content if right else content + b"x").hexdigest()
        root = OUTPUT_DIR / "cache/wheels" / digest[:12]
        root.mkdir(parents=True, exist_ok=True)
        (root / "wheel.zip").write_bytes(content)
        try:
            found = fetch_wheel_member("w==1", digest, member)
            assert right and found.resolve().is_relative_to(root.resolve()) and found.is_file()
        finally:
            shutil.rmtree(OUTPUT_DIR)

    fuzzed(st.tuples(wheel, names, st.booleans()), attempt, examples)


@pytest.fixture(scope="module")
def shards(sentiment_files, tmp_path_factory) -> Path:
    """Real shards of a small text."""
    from data.prepare import prepare

    folder, before = tmp_path_factory.mktemp("shards"), Path.cwd()
    os.chdir(folder)
    try:
        config = load_config(
            Prepare,
            [
                f"corpus={{name: c, held_out: 0.1, sources: [{{files: '{sentiment_files}/corpus.txt'}}]}}",
                "tokenizer.vocab_size=300",
                "max_length=16",
            ],
        )
        return (folder / prepare(config.corpus, config.tokenizer, None, config.max_length)[-1]).resolve()
    finally:
        os.chdir(before)


@examples
def test_shards(fuzzed, shards, examples):
    good = json.loads((shards / "manifest.json").read_text())
    manifest = st.one_of(
        JSON.map(json.dumps),
        mutated((shards / "manifest.json").read_bytes()),
        st.tuples(st.sampled_from(sorted(good)), JSON).map(lambda change: json.dumps({**good, change[0]: change[1]})),
        st.sampled_from(sorted(good)).map(
            lambda key: json.dumps({name: told for name, told in good.items() if name != key})
        ),
    )
    file = st.sampled_from(["tokens.bin", "documents.bin", "pieces.bin", "rows.bin"])

    def attempt(drawn) -> None:
        manifest, name, content = drawn
        shutil.rmtree("there", ignore_errors=True)
        shutil.copytree(shards, "there")
        if manifest is not None:
            Path("there/manifest.json").write_bytes(
                manifest.encode("utf-8", "replace") if isinstance(manifest, str) else manifest
            )
        if content is not None:
            Path("there/train", name).write_bytes(content)
        read = Shards(Path("there"), "train")
        for number in {0, len(read) // 2, len(read) - 1}:
            ids, position, document = read.get_row(number)
            assert len(ids) == len(position) == len(document) == read.max_length and ids.max() < read.vocab_size
        assert len(read.token_counts()) == read.vocab_size

    bins = file.flatmap(
        lambda name: st.tuples(st.none(), st.just(name), mutated((shards / "train" / name).read_bytes()))
    )
    fuzzed(st.one_of(st.tuples(manifest, file, st.none()), bins), attempt, examples)


@examples
def test_folders_of_runs_checkpoints_and_encoders(fuzzed, examples):
    config = load_config(Pretrain, ["configs/pretrain/scratch.yaml", "run=x"])
    told = st.one_of(JSON.map(json.dumps).map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60))
    name = st.sampled_from(
        [
            "config.yaml",
            "fingerprints.json",
            "log.jsonl",
            "record.json",
            "1_Pooling/config.json",
            "step-000004/manifest.json",
            "step-000004/state.json",
        ]
    )

    def attempt(drawn) -> None:
        shutil.rmtree("out", ignore_errors=True)
        for name, content in drawn:
            path = Path("out/runs/x", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        folder = Path("out/runs/x")
        folder.mkdir(parents=True, exist_ok=True)
        for look in (read_pooling, read_record, checkpoint.quarantine_damaged):
            try:
                look(folder)
            except UserError as error:
                assert str(error)
        run = Run(config, "x")
        run.start(text="one")
        run.resume_at(3)
        assert all(entry["step"] <= 3 for entry in run.read_log())

    fuzzed(st.lists(st.tuples(name, told), max_size=4), attempt, examples)
