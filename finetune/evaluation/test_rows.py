"""What limits the metrics on the test rows: labels that none of them has, and rows that are also trained on."""

from data.tasks.problem_types import ProblemType
from data.tasks.task import Example
from finetune.modalities import Modality


def list_absent_labels(
    problem_type: ProblemType, train: list[Example], test: list[Example], label_names: list[str]
) -> list[str]:
    """List the labels, or types of entities, of training rows that no test row has."""
    names = [[name for example in examples for name in example.label_names] for examples in (train, test)]
    trained, tested = (set(problem_type.card_labels(present)) for present in names)
    return [name for name in problem_type.card_labels(label_names) if name in trained - tested]


def inspect_test_rows(modality: Modality, splits: dict[str, list[Example]], label_names: list[str]) -> dict:
    """Return {"absent_labels", "overlap"}; overlap: {"num_rows", "exact", "near"}, or {} if it is not counted."""
    train, test = splits["train"], splits["test"]
    return {
        "absent_labels": list_absent_labels(modality.problem_type, train, test, label_names),
        "overlap": modality.count_overlap(test, train + splits.get("validation", [])),
    }
