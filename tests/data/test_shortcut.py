"""What `labels=FILE` and `text=FILES` stand for."""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT

from data.shortcut import Shortcut, complete_source, expand_labels, expand_text, name_run, saved_with_run
from data.sources.source import Source
from data.tasks.task import TaskFile, fingerprint_inputs, read_examples
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError

ENTITIES = "configs/finetune/your-entities.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CLASSES, LABELS, TAGS = (f"{kind}_classification" for kind in ("single_label", "multi_label", "token"))
TABLES = [
    ("a.csv", "Review,Stars\nfine film,4.5\ndull,1\n", {"text": "Review", "label": "Stars"}, "regression"),
    ("a.csv", 'text,score\nfine film,"4,5"\ndull,"1,0"\n', {"label": "score"}, CLASSES),
    ("😀.csv", "text;label\nfine, long;a\ndull;b\n", {"train": {"delimiter": ";"}}, CLASSES),
    ("a.tab", "Category\tText\nd\tstring\nclass\t\nx\tfine film\n", {"train": {"skip_rows": [1, 2]}}, CLASSES),
    ("a.txt", "label\ttext\nx\tfine film\n", {"train": {"format": "csv", "delimiter": "\t"}}, CLASSES),
    ("a.jsonl", '{"text": "a", "labels": ["x", "y"]}\n', {"label": "labels"}, LABELS),
    ("a.jsonl", '{"text": "a", "label": ["x"]}\n', {"text": "text"}, CLASSES),
    ("a.jsonl", '{"text": "Anna", "label": [[0, 4, "x"]]}\n', {"label": "label"}, TAGS),
    ("a.conll", "Anna\tB-x\nin\tO\n", {"text": "tokens", "label": "tags"}, TAGS),
    ("a.csv", "Sentence #,Word,Tag\n1,Anna,B-x\n,in,O\n", {"train": {"group_by": "Sentence #"}, "text": "Word"}, TAGS),
]


@pytest.mark.parametrize("name, content, expected, problem_type", TABLES)
def test_labels_are_found_in_a_table(folder, name, content, expected, problem_type):
    (folder / name).write_text(content)
    shortcut = expand_labels([f"labels={name}", "run=mine"])
    task = shortcut.tree["task"]
    assert shortcut.tree["run"] == task["name"] == "mine" and task["problem_type"] == problem_type
    if "train" in expected:
        expected["train"]["files"] = name
    assert expected.items() <= task.items()
    assert shortcut.files == [ENTITIES if problem_type == TAGS else "configs/finetune/default.yaml"]
    loaded = load_config(TaskFile, shortcut.list_args()).task
    assert read_examples(loaded, loaded.train)


def test_what_is_given_is_kept(folder):
    (folder / "a.csv").write_text("text,label,kind\nfine film,1,x\ndull,0,y\n")
    args = [
        "configs/finetune/default.yaml",
        "--labels",
        "a.csv",
        "task.label=kind",
        "configs/method/lora.yaml",
        "seed=3",
    ]
    shortcut = expand_labels(args)
    assert shortcut.files == ["configs/finetune/default.yaml", "configs/method/lora.yaml"]
    assert shortcut.tree["seed"] == 3 and shortcut.tree["run"] == "a" and shortcut.tree["task"]["label"] == "kind"
    assert expand_labels(["configs/finetune/sentiment.yaml", "run=x"]) is None and expand_labels(["labels=100"]) is None


@pytest.mark.parametrize("module, shortcut", [("finetune", "labels=a.csv"), ("pretrain", "text=a.csv")])
def test_flags_may_follow_a_shortcut(folder, capsys, module, shortcut):
    (folder / "a.csv").write_text("text,label\nfine film,x\ndull,y\n")
    main = importlib.import_module(f"{module}.__main__").main
    main([shortcut, "--help"])
    assert "train.dry_run" in capsys.readouterr().out
    with pytest.raises(ConfigError) as error:
        main([shortcut, "--dry-run", "--train.lrr", "1e-4"])
    assert str(error.value) == "train.lrr: no such key (nearest: train.lr)"


def test_columns_without_a_known_name_are_asked_for_with_their_likely_keys(folder):
    (folder / "a.csv").write_bytes("v1,v2,\nham,Go until £5,\nspam,Free entry,\nham,Ok lar joking,\n".encode("cp1252"))
    with pytest.raises(DataError) as caught:
        expand_labels(["labels=a.csv"])
    assert str(caught.value) == "a.csv: no rows" or "encoding=windows-1252" in str(caught.value)
    with pytest.raises(DataError) as caught:
        expand_labels(["labels=a.csv", "task.train.encoding=windows-1252"])
    assert str(caught.value) == (
        "a.csv: which columns have the text and label? There are v1 (ham), v2 (Go until £5);"
        " probably task.text=v2 task.label=v1"
    )
    args = ["labels=a.csv", "task.train.encoding=windows-1252", "task.text=v2", "task.label=v1"]
    loaded = load_config(TaskFile, expand_labels(args).list_args()).task
    assert [example.label for example in read_examples(loaded, loaded.train)] == ["ham", "spam", "ham"]


def test_a_folder_for_each_class_needs_no_more(folder):
    for name in ("x/1", "x/2", "y/1"):
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / f"{name}.txt").write_text(f"Text {name}.\n\nIts end.\n")
    loaded = load_config(TaskFile, expand_labels(["labels=mine"]).list_args()).task
    assert [(example.label, example.texts[0][:8]) for example in read_examples(loaded, loaded.train)] == [
        *(("x", "Text x/1"), ("x", "Text x/2"), ("y", "Text y/1"))
    ]
    before = fingerprint_inputs(loaded)
    (folder / "mine" / "y").rename(folder / "mine" / "z")
    assert fingerprint_inputs(loaded) != before
    with pytest.raises(DataError, match="which column has the label"):
        expand_labels(["labels=mine/x"])


def test_the_suggested_encoding_reads_the_whole_file(folder):
    (folder / "a.csv").write_bytes(b"text,label\na \xd1 b,x\n" + b"c d,y\n" * 20_000 + b"e \x81 f,x\n")
    with pytest.raises(DataError, match="^a.csv line 2: .*; set task.train.encoding=latin-1$"):
        expand_labels(["labels=a.csv"])
    loaded = load_config(TaskFile, expand_labels(["labels=a.csv", "task.train.encoding=latin-1"]).list_args()).task
    assert len(read_examples(loaded, loaded.train)) == 20_002


def test_a_table_without_a_header_needs_one_correction(folder):
    rows = [("ham", "Go, until, jurong point, and the rest of a text"), ("spam", "Free entry; 2 a wkly"), ("ham", "Ok")]
    (folder / "a.csv").write_text("".join(f"{label}\t{text}\n" for label, text in rows * 4))
    with pytest.raises(DataError) as caught:
        expand_labels(["labels=a.csv"])
    option = re.search(r"probably (\S+) \(a file without a header\)$", str(caught.value)).group(1)
    assert option == "task.train.columns=[label,text]" and len(str(caught.value)) < 250
    loaded = load_config(TaskFile, expand_labels(["labels=a.csv", option]).list_args()).task
    assert [(example.label, *example.texts) for example in read_examples(loaded, loaded.train)] == rows * 4


@pytest.mark.parametrize(
    "name, content, source",
    [
        ("a.txt", "One.\n\nTwo.\n", {}),
        ("a.txt", "One.\nTwo.\nThree.\n", {"unit": "line"}),
        ("a.txt", "One line only, as a book.", {}),
        ("a.jsonl", json.dumps({"id": "1", "body": "a"}) + "\n", {"text": "body"}),
        ("a.html", "<p>a</p>", {}),
    ],
)
def test_text_is_found_in_files(folder, name, content, source):
    (folder / name).write_text(content)
    shortcut = expand_text([f"text={name}", "run=mine", "train.steps=2"])
    assert shortcut.tree["corpus"] == {"name": "mine-text", "sources": [{"files": name, **source}]}
    assert shortcut.tree["run"] == "mine" and shortcut.tree["train"] == {"steps": 2}
    given = expand_text([f"text={name}", "source.language=de", "source.unit=document"]).tree
    assert (
        given["corpus"]["sources"][0].items() >= {"language": "de", "unit": "document"}.items()
        and "source" not in given
    )


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["1", "2", "5"], "to predict a number, set task.problem_type=regression"),
        (["a", "a; b", "b", "b; a"], "to read several labels, set task.problem_type=multi_label_classification and "),
        (["a, b", "a", "b"], "'a, b' is read as one class"),
        (["0", "1"], ""),
        (["News, local", "Sports"], ""),
    ],
)
def test_classes_that_may_be_numbers_or_lists_are_noted(folder, capsys, labels, note):
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels))
    expand_labels(["labels=a.jsonl"])
    printed = capsys.readouterr().out
    assert note in printed if note else not printed
    expand_labels(["labels=a.jsonl", "task.problem_type=single_label_classification"])
    assert not capsys.readouterr().out


def test_a_file_to_choose_in_an_archive_is_an_argument(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.csv", "text,label\nx,y\n")
        archive.writestr("b.txt", "x")
    with pytest.raises(DataError, match="set task.train.member=a.csv$"):
        expand_labels(["labels=a.zip"])
    with pytest.raises(DataError, match="set source.member=a.csv$"):
        expand_text(["text=a.zip"])
    assert expand_text(["text=a.zip", "source.member=b.txt"])
    with pytest.raises(DataError, match="set source.member=a.csv$"):
        complete_source(Source(files="a.zip"))


def test_a_refused_run_keeps_its_arguments(folder):
    shortcut, run = Shortcut([], {"run": "mine"}), folder / "mine"
    run.mkdir()
    with pytest.raises(ConfigError), saved_with_run(shortcut, run):
        raise ConfigError("is finished")
    assert not (run / "arguments.yaml").exists()
    with pytest.raises(KeyboardInterrupt), saved_with_run(shortcut, run):
        raise KeyboardInterrupt
    assert "run: mine" in (run / "arguments.yaml").read_text()


def test_a_column_of_text_without_a_known_name_is_asked_for(folder):
    (folder / "a.csv").write_text("n,v2\n1,Go until\n")
    with pytest.raises(
        DataError, match=r"^a.csv: which column has the text\? There are n \(1\), v2 \(Go until\); set source"
    ):
        expand_text(["text=a.csv"])
    assert expand_text(["text=a.csv", "source.text=v2"]).tree["corpus"]["sources"] == [{"files": "a.csv", "text": "v2"}]


@pytest.mark.parametrize(
    "path, name",
    [
        ("texts/*.txt", "texts"),
        ("my labels.csv", "my-labels"),
        ("a/b.jsonl.gz", "b"),
        ("*.csv", "mine"),
        ("../x/", "x"),
    ],
)
def test_a_run_is_named_by_its_file(path, name):
    assert name_run(path) == name
