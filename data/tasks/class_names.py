"""Training texts made of the names of classes: what a class is called is worth a few labeled rows.

A name that consists of words is a text of its class, alone and in templates (Schick and Schuetze 2021 build tasks the
same way); so are descriptions that the user gives. They are for training only.
"""

import re
from collections import Counter
from collections.abc import Iterable

from data.tasks.splits import Example

PLACEHOLDER = "{name}"
ENGLISH_TEMPLATES = ("{name}", "This is about {name}.", "It is {name}.", "The topic is {name}.")
NAME_ALONE = ("{name}",)
ENGLISH_WORDS = frozenset(
    "a an and are be by for from have i in is it not of on that the this to was what with you".split()
)
MIN_ENGLISH_FRACTION = 0.1  # English prose has about four of ten, other languages one of fifty at most
MAX_TEXTS_READ = 200
MIN_LETTERS = 3
NUMBERED = re.compile(r"(?:label|class|category|cat|group|type|tag|cluster|topic|level|grade|code)?[\W_]*\d+", re.I)
MEANINGLESS = {"yes", "no", "true", "false", "none", "null", "nan", "unknown", "pos", "neg", "neu"}


def name_to_words(name: str) -> str | None:
    """Return the name of a class as words, `cardArrival` and `card_arrival` as card arrival; None if it has none.

    None: a number or code (0, LABEL_1, v2), or a word that means nothing alone, such as yes.
    """
    words = re.sub(r"(?<=[^\W\d_])(?<![A-Z])(?=[A-Z])", " ", name)
    words = " ".join(re.sub(r"[\W_]+", " ", words).split())
    letters = [character for character in words if character.isalpha()]
    enough = MIN_LETTERS if all(map(str.isascii, letters)) else 1  # one character can be a word elsewhere
    if len(letters) < enough or NUMBERED.fullmatch(name.strip()) or words.casefold() in MEANINGLESS:
        return None
    return words


def default_templates(examples: list[Example]) -> tuple[str, ...]:
    """Return templates in the language of the texts: English ones, or else the name alone."""
    step = max(1, len(examples) // MAX_TEXTS_READ)
    words = [word for example in examples[::step] for word in " ".join(example.texts).casefold().split()]
    is_english = sum(word in ENGLISH_WORDS for word in words) > MIN_ENGLISH_FRACTION * len(words)
    return ENGLISH_TEMPLATES if is_english else NAME_ALONE


def list_class_texts(
    label_names: Iterable[str], descriptions: dict[str, list[str]], templates: Iterable[str]
) -> list[Example]:
    """List the texts of all classes, in the order of the classes; none if a class without a description has no words.

    descriptions: texts by class, used as they are. templates: texts with `{name}`, for the names of the other classes.
    """
    examples = []
    for name in label_names:
        words = name_to_words(name)
        texts = descriptions.get(name) or [template.replace(PLACEHOLDER, words) for template in templates if words]
        if not texts:
            return []
        examples += [Example((text,), name) for text in texts]
    return examples


def limit_class_texts(examples: list[Example], class_texts: list[Example], max_shots: int) -> list[Example]:
    """Return the first texts of each class: one for `max_shots` labeled examples, more for fewer, none from twice on.

    The number of texts of a class is max_shots divided by its labeled examples, rounded.
    """
    num_labeled = Counter(example.label for example in examples)
    num_chosen, chosen = Counter(), []
    for text in class_texts:
        num_chosen[text.label] += 1
        if not num_labeled[text.label] or num_chosen[text.label] <= round(max_shots / num_labeled[text.label]):
            chosen.append(text)
    return chosen
