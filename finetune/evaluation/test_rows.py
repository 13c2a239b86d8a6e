"""What limits the metrics on the test rows: labels that none of them has, and rows that are also trained on."""

from data.tasks.task import Example
from finetune.modalities import Modality


def inspect_test_rows(modality: Modality, splits: dict[str, list[Example]], label_names: list[str]) -> dict:
    """Return {"absent_labels", "overlap"}; overlap: {"num_rows", "exact", "near"}, or {} if it is not counted."""

    def list_labels(split: str) -> set[str]:
        names = {name for example in splits[split] for name in example.label_names}
        return set(modality.problem_type.card_labels(sorted(names)))

    absent = list_labels("train") - list_labels("test")
    known = splits["train"] + splits.get("validation", [])
    return {
        "absent_labels": [name for name in modality.problem_type.card_labels(label_names) if name in absent],
        "overlap": modality.count_overlap(splits["test"], known),
    }
