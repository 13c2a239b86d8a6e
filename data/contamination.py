"""Search for test rows that occur in the training rows or the pretraining corpus, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.cache import OUTPUT_DIR, get_or_build, is_cached, read_manifest
from data.corpus.clean import clean_text
from data.corpus.config import Clean
from data.corpus.documents import iter_documents
from data.encoders import original_init, pretraining_history
from data.tasks import overlap
from data.tasks.splits import join_texts
from data.tasks.task import Example, Task, fingerprint_inputs
from engine.config.loader import validate
from engine.errors import DataError, UserError
from engine.log import get_logger

if TYPE_CHECKING:
    from data.images.task import ImageStore

logger = get_logger(__name__)

MAX_EXAMPLES, MAX_EXAMPLE_CHARS = 3, 300  # text pairs in the report, and characters of each text


def find_documents(record: dict) -> Path:
    """Return the folder of a pretraining's documents. Raises DataError if it is not in `out`.

    It is not built again from the record, which may be somebody else's: a record must not decide what is fetched.
    """
    shards = OUTPUT_DIR / "shards" / Path(str(record.get("shards", "none"))).name
    if is_cached(shards):
        folder = OUTPUT_DIR / "corpus" / Path(str(read_manifest(shards).get("inputs", {}).get("documents"))).name
        if is_cached(folder):
            manifest = read_manifest(folder)
            texts = manifest.get("text_folders", [{"folder": "none"}])  # older versions stored texts elsewhere
            if "streamed_corpus" in manifest or all(is_cached(OUTPUT_DIR / "text" / part["folder"]) for part in texts):
                return folder
    raise DataError("its documents are not in out; build them with `make data` to search them")


def count_overlaps(overlaps: np.ndarray) -> dict[str, int]:
    """Return {"num_rows", "exact", "near"}."""
    exact, near = (int((overlaps == kind).sum()) for kind in (overlap.EXACT, overlap.NEAR))
    return {"num_rows": len(overlaps), "exact": exact, "near": near}


def search_examples(examples: list[Example], others: list[Example]) -> overlap.OverlapIndex:
    """Search other examples for the texts of `examples`."""
    index = overlap.OverlapIndex(join_texts(examples))
    index.search(join_texts(others))
    return index


def search_training_rows(task: Task, rows: dict[str, list[Example]]) -> Path:
    """Search the training and validation rows for test rows; the folder returned holds `overlaps.npy`."""

    def build(folder: Path) -> dict:
        test, index = join_texts(rows["test"]), search_examples(rows["test"], rows["train"] + rows["validation"])
        np.save(folder / "overlaps.npy", index.matches)
        near = [row for row in sorted(index.matched_texts) if index.matches[row] == overlap.NEAR][:MAX_EXAMPLES]
        pairs = [(test[row], index.matched_texts[row]) for row in near]
        return {
            **count_overlaps(index.matches),
            "too_short": int(index.too_short.sum()),
            "examples": [[text[:MAX_EXAMPLE_CHARS] for text in pair] for pair in pairs],
        }

    return get_or_build("overlap", task.name, {"task": fingerprint_inputs(task), "version": 4}, build, quiet=True)


def search_pretraining_corpus(task: Task, rows: dict[str, list[Example]], record: dict) -> Path:
    """Search a pretraining's documents for test rows (`overlaps.npy`) and, only to count them, training rows."""
    documents = find_documents(record)
    config = validate(Clean, record["config"]["corpus"].get("clean", {}))

    def build(folder: Path) -> dict:
        logger.info(f"searching {documents} for the texts of {task.name}")
        index = overlap.OverlapIndex([clean_text(text, config) for text in join_texts(rows["test"] + rows["train"])])
        count = index.search(document["text"] for document in iter_documents(documents))
        test, train = np.split(index.matches, [len(rows["test"])])
        np.save(folder / "overlaps.npy", test)
        return {"num_documents": count, "test": count_overlaps(test), "train": count_overlaps(train)}

    inputs = {"task": fingerprint_inputs(task), "documents": documents.name, "clean": config.model_dump(), "version": 3}
    return get_or_build("overlap", f"{task.name}-{documents.name.rsplit('-', 1)[0]}", inputs, build, quiet=True)


def read_counts(folder: Path) -> dict:
    """Return the counts of a finished search."""
    return {key: value for key, value in read_manifest(folder).items() if key != "inputs"}


def check_contamination(
    task: Task, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
) -> tuple[dict, list[int]]:
    """Return counts for the report and the indices of the test rows to measure. record: the encoder's, or empty."""
    folder = search_training_rows(task, rows)

    def search(stage: dict) -> tuple[np.ndarray, dict]:
        found = search_pretraining_corpus(task, rows, stage)
        return np.load(found / "overlaps.npy"), read_counts(found)

    in_training = np.load(folder / "overlaps.npy")
    return combine_searches(in_training, read_counts(folder), search, record, drop_training, drop_corpus)


def check_image_contamination(
    store: ImageStore, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
) -> tuple[dict, list[int]]:
    """Return the same for images: those with the same pixels, and scaled or compressed copies."""
    from data.images.overlap import count_overlaps, match_images, match_shards
    from data.images.store import PixelShards

    in_training = match_images(store, rows["test"], rows["train"] + rows["validation"])

    def search(stage: dict) -> tuple[np.ndarray, dict]:
        folder = OUTPUT_DIR / "pixels" / Path(str(stage.get("pixels", "none"))).name
        if not is_cached(folder):
            raise DataError("its images are not in out")
        shards = [PixelShards(folder, split) for split in ("train", "held_out")]
        test, train = (
            np.maximum(*(match_shards(store, rows[split], each) for each in shards)) for split in ("test", "train")
        )
        counts = {"test": count_overlaps(test), "train": count_overlaps(train)}
        return test, {"num_documents": sum(map(len, shards)), **counts}

    counts, measured = combine_searches(
        in_training, count_overlaps(in_training), search, record, drop_training, drop_corpus
    )
    return {**counts, "inputs": "images"}, measured


def combine_searches(
    in_training: np.ndarray,
    training: dict,
    search: Callable[[dict], tuple[np.ndarray, dict]],
    record: dict,
    drop_training: bool,
    drop_corpus: bool,
) -> tuple[dict, list[int]]:
    """Return what `check_contamination` does.

    in_training, training: overlaps of test rows with training rows, and their counts; search: from the record of a
    pretraining to the overlaps with its corpus and their counts, raising UserError or OSError if it is not at hand.
    """
    corpora, in_pretraining = [], np.zeros(len(in_training), np.uint8)
    for stage in pretraining_history(record):
        name = stage["config"]["corpus"].get("name", "?")
        try:
            overlaps, counts = search(stage)
        except (UserError, OSError) as error:
            corpora.append({"corpus": name, "not_searched": str(error).splitlines()[0]})
            continue
        in_pretraining = np.maximum(in_pretraining, overlaps)
        corpora.append({"corpus": name, **counts})
    dropped = (in_training > 0) & drop_training | (in_pretraining > 0) & drop_corpus
    measured = np.flatnonzero(~dropped).tolist()
    counts = {
        "training_overlap": training,
        "corpora": corpora,
        "original_init": original_init(record),
        "num_test_rows": len(in_training),
        "num_dropped_rows": int(dropped.sum()),
        "num_measured_rows": len(measured),
        "drops_training_overlap": drop_training,
        "drops_corpus_overlap": drop_corpus,
    }
    return counts, measured


def describe_contamination(counts: dict) -> list[str]:
    """Describe the overlaps, one line each."""

    def consequence(overlaps: dict, drops: bool, otherwise: str) -> str:
        return f"; {'they are dropped' if drops else otherwise}" if overlaps["exact"] + overlaps["near"] else ""

    training = counts["training_overlap"]
    what = consequence(training, counts["drops_training_overlap"], "they are kept")
    is_text = counts.get("inputs", "texts") == "texts"
    inputs, documents = ("texts", "documents") if is_text else ("images", "images")
    detail = f" ({training['too_short']:,} are too short for a partial match)" if is_text else " (copies of images)"
    lines = [
        f"{training['exact']:,} of {counts['num_test_rows']:,} test rows also occur in the training and validation"
        f" rows, {training['near']:,} nearly{detail}{what}"
    ]
    for corpus in counts["corpora"]:
        if "not_searched" in corpus:
            lines.append(f"the corpus {corpus['corpus']} could not be searched: {corpus['not_searched']}")
            continue
        test, train = corpus["test"], corpus["train"]
        what = consequence(test, counts["drops_corpus_overlap"], "they are kept, since the corpus has no labels")
        lines += [
            f"{test['exact']:,} test rows occur in the {corpus['num_documents']:,} {documents} of the corpus"
            f" {corpus['corpus']}, {test['near']:,} nearly{what}",
            f"{train['exact']:,} of {train['num_rows']:,} training {inputs} occur in it, {train['near']:,} nearly",
        ]
    if counts["original_init"]:
        lines.append(f"the training data of {counts['original_init']}, the initial weights, is unknown")
    elif not counts["corpora"]:
        lines.append("the encoder has no pretraining record, so its training data is unknown")
    return [*lines, f"{counts['num_measured_rows']:,} test rows are measured"]
