"""The classes' own texts in training."""

from data.tasks import class_names
from data.tasks.splits import Example
from engine.errors import ConfigError
from finetune.modalities import Modality


def choose_class_texts(
    modality: Modality, labeled: list[Example], rows: list[Example], label_names: list[str]
) -> list[Example]:
    """List the classes' own texts to train on. Raises ConfigError if there is nothing else, and none of them.

    labeled: the sample of rows with labels; rows: all training rows.
    """
    config = modality.config
    class_texts = modality.list_class_texts(label_names, rows)
    class_texts = class_names.limit_class_texts(labeled, class_texts, config.class_names.max_shots)
    if not labeled and (not config.selftrain.rounds or config.selftrain.corpus):
        raise ConfigError("task.num_examples=0: only method=names learns without labels")
    if not labeled and not class_texts:
        known = ", ".join(label_names[:3])
        raise ConfigError(
            f"task.num_examples=0: the classes ({known}, ...) have no names made of words to learn from; give"
            " task.descriptions={class: text, ...}"
        )
    return class_texts
