"""Encodings of text files, and files that do not fit in memory."""

import bz2
import gzip
import json
import lzma
import resource
import subprocess
import sys

import pytest
from helpers import environment
from pydantic import ValidationError

from data.sources import lines
from data.sources.readers import DataFile
from data.sources.source import Source, get_format, iter_rows
from engine.errors import DataError

TEXTS = ["Это был хороший фильм", "Очень скучно", "Мне понравилось", "plain"]


def read(path, **keys) -> tuple[list[str], list[str]]:
    """Return (texts, problems) of a file as a corpus."""
    problems: list[str] = []
    with DataFile(str(path)) as file:
        rows = list(file.iter_rows(get_format(Source(files=str(path), **keys), str(path)), problems))
    return [row["text"] for row in rows], [problem.removeprefix(f"{path}: ") for problem in problems]


@pytest.mark.parametrize("encoding", ["windows-1251", "koi8-r", "gbk", "shift_jis", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name, start, line", [("a.txt", "", "{}"), ("a.csv", "text\n", "{}"), ("a.jsonl", "", None)])
def test_the_encoding_of_a_file_can_be_set(tmp_path, encoding, name, start, line):
    rows = [line.format(text) if line else json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    path = tmp_path / name
    path.write_bytes((start + "\n".join(rows) + "\n").encode(encoding))
    assert read(path, encoding=encoding, unit="line") == (TEXTS, [])
    assert [row["text"] for row in iter_rows(Source(files=str(path), encoding=encoding, unit="line"))] == TEXTS
    for refused in (lambda: read(path), lambda: list(iter_rows(Source(files=str(path))))):
        with pytest.raises(DataError, match=f"; set encoding: {encoding if 'utf' in encoding else '[a-z0-9_-]+'}$"):
            refused()


def test_characters_that_the_encoding_lacks_are_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes("кино\n".encode("cp1251") + b"\x98\n")
    assert read(tmp_path / "a.txt", encoding="cp1251", unit="line") == (
        ["кино", "\ufffd"],
        ["1 line not CP1251, with replaced characters"],
    )
    with pytest.raises(DataError, match=r"a.txt line 2: 'charmap' codec can't decode"):
        list(iter_rows(Source(files=str(tmp_path / "a.txt"), encoding="cp1251", unit="line")))


def test_a_stray_nul_byte_is_not_utf16(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\none\0two\nthree\n")
    assert read(tmp_path / "a.csv") == (["one\0two", "three"], [])


def test_lines_may_end_as_on_old_macs(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for name, content in (("a.csv", "text,label\rone,x\rzwölf,y\r"), ("a.txt", "one\rzwölf\r")):
            (tmp_path / name).write_bytes(content.encode(encoding))
            assert read(tmp_path / name, unit="line") == (["one", "zwölf"], [])


@pytest.mark.parametrize("compress, end", [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_a_compressed_file_without_the_extension_is_refused(tmp_path, compress, end):
    (tmp_path / "a.csv").write_bytes(compress(b"text\none\n"))
    for refused in (lambda: read(tmp_path / "a.csv"), lambda: list(iter_rows(Source(files=str(tmp_path / "a.csv"))))):
        with pytest.raises(DataError, match=rf"a.csv: is compressed; rename it to end in \{end}$"):
            refused()


def test_a_number_of_too_many_digits_costs_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": ' + "1" * 5_000 + '}\n{"text": "one"}\n')
    assert read(tmp_path / "a.jsonl") == (["one"], ["1 line not JSON, skipped"])


def test_an_unknown_encoding_is_a_mistake():
    for name in ("utf-9", "rot13", "base64", ""):
        with pytest.raises(ValidationError, match="no encoding"):
            Source(files="a.txt", encoding=name)
    assert "encoding" not in Source(files="a.txt").model_dump(), "or fingerprints of sources change"


@pytest.fixture
def small_limit(monkeypatch):
    """Rows of at most 64 bytes."""
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 64)


@pytest.mark.parametrize("unit", ["line", "paragraph", "document"])
@pytest.mark.parametrize("letter", ["x", "é", "中", "🎬"])
def test_a_long_text_is_split_and_nothing_is_lost(tmp_path, small_limit, unit, letter):
    whole = "a" + letter * 300
    (tmp_path / "a.txt").write_text(f"first\n\n{whole}\n\nlast\n")
    texts, problems = read(tmp_path / "a.txt", unit=unit)
    assert "".join("".join(texts).split()) == f"first{whole}last" and len(texts) > 2
    assert len(problems) == 1 and problems[0].startswith(f"{unit} over 6.1e-05 MiB, split at ")


def test_a_long_csv_or_json_line_is_cut_and_counted(tmp_path, small_limit):
    (tmp_path / "a.csv").write_text("text\nfirst\n" + "é" * 300 + "\nlast\n")
    assert read(tmp_path / "a.csv") == (["first", "é" * 31, "last"], ["1 line over 6.1e-05 MiB, cut"])
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n' + json.dumps({"text": "x" * 300}) + '\n{"text": "last"}\n')
    texts, problems = read(tmp_path / "a.jsonl")
    assert texts == ["first", "last"] and problems == ["1 line over 6.1e-05 MiB, cut", "1 line not JSON, skipped"]
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(DataError, match=f"{name} line [23]: over 6.1e-05 MiB"):
            list(iter_rows(Source(files=str(tmp_path / name))))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_of_any_length_is_read(tmp_path, small_limit, indent):
    rows = [{"text": f"number {number} é🎬 ]}},", "n": [number, 1.5e3, None]} for number in range(200)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False))
    assert list(iter_rows(Source(files=str(tmp_path / "a.json")))) == rows
    (tmp_path / "a.json").write_text(json.dumps([rows[0], {"text": "x" * 300_000}, rows[1]]))
    texts, (problem,) = read(tmp_path / "a.json")
    assert texts == [rows[0]["text"]] and problem.startswith("broken after row 1 (an element over ")


def test_a_large_json_object_or_xml_element_is_refused(tmp_path, small_limit):
    (tmp_path / "a.json").write_text(json.dumps({"a": {"text": "x" * 99}}, indent=1))
    (tmp_path / "a.xml").write_text("<r>" + "<d><t>one</t></d>" * 30 + "<d><t>" + "x" * 99_999 + "</t></d></r>")
    assert read(tmp_path / "a.json")[1][0].startswith("broken after row 0 (one object over ")
    problems: list[str] = []
    with DataFile(str(tmp_path / "a.xml")) as file:
        source = Source(files="a.xml", element="d")
        rows = list(file.iter_rows(get_format(source, "a.xml"), problems))
    assert [row["t"] for row in rows] == ["one"] * 30 and "broken after row 30 (an element over " in problems[0]


X = b"x" * 1_000
BOMBS = {
    "a.txt.gz": (b"", X, b""),
    "a.csv.gz": (b"text\n", X, b""),
    "b.csv.gz": (b'text\n"', X + b"\n", b""),
    "a.jsonl.gz": (b'{"text": "', X, b""),
    "a.json.gz": (b'[{"text": "', X, b""),
    "b.json.gz": (b"[{}", b',{"a": "' + X + b'"}', b"]"),
    "a.xml.gz": (b"<r>", b"<d>" + X + b"</d>", b"</r>"),
    "b.xml.gz": (b"<r>", X, b""),
}
READ_ALL = """
import sys
from data.sources import lines
from data.sources.readers import DataFile
from data.sources.source import Source, get_format
lines.MAX_ROW_BYTES = 2**21
for path in sys.argv[1:]:
    problems = []
    with DataFile(path) as file:
        for _ in file.iter_rows(get_format(Source(files=path, element="e", unit="line"), path), problems):
            pass
    assert bool(problems) != path.endswith(("a.xml.gz", "b.json.gz")), path
"""


def test_a_small_compressed_file_does_not_fill_the_memory(tmp_path):
    """Each file is 60 MB when decompressed; the process may have 100 MB in all."""
    for name, (start, body, end) in BOMBS.items():
        (tmp_path / name).write_bytes(gzip.compress(start + body * 60_000 + end, compresslevel=1))
    limit = 100 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *(str(tmp_path / name) for name in BOMBS)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
