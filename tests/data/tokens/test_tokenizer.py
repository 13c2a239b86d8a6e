"""Tokenizers of three kinds: every option does what it says, and what is saved loads elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from data.cache import read_manifest
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.encoders import resolve_encoder
from data.tokens.config import TokenizerConfig
from data.tokens.tokenizer import SPECIAL_TOKENS, build_empty_tokenizer, copy_tokenizer, sample_texts, train_on_corpus
from engine.errors import DataError

ALGORITHMS = ("wordpiece", "bpe", "unigram")
TEXTS = [
    "Practice makes perfect, they say; a stitch in time saves nine!",
    "In 1999 it cost 12345 francs, not 3.14.",
    "Wer anderen eine Grube gräbt, fällt selbst hinein. Übung macht den Meister.",
    "千里之行，始于足下。三人行，必有我师焉。",
    "Тише едешь — дальше будешь.",
    "가는 말이 고와야 오는 말이 곱다.",
    "Two lines\nand “quotes” – naïve café …",
] * 6


def made(algorithm: str, texts: list[str] = TEXTS, **options) -> tokenizers.Tokenizer:
    """A tokenizer trained on a few texts."""
    found, trainer = build_empty_tokenizer(
        TokenizerConfig(algorithm=algorithm, **{"vocab_size": 700, "lowercase": False, **options})
    )
    found.train_from_iterator(texts, trainer)
    return found


def back(tokenizer: tokenizers.Tokenizer, text: str) -> str:
    """The text as it comes out again."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)


def tokens(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    """The tokens as text, word marks taken off."""
    found = tokenizer.encode(text, add_special_tokens=False)
    if isinstance(tokenizer.model, tokenizers.models.Unigram):
        return [token.replace("▁", "") for token in found.tokens if token != "▁"]
    return [part for part in (text[start:end].strip() for start, end in found.offsets) if part]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"digits": True},
        {"chinese_characters": False},
        {"lowercase": True},
        {"digits": True, "chinese_characters": False},
    ],
)
def test_text_comes_back(algorithm, options):
    tokenizer = made(algorithm, **options)
    for text in [*TEXTS[:7], "An unseen café, in 20 words: 千三."]:
        expected, found = (text.lower() if options.get("lowercase") else text), back(tokenizer, text)
        if algorithm == "wordpiece":
            # BERT's way to set words apart does not keep white space.
            expected, found = "".join(expected.split()), "".join(found.split())
            if options.get("lowercase"):  # its accents go with the case
                continue
        if algorithm != "bpe" and text == "An unseen café, in 20 words: 千三.":
            continue
        assert found == expected
    assert algorithm != "bpe" or back(tokenizer, "ϡ 𝔘 \t\n  never seen 👍🏽") == "ϡ 𝔘 \t\n  never seen 👍🏽"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lowercase(algorithm):
    lower, asis = (made(algorithm, lowercase=on, strip_accents=False) for on in (True, False))
    assert lower.encode("PRACTICE ÜBUNG").ids == lower.encode("practice übung").ids
    assert asis.encode("PRACTICE Übung").ids != asis.encode("practice übung").ids
    assert "übung" in back(lower, "Übung") and "Übung" in back(asis, "Übung")
    assert TokenizerConfig().lowercase


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strip_accents(algorithm):
    stripped, kept = (made(algorithm, strip_accents=on) for on in (True, False))
    assert stripped.encode("gräbt fällt").ids == stripped.encode("grabt fallt").ids
    assert kept.encode("gräbt fällt").ids != kept.encode("grabt fallt").ids
    assert back(stripped, "gräbt") == "grabt" and back(kept, "gräbt") == "gräbt"
    # None: accents go with the case in wordpiece, as in BERT, and stay in the others.
    default = back(made(algorithm, lowercase=True), "gräbt")
    assert default == ("grabt" if algorithm == "wordpiece" else "gräbt")
    assert back(made(algorithm, lowercase=False), "gräbt") == "gräbt"


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_taking_accents_off_does_not_take_korean_apart(algorithm):
    """A syllable is one character before and after; as three it would cost three times the tokens."""
    assert back(made(algorithm, strip_accents=True), "말이 곱다") == "말이 곱다"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chinese_characters(algorithm):
    texts = ["足下千里 abc", "足下 千里"] * 30
    apart, together = (made(algorithm, texts, chinese_characters=on, vocab_size=400) for on in (True, False))
    assert tokens(apart, "足下千里 abc")[:4] == list("足下千里")
    assert any(len(token) > 1 for token in tokens(together, "足下千里"))
    assert tokens(apart, "abc") == tokens(together, "abc") or algorithm == "unigram"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digits(algorithm):
    texts = [f"in {number} and x{number}y" for number in range(1_000, 2_000, 3)]
    apart, together = (made(algorithm, texts, digits=on, vocab_size=400) for on in (True, False))
    assert tokens(apart, "1999 abc")[:4] == list("1999")
    assert not [token for token in apart.get_vocab() if sum(map(str.isdigit, token)) > 1]
    assert [token for token in together.get_vocab() if sum(map(str.isdigit, token)) > 1]
    # No digit is set apart from its neighbours by a space that is not there.
    if algorithm != "wordpiece":
        assert back(apart, "in 1999 and x12y") == "in 1999 and x12y"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vocabulary_size_and_frequency(algorithm):
    texts = [f"{word}{number}" for word in ("abc", "abd", "xyz") for number in range(40)] * 3
    for size in (270, 300):
        tokenizer = made(algorithm, texts, vocab_size=size)
        assert tokenizer.get_vocab_size() <= size
        assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS.values()] == [0, 1, 2, 3, 4]
    if algorithm != "unigram":
        often, seldom = (made(algorithm, texts, min_frequency=count).get_vocab_size() for count in (1_000, 1))
        assert often < seldom


# ---- on a corpus ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sentiment_files):
    """A folder of documents: 300 real sentences."""
    folder, before = tmp_path_factory.mktemp("corpus"), pytest.MonkeyPatch()
    before.chdir(folder)
    yield build_corpus(Corpus(name="real", sources=[{"files": str(sentiment_files / "corpus.txt")}]))
    before.undo()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_folder_loads_elsewhere_and_gives_the_same_ids(corpus, algorithm):
    config = TokenizerConfig(algorithm=algorithm, vocab_size=800, lowercase=False)
    folder = train_on_corpus("real", config, corpus, model_max_length=64)
    assert train_on_corpus("real", config, corpus, model_max_length=64) == folder
    plain, loaded = (
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
        AutoTokenizer.from_pretrained(folder),
    )
    assert read_manifest(folder)["vocab_size"] == len(loaded) == plain.get_vocab_size() == 800
    assert loaded.model_max_length == 64 and loaded.all_special_tokens and loaded.pad_token_id == 0
    cls, sep = loaded.cls_token_id, loaded.sep_token_id
    unknown = shown = 0
    for document in iter_documents(corpus):
        ids = plain.encode(document["text"], add_special_tokens=False).ids
        assert loaded(document["text"])["input_ids"][:64] == [cls, *ids, sep][:64]
        unknown += ids.count(loaded.unk_token_id)
        shown += len(ids)
        if algorithm == "bpe":
            assert plain.decode(ids) == document["text"]
        else:
            assert "".join(plain.decode(ids).split()) == "".join(document["text"].split())
    assert unknown == 0 and shown > 5_000
    both = loaded("one", "two")
    assert both["input_ids"].count(sep) == 2 and both.keys() == {"input_ids", "attention_mask"}


def test_each_setting_gives_a_tokenizer_of_its_own(corpus):
    """One and the same folder for two settings would be one vocabulary for both."""
    settings = [
        {},
        {"lowercase": False},
        {"digits": True},
        {"algorithm": "bpe"},
        {"sample": 5_000},
        {"vocab_size": 501},
    ]
    folders = {
        train_on_corpus("real", TokenizerConfig(**{"vocab_size": 500, **each}), corpus, model_max_length=64)
        for each in settings
    }
    assert len(folders) == len(settings)
    assert len({(folder / "tokenizer.json").read_text() for folder in folders}) >= len(settings) - 1


def test_a_sample_is_spread_over_the_corpus(corpus):
    every = [document["text"] for document in iter_documents(corpus)]
    total = sum(map(len, every))
    assert list(sample_texts(corpus, 10 * total)) == every
    for share in (0.5, 0.1):
        taken = list(sample_texts(corpus, int(share * total)))
        places = [every.index(text) for text in taken]
        assert 0.6 * share < sum(map(len, taken)) / total < 1.4 * share
        assert places == sorted(places) and places[0] < 2 / share and places[-1] > len(every) - 2 / share
        assert max(after - before for before, after in zip(places, places[1:])) <= 2 / share


def test_the_tokenizer_of_an_encoder_is_copied(corpus, workspace):
    encoder = resolve_encoder("minilm")
    folder = copy_tokenizer("real", encoder)
    assert (folder / "tokenizer.json").read_bytes() == (encoder / "tokenizer.json").read_bytes()
    assert (
        AutoTokenizer.from_pretrained(folder)("a film")["input_ids"]
        == AutoTokenizer.from_pretrained(encoder)("a film")["input_ids"]
    )
    Path("empty").mkdir()
    with pytest.raises(DataError, match="^empty: no tokenizer.json, so its tokenizer cannot be used$"):
        copy_tokenizer("real", Path("empty"))
    assert json.loads((folder / "manifest.json").read_text())["inputs"].keys() == {"tokenizer"}
