"""Which texts of a corpus are kept, by what they were marked with; and what a person should see of those that are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from data import contamination, marks
from data.config import Corpus
from data.derived import manifest
from data.extract import Bucket, name, read_texts
from engine.errors import DataError
from engine.record import Progress

EXAMPLES, SNIPPET = 10, 300
NOTHING_FOUND: dict = {"tasks": [], "documents": {}}


def choose(folder: Path, corpus: Corpus, parts: list[Bucket], texts: list[Path]) -> dict:
    """Fill the corpus folder: decide for every text whether it is kept; returns the manifest."""
    told = [manifest(text) for text in texts]
    sizes = [each["documents"] for each in told]
    if not sum(sizes):
        raise DataError(nothing_in(corpus, parts, told))
    index = contamination.index(corpus) if corpus.decontaminate.tasks else None
    if marks.wanted(corpus):
        marked = marks.mark(texts, corpus, index)
        contamination.finder.cache_clear()  # some hundred megabytes that nobody asks for again
        dropped, first, reasons, found = judged(corpus, marked, sizes, index)
        words = marks.joined(marked, "words").whole()
    else:
        dropped, first, reasons, found = np.zeros(sum(sizes), np.uint8), np.arange(sum(sizes)), ["kept"], NOTHING_FOUND
        words = np.zeros(sum(sizes), np.uint32)
    if not (dropped == 0).any():
        counts = {reasons[number]: int(count) for number, count in enumerate(np.bincount(dropped)) if count}
        raise DataError(f"corpus {corpus.name}: no text is left of {where(parts)} ({counts})")
    (folder / "dropped.bin").write_bytes(dropped.tobytes())

    counts = {reason: {"documents": int((dropped == number).sum()), "words": int(words[dropped == number].sum())}
              for number, reason in enumerate(reasons) if number}
    result = summed(parts, [text.name for text in texts], told) | {"reasons": reasons, "dropped": counts,
                                                                  "contamination": found["tasks"]}
    for what in ("documents", "words"):
        result["kept"][what] -= sum(each[what] for each in counts.values())
    shown = {reason: np.flatnonzero(dropped == number)[:EXAMPLES] for number, reason in enumerate(reasons) if number}
    shown["contamination"] = np.array(sorted(found["documents"])[:EXAMPLES], np.int64)
    origins, copies = np.unique(first[first != np.arange(len(first))], return_counts=True)
    most = np.argsort(-copies, kind="stable")[:EXAMPLES]
    snippets = snippets_of(texts, sizes, np.concatenate([*shown.values(), origins[most]]))
    result["examples"] = {reason: [snippets[number] for number in numbers.tolist()] for reason, numbers in shown.items()}
    result["top_duplicates"] = [{"copies": int(copies[at]) + 1, "text": snippets[int(origins[at])]} for at in most]
    if corpus.deduplicate.sentences:
        from data.sentences import repeated_sentences
        result["sentences"] = repeated_sentences(folder, texts, sizes, dropped)
    return result


def where(parts: list[Bucket]) -> str:
    """The sources, as an error names them."""
    return ", ".join(dict.fromkeys(name(part.source) for part in parts))


def nothing_in(corpus: Corpus, parts: list[Bucket], told: list[dict]) -> str:
    """What is said of sources without any text."""
    problems = "".join(f"\n{each['problems'][0]}" for each in told if each["problems"])[:300]
    return (f"corpus {corpus.name}: no text in {where(parts)} ({sum(each['rows'] for each in told)} rows read,"
            f" all empty){problems}")


def summed(parts: list[Bucket], folders: list[str], told: list[dict]) -> dict:
    """What reading counted, as the manifest has it when nothing is dropped."""
    read = {what: sum(each[what] for each in told) for what in ("files", "rows", "empty", "documents", "words")}
    mended = sum((Counter(each["mended"]) for each in told), Counter())
    return {
        "texts": [{"folder": folder, "documents": each["documents"], "weight": part.source.weight,
                   "language": part.source.language, "source": name(part.source)}
                  for folder, each, part in zip(folders, told, parts)],
        "read": {**read, "mended": dict(mended), "problems": [problem for each in told for problem in each["problems"]]},
        "reasons": ["kept"], "dropped": {}, "kept": {what: read[what] for what in ("documents", "words")},
        "contamination": [], "examples": {}, "top_duplicates": []}


def judged(corpus: Corpus, marked: list[Path], sizes: list[int], index: Path | None) -> tuple:
    """(dropped, uint8: the number of the reason or 0; first, int64: the document each repeats; the reasons; test text)."""
    from data import duplicates

    reasons = ["kept", *manifest(marked[0])["rules"], "exact duplicate", "near duplicate", "holds test text"]
    dropped = marks.joined(marked, "reason").whole()
    first = np.arange(len(dropped))
    if corpus.deduplicate.exact:
        first = duplicates.exact(marks.joined(marked, "exact"), dropped == 0)
        dropped[first != np.arange(len(first))] = reasons.index("exact duplicate")
    if corpus.deduplicate.near:
        with Progress(f"compare {corpus.name}", duplicates.BANDS, 0, True, "band") as progress:
            linked = duplicates.near(marks.joined(marked, "signature"), dropped == 0, corpus.deduplicate.similarity,
                                     lambda band: progress.update(band, f"{progress.rate(band):.1f} bands/s"))
        dropped[linked != np.arange(len(linked))] = reasons.index("near duplicate")
        first = linked[first]
    found = test_text_found(corpus, marked, sizes, dropped, index) if index else NOTHING_FOUND
    if corpus.decontaminate.action == "remove":
        dropped[[number for number in found["documents"] if not dropped[number]]] = reasons.index("holds test text")
    return dropped, first, reasons, found


def test_text_found(corpus: Corpus, marked: list[Path], sizes: list[int], dropped: np.ndarray, index: Path) -> dict:
    """{"tasks": what was found of each task's test set, "documents": {number of a document: its test texts}}."""
    told, documents, start = manifest(index)["tasks"], {}, 0
    for mark, size in zip(marked, sizes):
        if (mark / "found.jsonl").is_file():
            for line in (mark / "found.jsonl").read_text().splitlines():
                row, tests = json.loads(line)
                # Of a text that stands twice the copy that is kept is the one that counts.
                if not dropped[start + row]:
                    documents[start + row] = tests
        start += size
    tests, tasks = 0, []
    for task in told:
        own = [(number, test) for number, found in documents.items() for test in found
               if tests <= test // 2 < tests + task["test_texts"]]
        tasks.append({**task, "found_whole": len({test for _, test in own if test % 2}),
                      "found_in_part": len({test // 2 for _, test in own} - {test // 2 for _, test in own if test % 2}),
                      "documents": len({number for number, _ in own}), "removed": corpus.decontaminate.action == "remove"})
        tests += task["test_texts"]
    return {"tasks": tasks, "documents": documents}


def snippets_of(texts: list[Path], sizes: list[int], numbers: np.ndarray) -> dict[int, str]:
    """The beginnings of the texts with these numbers."""
    wanted, found, start = np.unique(numbers), {}, 0
    for text, size in zip(texts, sizes):
        own = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(own):
            at, row = 0, 0
            for batch in read_texts(text):
                while at < len(own) and own[at] < row + len(batch):
                    found[int(own[at]) + start] = batch[int(own[at]) - row][:SNIPPET]
                    at += 1
                row += len(batch)
                if at == len(own):
                    break
        start += size
    return found
