"""Labeling in the terminal, with the keys of the page."""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from engine.files import describe_os_error
from engine.sanitize import escape_controls
from label.items import Item
from label.session import RefusedError, Session

MAX_TEXT_CHARS, MAX_NEAREST_CHARS, MAX_CLUSTER_SHOWN = 2_000, 100, 10
COLUMN_WIDTH, LINE_WIDTH = 30, 100
END = ("", "\x04")  # of the input
ESCAPE, OTHER_KEY = "\x1b", "\0"  # the latter for one that sends several characters, such as Delete or an arrow
ESCAPE_SECONDS = 0.05  # after which no more characters of a key come


@contextmanager
def single_keys(stream: TextIO) -> Iterator[None]:
    """Read keys without Enter within this context, if the input is a terminal."""
    if not stream.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


def shorten(text: str, limit: int) -> str:
    """Return a text without control characters, at most about this long."""
    return escape_controls(text if len(text) <= limit else f"{text[: limit - 3]}...")


class Terminal:
    """One session in a terminal. Keys are read from `source`, and all else is printed."""

    def __init__(self, session: Session, source: TextIO | None = None, out: TextIO | None = None):
        self.session, self.source, self.out = session, source or sys.stdin, out or sys.stdout
        self.shows_suggestion, self.message = session.suggest, ""
        self.decoder = codecs.getincrementaldecoder(self.source.encoding or "utf-8")("replace")
        self.taken_back = ""  # a character that was received and is to be read next

    def print(self, text: str = "", end: str = "\n") -> None:
        """Print a text."""
        print(text, end=end, file=self.out, flush=True)

    def receive(self, seconds: float | None = None) -> str:
        """Return a character, "" at the end of the input or if a terminal sends none within some seconds."""
        character, self.taken_back = self.taken_back, ""
        if not character and not self.source.isatty():
            return self.source.read(1)
        # Characters in the buffer of the stream would be invisible to `select`.
        while not character:
            is_ready, _, _ = select.select([self.source], [], [], seconds)
            if not is_ready or not (sent := os.read(self.source.fileno(), 1)):
                return ""
            character = self.decoder.decode(sent)
        return character

    def read_character(self) -> str:
        """Return a character, or OTHER_KEY instead of all those that a key such as Delete sends."""
        character = self.receive()
        if character != ESCAPE:
            return character
        following = self.receive(ESCAPE_SECONDS)
        if following not in ("[", "O"):
            self.taken_back = following
            return ESCAPE
        while (last := self.receive(ESCAPE_SECONDS)) and following == "[" and not "@" <= last <= "~":
            pass
        return OTHER_KEY

    def read_key(self) -> str:
        """Return a key, "" at the end of the input; a line end of piped keys is none."""
        key = self.read_character()
        while key == "\n" and not self.source.isatty():
            key = self.read_character()
        return key

    def read_line(self, prompt: str) -> str:
        """Return a line."""
        self.print(prompt, end="")
        text = ""
        while (key := self.read_character()) not in (*END, "\n", "\r"):
            if key in ("\x7f", "\b"):
                text = text[:-1]
                self.print("\b \b", end="")
            elif key == ESCAPE:
                text = ""
                break
            elif key != OTHER_KEY:
                text += key
                self.print(key if self.source.isatty() else "", end="")
        self.print()
        return text.strip()

    def class_key(self, index: int) -> str:
        """Return the digits of a class."""
        return str(index + 1).zfill(len(str(len(self.session.classes))))

    def find_suggestion(self, item: Item) -> str:
        """Return the suggestion to show, empty if there is none."""
        return item.suggestion if self.shows_suggestion and item.role != "measure" else ""

    def show(self, item: Item) -> None:
        """Print a row, the nearest labeled ones, and the classes."""
        session = self.session
        progress = session.progress()
        asked = f" of {progress['asked']}" if progress["asked"] else ""
        self.print("\n" + "-" * LINE_WIDTH)
        note = f"   [{shorten(self.message, LINE_WIDTH)}]" * bool(self.message)
        self.print(f"{progress['answered'] + 1}{asked}{'   test row' * (item.role == 'measure')}{note}\n")
        self.message = ""
        self.print(shorten(item.text, MAX_TEXT_CHARS) + "\n")
        if before := session.find_label(item):
            self.print(f"  labeled as {shorten(before, LINE_WIDTH)}, is that right?")
        for text, label in session.nearest(item):
            self.print(f"  {shorten(label, 24):<25} {shorten(' '.join(text.split()), MAX_NEAREST_CHARS)}")
        cells = [f"{self.class_key(i)} {shorten(name, 26)}" for i, name in enumerate(session.classes)]
        per_line = max(1, LINE_WIDTH // COLUMN_WIDTH)
        for start in range(0, len(cells), per_line):
            self.print("".join(f"{cell:<{COLUMN_WIDTH}}" for cell in cells[start : start + per_line]).rstrip())
        keys = [f"Enter or y {shorten(suggestion, LINE_WIDTH)}"] if (suggestion := self.find_suggestion(item)) else []
        keys += ["n class by name", "u unsure", "x skip", "z undo"]
        keys += [f"c all {count} of the cluster"] if (count := len(session.list_cluster(item.id))) > 1 else []
        keys += ["s suggestions"] if item.suggestion and session.suggest else []
        self.print(" · ".join([*keys, "q finish"]))

    def read_class(self, first: str) -> str | None:
        """Return the class of the digits that begin with `first`, or of a name after n; None for no class."""
        classes = self.session.classes
        if first == "n":
            name = self.read_line("class: ")
            return next((each for each in classes if each.casefold() == name.casefold()), name) or None
        digits = first
        while len(digits) < len(str(len(classes))):
            self.print(first if digits == first else "", end="")
            key = self.read_key()
            if not key.isdecimal():
                return None
            digits += key
        position = int(digits) - 1
        if 0 <= position < len(classes):
            return classes[position]
        self.message = f"no class has the key {digits}"
        return None

    def label_cluster(self, item: Item) -> None:
        """Ask for the class of a whole cluster, and label it once confirmed."""
        items = self.session.list_cluster(item.id)
        for other in self.session.sample_cluster(item.id, MAX_CLUSTER_SHOWN):
            self.print(f"  {shorten(' '.join(other.text.split()), MAX_NEAREST_CHARS)}")
        if len(items) > MAX_CLUSTER_SHOWN:
            self.print(f"  and {len(items) - MAX_CLUSTER_SHOWN} more; these were drawn at random")
        self.print(f"which class for all {len(items)} rows? (its key, or n; any other key cancels) ", end="")
        key = self.read_key()
        label = self.read_class(key) if key.isdecimal() or key == "n" else None
        if label is None:
            return
        self.print(f"\nlabel {len(items)} rows as {shorten(label, LINE_WIDTH)}? y confirms: ", end="")
        if self.read_key() in ("y", "\n"):
            self.session.answer_cluster(item.id, label, len(items))
            self.message = f"{len(items)} rows: {label}"

    def take(self, key: str, item: Item) -> None:
        """Do what a key means for a row."""
        session = self.session
        if key.isdecimal() or key == "n":
            if (label := self.read_class(key)) is not None:
                session.answer(item.id, "label", label)
                self.message = label
        elif key in ("y", "\n", "\r") and self.find_suggestion(item):
            session.answer(item.id, "label", item.suggestion)
            self.message = item.suggestion
        elif key in ("u", "x"):
            answer = {"u": "unsure", "x": "skip"}[key]
            session.answer(item.id, answer)
            self.message = answer
        elif key == "c" and len(session.list_cluster(item.id)) > 1:
            self.label_cluster(item)
        elif key == "s" and session.suggest:
            self.shows_suggestion = not self.shows_suggestion

    def run(self) -> None:
        """Label until the rows, the answers asked for or the keys end."""
        with single_keys(self.source):
            while True:
                if item := self.session.current():
                    self.show(item)
                else:
                    full = "All answers are given" if self.session.is_full else "No rows left"
                    self.print(f"\n{full}. Press Enter or q to finish, z to undo.")
                key = self.read_key()
                if key in ("q", *END) or item is None and key in ("\n", "\r"):
                    return
                with suppress_refused(self):
                    if key == "z":
                        self.message = "undone" if self.session.undo() else "nothing to undo"
                    elif item:
                        self.take(key, item)


@contextmanager
def suppress_refused(terminal: Terminal) -> Iterator[None]:
    """Show why an answer is refused or cannot be written, with the next row."""
    try:
        yield
    except RefusedError as error:
        terminal.message = str(error)
    except OSError as error:
        terminal.message = describe_os_error(error) or str(error)
