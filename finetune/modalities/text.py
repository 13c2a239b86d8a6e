"""Fine-tuning on text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt

from data.tasks.splits import Example, join_texts
from engine.config.schema import Fraction, Section
from engine.errors import ConfigError, suggest
from finetune import modalities
from finetune.config import Finetune

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from data.tokens.dataset import TextDataset
    from engine.models.embed import Embedder
    from finetune.model.network import Network
    from finetune.model.text_network import TextNetwork


class Augment(Section):
    """Augmentation of training texts, different at every visit (Wei and Zou 2019)."""

    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of a text's tokens to drop."""
    swap: Fraction = 0.0
    """Probability of swapping two spans of a text."""
    max_span: PositiveInt = 4
    """Maximum length of a swapped span in tokens."""


class Config(Finetune):
    """Fine-tune an encoder on a task with few labels."""

    max_length: Annotated[int, Field(ge=4)] = 256
    """Maximum text length in tokens; longer texts are truncated."""
    augment: Augment = Augment()
    """Augmentation of the training texts."""


@cache
def load_embedder(folder: Path) -> Embedder:
    """Return the encoder in `folder`, which a study uses for many trials."""
    from engine.models import embed

    return embed.Embedder(embed.load_model(folder))


class Modality(modalities.Modality):
    """Tokenized texts, and text networks."""

    linear_baseline = "tfidf", "TF-IDF"

    def validate_config(self) -> None:
        """Raise ConfigError for settings of images, and for the augmentation of tagged words."""
        if self.config.selftrain.teacher == "frozen":
            raise ConfigError("selftrain.teacher: frozen is for modality=images; leave it out")
        if self.get_augmentation() and self.problem_type.labels_words:
            name = self.config.head.name
            raise ConfigError(f"augment: not available for head.name={name}, because it drops and moves tagged words")

    def build_dataset(
        self, examples: list[Example], folder: Path, description: str, label_names: list[str] | None = None
    ) -> TextDataset:
        """Tokenize the examples."""
        from data.tokens.dataset import tokenize_examples

        problem_type = None if label_names is None else self.problem_type
        names = label_names or ()
        return tokenize_examples(examples, folder, self.config.max_length, description, problem_type, names)

    def list_class_texts(self, label_names: list[str], rows: list[Example]) -> list[Example]:
        """List the descriptions of classes, or their names in templates; none for pairs of texts.

        Raises ConfigError for the description of an unknown class.
        """
        from data.tasks.class_names import default_templates, list_class_texts

        task, settings = self.config.task, self.config.class_names
        if not (self.problem_type.has_single_class and isinstance(task.text, str) and settings.weight):
            return []
        known = [*label_names, *(name for name in task.classes if name not in label_names)]
        for name in task.descriptions:
            if name not in known:
                raise ConfigError(f"task.descriptions: no class {name!r}{suggest(name, known)}")
        descriptions = {name: [text] if isinstance(text, str) else text for name, text in task.descriptions.items()}
        return list_class_texts(label_names, descriptions, settings.templates or default_templates(rows))

    def get_augmentation(self) -> Callable | None:
        """Return the configured augmentation."""
        from finetune.augment import augment_tokens

        augment = self.config.augment
        return partial(augment_tokens, **dict(augment)) if augment.drop or augment.swap else None

    def build_network(self, folder: Path, label_names: list[str], random_init: bool) -> TextNetwork:
        """Return the encoder in `folder` with a new last layer."""
        from finetune.model.text_network import build_text_network

        config = self.config
        pooling = getattr(config.head, "pooling", None)
        return build_text_network(folder, self.problem_type, pooling, label_names, config.dropout, random_init)

    def build_encoder(self, folder: Path, random_init: bool) -> Network:
        """Return the encoder in `folder`."""
        from engine.models import embed
        from finetune.model.network import Network

        return Network(embed.load_model(folder, random_init=random_init))

    def fit_features(self, examples: list[Example]) -> Callable[[list[Example]], Any]:
        """Fit TF-IDF of words and word pairs, or of characters where words are not set apart by spaces."""
        from data.tasks.tfidf import tfidf_vectorizer

        texts = join_texts(examples)
        vectorizer = tfidf_vectorizer(texts, (1, 2)).fit(texts)
        return lambda rows: vectorizer.transform(join_texts(rows))

    def fit_one_hot(self, examples: list[Example]) -> Callable[[list[Example]], Any]:
        """Fit the words, or characters, that occur in a text."""
        from data.tasks.tfidf import one_hot_vectorizer

        texts = join_texts(examples)
        vectorizer = one_hot_vectorizer(texts).fit(texts)
        return lambda rows: vectorizer.transform(join_texts(rows))

    def describe_features(self, examples: list[Example]) -> str:
        """Return TF-IDF, with its unit unless that is words."""
        from data.tasks.tfidf import describe_tfidf

        return describe_tfidf(join_texts(examples))

    def describe_one_hot(self, examples: list[Example]) -> str:
        """Return one-hot words, or characters."""
        from data.tasks.tfidf import describe_one_hot

        return describe_one_hot(join_texts(examples))

    def embed(
        self, examples: list[Example], folder: Path, accelerator: Accelerator, random_init: bool = False
    ) -> np.ndarray:
        """Return the mean of each text's last hidden states, computed in float32."""
        import numpy as np
        import torch

        from engine.models.embed import Embedder, load_model, run_batches

        dataset = self.build_dataset(examples, folder, f"task {self.config.task.name}")
        torch.manual_seed(self.config.seed)
        embedder = Embedder(load_model(folder, random_init=True)) if random_init else load_embedder(folder)
        return np.stack(run_batches(embedder.to(accelerator.device), dataset, accelerator, autocast=False))

    def count_overlap(self, examples: list[Example], others: list[Example]) -> dict[str, int]:
        """Return {"num_rows", "exact", "near"} of the examples with texts that occur, or nearly occur, in others."""
        from data.contamination import count_overlaps, search_examples

        return count_overlaps(search_examples(examples, others).matches)

    def check_contamination(
        self, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
    ) -> tuple[dict, list[int]]:
        """Search the training rows and the pretraining corpus for the texts of test rows."""
        from data.contamination import check_contamination

        return check_contamination(self.config.task, rows, record, drop_training, drop_corpus)
