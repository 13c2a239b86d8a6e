"""Selection of the documents of a corpus by their signals, with the counts and examples of those that are dropped."""

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
    """Decide which texts are kept, write dropped.bin to the corpus folder, and return the manifest."""
    manifests = [read_manifest(text_folder) for text_folder in text_folders]
    sizes = [manifest["documents"] for manifest in manifests]
    total = sum(sizes)
    if not total:
        raise DataError(empty_corpus_message(corpus, buckets, manifests))
    index = decontaminate.build_index(corpus) if corpus.decontaminate.tasks else None
    if signals.needs_signals(corpus):
        signal_folders = signals.compute_signals(text_folders, corpus, index)
        decontaminate.load_index.cache_clear()  # frees hundreds of megabytes
        dropped, first, reasons, contamination = assign_drop_reasons(corpus, signal_folders, sizes, index)
        words = signals.concatenate_column(signal_folders, "num_words").to_numpy()
    else:
        dropped, first, words = np.zeros(total, np.uint8), np.arange(total), np.zeros(total, np.uint32)
        reasons, contamination = ["kept"], NO_CONTAMINATION
    if not (dropped == 0).any():
        counts = {reasons[number]: int(count) for number, count in enumerate(np.bincount(dropped)) if count}
        raise DataError(f"corpus {corpus.name}: no text is left of {join_source_names(buckets)} ({counts})")
    (folder / "dropped.bin").write_bytes(dropped.tobytes())

    result = initial_manifest(buckets, [text_folder.name for text_folder in text_folders], manifests)
    result |= {"reasons": reasons, "contamination": contamination["tasks"]}
    examples = {}
    for number, reason in enumerate(reasons[1:], 1):
        is_dropped = dropped == number
        result["dropped"][reason] = {"documents": int(is_dropped.sum()), "words": int(words[is_dropped].sum())}
        examples[reason] = np.flatnonzero(is_dropped)[:MAX_EXAMPLES]
    for unit in ("documents", "words"):
        result["kept"][unit] -= sum(counts[unit] for counts in result["dropped"].values())
    examples["contamination"] = np.array(sorted(contamination["documents"])[:MAX_EXAMPLES], np.int64)
    originals, copies = np.unique(first[first != np.arange(total)], return_counts=True)
    most = np.argsort(-copies, kind="stable")[:MAX_EXAMPLES]
    snippets = read_snippets(text_folders, sizes, np.concatenate([*examples.values(), originals[most]]))
    result["examples"] = {reason: [snippets[at] for at in indices.tolist()] for reason, indices in examples.items()}
    result["most_duplicated"] = [{"copies": int(copies[at]) + 1, "text": snippets[int(originals[at])]} for at in most]
    if corpus.deduplicate.sentences:
        from data.corpus.sentence_dedup import deduplicate_sentences

        result["sentences"] = deduplicate_sentences(folder, text_folders, dropped)
    return result


def join_source_names(buckets: list[Bucket]) -> str:
    """Join the names of the sources, for messages."""
    return ", ".join(dict.fromkeys(corpus_source_name(bucket.source) for bucket in buckets))


def empty_corpus_message(corpus: Corpus, buckets: list[Bucket], manifests: list[dict]) -> str:
    """Format the error for sources without any text, with the first problem of each bucket."""
    problems = "".join(f"\n{manifest['problems'][0]}" for manifest in manifests if manifest["problems"])[:300]
    rows, names = sum(manifest["rows"] for manifest in manifests), join_source_names(buckets)
    return f"corpus {corpus.name}: no text in {names} ({rows} rows read, all empty){problems}"


def initial_manifest(buckets: list[Bucket], folder_names: list[str], manifests: list[dict]) -> dict:
    """Build the manifest of a corpus from which nothing is dropped, from the manifests of its text folders."""
    keys = ("files", "rows", "empty_rows", "documents", "words")
    read = {key: sum(manifest[key] for manifest in manifests) for key in keys}
    fixed = sum((Counter(manifest["fixed"]) for manifest in manifests), Counter())
    problems = [problem for manifest in manifests for problem in manifest["problems"]]
    return {
        "text_folders": [
            {
                "folder": folder,
                "documents": manifest["documents"],
                "weight": bucket.source.weight,
                "language": bucket.source.language,
                "source": corpus_source_name(bucket.source),
            }
            for folder, manifest, bucket in zip(folder_names, manifests, buckets, strict=True)
        ],
        "read": {**read, "fixed": dict(fixed), "problems": problems},
        "reasons": ["kept"],
        "dropped": {},
        "kept": {unit: read[unit] for unit in ("documents", "words")},
        "contamination": [],
        "examples": {},
        "most_duplicated": [],
    }


def assign_drop_reasons(
    corpus: Corpus, signal_folders: list[Path], document_counts: list[int], index_folder: Path | None
) -> tuple[np.ndarray, np.ndarray, list[str], dict]:
    """Return (dropped, first, reasons, contamination).

    dropped: uint8 (documents,), 0 or an index into `reasons`. first: int64 (documents,), the document that each
    duplicates, or itself. contamination: see `summarize_contamination`.
    """
    from data.corpus import deduplicate

    rules = read_manifest(signal_folders[0])["rules"]
    reasons = ["kept", *rules, "exact duplicate", "near duplicate", "contains test text"]
    dropped = signals.concatenate_column(signal_folders, "failed_rule").to_numpy()
    documents = first = np.arange(len(dropped))
    if corpus.deduplicate.exact:
        hashes = signals.concatenate_column(signal_folders, "text_hash")
        first = deduplicate.find_exact_duplicates(hashes, dropped == 0)
        dropped[first != documents] = reasons.index("exact duplicate")
    if corpus.deduplicate.near:
        signatures = signals.concatenate_column(signal_folders, "signature")
        similarity = corpus.deduplicate.similarity
        with Progress(f"compare {corpus.name}", deduplicate.NUM_BANDS, 0, True, "band") as progress:
            linked = deduplicate.find_near_duplicates(
                signatures, dropped == 0, similarity, lambda at: progress.update(at, f"{progress.rate(at):.1f} bands/s")
            )
        dropped[linked != documents] = reasons.index("near duplicate")
        first = linked[first]
    if not index_folder:
        return dropped, first, reasons, NO_CONTAMINATION
    contamination = summarize_contamination(corpus, signal_folders, document_counts, dropped, index_folder)
    if corpus.decontaminate.action == "remove":
        contaminated = [number for number in contamination["documents"] if not dropped[number]]
        dropped[contaminated] = reasons.index("contains test text")
    return dropped, first, reasons, contamination


def summarize_contamination(
    corpus: Corpus, signal_folders: list[Path], document_counts: list[int], dropped: np.ndarray, index_folder: Path
) -> dict:
    """Return {"tasks": the counts of each task's test set, "documents": {document: its test texts}}."""
    documents, start = {}, 0
    for folder, size in zip(signal_folders, document_counts, strict=True):
        if (folder / "test_texts.jsonl").is_file():
            for line in (folder / "test_texts.jsonl").read_text().splitlines():
                row, matches = json.loads(line)
                if not dropped[start + row]:  # of duplicates, only the one that is kept counts
                    documents[start + row] = matches
        start += size
    start, tasks = 0, []
    for task in read_manifest(index_folder)["tasks"]:
        end = start + task["num_test_texts"]
        # A match is 2 x test text, + 1 if the whole test text was found.
        pairs = [(at, match) for at, matches in documents.items() for match in matches if start <= match // 2 < end]
        full = {match // 2 for _, match in pairs if match % 2}
        tasks.append(
            {
                **task,
                "full_matches": len(full),
                "partial_matches": len({match // 2 for _, match in pairs} - full),
                "documents": len({at for at, _ in pairs}),
                "removed": corpus.decontaminate.action == "remove",
            }
        )
        start = end
    return {"tasks": tasks, "documents": documents}


def read_snippets(text_folders: list[Path], document_counts: list[int], document_indices: np.ndarray) -> dict[int, str]:
    """Return {document index: the first characters of its text}."""
    wanted, snippets, start = np.unique(document_indices), {}, 0
    for text_folder, size in zip(text_folders, document_counts, strict=True):
        remaining, row = wanted[(wanted >= start) & (wanted < start + size)].tolist(), start
        for batch in iter_text_batches(text_folder) if remaining else []:
            while remaining and remaining[0] < row + len(batch):
                index = remaining.pop(0)
                snippets[index] = batch[index - row][:SNIPPET_CHARS]
            row += len(batch)
            if not remaining:
                break
        start += size
    return snippets
