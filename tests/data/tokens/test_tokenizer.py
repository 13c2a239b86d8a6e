"""Tokenizers of three kinds: the effect of every option, and loading a trained tokenizer in transformers."""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from data.cache import read_manifest
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.encoders import TOKENIZER_FILES, resolve_encoder
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


def train(algorithm: str, texts: list[str] = TEXTS, **options) -> tokenizers.Tokenizer:
    """A tokenizer trained on a few texts."""
    config = TokenizerConfig(algorithm=algorithm, **{"vocab_size": 700, "lowercase": False, **options})
    tokenizer, trainer = build_empty_tokenizer(config)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def round_trip(tokenizer: tokenizers.Tokenizer, text: str) -> str:
    """The text, encoded and decoded."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)


def tokens(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    """The tokens as text, without word markers."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if isinstance(tokenizer.model, tokenizers.models.Unigram):
        return [token.replace("▁", "") for token in encoding.tokens if token != "▁"]
    return [part for part in (text[start:end].strip() for start, end in encoding.offsets) if part]


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
def test_text_survives_a_round_trip(algorithm, options):
    tokenizer = train(algorithm, **options)
    for text in [*TEXTS[:7], "An unseen café, in 20 words: 千三."]:
        expected, decoded = (text.lower() if options.get("lowercase") else text), round_trip(tokenizer, text)
        if algorithm == "wordpiece":
            # BERT's pre-tokenizer does not keep whitespace.
            expected, decoded = "".join(expected.split()), "".join(decoded.split())
        if algorithm != "bpe" and text == "An unseen café, in 20 words: 千三.":
            continue
        assert decoded == expected
    assert algorithm != "bpe" or round_trip(tokenizer, "ϡ 𝔘 \t\n  never seen 👍🏽") == "ϡ 𝔘 \t\n  never seen 👍🏽"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lowercase(algorithm):
    lower, cased = (train(algorithm, lowercase=on, strip_accents=False) for on in (True, False))
    assert lower.encode("PRACTICE ÜBUNG").ids == lower.encode("practice übung").ids
    assert cased.encode("PRACTICE Übung").ids != cased.encode("practice übung").ids
    assert "übung" in round_trip(lower, "Übung") and "Übung" in round_trip(cased, "Übung")
    assert TokenizerConfig().lowercase


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strip_accents(algorithm):
    stripped, kept = (train(algorithm, strip_accents=on) for on in (True, False))
    assert stripped.encode("gräbt fällt").ids == stripped.encode("grabt fallt").ids
    assert kept.encode("gräbt fällt").ids != kept.encode("grabt fallt").ids
    assert round_trip(stripped, "gräbt") == "grabt" and round_trip(kept, "gräbt") == "gräbt"
    for lowercase in (True, False):
        assert round_trip(train(algorithm, lowercase=lowercase), "gräbt") == "gräbt"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "text",
    [
        "อร่อยมากที่สุด",
        "यह किताब अच्छी थी",
        "ma má mà mạ mã mả",
        "がくかく ぱはば",
        "맛있는 밥",
        "مُدَرِّسَة",
        "un élève déçu",
        "শিক্ষক",
    ],
)
def test_vowel_signs_tones_and_accents_are_kept_by_default(algorithm, text):
    tokenizer = train(algorithm, [text] * 30, lowercase=True, min_frequency=1)
    expected = unicodedata.normalize("NFC", text)
    for form in ("NFC", "NFD"):
        assert round_trip(tokenizer, unicodedata.normalize(form, text)).split() == expected.split()
        assert "[UNK]" not in tokenizer.encode(unicodedata.normalize(form, text)).tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stripping_accents_keeps_korean_syllables_whole(algorithm):
    """A decomposed syllable would cost three times the tokens."""
    assert round_trip(train(algorithm, strip_accents=True), "말이 곱다") == "말이 곱다"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chinese_characters(algorithm):
    texts = ["足下千里 abc", "足下 千里"] * 30
    separate, joined = (train(algorithm, texts, chinese_characters=on, vocab_size=400) for on in (True, False))
    assert tokens(separate, "足下千里 abc")[:4] == list("足下千里")
    assert any(len(token) > 1 for token in tokens(joined, "足下千里"))
    assert tokens(separate, "abc") == tokens(joined, "abc") or algorithm == "unigram"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digits(algorithm):
    texts = [f"in {number} and x{number}y" for number in range(1_000, 2_000, 3)]
    separate, joined = (train(algorithm, texts, digits=on, vocab_size=400) for on in (True, False))
    assert tokens(separate, "1999 abc")[:4] == list("1999")
    assert not [token for token in separate.get_vocab() if sum(map(str.isdigit, token)) > 1]
    assert [token for token in joined.get_vocab() if sum(map(str.isdigit, token)) > 1]
    # Splitting digits adds no spaces.
    if algorithm != "wordpiece":
        assert round_trip(separate, "in 1999 and x12y") == "in 1999 and x12y"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vocabulary_size_and_frequency(algorithm):
    texts = [f"{word}{number}" for word in ("abc", "abd", "xyz") for number in range(40)] * 3
    for size in (270, 300):
        tokenizer = train(algorithm, texts, vocab_size=size)
        assert tokenizer.get_vocab_size() <= size
        assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS.values()] == [0, 1, 2, 3, 4]
    if algorithm != "unigram":
        small, large = (train(algorithm, texts, min_frequency=count).get_vocab_size() for count in (1_000, 1))
        assert small < large


# ---- on a corpus ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sentiment_files):
    """A corpus folder with 300 real sentences."""
    folder, monkeypatch = tmp_path_factory.mktemp("corpus"), pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    yield build_corpus(Corpus(name="real", sources=[{"files": str(sentiment_files / "corpus.txt")}]))
    monkeypatch.undo()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_trained_tokenizer_gives_the_same_ids_in_transformers(corpus, algorithm):
    config = TokenizerConfig(algorithm=algorithm, vocab_size=800, lowercase=False)
    folder = train_on_corpus("real", config, corpus, model_max_length=64)
    assert train_on_corpus("real", config, corpus, model_max_length=64) == folder
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(folder)
    assert read_manifest(folder)["vocab_size"] == len(loaded) == plain.get_vocab_size() == 800
    assert loaded.model_max_length == 64 and loaded.all_special_tokens and loaded.pad_token_id == 0
    cls, sep = loaded.cls_token_id, loaded.sep_token_id
    num_unknown = num_tokens = 0
    for document in iter_documents(corpus):
        ids = plain.encode(document["text"], add_special_tokens=False).ids
        assert loaded(document["text"])["input_ids"][:64] == [cls, *ids, sep][:64]
        num_unknown += ids.count(loaded.unk_token_id)
        num_tokens += len(ids)
        if algorithm == "bpe":
            assert plain.decode(ids) == document["text"]
        else:
            assert "".join(plain.decode(ids).split()) == "".join(document["text"].split())
    assert num_unknown == 0 and num_tokens > 5_000
    pair = loaded("one", "two")
    assert pair["input_ids"].count(sep) == 2 and pair.keys() == {"input_ids", "attention_mask"}


def test_different_settings_give_different_tokenizers(corpus):
    changes = ({"lowercase": False}, {"digits": True}, {"algorithm": "bpe"}, {"sample": 5_000}, {"vocab_size": 501})
    settings = [TokenizerConfig(**{"vocab_size": 500, **change}) for change in ({}, *changes)]
    folders = {train_on_corpus("real", config, corpus, model_max_length=64) for config in settings}
    assert len(folders) == len(settings)
    assert len({(folder / "tokenizer.json").read_text() for folder in folders}) >= len(settings) - 1


def test_a_sample_is_spread_over_the_corpus(corpus):
    texts = [document["text"] for document in iter_documents(corpus)]
    total = sum(map(len, texts))
    assert list(sample_texts(corpus, 10 * total)) == texts
    for fraction in (0.5, 0.1):
        sample = list(sample_texts(corpus, int(fraction * total)))
        indices = [texts.index(text) for text in sample]
        assert 0.6 * fraction < sum(map(len, sample)) / total < 1.4 * fraction
        assert indices == sorted(indices) and indices[0] < 2 / fraction and indices[-1] > len(texts) - 2 / fraction
        assert max(after - before for before, after in pairwise(indices)) <= 2 / fraction


def test_the_tokenizer_of_an_encoder_is_copied(corpus, workspace):
    encoder = resolve_encoder("minilm")
    folder = copy_tokenizer("real", encoder)
    assert (folder / "tokenizer.json").read_bytes() == (encoder / "tokenizer.json").read_bytes()
    copied, original = map(AutoTokenizer.from_pretrained, (folder, encoder))
    assert copied("a film")["input_ids"] == original("a film")["input_ids"]
    Path("empty").mkdir()
    with pytest.raises(DataError, match="^empty: no tokenizer.json; a fast tokenizer is required$"):
        copy_tokenizer("real", Path("empty"))
    assert json.loads((folder / "manifest.json").read_text())["inputs"].keys() == {
        file for file in TOKENIZER_FILES if (encoder / file).is_file()
    }


def test_a_changed_file_of_special_tokens_is_copied_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("encoder").mkdir()
    Path("encoder/tokenizer.json").write_text(train("wordpiece").to_str())
    copies = []
    for mask in ("[UNK]", "[MASK]"):
        Path("encoder/tokenizer_config.json").write_text(json.dumps({"mask_token": mask}))
        copies.append(json.loads((copy_tokenizer("c", Path("encoder")) / "tokenizer_config.json").read_text()))
    assert [copy["mask_token"] for copy in copies] == ["[UNK]", "[MASK]"]
