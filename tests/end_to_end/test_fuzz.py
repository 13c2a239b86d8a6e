"""Any input, from users, strangers or a broken disk, gives success or a UserError.

No file is written outside the working folder, no process started, no address contacted, and 2 GB of memory suffice.
`make test` tries a few dozen inputs of each kind; `make test-all` over twenty thousand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, encoder_record
from hypothesis import HealthCheck, given, settings, strategies as st

from data.cache import OUTPUT_DIR
from data.config import Prepare
from data.corpus.config import Corpus
from data.corpus.extract import BucketReader, split_into_buckets
from data.encoders import read_pooling, read_record
from data.sources.wheels import fetch_wheel_member
from data.tasks.task import Task, TaskFile, read_task
from data.tokens.shards import Shards
from engine.checkpointing import checkpoint
from engine.config.help import list_keys
from engine.config.loader import load_config, read_yaml, validate
from engine.config.schema import list_plugins
from engine.errors import UserError
from engine.runs.run import Run
from finetune.config import Finetune
from finetune.study.config import Study
from pretrain.config import Pretrain
from publish.card.card import build_model_card

PROBLEM_TYPES = list_plugins("data.tasks.problem_types")
SCHEMAS = (Pretrain, Finetune, Prepare, Study)
FEW, MANY = 30, 3_000
MAX_MEMORY = 2 * 10**9  # bytes, of this process
FORBIDDEN_EVENTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
"""Events of sys.addaudithook."""
forbidden: list[str] = []
sys.addaudithook(lambda event, args: event in FORBIDDEN_EVENTS and forbidden.append(f"{event} {args[:2]}"))
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
        "!!int ''",
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
def fuzz(tmp_path, monkeypatch) -> Callable:
    """fuzz(strategy, attempt, examples): attempts may only raise UserError, and only write in the working folder."""
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)

    def run(strategy: st.SearchStrategy, attempt: Callable, examples: int) -> None:
        attempts = []

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def check(value) -> None:
            attempts.append(value)
            forbidden.clear()
            try:
                attempt(value)
            except UserError as error:
                assert str(error).strip() and "Traceback" not in str(error)
            assert not forbidden, forbidden
            assert [path.name for path in tmp_path.iterdir()] == ["parent"]
            assert [path.name for path in (tmp_path / "parent").iterdir()] == ["folder"]

        check()
        assert len(attempts) >= min(examples, FEW)
        assert psutil.Process().memory_info().rss < MAX_MEMORY

    return run


examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@examples
def test_arguments(fuzz, examples):
    files = [str(path) for path in Path("configs").rglob("*.yaml")]

    def argument(schema: type) -> st.SearchStrategy:
        known = st.sampled_from(known_keys(schema))
        key = st.one_of(known, TEXT, known.map(lambda key: key[:-1]))
        return st.one_of(st.builds("{}={}".format, key, TEXT), TEXT, st.sampled_from(files), TEXT.map("{}.yaml".format))

    def schema_and_arguments(schema: type) -> st.SearchStrategy:
        return st.tuples(st.just(schema), st.lists(argument(schema), max_size=6))

    fuzz(st.sampled_from(SCHEMAS).flatmap(schema_and_arguments), lambda value: load_config(*value), examples)


@examples
def test_yaml_files(fuzz, examples):
    good = [path.read_text() for path in Path("configs").rglob("*.yaml")]
    lines = st.lists(
        st.one_of(
            st.sampled_from([line for text in good for line in text.splitlines()]),
            st.builds("{}: {}".format, TEXT, TEXT),
        ),
        max_size=12,
    ).map("\n".join)
    content = st.one_of(lines.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60))

    def attempt(value) -> None:
        schema, first, second = value
        Path("a.yaml").write_bytes(first)
        Path("b.yaml").write_bytes(second)
        for args in (["a.yaml"], ["a.yaml", "b.yaml", "run=x"]):
            try:
                load_config(schema, args)
            except UserError as error:
                assert str(error)
        validate(TaskFile, read_yaml(Path("a.yaml")))

    fuzz(st.tuples(st.sampled_from(SCHEMAS), content, content), attempt, examples)


def mutated(content: bytes) -> st.SearchStrategy:
    """The bytes with some parts removed or replaced."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        result = content
        for start, length, replacement in edits:
            start %= len(result) + 1
            result = result[:start] + replacement + result[start + length :]
        return result

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
def test_files_with_labels_and_text(fuzz, examples):
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
            ".html",
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
            "delimiter": st.sampled_from([";", "\t", "", "ab", '"', "\n"]),
            "quotes": st.booleans(),
            "encoding": st.sampled_from(["gbk", "shift_jis", "utf-16", "utf-7", "iso-2022-jp", "cp037", "idna"]),
            "format": st.sampled_from(["csv", "json", "text", "conll", "xml", "parquet", "arrow", "warc", "html"]),
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

    def attempt(value) -> None:
        content, suffix, options, task, problem_type = value
        name = f"rows{suffix}"
        Path(name).write_bytes(content)
        source = {"files": name, **options}
        try:
            splits = read_task(validate(Task, {"name": "t", "problem_type": problem_type, "train": source, **task}))
            assert all(splits[split] for split in ("train", "validation", "test"))
        except UserError as error:
            assert str(error)
        finally:
            text = task["text"] if isinstance(task["text"], str) else "text"
            corpus = validate(Corpus, {"name": "c", "sources": [{**source, "text": text}]})
            for part in split_into_buckets(corpus.sources[0], corpus.clean):
                assert all(isinstance(text, str) and text for text, _ in BucketReader(part).iter_texts())
            Path(name).unlink()

    fuzz(st.tuples(content, suffix, options, task, st.sampled_from(PROBLEM_TYPES)), attempt, examples)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of two members of a wheel, on purpose
@examples
def test_wheels(fuzz, examples):
    names = st.one_of(
        TEXT,
        st.sampled_from(["a/b.csv", "a/../../../b", "/a", "a/", "a//b", "a\\..\\b", "C:\\x", "b" * 300, "a/./b", "."]),
    )

    def build_zip(entries: list[tuple[str, bytes]]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), content)
        return buffer.getvalue()

    intact = st.lists(st.tuples(names, st.binary(max_size=50)), max_size=4).map(build_zip)
    wheel = st.one_of(intact, intact.flatmap(mutated), st.binary(max_size=80))

    def attempt(value) -> None:
        content, member, is_expected_hash = value
        digest = hashlib.sha256(content if is_expected_hash else content + b"x").hexdigest()
        root = OUTPUT_DIR / "cache/wheels" / digest[:12]
        root.mkdir(parents=True, exist_ok=True)
        (root / "wheel.zip").write_bytes(content)
        try:
            path = fetch_wheel_member("w==1", digest, member)
            assert is_expected_hash and path.resolve().is_relative_to(root.resolve()) and path.is_file()
        finally:
            shutil.rmtree(OUTPUT_DIR)

    fuzz(st.tuples(wheel, names, st.booleans()), attempt, examples)


@pytest.fixture(scope="module")
def shards(sentiment_files, tmp_path_factory) -> Path:
    """Shards of a small corpus."""
    from data.prepare import prepare

    folder, before = tmp_path_factory.mktemp("shards"), Path.cwd()
    os.chdir(folder)
    try:
        corpus = f"corpus={{name: c, held_out: 0.1, sources: [{{files: '{sentiment_files}/corpus.txt'}}]}}"
        config = load_config(Prepare, [corpus, "tokenizer.vocab_size=300", "max_length=16"])
        return (folder / prepare(config.corpus, config.tokenizer, None, config.max_length)[-1]).resolve()
    finally:
        os.chdir(before)


@examples
def test_shards(fuzz, shards, examples):
    good = json.loads((shards / "manifest.json").read_text())
    manifest = st.one_of(
        JSON.map(json.dumps),
        mutated((shards / "manifest.json").read_bytes()),
        st.tuples(st.sampled_from(sorted(good)), JSON).map(lambda change: json.dumps({**good, change[0]: change[1]})),
        st.sampled_from(sorted(good)).map(lambda key: json.dumps({k: good[k] for k in good if k != key})),
    )
    file = st.sampled_from(["tokens.bin", "documents.bin", "pieces.bin", "rows.bin"])

    def attempt(value) -> None:
        manifest, name, content = value
        shutil.rmtree("copy", ignore_errors=True)
        shutil.copytree(shards, "copy")
        if manifest is not None:
            manifest = manifest.encode("utf-8", "replace") if isinstance(manifest, str) else manifest
            Path("copy/manifest.json").write_bytes(manifest)
        if content is not None:
            Path("copy/train", name).write_bytes(content)
        train = Shards(Path("copy"), "train")
        for index in {0, len(train) // 2, len(train) - 1}:
            ids, position, document = train.get_row(index)
            assert len(ids) == len(position) == len(document) == train.max_length and ids.max() < train.vocab_size
        assert len(train.token_counts()) == train.vocab_size

    bins = file.flatmap(
        lambda name: st.tuples(st.none(), st.just(name), mutated((shards / "train" / name).read_bytes()))
    )
    fuzz(st.one_of(st.tuples(manifest, file, st.none()), bins), attempt, examples)


@examples
def test_names_of_runs_tasks_and_corpora(fuzz, examples):
    """A name that is accepted is that of a folder in out/."""
    parts = st.lists(st.one_of(TEXT, st.sampled_from(["..", "/", "\\", "a", "é", "x" * 300])), max_size=3).map("".join)

    def attempt(name: str) -> None:
        config = validate(Finetune, {"run": name, "task": {"name": name, "train": {"files": "x.csv"}}, "train": {}})
        folder = Path("out/runs", config.run)
        assert folder.resolve().parent == Path("out/runs").resolve() and config.task.name == name
        Run(config, config.run).start(labels="one")
        assert (folder / "config.yaml").is_file()
        shutil.rmtree("out")

    fuzz(parts, attempt, examples)


@examples
def test_records_of_strangers(fuzz, examples):
    """What is accepted as a record has all that its card needs."""
    good = encoder_record()
    paths = [(key,) for key in good] + [
        (key, inner) for key in good if isinstance(good[key], dict) for inner in good[key]
    ]

    def change(edits: list) -> dict:
        record = json.loads(json.dumps(good))
        for (*outer, last), value in edits:
            target = record
            for key in outer:
                target = target.get(key)
                if not isinstance(target, dict):
                    break
            else:
                target[last] = value
        return record

    records = st.lists(st.tuples(st.sampled_from(paths), JSON), max_size=3).map(change)

    def attempt(record: dict) -> None:
        Path("record.json").write_text(json.dumps(record), encoding="utf-8", errors="replace")
        if found := read_record(Path()):
            assert build_model_card({**good, "init": "owner/name", "init_record": found})

    fuzz(records, attempt, examples)


@examples
def test_folders_of_runs_checkpoints_and_encoders(fuzz, examples):
    config = load_config(Pretrain, ["configs/pretrain/scratch.yaml", "run=x"])
    content = st.one_of(JSON.map(json.dumps).map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60))
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

    def attempt(files) -> None:
        shutil.rmtree("out", ignore_errors=True)
        for name, content in files:
            path = Path("out/runs/x", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        folder = Path("out/runs/x")
        folder.mkdir(parents=True, exist_ok=True)
        for read in (read_pooling, read_record, checkpoint.quarantine_damaged):
            try:
                read(folder)
            except UserError as error:
                assert str(error)
        run = Run(config, "x")
        run.start(text="one")
        run.resume_at(3)
        assert all(entry["step"] <= 3 for entry in run.read_log())

    fuzz(st.lists(st.tuples(name, content), max_size=4), attempt, examples)
