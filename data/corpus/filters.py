"""Quality filters as Daft expressions."""

from data.corpus.config import Filter
from engine.errors import ConfigError

LANGUAGE_SAMPLE_CHARS = 2_000  # characters used to detect a language
STOP_WORDS_PATTERN = r"(?i)\b(?:the|be|to|of|and|that|have|with)\b"
ALL_RULES_OFF = Filter(min_words=0, min_letters=0, max_repeated_lines=1, max_compression=None)


def detect_language(text):
    """Return a Daft expression of the language tag of a text. Raises ConfigError without py3langid."""
    import daft

    try:
        import py3langid  # noqa: F401 - fails here rather than in a worker process
    except ImportError:
        raise ConfigError("corpus.filter.languages: needs py3langid; pip install py3langid") from None

    @daft.func.batch(return_dtype=daft.DataType.string())
    def tags(texts):
        from py3langid import classify

        return daft.Series.from_pylist([classify(text[:LANGUAGE_SAMPLE_CHARS])[0] for text in texts.to_pylist()])

    return tags(text)


def active_rules(config: Filter) -> list[str]:
    """Return the rules that are on, in the order they apply."""
    return [rule for rule in Filter.model_fields if getattr(config, rule) != getattr(ALL_RULES_OFF, rule)]


def rule_expressions(config: Filter) -> dict[str, object]:
    """Return {rule: a Daft expression, true for documents it drops}, in the order they apply."""
    import daft

    text, words = daft.col("text"), daft.col("num_words")
    characters, lines = text.regexp_replace(r"\s+", "").length(), text.split("\n")
    num_lines, num_distinct = lines.list_count(), lines.list_distinct().list_count()

    def ratio(part, whole):
        return part.cast(daft.DataType.float64()) / whole

    def ratio_of(pattern: str, whole):
        return ratio(text.regexp_count(pattern), whole)

    letters = text.regexp_replace(r"[^\p{L}\p{M}]+", "").length()
    compressed = text.compress("zlib").length()
    rules = {
        "min_words": lambda: words < config.min_words,
        "max_words": lambda: words > config.max_words,
        "min_characters": lambda: text.length() < config.min_characters,
        "min_letters": lambda: ratio(letters, characters) < config.min_letters,
        "max_repeated_lines": lambda: 1 - ratio(num_distinct, num_lines) > config.max_repeated_lines,
        "max_compression": lambda: ratio(text.length_bytes(), compressed) > config.max_compression,
        "mean_word_length": lambda: ~ratio(characters, words).between(*config.mean_word_length),
        "max_symbol_words": lambda: (
            (ratio_of("#", words) > config.max_symbol_words) | (ratio_of(r"\.\.\.|…", words) > config.max_symbol_words)
        ),
        "min_alphabetic_words": lambda: ratio_of(r"\S*\p{L}\S*", words) < config.min_alphabetic_words,
        "max_bullet_lines": lambda: ratio_of(r"(?m)^\s*[•‣▪●*-]\s", num_lines) > config.max_bullet_lines,
        "max_ellipsis_lines": lambda: ratio_of(r"(?m)(?:\.\.\.|…)\s*$", num_lines) > config.max_ellipsis_lines,
        "min_stop_words": lambda: text.regexp_count(STOP_WORDS_PATTERN) < config.min_stop_words,
        "languages": lambda: ~detect_language(text).is_in(config.languages),
    }
    return {rule: rules[rule]() for rule in active_rules(config)}
