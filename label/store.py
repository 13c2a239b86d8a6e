"""labels.csv: answers appended one by one and synced, so that a kill at any moment loses at most the last."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from data.csv_cells import csv_lines, make_harmless
from data.tasks.answers import ANSWER_COLUMNS, ANSWERS, restore
from engine.errors import ConfigError, suggest
from engine.files import fsync, write_text
from engine.log import get_logger
from engine.system.lock import acquire

logger = get_logger(__name__)

QUOTED = re.compile(rb'"(?:(?<=[,\r\n]")|(?<=\A")|(?<=\A\xef\xbb\xbf"))[^"]*+(?:""[^"]*+)*+"?')
"""A cell between quotes, to the end of the file if it is not closed; within another cell, a quote opens none."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    label: str
    """The class, empty for one that is none."""
    role: str
    answer: str
    """label, unsure, skip or undo."""
    time: str
    seconds: float = field(compare=False)
    """The file has them to a tenth."""


def now() -> str:
    """Return the time in UTC, to milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def split_records(content: bytes) -> tuple[bytes, bytes]:
    """Return (whole records, what follows the last of them): a line end between quotes ends none."""
    end = position = 0
    for quoted in QUOTED.finditer(content):
        end = content.rfind(b"\n", position, quoted.start()) + 1 or end
        position = quoted.end()
    end = content.rfind(b"\n", position) + 1 or end
    return content[:end], content[end:]


def parse(content: bytes, path: Path) -> list[list[str]]:
    """Return the cells of all records. Raises ConfigError for a file in another encoding."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as CSV in UTF-8, or name another file: labels=FILE") from None
    return [cells for cells in read_cells(text) if cells]


def read_cells(text: str) -> list[list[str]]:
    """Return the cells of lines of CSV, of any length."""
    csv.field_size_limit(2**31 - 1)  # the default is 131,072, and a text may be longer
    return list(csv.reader(io.StringIO(text, newline="")))


class AnswerFile:
    """The file while it is labeled. Raises ConfigError if another process has it, or if it is no such file.

    column: of the text or image. `answers` has the last one about each text; `history` those that can be taken back:
    of answers given together, each with the one before it, by text.
    """

    def __init__(self, path: Path, column: str):
        self.path, self.column = path, column
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = acquire(path.parent, f".{path.name}.lock", path, "end it, or name another file: labels=FILE")
        self.answers: dict[str, Answer] = {}
        self.history: list[dict[str, tuple[Answer, Answer | None]]] = []
        self.last_time = ""
        """Of the last answer, in the file too: answers of two sessions are two steps, however close together."""
        self.header = self.repair()
        for cells in parse(path.read_bytes(), path)[1:]:
            row = dict(zip(self.header, map(restore, cells), strict=False))
            answer = self.read_answer(row)
            if answer.answer:
                self.record(answer)
                self.last_time = max(self.last_time, answer.time)

    def read_answer(self, row: dict[str, str]) -> Answer:
        """Return the answer in a row; a row of a table of labels is one if it has a label."""
        label, answer = row.get("label", "").strip(), row.get("answer", "")
        answer = answer if answer in ANSWERS else "label" if label else ""
        try:
            seconds = float(row.get("seconds") or 0)
        except ValueError:
            seconds = 0.0
        role = row.get("role") or "train"
        return Answer(row.get(self.column, ""), label, role, answer, row.get("time", ""), seconds)

    def repair(self) -> list[str]:
        """Return the header, after removing a row that was cut short and adding the columns that are missing."""
        header = [self.column, *ANSWER_COLUMNS]
        content = self.path.read_bytes() if self.path.is_file() else b""
        if not content.strip():
            write_text(self.path, csv_lines([header], raw=True))
            return header
        whole, rest = split_records(content)
        if not whole and b"\r" in rest.strip():
            raise ConfigError(
                f"{self.path}: its lines end as on old Macs; save it as CSV in UTF-8, or name another file: labels=FILE"
            )
        if rest.strip():
            whole += self.keep_rest(parse(whole, self.path), rest)
        records = parse(whole, self.path)
        there = records[0]
        if missing := [name for name in (self.column, "label") if name not in there]:
            raise ConfigError(
                f"{self.path}: no column {missing[0]!r}{suggest(missing[0], there)}; name another file: labels=FILE"
            )
        if added := [name for name in ANSWER_COLUMNS if name not in there]:
            rows = [there + added, *(cells + [""] * (len(there + added) - len(cells)) for cells in records[1:])]
            write_text(self.path, csv_lines(rows, raw=True))
            return there + added
        if whole != content:
            os.truncate(self.path, min(len(whole), len(content)))
            if len(whole) > len(content):
                self.write(b"\n")
            fsync(self.path)
        return there

    def keep_rest(self, records: list[list[str]], rest: bytes) -> bytes:
        """Return what follows the last record if it is whole, with a line end; else move it to another file.

        It is whole if its last line is, as of a file that a person edited: without a line end, or with a single quote.
        """
        last = read_cells(rest.decode("utf-8", "replace").rstrip("\r\n").rpartition("\n")[2])[-1]
        columns = records[0] if records else last
        if len(last) == len(columns) and (columns[-1] != "answer" or last[-1] in ANSWERS):
            return rest if rest.endswith(b"\n") else rest + b"\n"
        cut = self.path.with_name(f"{self.path.name}.cut")
        with open(cut, "ab") as file:
            file.write(rest + b"\n")
        logger.info(f"{self.path}: the last row was cut short; it is in {cut} now")
        return b""

    def write(self, content: bytes) -> None:
        """Append bytes and sync them; what was written of them is removed after an error."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            try:
                written = 0
                while written < len(content):
                    written += os.write(descriptor, content[written:])
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def append(self, answers: list[Answer]) -> None:
        """Append answers given together, and record them."""
        rows = []
        for answer in answers:
            cells = {self.column: answer.text, "label": answer.label, "role": answer.role, "answer": answer.answer}
            cells |= {"time": answer.time, "seconds": f"{answer.seconds:.1f}"}
            rows.append([make_harmless(cells.get(name, "")) for name in self.header])
        self.write(csv_lines(rows, raw=True).encode("utf-8", "replace"))
        for answer in answers:
            self.record(answer)

    def record(self, answer: Answer) -> None:
        """Take an answer into account; those with the same time are one step of the history.

        One that equals the answer before the last step takes that step back, as an undo does.
        """
        text, step = answer.text, self.history[-1] if self.history else {}
        before = self.answers.get(text)
        if answer.answer == "undo":
            self.answers.pop(text, None)
            self.drop(text)
            return
        self.answers[text] = answer
        if text in step and step[text][1] == answer:
            self.drop(text)
        elif answer.time and step and next(iter(step.values()))[0].time == answer.time:
            step[text] = answer, step[text][1] if text in step else before
        else:
            self.history.append({text: (answer, before)})

    def drop(self, text: str) -> None:
        """Remove the last answer about a text from the history."""
        for position in reversed(range(len(self.history))):
            if self.history[position].pop(text, None):
                if not self.history[position]:
                    del self.history[position]
                return

    def next_time(self) -> str:
        """Return the time now, another than that of the last answer."""
        while (time := now()) == self.last_time:
            pass
        self.last_time = time
        return time

    def add(self, entries: list[tuple[str, str, str, str, float]]) -> None:
        """Append answers given together: (text, label, role, answer, seconds)."""
        time = self.next_time()
        self.append([Answer(text, label, role, answer, time, each) for text, label, role, answer, each in entries])

    def undo(self) -> list[str]:
        """Take the last step back, and return its texts.

        The row of a text that was answered before is that answer, with its time; so none is without it at any moment.
        """
        if not self.history:
            return []
        step, time = dict(self.history[-1]), self.next_time()
        self.append([old or Answer(text, "", last.role, "undo", time, 0.0) for text, (last, old) in step.items()])
        return list(step)

    def count(self) -> dict[str, int]:
        """Return the numbers of labeled texts, of test rows among them, and of answers without a label."""
        found = list(self.answers.values())
        labeled = [answer for answer in found if answer.answer == "label"]
        return {
            "labeled": len(labeled),
            "measure": sum(answer.role == "measure" for answer in labeled),
            "unsure": sum(answer.answer == "unsure" for answer in found),
            "skip": sum(answer.answer == "skip" for answer in found),
        }
