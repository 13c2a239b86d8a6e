"""Measure encoders on a task: the trials of a study with a linear probe and few-label fine-tuning, in one folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from compare.config import Compare
from data.cache import fingerprint
from data.encoders import pretraining_history
from data.tasks.task import Example, fingerprint_inputs, read_task
from engine.config.loader import load_config
from engine.errors import CommandExit, first_line
from engine.files import read_json, write_json
from engine.log import get_logger
from finetune.modalities import load_modality
from finetune.study import statistics
from finetune.study.config import Study
from finetune.study.run import select_test_rows, validate_study
from finetune.study.trials import METRIC, Trial, Trials

logger = get_logger(__name__)

USES = {"ours": "finetuned", "random": "finetuned", "probe": "probe", "tfidf": "probe", "onehot": "probe"}
"""Variant of a study -> how it uses its encoder or features: all of it is trained, or a linear model of it."""
FLOORS = ("random", "onehot", "tfidf")
"""Variants without any pretraining, which are rows of their own."""


class Entry(NamedTuple):
    """An encoder to measure."""

    name: str
    encoders: list[str]
    """Its folder or name, of each pretraining with another seed."""
    variants: tuple[str, ...] = ("ours", "probe")
    """Those of a study."""


class Scores(NamedTuple):
    """What was measured on a task."""

    task: str
    contamination: dict
    """What `Modality.check_contamination` found, with the number of test rows measured."""
    features: str
    """Name of the features of the linear baseline, such as TF-IDF."""
    one_hot: str
    """Name of the one-hot features, for texts; or empty."""
    curves: dict[str, dict[str, list[dict]]]
    """Points of `statistics.build_curves` by use and name of the row."""
    failed: dict[str, str]
    """Reason by the name of an entry."""


def load_study(config: Compare, path: Path) -> Study:
    """Return the configuration of the trials on a task. Raises ConfigError."""
    args = [str(path), f"method={config.method}", f"seed={config.seed}", f"study.shots={config.shots}"]
    args += [f"study.seeds={config.seeds}", "study.variants=[ours,random,probe,tfidf,onehot]"]
    study = load_config(Study, [*args, *config.finetune])
    validate_study(study)
    return study


def list_trials(study: Study, entry: Entry, make_trials: Callable[[str], Trials]) -> Iterator[tuple[Trials, Trial]]:
    """Yield the trials of an entry; its pretrainings share the seeds out among them."""
    for number, encoder in enumerate(entry.encoders):
        trials = make_trials(encoder)
        for trial in trials.list_trials():
            if trial.variant in entry.variants and (trial.seed - study.seed) % len(entry.encoders) == number:
                yield trials, trial


def measure_entry(study: Study, entry: Entry, make_trials: Callable[[str], Trials]) -> list[dict]:
    """Return the results of an entry's trials, with the name of its row as `variant` and its `use`."""
    results = []
    for trials, trial in list_trials(study, entry, make_trials):
        result, use = trials.load_result(trial), USES[trial.variant]
        row = trial.variant if trial.variant in FLOORS else entry.name
        if result is None:
            result = trials.run_trial(trial)
            note = f"{row}, {use}, {trial.num_examples:,} labels, seed {trial.seed}"
            logger.info(f"  {study.task.name}: {note}: {METRIC} {result['score']:.3f}")
        results.append({**result, "variant": row, "use": use})
    return results


def find_test_rows(study: Study, rows: dict[str, list[Example]], record: dict, folder: Path) -> tuple[dict, list[int]]:
    """Return what `select_test_rows` does, which takes minutes for many images, and store it in the folder."""
    path, settings = folder / "test_rows.json", (study.study.contamination, study.study.corpus_contamination)
    corpora = [[stage.get("shards"), stage.get("pixels")] for stage in pretraining_history(record)]
    inputs = fingerprint([fingerprint_inputs(study.task), corpora, settings])
    if path.is_file() and (stored := read_json(path))["inputs"] == inputs:
        return stored["contamination"], stored["measured"]
    contamination, measured = select_test_rows(study, rows, record)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"inputs": inputs, "contamination": contamination, "measured": measured})
    return contamination, measured


def measure(study: Study, entries: list[Entry], record: dict, folder: Path) -> Scores:
    """Run the missing trials of a task. Errors of the first entry, which is a start, are raised.

    record: of an encoder that was trained on the corpus, to count its test rows in it. folder: of the trials.
    """
    rows = read_task(study.task, needs_validation=False)
    contamination, measured = find_test_rows(study, rows, record, folder)
    results, failed = [], {}
    for entry in entries:
        try:
            results += measure_entry(study, entry, lambda encoder: Trials(study, encoder, rows, measured, folder))
        except CommandExit:
            raise
        except Exception as error:
            if entry is entries[0]:
                raise
            failed[entry.name] = first_line(error)
    curves = {
        use: statistics.build_curves(
            [result for result in results if result["use"] == use],
            tuple(result["variant"] for result in results) if use == "finetuned" else (),
        )
        for use in ("finetuned", "probe")
    }
    modality, train = load_modality(study), rows["train"]
    names = modality.describe_features(train), modality.describe_one_hot(train)
    return Scores(study.task.name, contamination, *names, curves, failed)
