"""Csv files with quotes that do not match."""

import csv
import random
import time
from itertools import islice
from pathlib import Path

import pytest

from data.corpus.config import Clean, CorpusSource
from data.corpus.extract import BucketReader, split_into_buckets
from data.sources import lines
from data.sources.source import Source, iter_rows
from engine.errors import DataError

ROWS = [f"film {number}" for number in range(60)]


def write(path: Path, cells: list[str]) -> str:
    """Write cells as they are as the texts of a csv and return its path."""
    path.write_text("text,label\n" + "".join(f"{cell},pos\n" for cell in cells))
    return str(path)


def read_corpus(path: str, **keys) -> tuple[list[str], list[str]]:
    """Return (texts, problems) of a file as a corpus."""
    (bucket,) = split_into_buckets(CorpusSource(files=path, **keys), Clean())
    reader = BucketReader(bucket)
    return [text for text, _ in reader.iter_texts()], [line.partition(": ")[2] for line in reader.problems]


def test_a_quoted_word_at_the_start_of_a_value_costs_no_row(tmp_path):
    path = write(tmp_path / "a.csv", [*ROWS, '"Good" film', '"""Good"" film"', 'a "good" film', *ROWS])
    expected = [*ROWS, "Good film", '"Good" film', 'a "good" film', *ROWS]
    assert read_corpus(path) == (expected, [])
    assert [row["text"] for row in iter_rows(Source(files=path))] == expected
    assert {row["label"] for row in iter_rows(Source(files=path))} == {"pos"}


@pytest.mark.parametrize(
    "after",
    [[], ['"Bad, really"'], ['"Bad"'], ['he called ""no""', '"Bad" it was'], ['"two\nlines"']],
    ids=["end", "comma", "quoted", "word", "lines"],
)
def test_a_quote_without_its_end_takes_no_other_row(tmp_path, after):
    path = write(tmp_path / "a.csv", [*ROWS[:10], '"Good film', *ROWS[10:], *after])
    texts, problems = read_corpus(path)
    assert texts[:61] == [*ROWS[:10], '"Good film', *ROWS[10:]] and len(texts) == 61 + len(after)
    assert problems == ["1 row with a quote without its end, read as it is"]
    with pytest.raises(DataError, match=r"a.csv row 11: a quote without its end; double .*quotes: fal"):
        list(iter_rows(Source(files=path)))
    rows = iter_rows(Source(files=path, quotes=False))
    assert [row["text"] for row in islice(rows, 11)][10] == '"Good film'


def test_valid_files_are_read_as_by_the_standard_library(tmp_path):
    rng = random.Random(0)
    rows = [["".join(rng.choices('ab",\n \r', k=rng.randint(0, 6))) for _ in range(2)] for _ in range(2_000)]
    rows = [row for row in rows if any(row)]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *rows])
    assert [[row["x"], row["y"]] for row in iter_rows(Source(files=str(tmp_path / "a.csv")))] == rows


def test_many_quotes_without_an_end_take_linear_time(tmp_path, monkeypatch):
    """Each line leaves a quote open whether or not one is open before it."""
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 2**16)
    (tmp_path / "a.csv").write_text("x,y,z\n" + 'x",",y\n' * 100_000)
    start = time.perf_counter()
    problems = read_corpus(str(tmp_path / "a.csv"), text="x")[1]
    assert time.perf_counter() - start < 10 and problems[0].endswith("quote without its end, read as it is")
