"""The corpus pipeline: read and clean, compute signals, then select the documents that are kept.

out/corpus/NAME-FINGERPRINT/
dropped.bin     uint8   per text, in the order of the text folders: 0 if kept, else its index in `reasons`
sentences.bin   uint8   per sentence of a kept text: 1 if dropped; only with sentence deduplication
manifest.json   the text folders, and the counts of every step

If no step drops texts, none are stored: the manifest has the configuration to read them again, counts.json the counts.
"""

from pathlib import Path

from data.cache import cache_path, get_or_build, is_cached, stop_if_dry_run
from data.corpus import decontaminate, runner, signals
from data.corpus.config import Corpus
from data.corpus.extract import Bucket, extract, split_corpus
from data.corpus.select import select_documents
from engine.sanitize import redact_credentials


def fingerprint_inputs(corpus: Corpus, buckets: list[Bucket]) -> dict:
    """Return what determines the documents of a corpus."""
    inputs = corpus.model_dump(mode="json", include={"filter", "deduplicate", "decontaminate"})
    if corpus.decontaminate.tasks:
        inputs["index"] = decontaminate.build_index(corpus).name
    parts = [[bucket.fingerprint_inputs, bucket.source.weight, bucket.source.language] for bucket in buckets]
    return {**inputs, "parts": parts, "version": 4}


def build_corpus(corpus: Corpus) -> Path:
    """Return the folder of the corpus's documents. Raises DataError when none is left."""
    buckets = split_corpus(corpus)
    inputs = fingerprint_inputs(corpus, buckets)
    folder = cache_path("corpus", corpus.name, inputs)
    if is_cached(folder):
        return folder
    if is_streaming(corpus, buckets):
        manifest = {"streamed_corpus": corpus.model_dump(mode="json")}
        return get_or_build("corpus", corpus.name, inputs, lambda _: manifest)
    stop_if_dry_run(folder)
    runner.start_runner(corpus)
    texts = runner.run_parallel(extract, buckets, [bucket.total_bytes for bucket in buckets], corpus)
    return get_or_build("corpus", corpus.name, inputs, lambda made: select_documents(made, corpus, buckets, texts))


def is_streaming(corpus: Corpus, buckets: list[Bucket]) -> bool:
    """Return whether texts go straight from files into shards, since no step drops any and they need not be stored.

    The files are then read again by the saved configuration, which holds no credentials of their addresses.
    """
    only_files = all(bucket.files for bucket in buckets)
    if any(redact_credentials(source.files) != source.files for source in corpus.sources):
        return False
    return only_files and not signals.needs_signals(corpus) and not corpus.deduplicate.sentences
