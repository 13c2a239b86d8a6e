"""The columns of text and label of a table: found by name, guessed by content, and the error for missing ones."""

import re
from itertools import islice

from data.sources.conll import TAG_PATTERN
from data.sources.readers import find_delimiter
from data.sources.source import Source, get_format, iter_located_rows, resolve_files
from data.sources.values import find_value, list_columns
from engine.errors import DataError, OptionError, format_argument, suggest

TEXT_NAMES = (
    *("text", "tokens", "words", "sentence", "review", "content", "body", "message", "comment", "document", "tweet"),
    *("abstract", "utterance", "question", "query", "description", "post", "article", "headline", "title", "input"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "categories", "class", "target", "sentiment", "intent", "topic", "topics"),
    *("emotion", "rating", "stars", "score", "polarity", "tags", "ner_tags", "tag", "type", "y"),
)
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"))
SENTENCE_NAME = re.compile("sent|doc|group|id", re.IGNORECASE)
NUM_HEAD_ROWS, NUM_PROBED_ROWS = 100, 100_000
MAX_NAME_CHARS = 60
NUMBER = re.compile(r"-?\d+([.,]\d+)?")


def find_named(columns: list[str], names: tuple[str, ...]) -> str | None:
    """Return the column with the first of these names, or with one of them as a word in its own."""
    words = {column: re.findall(r"[a-z0-9]+", column.lower().rsplit(".", 1)[-1]) for column in columns}
    for name in names:
        if found := next((column for column in columns if "_".join(words[column]) == name), None):
            return found
    return next((column for name in names for column in columns if name in words[column]), None)


def find_text(columns: list[str]) -> str | list[str] | None:
    """Return the column of the text by its name, or the two of a pair."""
    lower = {column.lower().replace("_", ""): column for column in columns}
    pair = next((pair for pair in PAIRS if lower.keys() >= set(pair)), ())
    return [lower[name] for name in pair] or find_named(columns, TEXT_NAMES)


def find_label(columns: list[str]) -> str | None:
    """Return the column of the label by its name."""
    return find_named(columns, LABEL_NAMES)


def guess_by_content(rows: list[dict]) -> tuple[str | None, str | None]:
    """Return the column with the longest texts, and the one with the fewest values of those that repeat some."""
    columns = list_columns(rows[0])
    values = {column: [str(find_value(row, column)).strip() for row in rows] for column in columns}
    lengths = {column: sum(map(len, texts)) for column, texts in values.items()}
    text = max(columns, key=lengths.get, default=None)
    counts = {column: len(set(texts)) for column, texts in values.items() if column != text}
    repeating = [column for column, count in counts.items() if 1 < count <= max(2, len(rows) // 2)]
    return text, min(repeating, key=counts.get, default=None)


def guess_columns(rows: list[dict], named_only: bool = False) -> tuple[str | list[str] | None, str | None]:
    """Return the columns of text and label, by name or else by content; None for one that is not found."""
    columns = list_columns(rows[0])
    text, label = find_text(columns), find_label(columns)
    tags = label and rows[0].get(label)
    if isinstance(tags, list):  # next to the words of a sentence, its text may be there too
        words = [name for name in ("tokens", "words") if isinstance(rows[0].get(name), list)]
        text = next((name for name in words if len(rows[0][name]) == len(tags)), text)
    elif isinstance(tags, str) and TAG_PATTERN.fullmatch(tags):
        text = find_named(columns, ("word", "token")) or text
    if not named_only:
        by_content = guess_by_content([{column: find_value(row, column) for column in columns} for row in rows])
        text, label = text or by_content[0], label or by_content[1]
    return text, None if label == text else label


def find_sentence(columns: list[str]) -> str | None:
    """Return the column of the sentence that a row with one word belongs to."""
    return next((column for column in columns if SENTENCE_NAME.search(column)), None)


def is_data(columns: list[str], rows: list[dict]) -> bool:
    """Return whether the names of columns are values, because a file has no header: numbers, texts or repeated."""
    if columns == [str(number) for number in range(len(columns))]:
        return False
    is_repeated = any(name and name == row.get(name) for row in rows for name in columns)
    return is_repeated or any(NUMBER.fullmatch(name) or len(name) > MAX_NAME_CHARS for name in columns)


def read_head(source: Source) -> tuple[list[tuple[str, dict]], DataError | None]:
    """Return the first (location, row) pairs of a source, and the error that ended them early."""
    head = []
    try:
        head.extend(islice(iter_located_rows(source), NUM_HEAD_ROWS))
    except DataError as error:
        return head, error
    return head, None


def describe_missing(
    source: Source, section: str, location: str, missing: dict[str, str], rows: list[dict]
) -> DataError:
    """Return the error for columns that the first row lacks, with the keys that name others.

    section: of the source in the configuration, such as task.train. missing: column -> task.text or task.label.
    """
    columns = list_columns(rows[0])
    nearest = suggest(next(iter(missing)), columns) if len(missing) == 1 else ""
    there = nearest or f" (there are: {', '.join(columns[:12])}{', ...' * (len(columns) > 12)})"
    plural = "s" * (len(missing) > 1)
    problem = f"{location}: no column{plural} {' and '.join(map(repr, missing))}{there}"
    lines = [f"{problem}; set {option}" if (option := suggest_option(source, section, missing, rows)) else problem]
    try:
        for _ in islice(iter_located_rows(source), NUM_PROBED_ROWS):
            pass
    except OptionError as error:
        if (line := str(error.at(section))).rpartition("; ")[2] != lines[0].rpartition("; ")[2]:
            lines.append(line)
    except DataError:
        pass
    return DataError("\n".join(lines))


def suggest_option(source: Source, section: str, missing: dict[str, str], rows: list[dict]) -> str:
    """Return the keys with which a table would have the missing columns, as arguments of the command line."""
    columns = list(rows[0])
    is_csv = not source.hub and get_format(source, resolve_files(source)[0]).name in ("csv", "xlsx")
    if is_csv and (delimiter := find_delimiter(columns)):
        return format_argument(f"{section}.delimiter", delimiter)
    text, label = guess_columns(rows)
    if is_csv and not source.columns and is_data(columns, rows):
        text, label = guess_by_content([dict(zip(columns, columns, strict=True)), *rows])
        names = {text: "text", label: "label"}
        named = [names.get(column, f"column{number}") for number, column in enumerate(columns, 1)]
        value = ",".join(named)
        return f"{format_argument(f'{section}.columns', f'[{value}]')} (a file without a header)"
    found = {"task.text": text, "task.label": label}
    keys = [key for key in dict.fromkeys(missing.values()) if found[key]]
    values = {key: found[key] if isinstance(found[key], str) else f"[{','.join(found[key])}]" for key in keys}
    return " ".join(format_argument(key, value) for key, value in values.items())
