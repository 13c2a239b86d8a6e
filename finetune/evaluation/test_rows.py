"""What limits the metrics on the test rows: labels that none of them has, and rows that are also trained on."""

from data.tasks.label_checks import count_unseen
from data.tasks.problem_types import ProblemType
from data.tasks.task import Example, Task
from finetune.modalities import Modality


def list_absent_labels(
    problem_type: ProblemType, train: list[Example], test: list[Example], label_names: list[str]
) -> list[str]:
    """List the labels, or types of entities, of training rows that no test row has."""
    names = [[name for example in examples for name in example.label_names] for examples in (train, test)]
    trained, tested = (set(problem_type.card_labels(present)) for present in names)
    return [name for name in problem_type.card_labels(label_names) if name in trained - tested]


def inspect_labels(
    problem_type: ProblemType, train: list[Example], test: list[Example], label_names: list[str]
) -> dict:
    """Return {"absent_labels"}, and {"unseen_labels": {class: test rows}} if no training row has some classes."""
    found: dict = {}
    if problem_type.has_single_class and (unseen := count_unseen(test, label_names)):
        found["unseen_labels"] = dict(unseen.most_common())
    return found | {"absent_labels": list_absent_labels(problem_type, train, test, label_names)}


def inspect_test_rows(modality: Modality, task: Task, splits: dict[str, list[Example]], label_names: list[str]) -> dict:
    """Return what `inspect_labels` does and {"overlap": {"num_rows", "exact", "near"}}, {} if it is not counted.

    Also {"random": True} for rows that were drawn at random to measure by.
    """
    train, test = splits["train"], splits["test"]
    found = {"random": True} if task.role and not task.test else {}
    found |= inspect_labels(modality.problem_type, train, test, label_names)
    return found | {"overlap": modality.count_overlap(test, train + splits.get("validation", []))}
