"""TODO."""

from __future__ import annotations

from pathlib import Path

from data.cache import cache_path, get_or_build, is_cached, stop_if_dry_run
from data.corpus import decontaminate, runner, signals
from data.corpus.config import Corpus
from data.corpus.extract import Bucket, extract, split_into_buckets
from data.corpus.select import select_documents


def fingerprint_inputs(corpus: Corpus, buckets: list[Bucket]) -> dict:
    """What the fingerprint of the documents is made of."""
    told = corpus.model_dump(mode="json", include={"filter", "deduplicate", "decontaminate"})
    if corpus.decontaminate.tasks:
        told["index"] = decontaminate.build_index(corpus).name
    return {
        **told,
        "parts": [[part.fingerprint_inputs, part.source.weight, part.source.language] for part in buckets],
        "version": 4,
    }


def build_corpus(corpus: Corpus) -> Path:
    """The folder of the corpus's documents. Raises DataError when none is left."""
    parts = [part for source in corpus.sources for part in split_into_buckets(source, corpus.clean)]
    inputs = fingerprint_inputs(corpus, parts)
    if is_cached(cache_path("corpus", corpus.name, inputs)):
        return cache_path("corpus", corpus.name, inputs)
    if is_streaming(corpus, parts):
        return get_or_build("corpus", corpus.name, inputs, lambda folder: {"stream": corpus.model_dump(mode="json")})
    stop_if_dry_run(cache_path("corpus", corpus.name, inputs))
    runner.start_runner(corpus)
    texts = runner.run_parallel(extract, parts, [part.total_bytes for part in parts], corpus)
    return get_or_build("corpus", corpus.name, inputs, lambda folder: select_documents(folder, corpus, parts, texts))


def is_streaming(corpus: Corpus, buckets: list[Bucket]) -> bool:
    """Whether texts go straight from their files into shards: nothing is to be decided, so nothing needs to be kept."""
    return not (
        signals.needs_signals(corpus) or corpus.deduplicate.sentences or any(not part.files for part in buckets)
    )
