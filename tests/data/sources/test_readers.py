"""Files of every format, packed every way and broken in every way: the rows come out, and what is wrong is told."""

import bz2
import gzip
import io
import json
import lzma
import shutil
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data.sources.readers import EXTENSION_TO_FORMAT, DataFile, FileFormat, file_extension
from data.sources.source import Source, fingerprint_inputs, iter_rows, resolve_files
from engine.errors import DataError

ROWS = [
    {"text": "One, two", "label": "01"},
    {"text": "NA", "label": "no"},
    {"text": 'say "yes"', "label": "1e5"},
    {"text": "drüben\nund weiter", "label": "true"},
    {"text": "你好 мир", "label": "02"},
]
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def table(separator: str) -> bytes:
    """The rows as a csv, every value in quotes."""
    lines = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]
    return "".join(
        separator.join('"' + value.replace('"', '""') + '"' for value in line) + "\n" for line in lines
    ).encode()


def columnar(kind: str) -> bytes:
    """The rows as Parquet, as an Arrow file or as an Arrow stream, in several batches."""
    made, file = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(made, file, row_group_size=2)
    else:
        with (pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream)(file, made.schema) as writer:
            writer.write_table(made, max_chunksize=2)
    return file.getvalue()


def xml() -> bytes:
    """The rows as elements."""
    inside = "".join(f"<row><text>{row['text']}</text><label>{row['label']}</label></row>" for row in ROWS)
    return f'<?xml version="1.0" encoding="utf-8"?><every xmlns="http://a.b/c">{inside}</every>'.encode()


EVERY = {
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "a.tab": table("\t"),
    "a.parquet": columnar("parquet"),
    "file.arrow": columnar("file"),
    "stream.arrow": columnar("stream"),
    "a.xml": xml(),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "a.ndjson": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "list.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=1).encode(),
    "objects.json": json.dumps({f"k{number}": row for number, row in enumerate(ROWS)}).encode(),
    "pretty-objects.json": json.dumps({f"k{number}": row for number, row in enumerate(ROWS)}, indent=2).encode(),
}


def read(path: Path | str, problems: list[str] | None = None, **how) -> list[dict]:
    """The rows of one file."""
    with DataFile(str(path)) as file:
        return list(file.iter_rows(FileFormat(EXTENSION_TO_FORMAT[file_extension(str(path))], **how), problems))


def mended(path: Path, content: bytes, **how) -> tuple[list[dict], list[str]]:
    """(the rows of a file that is broken, what is told of it)."""
    path.write_bytes(content)
    problems: list[str] = []
    found = read(path, problems, **how)
    assert all(problem.startswith(f"{path}: ") and len(problem.splitlines()) == 1 for problem in problems)
    return found, [problem.removeprefix(f"{path}: ") for problem in problems]


def refused(path: Path) -> str:
    """What is told of a broken file where there is no list for it."""
    with pytest.raises(DataError) as caught:
        list(iter_rows(Source(files=str(path), unit="line")))
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", EVERY)
def test_the_same_rows_from_every_format_packed_every_way(tmp_path, name, packed):
    path = tmp_path / (name + packed)
    path.write_bytes(PACK[packed](EVERY[name]))
    source = Source(files=str(path), element="row" if name == "a.xml" else None)
    assert [{key: row[key] for key in ("text", "label")} for row in iter_rows(source)] == ROWS
    problems: list[str] = []
    assert len(read(path, problems, element="row")) == len(ROWS) and not problems


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_lines_paragraphs_and_documents_packed_every_way(tmp_path, name, packed):
    path = tmp_path / (name + packed)
    path.write_bytes(PACK[packed]("één\r\nzwei\n\n \n\n三\n".encode()))
    for unit, expected in (
        ("line", ["één", "zwei", "", " ", "", "三"]),
        ("paragraph", ["één\nzwei", "三"]),
        ("document", ["één\nzwei\n\n \n\n三"]),
    ):
        assert [row["text"] for row in iter_rows(Source(files=str(path), unit=unit))] == expected


@pytest.mark.parametrize(
    "packed, joined",
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_packed_files_that_were_joined_are_read_to_the_end(tmp_path, packed, joined):
    """As `cat a.gz b.gz` makes them, and as the archives of Common Crawl are."""
    path = tmp_path / f"x.txt{packed}"
    path.write_bytes(b"".join(joined(f"part {number}\n".encode()) for number in range(20)))
    assert [row["text"] for row in iter_rows(Source(files=str(path), unit="line"))] == [f"part {n}" for n in range(20)]


def record(kind: str, body: bytes, address: str = "http://a.b/") -> bytes:
    """One record of a web archive."""
    return (
        (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\nContent-Length: {len(body)}\r\n\r\n").encode()
        + body
        + b"\r\n\r\n"
    )


def page(html: str, kind: str = "text/html; charset=utf-8", encoding: str = "utf-8") -> bytes:
    """What a server answered."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nServer: x\r\n\r\n".encode() + html.encode(encoding)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_web_archives(tmp_path, packed):
    html = "<html><head><title>T</title><script>no()</script></head><body><p>Été &amp; hiver</p><div>two</div></body></html>"
    records = [
        record("warcinfo", b"software: x"),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
        record("response", page(html), "http://a.b/one"),
        record("response", page("%PDF", "application/pdf")),
        record("conversion", "plain 文\n\nWARC/1.0 in the text".encode(), "http://a.b/two"),
    ]
    path = tmp_path / f"x.warc{packed}"
    # Each record is packed by itself, as crawlers do.
    path.write_bytes(b"".join(PACK[packed](each) for each in records))
    first, second = iter_rows(Source(files=str(path)))
    assert first["text"].split() == ["Été", "&", "hiver", "two"] and first["url"] == "http://a.b/one"
    assert second == {"text": "plain 文\n\nWARC/1.0 in the text", "url": "http://a.b/two"}


@pytest.mark.parametrize(
    "html",
    [
        "<h1>one</h1>two",
        "<div>one</div>two",
        "one<p>two",
        "<ul><li>one</li></ul>two",
        "<td>one</td><td>two</td>",
        "one<br>two",
        "one<br/>two",
        "one<hr>two",
        "<dt>one<dd>two",
        "<style>x{}</style>one<script>var a;</script> two",
        "<html><head><title>no</title><body>one <b>two</b>",
    ],
)
def test_the_words_of_a_page_stay_apart(tmp_path, html):
    (tmp_path / "x.warc").write_bytes(record("response", page(html)))
    (row,) = iter_rows(Source(files=str(tmp_path / "x.warc")))
    assert row["text"].split() == ["one", "two"]


def test_a_page_is_read_in_the_encoding_it_names(tmp_path):
    html = page("<p>Größe</p>", "text/html; charset=ISO-8859-1", "latin-1")
    (tmp_path / "x.warc").write_bytes(record("response", html))
    (row,) = iter_rows(Source(files=str(tmp_path / "x.warc")))
    assert row["text"].strip() == "Größe"


def test_xml_elements_with_elements_inside(tmp_path):
    content = b"<r><d><t>one <b>bold</b> end</t><t>two</t></d><d/><x><t>not this</t></x><d><t>three</t></d></r>"
    (tmp_path / "x.xml").write_bytes(content)
    found = [row.get("t") for row in iter_rows(Source(files=str(tmp_path / "x.xml"), element="d"))]
    assert found == ["one bold end\ntwo", None, "three"]


# ---- what is broken -------------------------------------------------------------------------------------------------

COUNT = 3_000
LINES = {
    "x.csv": ["text,n", *(f"words and {number * 7919 % 1_000_003},{number}" for number in range(COUNT))],
    "x.jsonl": [json.dumps({"text": f"words and {number * 7919 % 1_000_003}"}) for number in range(COUNT)],
    "x.txt": [f"words and {number * 7919 % 1_000_003}" for number in range(COUNT)],
}


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", LINES)
def test_half_a_packed_file_gives_the_rows_before_the_break(tmp_path, name, packed):
    path = tmp_path / (name + packed)
    # What does not shrink, in many blocks, so that half of the bytes hold about half of the rows.
    whole = b"".join(
        PACK[packed]("".join(f"{line}\n" for line in LINES[name][at : at + 300]).encode())
        for at in range(0, len(LINES[name]), 300)
    )
    found, problems = mended(path, whole[: len(whole) // 2], unit="line")
    expected = [f"words and {number * 7919 % 1_000_003}" for number in range(COUNT)]
    # The last line may be cut in two.
    assert len(found) > COUNT // 4
    assert [row["text"] for row in found[:-1]] == expected[: len(found) - 1]
    assert len(problems) == 1 and problems[0].startswith(f"broken after row {len(found)} (")
    assert refused(path)


def test_half_a_parquet_file_is_told(tmp_path):
    found, problems = mended(tmp_path / "x.parquet", EVERY["a.parquet"][:200])
    assert not found and len(problems) == 1 and problems[0].startswith("broken after row 0 (")
    assert refused(tmp_path / "x.parquet")


@pytest.mark.parametrize("cut", [6, 25, 60])
def test_half_a_web_archive_keeps_what_came_before(tmp_path, cut):
    """Cut within the last record's text, its length, and its first lines."""
    whole = record("conversion", b"first") + record("conversion", b"second")
    found, problems = mended(tmp_path / "x.warc", whole[:-cut])
    assert [row["text"] for row in found] == ["first"] and len(problems) == 1
    assert problems[0].startswith("broken after row 1 (") and problems[0].endswith("); what came before is kept")
    assert refused(tmp_path / "x.warc")


def test_half_an_xml_file_keeps_what_came_before(tmp_path):
    found, problems = mended(tmp_path / "x.xml", EVERY["a.xml"][:-40], element="row")
    assert [row["text"] for row in found] == [row["text"] for row in ROWS[:4]] and len(problems) == 1


@pytest.mark.parametrize(
    "name, header, line",
    [("x.txt", "", "{}"), ("x.jsonl", "", '{{"text": "{}"}}'), ("x.csv", "text\n", "{}"), ("x.tsv", "text\n", "{}")],
)
def test_lines_that_are_not_utf8_are_read_as_windows_1252_and_counted(tmp_path, name, header, line):
    texts = ["plain", "café", "naïve “quotes”", "你好"]
    lines = [line.format(text).encode("cp1252" if text in texts[1:3] else "utf-8") for text in texts]
    found, problems = mended(tmp_path / name, header.encode() + b"\n".join(lines) + b"\n", unit="line")
    assert [row["text"] for row in found] == texts
    assert problems == ["2 lines not UTF-8, read as Windows-1252"]
    assert "codec can't decode byte 0xe9" in refused(tmp_path / name)


def test_lines_that_are_not_json_are_counted(tmp_path):
    found, problems = mended(tmp_path / "x.jsonl", b'{"text": "a"}\n{oops\n\n{"text": "b"}\n{"text": \n{"text": "c"}\n')
    assert [row["text"] for row in found] == ["a", "b", "c"] and problems == ["2 lines not JSON, passed over"]
    assert refused(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "content, kept, skipped",
    [
        (b"a,b\n1,2\n3,4,5\n6,7\n8,9,10,11\n", ["1", "6"], "2 rows"),
        (b"a,b\n3,4,5\n1,2\n", ["1"], "1 row"),
        (b"a,b\n1,2,3\n4,5,6\n7,8\n", ["7"], "2 rows"),
    ],
)
def test_csv_rows_with_too_many_columns_are_counted(tmp_path, content, kept, skipped):
    found, problems = mended(tmp_path / "x.csv", content)
    assert [row["a"] for row in found] == kept and all(row.keys() == {"a", "b"} for row in found)
    assert problems == [f"{skipped} with more columns than the header, passed over"]
    assert refused(tmp_path / "x.csv")


def test_a_csv_row_with_too_few_columns_has_empty_ones(tmp_path):
    found, problems = mended(tmp_path / "x.csv", b"a,b\n1\n2,3\n")
    assert found == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}] and not problems


def test_a_quote_that_is_never_closed_keeps_the_rows_before(tmp_path):
    found, problems = mended(tmp_path / "x.csv", b"a,b\n" + b"1,2\n" * 500 + b'"3,4\n' * 3)
    assert found[:500] == [{"a": "1", "b": "2"}] * 500 and len(problems) == 1
    assert refused(tmp_path / "x.csv")


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.txt", "x.parquet", "x.arrow", "x.warc", "x.xml"])
def test_an_empty_file_is_named(tmp_path, name, packed):
    found, problems = mended(tmp_path / (name + packed), PACK[packed](b""), element="d")
    assert not found and len(problems) == 1
    if not packed:
        assert problems == ["an empty file"]
        assert list(iter_rows(Source(files=str(tmp_path / name)))) == []


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize(
    "name, content",
    [
        ("x.txt", "é\n你好\n"),
        ("x.csv", "text\né\n你好\n"),
        ("x.jsonl", '{"text": "é"}\n{"text": "你好"}\n'),
        ("x.json", '[{"text": "é"},\n{"text": "你好"}]'),
    ],
)
def test_a_byte_order_mark_is_understood(tmp_path, name, content, encoding, packed):
    found, problems = mended(tmp_path / (name + packed), PACK[packed](content.encode(encoding)), unit="line")
    assert found == [{"text": "é"}, {"text": "你好"}] and not problems


# ---- where files are ------------------------------------------------------------------------------------------------


def test_a_folder_is_every_file_in_it_whose_ending_is_known(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "deep" / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "deep" / "er" / "c.csv.gz").write_bytes(gzip.compress(b"text\nc\n"))
    (tmp_path / "deep" / "README").write_text("no")
    (tmp_path / "deep" / "x.jpg").write_text("no")
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path)))] == ["b", "a", "c"]
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path / "**" / "*.c*")))] == ["c"]
    (tmp_path / "none").mkdir()
    assert "no file in this folder has an ending that is known" in refused(tmp_path / "none")


@pytest.fixture
def memory(request):
    """A folder of the store that is kept in memory, as text would lie in a cloud's."""
    store, folder = fsspec.filesystem("memory"), f"/{request.node.name}"
    yield store, folder
    store.rm(folder, recursive=True)


def test_addresses(tmp_path, memory):
    store, folder = memory
    store.pipe(f"{folder}/b.csv", b"text\nb\n")
    store.pipe(f"{folder}/deep/a.txt.gz", gzip.compress(b"a\n"))
    found = {
        name: [row["text"] for row in iter_rows(Source(files=f"memory:/{folder}{name}"))]
        for name in ("", "/*.csv", "/deep", "/b.csv")
    }
    assert found == {"": ["b", "a"], "/*.csv": ["b"], "/deep": ["a"], "/b.csv": ["b"]}
    assert refused(f"memory:/{folder}/c.csv").endswith("c.csv: no such file")
    assert refused("nowhere://a/b.csv").startswith("nowhere://a/b.csv: cannot be reached (")
    (tmp_path / "x.jsonl").write_text('{"text": "x"}\n')
    assert [row["text"] for row in iter_rows(Source(files=f"file://{tmp_path}/*.jsonl"))] == ["x"]


def test_a_folder_at_an_address_may_hold_other_things(memory):
    store, folder = memory
    store.pipe(f"{folder}/a.txt", b"a\n")
    store.pipe(f"{folder}/_SUCCESS", b"")
    assert [row["text"] for row in iter_rows(Source(files=f"memory:/{folder}"))] == ["a"]


def test_the_identity_of_an_address_follows_what_is_there(memory):
    store, folder = memory
    source = Source(files=f"memory:/{folder}/a.txt")
    store.pipe(f"{folder}/a.txt", b"a\n")
    first = fingerprint_inputs(source)
    assert fingerprint_inputs(source) == first
    store.pipe(f"{folder}/a.txt", b"b\n")
    assert fingerprint_inputs(source) != first


def test_rename_and_where(tmp_path):
    (tmp_path / "a.csv").write_text("review,kind,n\na,x,1\nb,y,2\nc,x,3\n")
    source = Source(files=str(tmp_path / "a.csv"), where={"kind": "x"}, rename={"review": "text", "n": "number"})
    assert list(iter_rows(source)) == [
        {"text": "a", "kind": "x", "number": "1"},
        {"text": "c", "kind": "x", "number": "3"},
    ]


def test_the_position_in_a_file_goes_from_nothing_to_all_of_it(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress("".join(f"{number * 7919 % 1_000_003}\n" for number in range(200_000)).encode()))
    with DataFile(str(path)) as file:
        seen = [
            file.position
            for number, _ in enumerate(file.iter_rows(FileFormat("text", unit="line")))
            if number % 1_000 == 0
        ]
        assert seen == sorted(seen) and 0 < seen[0] < 0.3 * file.size < 0.8 * file.size < seen[-1] <= file.size
        assert file.position == file.size == path.stat().st_size == DataFile.file_size(str(path))


def test_files_are_taken_in_order_and_as_often_as_they_are_named(tmp_path):
    for name in "cab":
        (tmp_path / f"{name}.txt").write_text(name)
    shutil.copytree(tmp_path, tmp_path / "more")
    names = [str(tmp_path / "c.txt"), str(tmp_path / "[ab].txt"), str(tmp_path / "more")]
    assert [Path(path).name for path in resolve_files(Source(files=names))] == [
        "c.txt",
        "a.txt",
        "b.txt",
        "a.txt",
        "b.txt",
        "c.txt",
    ]
