"""Which texts of a corpus are kept, by what they were marked with; and what a person should see of those that are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from data.cache import read_manifest
from data.corpus import decontaminate, signals
from data.corpus.config import Corpus
from data.corpus.extract import Bucket, corpus_source_name, iter_text_batches
from engine.errors import DataError
from engine.runs.progress import Progress

MAX_EXAMPLES, SNIPPET_CHARS = 10, 300
NO_CONTAMINATION: dict = {"tasks": [], "documents": {}}


def select_documents(folder: Path, corpus: Corpus, buckets: list[Bucket], text_folders: list[Path]) -> dict:
    """Fill the corpus folder: decide for every text whether it is kept; returns the manifest."""
    told = [read_manifest(text) for text in text_folders]
    sizes = [each["documents"] for each in told]
    if not sum(sizes):
        raise DataError(empty_corpus_message(corpus, buckets, told))
    index = decontaminate.build_index(corpus) if corpus.decontaminate.tasks else None
    if signals.needs_signals(corpus):
        marked = signals.compute_signals(text_folders, corpus, index)
        decontaminate.load_index.cache_clear()  # some hundred megabytes that nobody asks for again
        dropped, first, reasons, found = assign_drop_reasons(corpus, marked, sizes, index)
        words = signals.concatenate_column(marked, "words").to_numpy()
    else:
        dropped, first, reasons, found = (
            np.zeros(sum(sizes), np.uint8),
            np.arange(sum(sizes)),
            ["kept"],
            NO_CONTAMINATION,
        )
        words = np.zeros(sum(sizes), np.uint32)
    if not (dropped == 0).any():
        counts = {reasons[number]: int(count) for number, count in enumerate(np.bincount(dropped)) if count}
        raise DataError(f"corpus {corpus.name}: no text is left of {join_source_names(buckets)} ({counts})")
    (folder / "dropped.bin").write_bytes(dropped.tobytes())

    counts = {
        reason: {"documents": int((dropped == number).sum()), "words": int(words[dropped == number].sum())}
        for number, reason in enumerate(reasons)
        if number
    }
    result = initial_manifest(buckets, [text.name for text in text_folders], told) | {
        "reasons": reasons,
        "dropped": counts,
        "contamination": found["tasks"],
    }
    for what in ("documents", "words"):
        result["kept"][what] -= sum(each[what] for each in counts.values())
    shown = {
        reason: np.flatnonzero(dropped == number)[:MAX_EXAMPLES] for number, reason in enumerate(reasons) if number
    }
    shown["contamination"] = np.array(sorted(found["documents"])[:MAX_EXAMPLES], np.int64)
    origins, copies = np.unique(first[first != np.arange(len(first))], return_counts=True)
    most = np.argsort(-copies, kind="stable")[:MAX_EXAMPLES]
    snippets = read_snippets(text_folders, sizes, np.concatenate([*shown.values(), origins[most]]))
    result["examples"] = {
        reason: [snippets[number] for number in numbers.tolist()] for reason, numbers in shown.items()
    }
    result["most_duplicated"] = [{"copies": int(copies[at]) + 1, "text": snippets[int(origins[at])]} for at in most]
    if corpus.deduplicate.sentences:
        from data.corpus.sentence_dedup import deduplicate_sentences

        result["sentences"] = deduplicate_sentences(folder, text_folders, sizes, dropped)
    return result


def join_source_names(buckets: list[Bucket]) -> str:
    """The sources, as an error names them."""
    return ", ".join(dict.fromkeys(corpus_source_name(part.source) for part in buckets))


def empty_corpus_message(corpus: Corpus, buckets: list[Bucket], manifests: list[dict]) -> str:
    """What is said of sources without any text."""
    problems = "".join(f"\n{each['problems'][0]}" for each in manifests if each["problems"])[:300]
    return (
        f"corpus {corpus.name}: no text in {join_source_names(buckets)} ({sum(each['rows'] for each in manifests)} rows read,"
        f" all empty){problems}"
    )


def initial_manifest(buckets: list[Bucket], folder_names: list[str], manifests: list[dict]) -> dict:
    """What reading counted, as the manifest has it when nothing is dropped."""
    read = {what: sum(each[what] for each in manifests) for what in ("files", "rows", "empty", "documents", "words")}
    mended = sum((Counter(each["fixed"]) for each in manifests), Counter())
    return {
        "texts": [
            {
                "folder": folder,
                "documents": each["documents"],
                "weight": part.source.weight,
                "language": part.source.language,
                "source": corpus_source_name(part.source),
            }
            for folder, each, part in zip(folder_names, manifests, buckets)
        ],
        "read": {
            **read,
            "fixed": dict(mended),
            "problems": [problem for each in manifests for problem in each["problems"]],
        },
        "reasons": ["kept"],
        "dropped": {},
        "kept": {what: read[what] for what in ("documents", "words")},
        "contamination": [],
        "examples": {},
        "most_duplicated": [],
    }


def assign_drop_reasons(
    corpus: Corpus, signal_folders: list[Path], document_counts: list[int], index_folder: Path | None
) -> tuple:
    """(dropped, uint8: the number of the reason or 0; first, int64: the document each repeats; the reasons; test text)."""
    from data.corpus import deduplicate

    reasons = [
        "kept",
        *read_manifest(signal_folders[0])["rules"],
        "exact duplicate",
        "near duplicate",
        "contains test text",
    ]
    dropped = signals.concatenate_column(signal_folders, "reason").to_numpy()
    first = np.arange(len(dropped))
    if corpus.deduplicate.exact:
        first = deduplicate.find_exact_duplicates(signals.concatenate_column(signal_folders, "exact"), dropped == 0)
        dropped[first != np.arange(len(first))] = reasons.index("exact duplicate")
    if corpus.deduplicate.near:
        with Progress(f"compare {corpus.name}", deduplicate.NUM_BANDS, 0, True, "band") as progress:
            linked = deduplicate.find_near_duplicates(
                signals.concatenate_column(signal_folders, "signature"),
                dropped == 0,
                corpus.deduplicate.similarity,
                lambda band: progress.update(band, f"{progress.rate(band):.1f} bands/s"),
            )
        dropped[linked != np.arange(len(linked))] = reasons.index("near duplicate")
        first = linked[first]
    found = (
        summarize_contamination(corpus, signal_folders, document_counts, dropped, index_folder)
        if index_folder
        else NO_CONTAMINATION
    )
    if corpus.decontaminate.action == "remove":
        dropped[[number for number in found["documents"] if not dropped[number]]] = reasons.index("contains test text")
    return dropped, first, reasons, found


def summarize_contamination(
    corpus: Corpus, signal_folders: list[Path], document_counts: list[int], dropped: np.ndarray, index_folder: Path
) -> dict:
    """{"tasks": what was found of each task's test set, "documents": {number of a document: its test texts}}."""
    told, documents, start = read_manifest(index_folder)["tasks"], {}, 0
    for mark, size in zip(signal_folders, document_counts):
        if (mark / "found.jsonl").is_file():
            for line in (mark / "found.jsonl").read_text().splitlines():
                row, tests = json.loads(line)
                # Of a text that stands twice the copy that is kept is the one that counts.
                if not dropped[start + row]:
                    documents[start + row] = tests
        start += size
    tests, tasks = 0, []
    for task in told:
        own = [
            (number, test)
            for number, found in documents.items()
            for test in found
            if tests <= test // 2 < tests + task["num_test_texts"]
        ]
        tasks.append(
            {
                **task,
                "full_matches": len({test for _, test in own if test % 2}),
                "partial_matches": len({test // 2 for _, test in own} - {test // 2 for _, test in own if test % 2}),
                "documents": len({number for number, _ in own}),
                "removed": corpus.decontaminate.action == "remove",
            }
        )
        tests += task["num_test_texts"]
    return {"tasks": tasks, "documents": documents}


def read_snippets(text_folders: list[Path], document_counts: list[int], document_indices: np.ndarray) -> dict[int, str]:
    """The beginnings of the texts with these numbers."""
    wanted, found, start = np.unique(document_indices), {}, 0
    for text, size in zip(text_folders, document_counts):
        own = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(own):
            at, row = 0, 0
            for batch in iter_text_batches(text):
                while at < len(own) and own[at] < row + len(batch):
                    found[int(own[at]) + start] = batch[int(own[at]) - row][:SNIPPET_CHARS]
                    at += 1
                row += len(batch)
                if at == len(own):
                    break
        start += size
    return found
