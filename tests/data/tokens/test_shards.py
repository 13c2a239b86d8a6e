"""Token shards: packed rows, held-out documents, cached builds, tokenization with a word cache and large files."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from data.cache import get_or_build, read_manifest
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.tasks.splits import hash_text
from data.tokens import encode, shards as module, tokenizer
from data.tokens.config import TokenizerConfig
from data.tokens.packing import sentence_end_ids, split_documents
from data.tokens.shards import Shards, build_shards, hash_fraction
from engine.errors import DataError

LENGTH = 16


def corpus_of(
    folder: Path, texts: list[str], name: str = "tiny", held_out: float = 0.2, weight: float = 1, **more
) -> Corpus:
    """A corpus of the given texts on disk, with all filters off except exact deduplication."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    filters_off = {"min_letters": 0, "max_compression": None, "max_repeated_lines": 1}
    options = {"filter": filters_off, "deduplicate": {"near": False}, **more}
    sources = [{"files": str(folder / f"{name}.jsonl"), "weight": weight}]
    return Corpus(name=name, held_out=held_out, sources=sources, **options)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct documents of 1 to 40 random words, some with capitals and accents."""
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abcdeéK"), size=random.integers(1, 6))) for _ in range(60)]
    return [" ".join([*random.choice(words, size=random.integers(0, 40)), f"n{number}"]) for number in range(count)]


def fixed_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A tokenizer of whole words: five special tokens, then w5, w6, ..."""
    vocab = {word: number for number, word in enumerate(tokenizer.SPECIAL_TOKENS.values())}
    vocab |= {f"w{number}": number for number in range(5, vocab_size)}
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    word_level.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=word_level, **tokenizer.SPECIAL_TOKENS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(texts, tokenizer, shards) of 300 random documents."""
    folder, monkeypatch = tmp_path_factory.mktemp("shards"), pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    corpus = corpus_of(folder, random_texts(300))
    documents = build_corpus(corpus)
    trained = tokenizer.train_on_corpus("tiny", TokenizerConfig(vocab_size=120), documents, model_max_length=64)
    shards = build_shards(corpus, documents, trained, LENGTH)
    yield (
        [document["text"] for document in iter_documents(documents)],
        tokenizers.Tokenizer.from_file(str(folder / trained / "tokenizer.json")),
        folder / shards,
    )
    monkeypatch.undo()


def test_rows_hold_whole_pieces_between_special_tokens(built):
    texts, tok, folder = built
    cls, sep, pad = (tok.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    for split in ("train", "held_out"):
        expected = []
        for text in texts:
            if (hash_fraction(text) < 0.2) == (split == "held_out"):
                ids = np.array(tok.encode(text, add_special_tokens=False).ids)
                ends = np.flatnonzero(np.isin(ids, sentence_end_ids(tok.get_vocab())))
                expected += [
                    ids[at : at + size].tolist()
                    for at, size in split_documents(np.array([0, len(ids)]), LENGTH - 2, ends)
                ]
        pieces, shards = [], Shards(folder, split)
        for index in range(len(shards)):
            ids, position, document = (values.tolist() for values in shards.get_row(index))
            at = 0
            while at < LENGTH and ids[at] == cls:
                end = ids.index(sep, at) + 1
                assert position[at:end] == list(range(end - at))
                assert document[at:end] == [document[at - 1] + 1 if at else 0] * (end - at)
                pieces.append(ids[at + 1 : end - 1])
                at = end
            assert at and ids[at:] == [pad] * (LENGTH - at) and document[at:] == [-1] * (LENGTH - at)
        assert sorted(pieces) == sorted(expected)
        assert read_manifest(folder)[split]["rows"] == len(shards)


def test_documents_decode_to_their_text(built):
    texts, tok, folder = built
    for split in ("train", "held_out"):
        bounds, tokens = Shards(folder, split).documents, Shards(folder, split).tokens
        decoded = [tok.decode(tokens[start:end].tolist()) for start, end in pairwise(bounds)]
        assert decoded == [
            tok.normalizer.normalize_str(text) for text in texts if (hash_fraction(text) < 0.2) == (split == "held_out")
        ]
        assert all(text == text.lower() for text in decoded)


@pytest.mark.parametrize("vocab_size, dtype", [(200, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_tokens_are_stored_in_the_smallest_dtype_that_holds_the_largest_id(tmp_path, monkeypatch, vocab_size, dtype):
    monkeypatch.chdir(tmp_path)
    corpus = corpus_of(tmp_path, [f"w{number} w{vocab_size - 1}" for number in range(5, 60)], weight=2)
    folder = build_shards(corpus, build_corpus(corpus), fixed_tokenizer(tmp_path / "tokenizer", vocab_size), LENGTH)
    held_out = sum(hash_fraction(f"w{number} w{vocab_size - 1}") < 0.2 for number in range(5, 60))
    assert 0 < held_out < 55
    for split, count, times in (("train", 55 - held_out, 2), ("held_out", held_out, 1)):
        shards = Shards(folder, split)
        assert shards.tokens.dtype == dtype and shards.tokens[1::2].tolist() == [vocab_size - 1] * count
        # A document that appears twice per epoch is stored once.
        assert len(shards.pieces) == times * count and len(np.unique(shards.pieces[:, 0])) == count


def test_a_document_stays_held_out_when_others_are_added(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, held_out = [f"w{number} w{number % 7}" for number in range(5, 905)], {}
    for name, corpus_texts in (("few", texts[::3]), ("many", texts[::-1])):
        corpus = corpus_of(tmp_path, corpus_texts, name, held_out=0.1)
        folder = build_shards(corpus, build_corpus(corpus), fixed_tokenizer(tmp_path / "tokenizer", 1_000), LENGTH)
        held_out[name] = set(Shards(folder, "held_out").tokens[::2].tolist())
    assert held_out["few"] == held_out["many"] & set(range(5, 905, 3)) and 50 < len(held_out["many"]) < 130


def test_held_out_documents_are_independent_of_task_splits():
    """Otherwise no training text of a task, which is selected by a large hash, would ever be held out."""
    texts = [f"w{number} w{number % 7}" for number in range(4_000)]
    train = [text for text in texts if int(hash_text((text,))[:8], 16) / 2**32 > 0.25]
    assert 2_800 < len(train) < 3_200
    assert abs(np.mean([hash_fraction(text) <= 0.1 for text in train]) - 0.1) < 0.03


def test_a_small_corpus_holds_out_one_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = corpus_of(tmp_path, [f"w{number}" for number in range(5, 15)], held_out=0)
    folder = build_shards(corpus, build_corpus(corpus), fixed_tokenizer(tmp_path / "tokenizer", 20), LENGTH)
    held_out, train = (Shards(folder, split).tokens.tolist() for split in ("held_out", "train"))
    assert len(held_out) == 1 and sorted(held_out + train) == list(range(5, 15))
    corpus = corpus_of(tmp_path, ["w5"], name="one")
    with pytest.raises(DataError, match=r"^corpus one: no held-out text \(1 documents, held_out=0.2\); unit: line "):
        build_shards(corpus, build_corpus(corpus), tmp_path / "tokenizer", LENGTH)


@pytest.mark.parametrize("held_out, size", [(0.2, 200), (0.01, 128), (0, 128)])
def test_of_a_single_document_the_end_is_held_out(tmp_path, monkeypatch, held_out, size):
    monkeypatch.chdir(tmp_path)
    words = [5 + number * number % 13 for number in range(1_000)]
    corpus = corpus_of(tmp_path, [" ".join(f"w{word}" for word in words)], name="book", held_out=held_out)
    folder = build_shards(corpus, build_corpus(corpus), fixed_tokenizer(tmp_path / "tokenizer", 20), LENGTH)
    assert Shards(folder, "train").tokens.tolist() == words[:-size]
    assert Shards(folder, "held_out").tokens.tolist() == words[-size:]


def test_get_or_build_builds_once_and_never_reads_unfinished_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built_folders = []

    def build(folder: Path, fails: bool = False) -> dict:
        assert not list(folder.iterdir())
        (folder / "half").write_text("half")
        if fails:
            raise KeyboardInterrupt
        built_folders.append(folder)
        return {"count": len(built_folders)}

    with pytest.raises(KeyboardInterrupt):
        get_or_build("kind", "name", {"a": 1}, lambda folder: build(folder, fails=True))
    assert not list(Path("out/kind").glob("name-*"))
    first = get_or_build("kind", "name", {"a": 1}, build)
    assert get_or_build("kind", "name", {"a": 1}, build) == first and len(built_folders) == 1
    assert read_manifest(first) == {"count": 1, "inputs": {"a": 1}}
    assert get_or_build("kind", "name", {"a": 2}, build) != first and len(built_folders) == 2
    (first / "manifest.json").unlink()
    assert get_or_build("kind", "name", {"a": 1}, build) == first and read_manifest(first)["count"] == 3
    assert len(list(Path("out/kind").iterdir())) == 2


# ---- text in many scripts -------------------------------------------------------------------------------------------

TEXTS = [  # proverbs and plain sentences
    "Practice makes perfect. A stitch in time saves nine; who would have thought? Better late than never!",
    "Wer anderen eine Grube gräbt, fällt selbst hinein. Übung macht den Meister, größere Mühe lohnt.",
    "千里之行，始于足下。三人行，必有我师焉。学而不思则罔，思而不学则殆！",
    'The word 学 means to learn; "учить" does too, and so does lernen (gelernt, 学んだ).',
    "Тише едешь — дальше будешь. Век живи — век учись!\nA second line, in 1999.",
    "العلم في الصغر كالنقش على الحجر، والصبر مفتاح الفرج.",
    "가는 말이 고와야 오는 말이 곱다. 백문이 불여일견.",
    "x",
    "Ångström, naïve café, 12345 and 3.14 – “quoted” … 👍🏽",
]


def without_whitespace(text: str) -> str:
    """A text to compare when a tokenizer may change the whitespace."""
    return "".join(text.split())


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_text_in_many_scripts_decodes_from_the_shards(tmp_path, monkeypatch, algorithm):
    monkeypatch.chdir(tmp_path)
    texts = [f"{text} {number}" for number in range(6) for text in TEXTS]
    documents = build_corpus(corpus_of(tmp_path, texts))
    config = TokenizerConfig(algorithm=algorithm, vocab_size=1_000, lowercase=False, min_frequency=1)
    trained = tokenizer.train_on_corpus("tiny", config, documents, model_max_length=64)
    tok = tokenizers.Tokenizer.from_file(str(trained / "tokenizer.json"))
    folder, decoded = build_shards(corpus_of(tmp_path, texts), documents, trained, LENGTH), []
    for split in ("train", "held_out"):
        shards = Shards(folder, split)
        decoded += [tok.decode(shards.tokens[start:end].tolist()) for start, end in pairwise(shards.documents)]
        assert shards.documents[-1] == len(shards.tokens) == read_manifest(folder)[split]["tokens"]
    assert len(decoded) == len(texts)
    comparable = str if algorithm == "bpe" else without_whitespace
    assert sorted(map(comparable, decoded)) == sorted(map(comparable, texts))
    assert read_manifest(folder)["tokenizer"]["unknown_fraction"] == 0


def save_tokenizer(folder: Path, **options) -> tokenizers.Tokenizer:
    """Train a tokenizer on TEXTS and save it in a folder."""
    tok, trainer = tokenizer.build_empty_tokenizer(TokenizerConfig(vocab_size=700, **options))
    tok.train_from_iterator([*TEXTS, "\n".join(TEXTS)] * 3, trainer)
    tok.save(str(folder / "tokenizer.json"))
    return tok


def encode_separately(tok: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    """The token ids of each text from the tokenizer itself."""
    return [tok.encode(text, add_special_tokens=False).ids for text in texts]


def encode_batches(folder: Path, *batches: list[str]) -> list[list[int]]:
    """The token ids of each text from `CachedTokenizer`."""
    cached, ids_per_text = encode.CachedTokenizer(folder), []
    for texts in batches:
        ids, bounds = cached.encode(texts)
        assert len(bounds) == len(texts) + 1 and bounds[0] == 0 and bounds[-1] == len(ids)
        ids_per_text += [ids[start:end].tolist() for start, end in pairwise(bounds)]
    return ids_per_text


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
def test_cached_tokenization_matches_the_tokenizer(tmp_path, monkeypatch, algorithm, digits, lowercase):
    tok = save_tokenizer(tmp_path, algorithm=algorithm, digits=digits, lowercase=lowercase)
    texts = [*TEXTS, " ".join(TEXTS), "\n".join(TEXTS * 4), TEXTS[2] * 20, "short", "One two\nthree " * 40]
    expected = encode_separately(tok, texts)
    assert encode_batches(tmp_path, texts) == encode_batches(tmp_path, texts[:3], [], texts[3:]) == expected
    assert encode_batches(tmp_path, *([text] for text in texts)) == expected
    monkeypatch.setattr(encode, "MAX_ENCODE_CHARS", 50)
    monkeypatch.setattr(encode, "CHUNK_CHARS", 120)
    monkeypatch.setattr(encode, "MAX_CACHED_WORDS", 20)
    # A long text without spaces is split anyway, and unigram starts a word there.
    texts, expected = zip(*(pair for pair in zip(texts, expected, strict=True) if " " in pair[0]), strict=True)
    texts, expected = list(texts), list(expected)
    assert encode_batches(tmp_path, texts) == encode_batches(tmp_path, texts[:3], texts[3:]) == expected


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_texts_unlike_the_trial_texts_are_tokenized_correctly(tmp_path, monkeypatch, algorithm):
    """The splitter is chosen on the first texts; later ones may contain other characters."""
    tok = save_tokenizer(tmp_path, algorithm=algorithm, lowercase=False)
    monkeypatch.setattr(encode, "TRIAL_TEXTS", 3)
    later = [
        "two\nlines",
        "a–b (c)d\n\"e\" f's don't",
        "千里\nabc千 里",
        "é\u0301 🇩🇪 \u200d x",
        "tab\tand  two  blanks \n here",
        "<s>x</s> ##x ▁x Ġx",
        *TEXTS,
        "\n".join(TEXTS),
    ]
    texts = ["Practice makes perfect.", "a stitch in time", "nine", *later]
    assert encode_batches(tmp_path, texts) == encode_separately(tok, texts)


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_text_that_spells_a_special_token_does_not_become_one(tmp_path, algorithm):
    """Special tokens delimit pieces and mark masked positions, so text must not produce them."""
    save_tokenizer(tmp_path, algorithm=algorithm, lowercase=False)
    for texts in (
        ["write [MASK] here", "[SEP]", "a [PAD] [CLS]"],
        [*TEXTS, "write [MASK] here", "[SEP]", "a [PAD] [CLS]"],
    ):
        assert not {0, 2, 3, 4} & {number for ids in encode_batches(tmp_path, texts) for number in ids}


@pytest.mark.parametrize("max_chars", [7, 50])
def test_long_texts_are_split_before_a_space(max_chars):
    random = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(random.choice(list("abcde  \n"), size=random.integers(0, 200)))
        parts = encode.split_long_text(text, max_chars)
        assert "".join(parts) == text and len(parts[-1]) <= max_chars
        assert all(0 < len(part) <= max_chars for part in parts[:-1])
        for before, after in pairwise(parts):
            assert after[0] in " \n" or len(before) == max_chars and " " not in before[max_chars // 2 :]


# ---- weights, windows, large files ----------------------------------------------------------------------------------


def rows_of(shards: Shards) -> list[tuple[int, ...]]:
    """The pieces of all rows, as tuples of token ids."""
    pieces = []
    for index in range(len(shards)):
        ids, _, document = shards.get_row(index)
        pieces += [tuple(ids[document == number][1:-1].tolist()) for number in range(document.max() + 1)]
    return pieces


@pytest.mark.parametrize("weight", [3, 0.5, 2.25])
def test_weight_is_the_mean_number_of_copies_of_a_training_document(tmp_path, monkeypatch, weight):
    monkeypatch.chdir(tmp_path)
    texts = [f"w{number}" for number in range(5, 1_005)]
    corpus = corpus_of(tmp_path, texts, weight=weight)
    folder = build_shards(corpus, build_corpus(corpus), fixed_tokenizer(tmp_path / "tokenizer", 1_005), LENGTH)
    train, held_out = {split: rows_of(Shards(folder, split)) for split in ("train", "held_out")}.values()
    times = np.bincount([piece[0] for piece in train], minlength=1_005)[5:]
    held = {piece[0] for piece in held_out}
    below_fraction = {number for number in range(5, 1_005) if hash_fraction(f"w{number}") < 0.2}
    assert held <= below_fraction and len(held) == len(held_out)
    low, times = int(weight), times[[number not in held | below_fraction for number in range(5, 1_005)]]
    assert set(times.tolist()) == ({low} if weight == low else {low, low + 1})
    # Within four standard errors of the weight.
    assert abs(times.mean() - weight) < 4 * 0.5 / np.sqrt(len(times)) + (weight == low) * -0.05
    assert read_manifest(folder)["train"]["tokens_per_epoch"] == len(train)


def test_documents_selected_by_a_fractional_weight_stay_selected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra = {}
    for weight in (0.25, 0.5, 1.5):
        corpus = corpus_of(tmp_path, [f"w{number}" for number in range(5, 405)], weight=weight, name=f"at{weight}")
        documents = iter_documents(build_corpus(corpus))
        extra[weight] = {document["text"] for document in documents if document["copies"] == int(weight) + 1}
    assert extra[0.25] < extra[0.5] == extra[1.5] and 60 < len(extra[0.25]) < 140


def test_packing_windows_only_change_how_rows_are_packed(built, tmp_path, monkeypatch):
    """A few documents at a time: the same tokens, documents and pieces, each once, in contiguous rows."""
    _, _, folder = built
    documents, trained = (next((folder.parent.parent / kind).glob("tiny-*")) for kind in ("corpus", "tokenizer"))
    monkeypatch.chdir(folder.parent.parent.parent)
    monkeypatch.setattr(module, "PACKING_WINDOW", 150)
    monkeypatch.setattr(
        module, "get_or_build", lambda kind, name, inputs, build: get_or_build(kind, name, inputs | {"small": 1}, build)
    )
    small = build_shards(corpus_of(tmp_path, [], name="tiny"), documents, trained, LENGTH)
    assert small.resolve() != folder
    for split in ("train", "held_out"):
        whole, parts = Shards(folder, split), Shards(small, split)
        assert np.array_equal(whole.tokens, parts.tokens) and np.array_equal(whole.documents, parts.documents)
        assert sorted(map(tuple, whole.pieces.tolist())) == sorted(map(tuple, parts.pieces.tolist()))
        starts = np.sort(parts.pieces[:, 0])
        ends = parts.pieces[:, 0][np.argsort(parts.pieces[:, 0])] + parts.pieces[:, 1][np.argsort(parts.pieces[:, 0])]
        assert starts[0] == 0 and np.array_equal(starts[1:], ends[:-1]) and ends[-1] == len(parts.tokens)
        assert parts.rows[0] == 0 and parts.rows[-1] == len(parts.pieces) and (np.diff(parts.rows) > 0).all()
        assert len(whole) < len(parts) < 1.3 * len(whole)
        assert sorted(rows_of(whole)) == sorted(rows_of(parts))


def test_rows_beyond_two_billion_tokens_are_read_without_loading_the_file(tmp_path):
    """A sparse file of more than 2^31 tokens, a few of them written; memory does not grow with it."""
    import resource

    (tmp_path / "train").mkdir()
    far = 2**31 + 2**30 + 12_345
    with open(tmp_path / "train" / "tokens.bin", "wb") as file:
        file.truncate(2 * (far + 100))
        for start, values in ((2**31 - 2, [7, 8, 9, 10]), (far, [11, 12, 13])):
            file.seek(2 * start)
            file.write(np.array(values, np.uint16).tobytes())
    pieces = np.array([[far, 3], [2**31 - 2, 4], [2**31, 2]], np.int64)
    pieces.tofile(tmp_path / "train" / "pieces.bin")
    np.array([0, 2, 3], np.int64).tofile(tmp_path / "train" / "rows.bin")
    np.array([0, 2**31 - 2, far, far + 100], np.int64).tofile(tmp_path / "train" / "documents.bin")
    special_ids, counts = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}, {"documents": 3, "pieces": 3, "rows": 2}
    manifest = {"max_length": LENGTH, "vocab_size": 20, "dtype": "uint16", "special_ids": special_ids}
    manifest["train"] = {"tokens": far + 100, **counts}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shards = Shards(tmp_path, "train")
    assert len(shards) == 2 and len(shards.tokens) == far + 100
    ids, position, document = (values.tolist() for values in shards.get_row(0))
    assert ids == [2, 11, 12, 13, 3, 2, 7, 8, 9, 10, 3, 0, 0, 0, 0, 0]
    assert position[:11] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5] and document == [0] * 5 + [1] * 6 + [-1] * 5
    assert shards.get_row(1)[0].tolist()[:5] == [2, 9, 10, 3, 0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "kilobytes"


def test_a_writer_counts_beyond_two_billion_tokens(tmp_path):
    """Offsets continue from the tokens written before, in 64 bits."""
    writer = module.ShardWriter(tmp_path / "train", np.dtype(np.uint16), LENGTH, np.zeros(30, bool))
    writer.counts |= {"tokens": 2**31 + 5, "pieces": 2**31 + 1}
    writer.add(np.arange(5, 25), 1)
    writer.add(np.arange(5, 8), 2)
    counts = writer.close()
    bounds, pieces, rows = (
        np.fromfile(tmp_path / "train" / f"{name}.bin", np.int64) for name in ("documents", "pieces", "rows")
    )
    assert bounds.tolist() == [0, 2**31 + 25, 2**31 + 28]
    assert sorted(map(tuple, pieces.reshape(-1, 2).tolist())) == [
        (2**31 + 5, 14),
        (2**31 + 19, 6),
        (2**31 + 25, 3),
        (2**31 + 25, 3),
    ]
    assert rows[-1] == 2**31 + 1 + 4 and counts["tokens"] == 2**31 + 28 and counts["tokens_per_epoch"] == 26
