"""Run a study, from the contamination check and the trials to the report.

    out/studies/NAME/   trials/*.json  times.json  study.json  study.png  study.svg  report.html

Each trial's result is written atomically and study.json depends on these results alone, so an interrupted study
resumes with the next trial and ends with the same file.
"""

import os
import shlex
import shutil

import torch
from transformers.utils import logging

from data.cache import OUTPUT_DIR, fingerprint
from data.contamination import describe_contamination
from data.encoders import read_record, resolve_encoder
from data.tasks.splits import Example, join_texts
from data.tasks.task import fingerprint_inputs, read_task
from engine.cli import flags_to_keys
from engine.errors import ConfigError, DataError
from engine.files import write_json, write_text
from engine.log import get_logger
from engine.sanitize import redact_credentials
from finetune.evaluation.test_rows import inspect_labels
from finetune.modalities import load_modality
from finetune.study import report, statistics
from finetune.study.config import Study
from finetune.study.trials import FEATURE_VARIANTS, METRIC, TRAINED_VARIANTS, Trial, Trials, study_versions
from finetune.train import find_latest_encoder

logger = get_logger(__name__)

STUDIES_FOLDER = OUTPUT_DIR / "studies"


def validate_study(config: Study) -> None:
    """Raise ConfigError for settings that a study does not support."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("finetune.study: supports one process only; run it without accelerate launch")
    if not config.task.load_problem_type().has_single_class:
        raise ConfigError(f"task.problem_type: a study needs single classes, not {config.task.problem_type}")
    if config.selftrain.rounds:
        raise ConfigError("selftrain.rounds: a study trains on labeled examples only; set it to 0")
    if config.tapt.steps:
        raise ConfigError("tapt.steps: a study does not adapt its encoder; set it to 0 and pass an adapted encoder")


def select_test_rows(config: Study, rows: dict[str, list[Example]], record: dict) -> tuple[dict, list[int]]:
    """Return what was found in the training rows and the corpus of an encoder's record, and the test rows to measure.

    Raises DataError if there are none.
    """
    drops = [value == "drop" for value in (config.study.contamination, config.study.corpus_contamination)]
    counts, measured = load_modality(config).check_contamination(rows, record, *drops)
    if not measured:
        raise DataError(
            f"task {config.task.name}: every test row also occurs in the training rows or the pretraining corpus;"
            " set study.contamination=flag and study.corpus_contamination=flag to measure them anyway"
        )
    return counts, measured


def run_study(config: Study, args: list[str]) -> None:
    """Run the missing trials and write the report. Raises ConfigError or DataError for bad input, before training."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    validate_study(config)
    encoder = config.encoder or find_latest_encoder(config.task.modality)
    rows = read_task(config.task, needs_validation=False)
    record = read_record(resolve_encoder(encoder))
    counts, measured = select_test_rows(config, rows, record)
    folder = STUDIES_FOLDER / config.run
    trials = Trials(config, encoder, rows, measured, folder, flags_to_keys(Study, args))
    planned = trials.list_trials()
    if not planned:
        raise ConfigError(
            "study.shots: no trial; 0 labels need names of classes made of words, and method=auto or names"
        )
    if config.train.dry_run:  # the first training exits after its checks
        trials.run_trial(next(trial for trial in planned if trial.variant in TRAINED_VARIANTS))
    folder.mkdir(parents=True, exist_ok=True)
    notes = [*describe_contamination(counts), "validation labels are not used"]
    logger.info("\n  ".join([f"study {config.run}: {len(planned)} trials, encoder {encoder}", *notes]))

    # Without `encoder`, the latest one is used, which may be another one when the study is reproduced.
    shown_args = redact_credentials([*args, *[f"encoder={encoder}"] * (not config.encoder)])
    command = shlex.join(["python", "-m", "finetune.study", *shown_args])
    completed: dict[Trial, dict] = {}
    for number, trial in enumerate(planned, 1):
        result = trials.load_result(trial)
        if result is None:
            seconds = trials.estimate_seconds_left(planned[number - 1 :], list(completed))
            estimate = f"  about {format_duration(seconds)} left" if seconds is not None else ""
            logger.info(f"trial {number}/{len(planned)}  {trial}{estimate}")
            result = trials.run_trial(trial)
            logger.info(f"    {METRIC} {result['score']:.3f}")
        completed[trial] = result
        following = planned[number] if number < len(planned) else None
        if not following or following.shots != trial.shots and trials.load_result(following) is None:
            summary = summarize_study(config, trials, len(planned), list(completed.values()), counts, command)
            write_study(summary, trials)
    shutil.rmtree(folder / "running", ignore_errors=True)
    logger.info(report.format_study_summary(summary, folder))


def format_duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def summarize_study(
    config: Study, trials: Trials, num_planned: int, results: list[dict], contamination: dict, command: str
) -> dict:
    """Return the content of study.json, which depends on the results but on no time or date."""
    record = read_record(trials.encoder_folders["ours"])
    titles = {
        "ours": "with pretraining" if record else f"{trials.encoder}, fine-tuned",
        "plain": f"without it ({trials.original_init})" if trials.original_init else "without it",
        "random": "random weights",
        "probe": "linear probe, frozen encoder",
        "tfidf": f"{trials.modality.describe_features(trials.train)} + logistic regression",
        "onehot": f"{trials.modality.describe_one_hot(trials.train)} + logistic regression",
    }
    ours_phrase = "with pretraining" if record else f"with {trials.encoder}"
    phrases = statistics.VARIANT_PHRASES | {name: f"with {titles[name]}" for name in reversed(FEATURE_VARIANTS)}
    curve = statistics.build_curves(results, TRAINED_VARIANTS)
    curve = {variant: curve[variant] for variant in ("ours", *phrases) if variant in curve}
    sentences = statistics.build_sentences(curve, ours_phrase, phrases)
    gains = {name: statistics.paired_differences(curve["ours"], curve[name]) for name in curve if name != "ours"}
    summary = {
        "name": config.run,
        "task": config.task.name,
        "encoder": trials.encoder,
        "metric": METRIC,
        "trials": {"planned": num_planned, "completed": len(results)},
        "sentence": statistics.headline(sentences),
        "sentences": sentences,
        "titles": titles,
        "variants": {variant: titles[variant] for variant in curve},
        "skipped": {variant: why for variant, why in trials.skipped.items() if variant in config.study.variants},
        "test_rows": inspect_labels(trials.modality.problem_type, trials.train, trials.test, trials.label_names),
        "validation_labels": 0,
        "curve": {
            variant: [{key: value for key, value in point.items() if key != "correct"} for point in points]
            for variant, points in curve.items()
        },
        "paired_differences": gains,
        "contamination": contamination,
    }
    predicted = [result for result in results if "predictions" in result]
    fitting = [each for each in predicted if each["num_examples"] <= config.study.max_confusion_size] or predicted[:1]
    if fitting:
        largest = max(fitting, key=lambda result: (result["num_examples"], -result["seed"]))
        # In the order of `encode_labels`, with the classes that no training row has.
        names = list(dict.fromkeys([*trials.label_names, *(example.label for example in trials.test)]))
        rows = trials.test_labels, join_texts(trials.test), names
        summary["errors"] = statistics.summarize_mistakes(largest, *rows, config.study.mistakes)
    summary["reproduction"] = {
        "command": command,
        "config": config.model_dump(mode="json") | {"encoder": trials.encoder},
        "versions": study_versions(),
        "weight_hashes": {variant: hashes for variant, hashes in trials.weight_hashes.items() if variant != "random"},
        "encoder_record_fingerprint": fingerprint(record),
        "task_fingerprint": fingerprint(fingerprint_inputs(config.task)),
        "rows_fingerprint": trials.rows_fingerprint,
        "threads": torch.get_num_threads(),
        "precision": trials.accelerator.mixed_precision.replace("no", "float32"),
        "sampled": {f"{each['num_examples']} labels, seed {each['seed']}": each["sampled"] for each in results},
    }
    return summary


def write_study(summary: dict, trials: Trials) -> None:
    """Write study.json, the plots and the report."""
    from finetune.study.plot import plot_curves  # matplotlib takes a second to load

    write_json(trials.folder / "study.json", summary)
    num_rows = summary["contamination"]["num_measured_rows"]
    plot_curves(summary["curve"], summary["variants"], summary["metric"], num_rows, trials.folder)
    svg = (trials.folder / "study.svg").read_text(encoding="utf-8")
    write_text(trials.folder / "report.html", report.render_page(summary, svg, show_mistakes(summary, trials)))


def show_mistakes(summary: dict, trials: Trials) -> list[dict[str, str]]:
    """Return {"text"} or {"image"} of each mistake, for the page; images are in no other file."""
    examples = {join_texts([example])[0]: example for example in trials.test}
    mistakes = [examples[mistake["text"]] for mistake in summary.get("errors", {}).get("mistakes", [])]
    return trials.modality.show(mistakes, report.MAX_TEXT_CHARS) if mistakes else []
