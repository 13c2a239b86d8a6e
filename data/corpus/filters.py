"""TODO."""

from __future__ import annotations

from data.corpus import runner
from data.corpus.config import Filter
from engine.errors import ConfigError

LANGUAGE_SAMPLE_CHARS = 2_000  # characters that tell a language


def detect_language(text):
    """A Daft expression of the tag of the language a text is in. Raises ConfigError without py3langid."""
    import daft

    try:
        import py3langid  # noqa: F401
    except ImportError:
        raise ConfigError("corpus.filter.languages: needs py3langid; pip install py3langid") from None

    @daft.func.batch(return_dtype=daft.DataType.string())
    def tags(texts):
        from py3langid import classify

        return daft.Series.from_pylist([classify(text[:LANGUAGE_SAMPLE_CHARS])[0] for text in texts.to_pylist()])

    return tags(text)


STOP_WORDS_PATTERN = r"(?i)\b(?:the|be|to|of|and|that|have|with)\b"


ALL_RULES_OFF = Filter(min_words=0, min_letters=0, max_repeated_lines=1, max_compression=None)


def active_rules(config: Filter) -> list[str]:
    """The rules that are on, in the order they are tried."""
    return [rule for rule in Filter.model_fields if getattr(config, rule) != getattr(ALL_RULES_OFF, rule)]


def rule_expressions(config: Filter) -> dict[str, object]:
    """{rule: a Daft expression that is true of the documents it drops}, in the order they are tried."""
    import daft

    text = daft.col("text")
    words, characters = daft.col("words"), text.regexp_replace(r"\s+", "").length()
    lines = text.split("\n")
    line_count = lines.list_count()

    def share(part, whole):
        return part.cast(daft.DataType.float64()) / whole

    every = {
        "min_words": lambda: words < config.min_words,
        "max_words": lambda: words > config.max_words,
        "min_characters": lambda: text.length() < config.min_characters,
        "min_letters": lambda: (
            share(text.regexp_replace(r"[^\p{L}\p{M}]+", "").length(), characters) < config.min_letters
        ),
        "max_repeated_lines": lambda: (
            1 - share(lines.list_distinct().list_count(), line_count) > config.max_repeated_lines
        ),
        "max_compression": lambda: share(text.length_bytes(), text.compress("zlib").length()) > config.max_compression,
        "mean_word_length": lambda: ~share(characters, words).between(*config.mean_word_length),
        "max_symbol_words": lambda: (
            (share(text.regexp_count("#"), words) > config.max_symbol_words)
            | (share(text.regexp_count(r"\.\.\.|…"), words) > config.max_symbol_words)
        ),
        "min_alphabetic_words": lambda: share(text.regexp_count(r"\S*\p{L}\S*"), words) < config.min_alphabetic_words,
        "max_bullet_lines": lambda: (
            share(text.regexp_count(r"(?m)^\s*[•‣▪●*-]\s"), line_count) > config.max_bullet_lines
        ),
        "max_ellipsis_lines": lambda: (
            share(text.regexp_count(r"(?m)(?:\.\.\.|…)\s*$"), line_count) > config.max_ellipsis_lines
        ),
        "min_stop_words": lambda: text.regexp_count(STOP_WORDS_PATTERN) < config.min_stop_words,
        "languages": lambda: ~detect_language(text).is_in(config.languages),
    }
    return {rule: every[rule]() for rule in active_rules(config)}
