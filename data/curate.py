"""Raw text becomes documents: read, cleaned, filtered, deduplicated, held against test sets; every step counted.

    documents(corpus) -> out/corpus/NAME-FINGERPRINT/
        dropped.bin     uint8    why each text is left out, in the order of the text folders: 0, it is kept; else its
                                 number in the manifest's `reasons`
        sentences.bin   uint8    1 for each sentence that is left out, when sentences are deduplicated
        manifest.json   the text folders, and what every step counted

The texts themselves stay where `extract` put them: a step that drops some writes a byte a document.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import cluster, contamination, marks
from data.config import Corpus
from data.derived import OUT, derive, is_made, manifest, place
from data.extract import Bucket, Reading, buckets, extract, name
from engine.errors import DataError
from engine.files import write_json
from engine.record import Progress

SENTENCE = re.compile(r".+?(?:[.!?…]+[\"')\]]*\s+|[。！？]+|\n+|$)", re.DOTALL)
SENTENCE_WORDS = 10  # shorter ones repeat by chance
EXAMPLES, SNIPPET = 10, 300
NOTHING_FOUND: dict = {"tasks": [], "documents": {}}


def inputs_of(corpus: Corpus, parts: list[Bucket]) -> dict:
    """What the fingerprint of the documents is made of."""
    told = corpus.model_dump(mode="json", include={"filter", "deduplicate", "decontaminate"})
    if corpus.decontaminate.tasks:
        told["index"] = contamination.index(corpus).name
    return {**told, "parts": [[part.inputs, part.source.weight, part.source.language] for part in parts], "version": 4}


def documents(corpus: Corpus) -> Path:
    """The folder of the corpus's documents. Raises DataError when none is left."""
    parts = [part for source in corpus.sources for part in buckets(source, corpus.clean)]
    inputs = inputs_of(corpus, parts)
    if is_made(place("corpus", corpus.name, inputs)):
        return place("corpus", corpus.name, inputs)
    if is_streamed(corpus, parts):
        return derive("corpus", corpus.name, inputs, lambda folder: {"stream": corpus.model_dump(mode="json")})
    cluster.start(corpus)
    texts = cluster.spread(extract, parts, [part.size for part in parts], corpus)
    return derive("corpus", corpus.name, inputs, lambda folder: choose(folder, corpus, parts, texts))


def is_streamed(corpus: Corpus, parts: list[Bucket]) -> bool:
    """Whether texts go straight from their files into shards: nothing is to be decided, so nothing needs to be kept."""
    return not (marks.wanted(corpus) or corpus.deduplicate.sentences or any(not part.files for part in parts))


def choose(folder: Path, corpus: Corpus, parts: list[Bucket], texts: list[Path]) -> dict:
    """Fill the corpus folder: decide for every text whether it is kept; returns the manifest."""
    told = [manifest(text) for text in texts]
    sizes = [each["documents"] for each in told]
    if not sum(sizes):
        raise DataError(nothing_in(corpus, parts, told))
    index = contamination.index(corpus) if corpus.decontaminate.tasks else None
    if marks.wanted(corpus):
        marked = marks.mark(texts, corpus, index)
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


def read_texts(folder: Path) -> Iterator[list[str]]:
    """The texts of a text folder, some at a time."""
    import pyarrow.parquet
    with pyarrow.parquet.ParquetFile(folder / "texts.parquet") as file:
        for batch in file.iter_batches(1_000, columns=["text"]):
            yield batch.column("text").to_pylist()


def sentences(text: str) -> list[str]:
    """The text cut after every sentence and line; joined they are the text again."""
    return SENTENCE.findall(text)


def repeated_sentences(folder: Path, texts: list[Path], sizes: list[int], dropped: np.ndarray) -> dict:
    """Mark the sentences of kept documents that stood in one before; returns how many."""
    from data.duplicates import Joined, same

    count, start = 0, 0
    with open(folder / "hashes.bin", "wb") as file:
        for text, size in zip(texts, sizes):
            for batch in read_texts(text):
                kept = dropped[start:start + len(batch)] == 0
                start += len(batch)
                for document in (document for document, keep in zip(batch, kept) if keep):
                    plain = [" ".join(re.findall(r"\w+", sentence)).casefold() for sentence in sentences(document)]
                    count += len(plain)
                    file.write(b"".join(
                        hashlib.blake2b(sentence.encode(), digest_size=8).digest()
                        if sentence.count(" ") >= SENTENCE_WORDS - 1 else bytes(8) for sentence in plain))
    hashes = Joined([folder / "hashes.bin"], np.uint64)
    again = np.zeros(count, np.uint8)
    for start, block in hashes.blocks(2**16):
        again[start:start + len(block)] = block[:, 0] != 0
    alive = again.astype(bool)
    again[:] = 0
    for _, later in same(hashes, alive):
        again[later] = 1
    (folder / "sentences.bin").write_bytes(again.tobytes())
    del hashes
    (folder / "hashes.bin").unlink()
    return {"read": count, "dropped": int(again.sum())}


def copies(text: str, weight: float) -> int:
    """How often a document is seen in a pass: a fraction is a share of the documents, chosen by hash."""
    fraction = weight % 1
    if not fraction:
        return int(weight)
    lies = int.from_bytes(hashlib.sha256(b"weight" + text.encode()).digest()[:8], "big") / 2**64
    return int(weight) + (lies < fraction)


def read_documents(folder: Path) -> Iterator[dict]:
    """The kept documents of a corpus folder, in order: {"text", "copies"}."""
    told = manifest(folder)
    for text, weight in streamed(folder, told) if "stream" in told else chosen(folder, told):
        if text and (times := copies(text, weight)):
            yield {"text": text, "copies": times}


def chosen(folder: Path, told: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of what was kept."""
    start, sentence = 0, 0
    dropped = np.fromfile(folder / "dropped.bin", np.uint8)
    cut = np.memmap(folder / "sentences.bin", np.uint8, "r") if "sentences" in told else None
    for part in told["texts"]:
        for batch in read_texts(OUT / "text" / part["folder"]):
            for text, why in zip(batch, dropped[start:start + len(batch)].tolist()):
                if why:
                    continue
                if cut is not None:
                    pieces = sentences(text)
                    text = "".join(piece for piece, again in zip(pieces, cut[sentence:sentence + len(pieces)])
                                   if not again).strip()
                    sentence += len(pieces)
                yield text, part["weight"]
            start += len(batch)


def streamed(folder: Path, told: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of every text, read from its file; what was counted is written down at the end."""
    corpus = Corpus(**told["stream"])
    parts = [part for source in corpus.sources for part in buckets(source, corpus.clean)]
    readings = [Reading(part) for part in parts]
    for part, reading in zip(parts, readings):
        for text, _ in reading.texts():
            yield text, part.source.weight
    counted = [reading.told() for reading in readings]
    if not sum(each["documents"] for each in counted):
        raise DataError(nothing_in(corpus, parts, counted))
    write_json(folder / "read.json", summed(parts, [""] * len(parts), counted))


def curated(folder: Path) -> dict:
    """What was counted of a corpus; of a streamed one, after it has been read."""
    told = manifest(folder)
    return told | json.loads((folder / "read.json").read_text(encoding="utf-8")) if "stream" in told else told


def characters(folder: Path) -> int:
    """About how many characters the documents have together."""
    told = manifest(folder)
    if "stream" in told:
        corpus = Corpus(**told["stream"])
        return sum(part.size for source in corpus.sources for part in buckets(source, corpus.clean))
    return sum(manifest(OUT / "text" / part["folder"])["characters"] for part in told["texts"])
