"""What is kept of a fine-tuned model's results on held-out rows: for predictions later, and the mistakes to read."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator

from data.sampling import take_evenly
from data.tasks.confidence import FILENAME, Confidence, count_labels, measure_confidence, save_confidence
from data.tasks.novelty import MAX_VECTORS, Novelty, find_nearest, fit_novelty, hash_inputs
from data.tasks.splits import Example
from engine.models.embed import run_batches
from finetune.modalities import Modality
from finetune.model.pooled_states import PooledStates
from finetune.training import FineTuneOutput

MAX_HELD_OUT_VECTORS = 500
MAX_MISTAKES = 50
MAX_TEXT_CHARS = 500


class HeldOut(NamedTuple):
    """Results on held-out rows."""

    confidence: Confidence
    novelty: Novelty | None
    mistakes: list[dict]
    """The surest mistakes on test rows, each with its nearest training rows."""

    def save(self, folder: Path) -> None:
        """Write the results, without the mistakes, which are text, to a model's folder."""
        save_confidence(self.confidence, folder / FILENAME, self.novelty.to_arrays() if self.novelty else {})


def list_mistakes(
    modality: Modality, output: FineTuneOutput, test: list[Example], names: list[str]
) -> list[tuple[int, dict]]:
    """List (row, {"text" or "image", "label", "predicted", "probability"}) of wrong predictions, the surest first."""
    problem_type, config, wrong = modality.problem_type, output.model.config.to_dict(), []
    for row, (example, values) in enumerate(zip(test, output.predictions["test"], strict=True)):
        if not np.ndim(values):
            return []
        starts = output.labels["test"][row][1] if problem_type.labels_words else None
        decisions = problem_type.list_decisions(np.asarray(values), names, config, starts)
        right = problem_type.list_true_keys(example.label)
        if {decision.key for decision in decisions} != right:
            surest = max((decision.probability for decision in decisions if decision.key not in right), default=0.0)
            words = example.texts[0].split(" ")
            predicted = describe_keys({decision.key for decision in decisions}, words)
            mistake = {"label": describe_keys(right, words), "predicted": predicted, "probability": round(surest, 4)}
            wrong.append((row, mistake))
    wrong = sorted(wrong, key=lambda entry: -entry[1]["probability"])[:MAX_MISTAKES]
    shown = modality.show([test[row] for row, _ in wrong], MAX_TEXT_CHARS) if wrong else []
    return [(row, mistake | content) for (row, mistake), content in zip(wrong, shown, strict=True)]


def describe_keys(keys: set[tuple], words: list[str]) -> str:
    """Return labels as text; entities with their words."""
    parts = [
        str(label) if place is None else f"{label}: {' '.join(words[slice(*place)])}"
        for label, place in sorted(keys, key=lambda key: (key[1] or (0, 0), key[0]))
    ]
    return ", ".join(parts) or "none"


def collect_held_out(
    modality: Modality,
    output: FineTuneOutput,
    splits: dict[str, list[Example]],
    label_names: list[str],
    folder: Path,
    accelerator: Accelerator,
) -> HeldOut:
    """Return the results of a finished model. All processes call it together.

    The held-out rows are the validation rows or, if training used none of their labels, the test rows.
    """
    problem_type, config = modality.problem_type, output.model.config.to_dict()
    split = "validation" if "validation" in output.predictions else "test"
    tokens = [labels[1] for labels in output.labels[split]] if problem_type.labels_words else None
    confidence = measure_confidence(
        problem_type, split, output.predictions[split], splits[split], label_names, config, tokens
    )
    confidence.train_counts = count_labels(problem_type, splits["train"], confidence.names)
    mistakes = list_mistakes(modality, output, splits["test"], label_names)
    train, novelty = take_evenly(splits["train"], MAX_VECTORS), None
    test_vectors = output.test_vectors
    if train and test_vectors is not None and test_vectors.shape[1]:
        module = PooledStates(output.head, modality.shared).to(accelerator.device)

        def embed(examples: list[Example]) -> np.ndarray:
            inputs = modality.build_dataset(examples, folder, "rows to compare inputs with")
            return np.stack([vector for _, vector in run_batches(module, inputs, accelerator)])

        if split == "test":
            held_out = test_vectors[take_evenly(range(len(test_vectors)), MAX_HELD_OUT_VECTORS)]
        else:
            held_out = embed(take_evenly(splits[split], MAX_HELD_OUT_VECTORS))
        novelty = fit_novelty(embed(train), hash_inputs(train), held_out)
        if novelty and mistakes:
            nearest = find_nearest(test_vectors[[row for row, _ in mistakes]], novelty)
            for (_, mistake), rows in zip(mistakes, nearest, strict=True):
                mistake["nearest"] = describe_examples(modality, [train[row] for row in rows])
    return HeldOut(confidence, novelty, [mistake for _, mistake in mistakes])


def describe_examples(modality: Modality, examples: list[Example]) -> list[dict]:
    """Return {"text" or "image", "label"} of training rows."""
    keys = [modality.problem_type.list_true_keys(example.label) for example in examples]
    labels = [describe_keys(right, example.texts[0].split(" ")) for right, example in zip(keys, examples, strict=True)]
    shown = modality.show(examples, MAX_TEXT_CHARS) if examples else []
    return [{**content, "label": label} for content, label in zip(shown, labels, strict=True)]
