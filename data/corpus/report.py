"""Report on a corpus: report.json, README.md and report.html in the folder of its shards."""

import html
import json
from pathlib import Path

from engine.files import write_json
from engine.html import bullet_list, page, table

HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 640, 160  # pixels
SPLITS = ("train", "held_out")
STYLE = """h1{font-size:2em;font-weight:bold;color:#111}rect{fill:#444}text{font:9px sans-serif;text-anchor:middle}"""


def counts_by_step(report: dict) -> list[tuple[str, int, int, int]]:
    """Return (step, documents, words, tokens) left after each step; tokens are estimated except for the last."""
    tokens_per_word = report["tokenizer"]["tokens_per_word"]
    documents, words = report["read"]["documents"], report["read"]["words"]
    rows = [("read and cleaned", documents, words, round(words * tokens_per_word))]
    for reason, counts in report["dropped"].items():
        documents, words = documents - counts["documents"], words - counts["words"]
        rows.append((f"less: {reason}", documents, words, round(words * tokens_per_word)))
    documents, tokens = (sum(report[split][unit] for split in SPLITS) for unit in ("documents", "tokens"))
    return [*rows, ("in shards", documents, words, tokens)]


def format_notes(report: dict) -> list[str]:
    """Return one line per finding that a user should know about."""
    read, notes = report["read"], []
    if read["empty_rows"]:
        notes.append(f"{read['empty_rows']:,} of {read['rows']:,} rows were empty")
    for kind, count in read["fixed"].items():
        if count and kind in ("encoding", "html"):
            notes.append(f"{kind} fixed in {count:,} documents")
        elif count:
            notes.append(f"{count:,} strings masked as [{kind}]")
    for task in report["contamination"]:
        action = "removed" if task["removed"] else "kept, decontaminate.action=remove removes them"
        notes.append(
            f"{task['documents']:,} documents contain test text of {task['name']} ({task['full_matches']:,} of its"
            f" {task['num_test_texts']:,} test texts in full, {task['partial_matches']:,} in part;"
            f" {task['num_too_short']:,} too short to search); {action}"
        )
    if "sentences" in report:
        sentences = report["sentences"]
        notes.append(f"{sentences['dropped']:,} of {sentences['read']:,} sentences were repeats and dropped")
    return notes + [f"problem: {problem}" for problem in read["problems"]]


def read_report(folder: Path) -> dict:
    """Read report.json of a folder of shards."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def corpus_summary(folder: Path) -> dict:
    """Return the part of the report that goes into the record of a run."""
    report = read_report(folder)
    return {
        "counts_by_step": counts_by_step(report),
        "notes": format_notes(report),
        "contamination": report["contamination"],
        "languages": sorted({part["language"] for part in report["text_folders"] if part["language"]}),
    }


def write_report(folder: Path, name: str, corpus_manifest: dict, shards_manifest: dict) -> None:
    """Write report.json, README.md and report.html to the folder of shards."""
    corpus_manifest = {key: value for key, value in corpus_manifest.items() if key != "inputs"}
    report = {"name": name, **corpus_manifest, **shards_manifest}
    write_json(folder / "report.json", report)
    (folder / "README.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")


def shard_facts(report: dict) -> list[tuple[str, str]]:
    """Return (name, value) pairs that describe the shards."""
    train, held_out, tokenizer = report["train"], report["held_out"], report["tokenizer"]
    parts = [(part["source"], part["language"]) for part in report["text_folders"]]
    sources = [f"{source} ({language})" if language else source for source, language in parts]
    rows = f"{train['rows']:,} of {report['max_length']} positions, {train['fill_fraction']:.1%} filled"
    rates = f"{tokenizer['tokens_per_word']:.2f} per word, {tokenizer['tokens_per_character']:.2f} per character"
    return [
        ("sources", ", ".join(dict.fromkeys(sources))),
        ("rows", f"{rows}; {held_out['rows']:,} held out"),
        ("tokens", f"{train['tokens']:,}, {train['tokens_per_epoch']:,} per epoch; {held_out['tokens']:,} held out"),
        ("tokenizer", f"{report['vocab_size']:,} tokens, {rates}, {tokenizer['unknown_fraction']:.3%} unknown"),
    ]


def table_rows(report: dict) -> list[list[str]]:
    """Return `counts_by_step` as table cells."""
    return [[step, *(f"{count:,}" for count in counts)] for step, *counts in counts_by_step(report)]


def example_sections(report: dict) -> dict[str, list[str]]:
    """Return {heading: lines} of the examples, without empty sections."""
    sections = {"Most duplicated": [f"{each['copies']} times: {each['text']}" for each in report["most_duplicated"]]}
    sections |= {f"Examples: {reason}": examples for reason, examples in report["examples"].items()}
    return {heading: lines for heading, lines in sections.items() if lines}


def to_markdown(report: dict) -> str:
    """Format the report as Markdown."""
    lines = [
        f"# Corpus {report['name']}",
        "",
        "| | documents | words | tokens |",
        "|---|--:|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in table_rows(report)),
        "",
        *(f"- {name}: {value}" for name, value in shard_facts(report)),
        *(f"- {note}" for note in format_notes(report)),
        "",
    ]
    for heading, examples in example_sections(report).items():
        lines += [f"## {heading}", "", *(f"- {one_line(example)}" for example in examples), ""]
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Return the start of a text on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def histogram(counts: list[int]) -> str:
    """Return an SVG histogram of document lengths; counts[i] documents have at least 2^(i/2) tokens."""
    used = [index for index, count in enumerate(counts) if count]
    if not used:
        return ""
    first, last, most = used[0], used[-1], max(counts)
    step = HISTOGRAM_WIDTH / (last - first + 1)
    bars = []
    for index in range(first, last + 1):
        height, left = HISTOGRAM_HEIGHT * counts[index] / most, (index - first) * step
        top, center = HISTOGRAM_HEIGHT - height, left + step / 2
        bars += [
            f'<rect x="{left + 1:.1f}" y="{top + 14:.1f}" width="{step - 2:.1f}" height="{height:.1f}"/>',
            f'<text x="{center:.1f}" y="{top + 11:.1f}">{counts[index]:,}</text>',
            f'<text x="{center:.1f}" y="{HISTOGRAM_HEIGHT + 28}">{round(2 ** (index / 2)):,}</text>',
        ]
    view = f'viewBox="0 0 {HISTOGRAM_WIDTH} {HISTOGRAM_HEIGHT + 34}" role="img" aria-label="documents by length"'
    caption = "<p>Documents by length. The label of a bar is its minimum number of tokens.</p>"
    return f"<svg {view}>{''.join(bars)}</svg>{caption}"


def to_html(report: dict) -> str:
    """Format the report as a self-contained HTML page."""
    rows = [[html.escape(cell) for cell in row] for row in table_rows(report)]
    parts = [
        table(["", "documents", "words", "tokens"], rows),
        bullet_list([f"{name}: {value}" for name, value in shard_facts(report)] + format_notes(report)),
        histogram(report["length_histogram"]),
        *(f"<h2>{html.escape(name)}</h2>{bullet_list(lines)}" for name, lines in example_sections(report).items()),
    ]
    return page(f"Corpus {report['name']}", "".join(parts), STYLE)


def format_summary(folder: Path) -> str:
    """Format the report for the terminal."""
    report = read_report(folder)
    width = max(len(row[0]) for row in counts_by_step(report)) + 2
    lines = ["", f"  {'':<{width}}{'documents':>12}{'words':>14}{'tokens':>14}"]
    for step, documents, words, tokens in counts_by_step(report):
        if not step.startswith("less: ") or report["dropped"][step.removeprefix("less: ")]["documents"]:
            lines.append(f"  {step:<{width}}{documents:>12,}{words:>14,}{tokens:>14,}")
    lines += [
        "",
        *(f"  {name:<12}{value}" for name, value in shard_facts(report)[1:]),
        *(f"  {note}" for note in format_notes(report)),
        "",
        f"  shards      {folder}",
        f"  report      {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def format_brief_summary(folder: Path) -> str:
    """Format the size of the corpus and its warnings, for the log of pretraining."""
    report = read_report(folder)
    train, path = report["train"], folder / "report.html"
    size = f"text: {train['documents']:,} documents, {train['tokens_per_epoch']:,} tokens per epoch; see {path}"
    notes = [note for note in format_notes(report) if note.startswith("problem") or "test text of" in note]
    return "\n".join([size, *(f"  {note}" for note in notes)])
