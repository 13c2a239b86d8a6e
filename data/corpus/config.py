"""TODO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from data.sources.source import Source, display_name
from data.tasks.task import TaskFile
from engine.config.loader import load_config
from engine.config.schema import Fraction, Section


class CorpusSource(Source):
    """One source of a corpus: one of wheel, hub, files and task."""

    text: str = "text"
    """The column that holds the text."""
    id: str | None = None
    """The column that names a document, kept beside it; none: no names."""
    language: str | None = None
    """The language its text is in, as a tag like en; noted in the report."""
    task: str | None = None
    """The YAML of a labelled task, whose training texts are read without their labels."""
    weight: PositiveFloat = 1
    """How often each of its documents is seen in one pass over the corpus; 0.5: every other one, chosen by hash."""

    @classmethod
    def origins(cls) -> tuple[str, ...]:
        return ("wheel", "hub", "files", "task")


class Clean(Section):
    """What is mended in a text."""

    encoding: bool = True
    """Undo text that was decoded in the wrong encoding (mojibake), with ftfy."""
    html: bool = True
    """Turn HTML line breaks into line ends, drop other tags that are left over, and resolve entities."""
    mask_pii: bool = False
    """Put [email], [ip], [card] and [phone] in place of what looks like one."""


class Filter(Section):
    """Which documents are too poor to learn from. Rules after Gopher (Rae et al. 2021), those of English off by default."""

    min_words: NonNegativeInt = 1
    """Fewest words (runs of characters without white space)."""
    max_words: PositiveInt | None = None
    """Most words; none: no limit."""
    min_characters: NonNegativeInt = 1
    """Fewest characters."""
    min_letters: Fraction = 0.4
    """Smallest share of letters, of any script, among the characters that are not white space."""
    max_repeated_lines: Fraction = 0.5
    """Largest share of lines that stood in the document before."""
    max_compression: PositiveFloat | None = 8.0
    """Largest factor by which zlib shrinks the document: more means the same words over and over; none: any."""
    mean_word_length: Annotated[list[NonNegativeFloat], Field(min_length=2, max_length=2)] | None = None
    """Smallest and largest mean length of the words; for English 3 and 10; none: any."""
    max_symbol_words: Fraction = 1.0
    """Largest ratio of # and of ellipses to words; Gopher's is 0.1."""
    min_alphabetic_words: Fraction = 0.0
    """Smallest share of words with a letter in them; Gopher's is 0.8."""
    max_bullet_lines: Fraction = 1.0
    """Largest share of lines that begin with a bullet; Gopher's is 0.9."""
    max_ellipsis_lines: Fraction = 1.0
    """Largest share of lines that end with an ellipsis; Gopher's is 0.3."""
    min_stop_words: NonNegativeInt = 0
    """Fewest of the words the, be, to, of, and, that, have, with; Gopher's is 2."""
    languages: list[str] = []
    """Keep only documents in these languages, as tags like en (py3langid, when it is installed); empty: all."""


class Deduplicate(Section):
    """Which documents have been seen before; the first is kept. Case, punctuation and white space do not count."""

    exact: bool = True
    """Drop documents with the same words."""
    near: bool = True
    """Drop documents with nearly the same words: MinHash (Broder 1997), candidates by banding, checked on all hashes."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of common word 5-grams (Jaccard) from which two documents are nearly the same."""
    sentences: bool = False
    """Drop sentences of ten words or more that stood before, in an earlier document or the same one."""


class Decontaminate(Section):
    """Documents that hold text of a task's test set."""

    tasks: list[str] = []
    """YAML files of the tasks whose test texts are looked for."""
    action: Literal["report", "remove"] = "report"
    """Count such documents, or drop them."""
    ngram: Annotated[int, Field(ge=5)] = 13
    """Words in a row that a document and a test text share; shorter test texts must stand in a document whole."""
    min_words: Annotated[int, Field(ge=3)] = 5
    """Test texts of fewer words are not looked for: they stand everywhere."""


class Corpus(Section):
    """Unlabelled text."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """What the corpus is called on disk."""
    sources: Annotated[list[CorpusSource], Field(min_length=1)]
    """Where its text comes from."""
    clean: Clean = Clean()
    """What is mended."""
    filter: Filter = Filter()
    """What is dropped for its quality."""
    deduplicate: Deduplicate = Deduplicate()
    """What is dropped for standing twice."""
    decontaminate: Decontaminate = Decontaminate()
    """What is dropped, or told, for standing in a test set."""
    held_out: Fraction = 0.01
    """Share of the documents kept for evaluation, chosen by a hash of the text."""
    runner: Literal["native", "ray"] = "native"
    """Where the work is done: this machine, or a Ray cluster that shares the folder out/ with it."""
    address: str | None = None
    """The Ray cluster's address; none: the one RAY_ADDRESS names, or a new one on this machine."""


class CorpusFile(Section):
    """What fine-tuning reads of a corpus's YAML."""

    model_config = {"extra": "ignore"}
    corpus: Corpus


def source_licenses(corpus: Corpus) -> dict[str, str | None]:
    """The sources of a corpus, by name, with the licence each says it is under."""
    sources = [load_config(TaskFile, [source.task]).task.train if source.task else source for source in corpus.sources]
    return {display_name(source): source.license for source in sources}
