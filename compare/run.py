"""Run a comparison: train each objective for the same CPU seconds, measure all on the same labels, write the page.

    out/comparisons/NAME/   pretraining/RUN/  RUN.json  RUN.log      tasks/TASK/trials/*.json
                            report.html  report.md  report.json

A finished training or trial is stored and never repeated; an interrupted one resumes from its checkpoint.
"""

import os
import shlex
from pathlib import Path

from compare import report, scores
from compare.config import Compare
from compare.league import conclude, difference_from_start, rank_rows, score_row
from compare.plan import Plan, find_init, find_tasks, make_plans, read_corpus
from compare.pretraining import Pretraining
from compare.scores import Entry, Scores
from data.cache import OUTPUT_DIR
from data.contamination import describe_contamination
from data.encoders import read_record, resolve_encoder
from engine.errors import ConfigError, DataError, UserError
from engine.log import get_logger
from engine.sanitize import redact_credentials
from engine.system.lock import acquire
from finetune.study.run import format_duration
from finetune.study.trials import study_versions
from finetune.train import quiet_transformers

logger = get_logger(__name__)

COMPARISONS_FOLDER = OUTPUT_DIR / "comparisons"


class Comparison:
    """The trainings, measurements and results of one comparison. Raises ConfigError or DataError for bad input."""

    def __init__(self, config: Compare):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("compare: supports one process only; run it without accelerate launch")
        self.config, corpus = config, read_corpus(config)
        modality = corpus.get("modality", "text")
        self.corpus_name = corpus["corpus"].get("name", "corpus")
        self.init = find_init(config, modality)
        if self.init:
            resolve_encoder(self.init)  # before any time is spent
        self.plans = make_plans(config, corpus, self.init)
        self.studies = [scores.load_study(config, path) for path in find_tasks(config, corpus)]
        for task in (study.task for study in self.studies):
            if task.modality != modality:
                raise ConfigError(f"tasks: {task.name} is a task of {task.modality}, and the corpus is of {modality}")
        self.folder = COMPARISONS_FOLDER / (config.name or self.corpus_name)
        self.trainings: dict[str, list[Pretraining]] = {}
        self.failed: dict[str, str] = {}

    def train(self) -> None:
        """Train every objective, and save the starts. Raises DataError if none is trained."""
        config, seeds = self.config, range(self.config.pretrainings)
        for plan in self.plans:
            budget = None if plan.is_start else config.budget
            trees = [plan.tree | {"seed": config.seed + number} for number in seeds]
            trainings = [Pretraining(self.folder, plan.name, tree, budget) for tree in trees]
            try:
                for training in trainings:
                    self.train_one(plan, training)
                self.trainings[plan.name] = trainings
            except UserError as error:
                if plan.is_start:
                    raise
                self.failed[plan.name] = str(error)
                logger.info(f"  {plan.name}: failed: {error}")
        if not self.trainings.keys() & {*config.objectives}:
            reasons = "\n".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise DataError(f"no objective was trained\n{reasons}")

    def train_one(self, plan: Plan, training: Pretraining) -> None:
        """Train an objective once, with a line before and after it."""
        if training.encoder.is_dir():
            return
        if not plan.is_start:
            steps, seconds = training.count_steps(), training.record["seconds_per_step"]
            logger.info(
                f"  {plan.name}: {seconds:.3g} CPU seconds a step; {steps:,} steps for {self.config.budget:g} seconds"
                f" (output in {training.output_path})"
            )
        training.train()
        if not plan.is_start:
            warnings = "".join(f"\n    {line}" for line in training.record["warnings"])
            logger.info(f"  {plan.name}: trained in {training.record['cpu_seconds']:,.0f} CPU seconds{warnings}")

    def list_entries(self) -> list[Entry]:
        """Return the encoders to measure, a start first, which also has the baselines without any pretraining."""
        encoders = {name: [str(each.encoder) for each in trainings] for name, trainings in self.trainings.items()}
        encoders = {"start": [self.init], **encoders} if self.init else encoders
        first, *others = [Entry(name, folders) for name, folders in encoders.items()]
        return [first._replace(variants=(*first.variants, *scores.FLOORS)), *others]

    def measure(self) -> list[Scores]:
        """Measure all encoders on the tasks."""
        entries = self.list_entries()
        trained = [name for name in self.config.objectives if name in self.trainings]
        record = read_record(resolve_encoder(str(self.trainings[trained[0]][0].encoder)))
        measured = []
        for study in self.studies:
            logger.info(f"  task {study.task.name}: {len(entries)} encoders, {self.config.seeds} samples of labels")
            measured.append(scores.measure(study, entries, record, self.folder / "tasks" / study.task.name))
        return measured

    def summarize(self, measured: list[Scores], command: str) -> dict:
        """Return the content of report.json."""
        config, failed = self.config, dict(self.failed)
        for each in measured:
            failed |= each.failed
        curves = {use: [each.curves[use] for each in measured] for use in ("finetuned", "probe")}
        starts = {plan.name: plan.start for plan in self.plans}
        first = "start" if self.init else self.plans[0].start
        rows = [] if not self.init else [self.make_row("start", self.init, curves, first, {})]
        rows += [self.make_row(plan.name, plan.network, curves, plan.start, failed) for plan in self.plans]
        features = {"onehot": measured[0].one_hot, "tfidf": measured[0].features}
        features = {name: title for name, title in features.items() if title}
        floors = {"random": "the network of the start"}
        floors |= {name: f"{title} + logistic regression" for name, title in features.items()}
        rows += [self.make_row(name, title, curves, first, {}) for name, title in floors.items()]
        floor = next(iter(features))  # of the inputs as they are, which word vectors and pixels' embeddings replace
        for row in rows:
            row["floor_gain"] = difference_from_start(curves["probe"], row["name"], floor)
        objectives = {name: starts[name] for name in config.objectives if name not in failed}
        start = f"the encoder you started from ({self.init})" if self.init else "the same network without training"
        return {
            "name": self.folder.name,
            "sentence": conclude(curves["finetuned"], objectives, start),
            "corpus": self.corpus_name,
            "init": self.init,
            "budget": config.budget,
            "pretrainings": config.pretrainings,
            "seeds": config.seeds,
            "method": config.method,
            "metric": scores.METRIC,
            "floor": features[floor],
            "rows": rank_rows(rows),
            "tasks": [
                {
                    "name": each.task,
                    "num_test_rows": each.contamination["num_measured_rows"],
                    "contamination": describe_contamination(each.contamination),
                    "curves": {use: drop_correct(curve) for use, curve in each.curves.items()},
                }
                for each in measured
            ],
            "reproduction": {
                "command": command,
                "versions": study_versions(),
                "config": config.model_dump(mode="json"),
            },
        }

    def make_row(self, name: str, network: str, curves: dict, start: str, failed: dict[str, str]) -> dict:
        """Return a row of the league table."""
        records = [training.record for training in self.trainings.get(name, []) if name in self.config.objectives]
        notes = [line for record in records for line in record["warnings"]]
        return {
            "name": name,
            "network": network,
            "start": start,
            "steps": [record["steps"] for record in records],
            "cpu_seconds": [record["cpu_seconds"] for record in records],
            "scores": score_row(curves, name, start),
            "failed": failed.get(name),
            "notes": list(dict.fromkeys(notes)),
        }


def drop_correct(curve: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Return curves without the results by test row."""
    return {
        name: [{key: value for key, value in point.items() if key != "correct"} for point in points]
        for name, points in curve.items()
    }


def compare(config: Compare, args: list[str]) -> None:
    """Run the missing trainings and trials and write the report. Raises ConfigError or DataError for bad input."""
    quiet_transformers()
    comparison = Comparison(config)
    folder: Path = comparison.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(folder, way_out=f"choose another name: name={folder.name}-2")
    objectives, start = ", ".join(config.objectives), comparison.init or "new networks"
    total = format_duration(len(config.objectives) * config.pretrainings * config.budget)
    logger.info(
        f"comparison {folder.name}: {objectives}, from {start}\n"
        f"  {config.budget:g} CPU seconds each, {total} of CPU time in all, then fine-tuning"
    )
    comparison.train()
    measured = comparison.measure()
    command = shlex.join(["python", "-m", "compare", *redact_credentials(args)])
    summary = comparison.summarize(measured, command)
    report.write_report(summary, folder)
    logger.info(report.format_summary(summary, folder))
    lock.release()
