"""Files of every format, compressed or not, intact or damaged."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import time
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data.sources.archives import file_size
from data.sources.readers import EXTENSION_TO_FORMAT, DataFile, FileFormat, file_extension
from data.sources.source import Source, fingerprint_inputs, iter_rows, resolve_files
from data.sources.warc import MAX_ATTRIBUTES, MAX_TAGS, html_to_text
from engine.errors import DataError

ROWS = [
    {"text": "One, two", "label": "01"},
    {"text": "NA", "label": "no"},
    {"text": 'say "yes"', "label": "1e5"},
    {"text": "drüben\nund weiter", "label": "true"},
    {"text": "你好 мир", "label": "02"},
]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def csv_table(delimiter: str) -> bytes:
    """Return the rows as a csv with every value in quotes."""
    lines = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]
    return "".join(
        delimiter.join('"' + value.replace('"', '""') + '"' for value in line) + "\n" for line in lines
    ).encode()


def columnar(kind: str) -> bytes:
    """Return the rows as Parquet, an Arrow file or an Arrow stream, in several batches."""
    content, file = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(content, file, row_group_size=2)
    else:
        with (pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream)(file, content.schema) as writer:
            writer.write_table(content, max_chunksize=2)
    return file.getvalue()


def xml() -> bytes:
    """Return the rows as XML elements."""
    elements = "".join(f"<row><text>{row['text']}</text><label>{row['label']}</label></row>" for row in ROWS)
    return f'<?xml version="1.0" encoding="utf-8"?><every xmlns="http://a.b/c">{elements}</every>'.encode()


FILES = {
    "a.csv": csv_table(","),
    "a.tsv": csv_table("\t"),
    "a.tab": csv_table("\t"),
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


def read(path: Path | str, problems: list[str] | None = None, **options) -> list[dict]:
    """Return the rows of one file."""
    with DataFile(str(path)) as file:
        return list(file.iter_rows(FileFormat(EXTENSION_TO_FORMAT[file_extension(str(path))], **options), problems))


def read_damaged(path: Path, content: bytes, **options) -> tuple[list[dict], list[str]]:
    """Return (rows, problems) of a damaged file."""
    path.write_bytes(content)
    problems: list[str] = []
    rows = read(path, problems, **options)
    assert all(problem.startswith(f"{path}: ") and len(problem.splitlines()) == 1 for problem in problems)
    return rows, [problem.removeprefix(f"{path}: ") for problem in problems]


def read_error(path: Path | str) -> str:
    """Return the error of a damaged file when no list of problems is passed."""
    with pytest.raises(DataError) as caught:
        list(iter_rows(Source(files=str(path), unit="line")))
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", FILES)
def test_every_format_and_compression_yields_the_same_rows(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix](FILES[name]))
    source = Source(files=str(path), element="row" if name == "a.xml" else None)
    assert [{key: row[key] for key in ("text", "label")} for row in iter_rows(source)] == ROWS
    problems: list[str] = []
    assert len(read(path, problems, element="row")) == len(ROWS) and not problems


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_units_of_text_files_in_every_compression(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix]("één\r\nzwei\n\n \n\n三\n".encode()))
    for unit, expected in (
        ("line", ["één", "zwei", "", " ", "", "三"]),
        ("paragraph", ["één\nzwei", "三"]),
        ("document", ["één\nzwei\n\n \n\n三"]),
    ):
        assert [row["text"] for row in iter_rows(Source(files=str(path), unit=unit))] == expected


@pytest.mark.parametrize(
    "suffix, compress",
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_concatenated_compressed_files_are_read_to_the_end(tmp_path, suffix, compress):
    """Like the output of `cat a.gz b.gz`, and the archives of Common Crawl."""
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(b"".join(compress(f"part {number}\n".encode()) for number in range(20)))
    assert [row["text"] for row in iter_rows(Source(files=str(path), unit="line"))] == [f"part {n}" for n in range(20)]


def record(kind: str, body: bytes, url: str = "http://a.b/") -> bytes:
    """Return one record of a web archive."""
    return (
        (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(body)}\r\n\r\n").encode()
        + body
        + b"\r\n\r\n"
    )


def page(html: str, kind: str = "text/html; charset=utf-8", encoding: str = "utf-8") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nServer: x\r\n\r\n".encode() + html.encode(encoding)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_web_archives(tmp_path, suffix):
    head = "<head><title>T</title><script>no()</script></head>"
    html = f"<html>{head}<body><p>Été &amp; hiver</p><div>two</div></body></html>"
    records = [
        record("warcinfo", b"software: x"),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
        record("response", page(html), "http://a.b/one"),
        record("response", page("%PDF", "application/pdf")),
        record("conversion", "plain 文\n\nWARC/1.0 in the text".encode(), "http://a.b/two"),
    ]
    path = tmp_path / f"x.warc{suffix}"
    # Each record is compressed separately, as crawlers do.
    path.write_bytes(b"".join(COMPRESS[suffix](each) for each in records))
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
def test_blocks_of_a_page_do_not_join_words(tmp_path, html):
    (tmp_path / "x.warc").write_bytes(record("response", page(html)))
    (row,) = iter_rows(Source(files=str(tmp_path / "x.warc")))
    assert row["text"].split() == ["one", "two"]


def test_a_page_is_decoded_with_its_declared_charset(tmp_path):
    html = page("<p>Größe</p>", "text/html; charset=ISO-8859-1", "latin-1")
    (tmp_path / "x.warc").write_bytes(record("response", html))
    (row,) = iter_rows(Source(files=str(tmp_path / "x.warc")))
    assert row["text"].strip() == "Größe"


@pytest.mark.parametrize(
    "html, kind, encoding",
    [
        ("<p>Größe</p>", "text/html; charset=nonsense", "utf-8"),
        ("<meta charset=iso-8859-2><p>Zażółć</p>", "text/html", "iso-8859-2"),
        ("<meta http-equiv=content-type content='text/html; charset=koi8-r'><p>Привет</p>", "text/html", "koi8-r"),
        ("<p>“Größe”</p>", "text/html; charset=ISO-8859-1", "cp1252"),
        ("<p>naïve</p>", "text/html", "utf-8"),
        ("<p>" + "x " * 2_000 + "é</p>", "text/html", "utf-8"),
        ("<p>" + "Съешь ещё этих мягких французских булок, да выпей чаю. " * 5 + "</p>", "text/html", "cp1251"),
        ("\ufeff<meta charset=koi8-r><p>Größe</p>", "text/html; charset=koi8-r", "utf-8"),
        ("\ufeff<p>Größe</p>", "text/html", "utf-16-le"),
    ],
)
def test_the_charset_is_that_of_the_mark_the_header_the_page_or_the_bytes(tmp_path, html, kind, encoding):
    (tmp_path / "x.warc").write_bytes(record("response", page(html, kind, encoding)))
    (row,) = iter_rows(Source(files=str(tmp_path / "x.warc")))
    assert row["text"].split() == html[html.index("<p>") + 3 : -4].split()


@pytest.mark.parametrize(
    "html",
    [
        "<p>one<noscript><p>no</p> no</noscript><p>two",
        "<head><noscript><style>no</style>no</noscript><title>no</title></head>one two",
        "<table><tr><td>one</td><td>two</td></tr></table>",
        "<table><tr><td>one<td><table><tr><th>two</table></table>",
        "<label>one</label><button>two</button>",
        "<select><option>one<option>two</select>",
        "<figure><img alt=no><figcaption>one</figcaption></figure>two<template>no</template><svg><text>no</text></svg>",
        "<fieldset><legend>one</legend>two</fieldset><iframe>no</iframe><!-- no -->",
    ],
)
def test_all_visible_text_of_a_page_is_kept_and_nothing_else(html):
    assert html_to_text(html).split() == ["one", "two"]


def test_the_entities_and_paragraphs_of_a_page():
    html = (
        "<h1>Fish &amp; chips</h1><p>caf&eacute;&#8212;5&nbsp;&euro; \n in all</p><ul><li>a<li>b</ul><pre>x\n y</pre>"
    )
    lines = [line.strip() for line in html_to_text(html).splitlines() if line.strip()]
    assert lines == ["Fish & chips", "café—5\xa0€ in all", "a", "b", "x", "y"]


@pytest.mark.parametrize("is_decoded", [False, True])
@pytest.mark.parametrize(
    "headers", ["", "Content-Encoding: gzip\r\n", "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"]
)
def test_transfer_encodings_are_undone_unless_the_crawler_has_done_so(tmp_path, headers, is_decoded):
    body = b"<p>one two</p>"
    if not is_decoded:
        body = gzip.compress(body) if "gzip" in headers else body
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if "chunked" in headers else body
    response = b"HTTP/1.1 200 OK\r\nContent-Type: Text/HTML\r\n" + headers.encode() + b"\r\n" + body
    (tmp_path / "x.warc").write_bytes(record("response", response) + record("conversion", b"three"))
    assert [row["text"].split() for row in iter_rows(Source(files=str(tmp_path / "x.warc")))] == [
        ["one", "two"],
        ["three"],
    ]


def test_a_saved_page_is_one_row(tmp_path):
    for name in ("a.html", "b.htm.gz"):
        content = "<meta charset=latin1><title>T</title><p>Größe</p><p>two".encode("latin-1")
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [row["text"].split() for row in iter_rows(Source(files=str(tmp_path)))] == [["Größe", "two"]] * 2


HOSTILE = [
    *("<a ", '<a b="', "<!--", "<![CDATA[", "<script>", "&#", "<", "</", "<div>", "<td>", "<table><tr><td>", "<label>"),
    *("<ul><li>", "<noscript>x", "<a><b><i></a>", "<a><div>", "<span></div>", "<p><font>", "<p a=", "<b x=1><p>"),
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_the_time_for_a_hostile_page_is_linear(pattern):
    for size in (40_000, 400_000):
        start = time.perf_counter()
        html_to_text((pattern * size)[:size])
        # Far from the minutes of quadratic time, and from the time on a busy machine.
        assert time.perf_counter() - start < 15, size


@pytest.mark.parametrize("tag", ["<div>", "<table><tr><td>", "<b>", "<ul><li>", "<select><option>"])
def test_deeply_nested_elements_are_read(tag):
    count = MAX_TAGS // tag.count("<")
    assert html_to_text(tag * count + "deep").split() == ["deep"]


def test_pages_over_the_limits_are_counted(tmp_path):
    many_attributes = "<p " + " ".join(f"a{number}=1" for number in range(MAX_ATTRIBUTES + 1)) + ">no"
    pages = ["first", "<i>" * (MAX_TAGS + 1) + "no", many_attributes, "last " + "<p " * 10 + "x=" + "y" * 10**6]
    whole = b"".join(record("response", page(each)) for each in pages)
    rows, problems = read_damaged(tmp_path / "x.warc", whole)
    assert [row["text"].split() for row in rows] == [["first"], ["last"]]
    assert problems == ["2 pages with over 100,000 tags, or 10,000 attributes in one, or over 32 MiB, skipped"]
    assert "a page with over 100,000 tags" in read_error(tmp_path / "x.warc")


@pytest.mark.parametrize("name", ["x.warc", "x.html"])
def test_missing_packages_are_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(record("conversion", b"first"))
    (tmp_path / "x.txt").write_text("first")
    monkeypatch.setattr("data.sources.warc.find_spec", lambda name: None)
    assert read_error(tmp_path / name) == f"{tmp_path / name}: needs fastwarc and resiliparse; pip install -e '.[web]'"
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path / "x.txt")))] == ["first"]


def test_only_fingerprints_of_web_pages_have_a_version(tmp_path):
    for name in ("x.warc", "x.html", "x.txt", "x.jsonl"):
        (tmp_path / name).write_bytes(b"x")
    versions = {name: fingerprint_inputs(Source(files=str(tmp_path / name)))["files"] for name in ("x.warc", "x.html")}
    assert versions == {name: [hashlib.sha256(b"x").hexdigest() + "-2"] for name in versions}
    others = Source(files=[str(tmp_path / "x.txt"), str(tmp_path / "x.jsonl")])
    assert fingerprint_inputs(others)["files"] == [hashlib.sha256(b"x").hexdigest()] * 2
    assert fingerprint_inputs(Source(files=str(tmp_path / "x.txt"), format="warc"))["files"][0].endswith("-2")


def test_nested_xml_elements(tmp_path):
    content = b"<r><d><t>one <b>bold</b> end</t><t>two</t></d><d/><x><t>not this</t></x><d><t>three</t></d></r>"
    (tmp_path / "x.xml").write_bytes(content)
    texts = [row.get("t") for row in iter_rows(Source(files=str(tmp_path / "x.xml"), element="d"))]
    assert texts == ["one bold end\ntwo", None, "three"]


# ---- damaged files --------------------------------------------------------------------------------------------------

COUNT = 3_000
LINES = {
    "x.csv": ["text,n", *(f"words and {number * 7919 % 1_000_003},{number}" for number in range(COUNT))],
    "x.jsonl": [json.dumps({"text": f"words and {number * 7919 % 1_000_003}"}) for number in range(COUNT)],
    "x.txt": [f"words and {number * 7919 % 1_000_003}" for number in range(COUNT)],
}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", LINES)
def test_a_truncated_compressed_file_yields_the_rows_before_the_cut(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    # Incompressible content in many blocks, so that half of the bytes hold about half of the rows.
    whole = b"".join(
        COMPRESS[suffix]("".join(f"{line}\n" for line in LINES[name][at : at + 300]).encode())
        for at in range(0, len(LINES[name]), 300)
    )
    rows, problems = read_damaged(path, whole[: len(whole) // 2], unit="line")
    expected = [f"words and {number * 7919 % 1_000_003}" for number in range(COUNT)]
    # The last line may be cut.
    assert len(rows) > COUNT // 4
    assert [row["text"] for row in rows[:-1]] == expected[: len(rows) - 1]
    assert len(problems) == 1 and problems[0].startswith(f"broken after row {len(rows)} (")
    assert read_error(path)


def test_a_truncated_parquet_file_is_reported(tmp_path):
    rows, problems = read_damaged(tmp_path / "x.parquet", FILES["a.parquet"][:200])
    assert not rows and len(problems) == 1 and problems[0].startswith("broken after row 0 (")
    assert read_error(tmp_path / "x.parquet")


@pytest.mark.parametrize("cut", [6, 25, 60])
def test_a_truncated_web_archive_yields_the_records_before_the_cut(tmp_path, cut):
    """Cut in the text, the length and the first lines of the last record."""
    whole = record("conversion", b"first") + record("conversion", b"second")
    rows, problems = read_damaged(tmp_path / "x.warc", whole[:-cut])
    assert [row["text"] for row in rows] == ["first"] and len(problems) == 1
    assert problems[0].startswith("broken after row 1 (") and problems[0].endswith("); earlier rows are kept")
    assert read_error(tmp_path / "x.warc")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_compressed_web_archive_yields_the_pages_before_the_cut(tmp_path, keep):
    pages = [" ".join(f"{number * index * 7919 % 1_000_003}" for index in range(500)) for number in range(1, 60)]
    whole = b"".join(gzip.compress(record("response", page(f"<p>{each}"))) for each in pages)
    rows, problems = read_damaged(tmp_path / "x.warc.gz", whole[: int(len(whole) * keep)])
    assert [row["text"] for row in rows] == pages[: len(rows)] and len(rows) > len(pages) * keep - 6
    assert len(problems) == 1 and problems[0].startswith(f"broken after row {len(rows)} (")
    assert read_error(tmp_path / "x.warc.gz")


@pytest.mark.parametrize("damage", [b"garbage\n", b"WARC/1.0\r\nContent-Length: x\r\n\r\n", b"WARC/1.0\r\n\r\n"])
def test_garbage_in_a_web_archive_is_reported(tmp_path, damage):
    rows, problems = read_damaged(tmp_path / "x.warc", record("conversion", b"first") + damage)
    assert [row["text"] for row in rows] == ["first"] and len(problems) == 1
    assert read_error(tmp_path / "x.warc")


def test_a_truncated_xml_file_yields_the_elements_before_the_cut(tmp_path):
    rows, problems = read_damaged(tmp_path / "x.xml", FILES["a.xml"][:-40], element="row")
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS[:4]] and len(problems) == 1


@pytest.mark.parametrize(
    "name, header, line",
    [("x.txt", "", "{}"), ("x.jsonl", "", '{{"text": "{}"}}'), ("x.csv", "text\n", "{}"), ("x.tsv", "text\n", "{}")],
)
def test_lines_that_are_not_utf8_are_read_as_windows_1252_and_counted(tmp_path, name, header, line):
    texts = ["plain", "café", "naïve “quotes”", "你好"]
    lines = [line.format(text).encode("cp1252" if text in texts[1:3] else "utf-8") for text in texts]
    rows, problems = read_damaged(tmp_path / name, header.encode() + b"\n".join(lines) + b"\n", unit="line")
    assert [row["text"] for row in rows] == texts
    assert problems == ["2 lines not UTF-8, read as Windows-1252"]
    assert "codec can't decode byte 0xe9" in read_error(tmp_path / name)


def test_lines_that_are_not_json_are_counted(tmp_path):
    rows, problems = read_damaged(
        tmp_path / "x.jsonl", b'{"text": "a"}\n{oops\n\n{"text": "b"}\n{"text": \n{"text": "c"}\n'
    )
    assert [row["text"] for row in rows] == ["a", "b", "c"] and problems == ["2 lines not JSON, skipped"]
    assert read_error(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "content, kept, skipped",
    [
        (b"a,b\n1,2\n3,4,5\n6,7\n8,9,10,11\n", ["1", "6"], "2 rows"),
        (b"a,b\n3,4,5\n1,2\n", ["1"], "1 row"),
        (b"a,b\n1,2,3\n4,5,6\n7,8\n", ["7"], "2 rows"),
    ],
)
def test_csv_rows_with_too_many_columns_are_counted(tmp_path, content, kept, skipped):
    rows, problems = read_damaged(tmp_path / "x.csv", content)
    assert [row["a"] for row in rows] == kept and all(row.keys() == {"a", "b"} for row in rows)
    assert problems == [f"{skipped} with more columns than the header, skipped"]
    assert read_error(tmp_path / "x.csv")


def test_missing_csv_columns_are_empty(tmp_path):
    rows, problems = read_damaged(tmp_path / "x.csv", b"a,b\n1\n2,3\n")
    assert rows == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}] and not problems


def test_an_unclosed_quote_keeps_the_rows_before_it(tmp_path):
    rows, problems = read_damaged(tmp_path / "x.csv", b"a,b\n" + b"1,2\n" * 500 + b'"3,4\n' * 3)
    assert rows[:500] == [{"a": "1", "b": "2"}] * 500 and len(problems) == 1
    assert read_error(tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.txt", "x.parquet", "x.arrow", "x.warc", "x.html", "x.xml"])
def test_an_empty_file_is_reported(tmp_path, name, suffix):
    rows, problems = read_damaged(tmp_path / (name + suffix), COMPRESS[suffix](b""), element="d")
    assert not rows and len(problems) == 1
    if not suffix:
        assert problems == ["an empty file"]
        assert list(iter_rows(Source(files=str(tmp_path / name)))) == []


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(
    "name, content",
    [
        ("x.txt", "é\n你好\n"),
        ("x.csv", "text\né\n你好\n"),
        ("x.jsonl", '{"text": "é"}\n{"text": "你好"}\n'),
        ("x.json", '[{"text": "é"},\n{"text": "你好"}]'),
    ],
)
def test_a_byte_order_mark_sets_the_encoding(tmp_path, name, content, encoding, suffix):
    rows, problems = read_damaged(tmp_path / (name + suffix), COMPRESS[suffix](content.encode(encoding)), unit="line")
    assert rows == [{"text": "é"}, {"text": "你好"}] and not problems


# ---- locations ------------------------------------------------------------------------------------------------------


def test_a_folder_means_all_files_with_a_known_extension(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "deep" / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "deep" / "er" / "c.csv.gz").write_bytes(gzip.compress(b"text\nc\n"))
    (tmp_path / "deep" / "README").write_text("no")
    (tmp_path / "deep" / "x.jpg").write_text("no")
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path)))] == ["b", "a", "c"]
    assert [row["text"] for row in iter_rows(Source(files=str(tmp_path / "**" / "*.c*")))] == ["c"]
    (tmp_path / "none").mkdir()
    assert "no file in this folder has a known extension" in read_error(tmp_path / "none")


def test_hidden_files_are_left_out_and_counted(tmp_path, capsys):
    hidden = ["._a.txt", ".b.txt", ".git/c.txt", "__MACOSX/a.txt", "deep/.ipynb_checkpoints/a.txt"]
    for name in ["a.txt", "deep/b.txt", *hidden]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    for files in (tmp_path, tmp_path / "**" / "*.txt"):
        assert [row["text"] for row in iter_rows(Source(files=str(files)))] == ["a.txt", "deep/b.txt"]
    count = f"{tmp_path}: 5 hidden files left out", f"{tmp_path}/**/*.txt: 1 hidden file left out"
    assert capsys.readouterr().err.splitlines() == list(count)
    for files in (tmp_path / ".b.txt", tmp_path / ".git", tmp_path / ".git" / "*.txt", tmp_path / "__MACOSX"):
        assert len(list(iter_rows(Source(files=str(files))))) == 1
    assert not capsys.readouterr().err


def test_a_file_that_two_names_match_is_read_once(tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = [str(tmp_path / "b.txt"), str(tmp_path / "*.txt"), f"{tmp_path}/../{tmp_path.name}/a.txt"]
    assert [row["text"] for row in iter_rows(Source(files=files))] == ["b.txt", "a.txt"]
    assert capsys.readouterr().err == f"{tmp_path}/b.txt and 1 more: named more than once, read once\n"


def test_links_out_of_a_folder_are_named(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "folder" / "b.txt").symlink_to("a.txt")
    folder = str(tmp_path / "folder")
    assert len(list(iter_rows(Source(files=folder)))) == 2 and not capsys.readouterr().err
    (tmp_path / "folder" / "c.txt").symlink_to(tmp_path / "outside.txt")
    assert [row["text"] for row in iter_rows(Source(files=folder))] == ["a", "a", "outside"]
    assert capsys.readouterr().err == f"{folder}: c.txt read through links out of the folder\n"


@pytest.fixture
def memory(request):
    """A folder of the in-memory store of fsspec, in place of a cloud store."""
    store, folder = fsspec.filesystem("memory"), f"/{request.node.name}"
    yield store, folder
    store.rm(folder, recursive=True)


def test_remote_files(tmp_path, memory):
    store, folder = memory
    store.pipe(f"{folder}/b.csv", b"text\nb\n")
    store.pipe(f"{folder}/deep/a.txt.gz", gzip.compress(b"a\n"))
    texts = {
        name: [row["text"] for row in iter_rows(Source(files=f"memory:/{folder}{name}"))]
        for name in ("", "/*.csv", "/deep", "/b.csv")
    }
    assert texts == {"": ["b", "a"], "/*.csv": ["b"], "/deep": ["a"], "/b.csv": ["b"]}
    assert read_error(f"memory:/{folder}/c.csv").endswith("c.csv: no such file")
    assert read_error("nowhere://a/b.csv").startswith("nowhere://a/b.csv: cannot be reached (")
    (tmp_path / "x.jsonl").write_text('{"text": "x"}\n')
    assert [row["text"] for row in iter_rows(Source(files=f"file://{tmp_path}/*.jsonl"))] == ["x"]


def test_other_files_in_a_remote_folder_are_ignored(memory):
    store, folder = memory
    store.pipe(f"{folder}/a.txt", b"a\n")
    store.pipe(f"{folder}/_SUCCESS", b"")
    store.pipe(f"{folder}/.b.txt", b"b\n")
    assert [row["text"] for row in iter_rows(Source(files=f"memory:/{folder}"))] == ["a"]


def test_the_fingerprint_of_a_remote_file_follows_its_content(memory):
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


def test_a_renamed_column_replaces_one_of_its_new_name(tmp_path):
    (tmp_path / "a.csv").write_text("review,text,label\ngood film,id-1,pos\n")
    source = Source(files=str(tmp_path / "a.csv"), rename={"review": "text"})
    assert list(iter_rows(source)) == [{"text": "good film", "label": "pos"}]
    swapped = source.model_copy(update={"rename": {"review": "text", "text": "review"}})
    assert list(iter_rows(swapped)) == [{"text": "good film", "review": "id-1", "label": "pos"}]
    missing = source.model_copy(update={"rename": {"body": "text"}})
    assert list(iter_rows(missing)) == [{"review": "good film", "text": "id-1", "label": "pos"}]


def test_the_position_in_a_file_grows_to_its_size(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress("".join(f"{number * 7919 % 1_000_003}\n" for number in range(200_000)).encode()))
    with DataFile(str(path)) as file:
        seen = [
            file.position
            for number, _ in enumerate(file.iter_rows(FileFormat("text", unit="line")))
            if number % 1_000 == 0
        ]
        assert seen == sorted(seen) and 0 < seen[0] < 0.3 * file.size < 0.8 * file.size < seen[-1] <= file.size
        assert file.position == file.size == path.stat().st_size == file_size(str(path))


def test_files_keep_the_given_order_and_repetitions(tmp_path):
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
