"""Documents become token arrays and packed rows, once, and nothing half-written is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from data import tokenizer
from data.curate import Corpus, documents, read_documents
from data.derived import derive, manifest
from data.shards import Shards, build, pack, pieces_of, place
from engine.errors import DataError

LENGTH = 16


def corpus_of(folder: Path, texts: list[str], name: str = "made", held_out: float = 0.2, repeat: int = 1) -> Corpus:
    """A corpus of made texts, on disk."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Corpus(name=name, held_out=held_out, sources=[{"files": str(folder / f"{name}.jsonl"), "repeat": repeat}])


def made_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct documents of 1 to 40 made words, some with capitals and accents."""
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abcdeéK"), size=random.integers(1, 6))) for _ in range(60)]
    return [" ".join([*random.choice(words, size=random.integers(0, 40)), f"n{number}"]) for number in range(count)]


def fixed_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A tokenizer of whole words: five special ones, then w5, w6, ..."""
    vocab = {word: number for number, word in enumerate(tokenizer.SPECIAL.values())}
    vocab |= {f"w{number}": number for number in range(5, vocab_size)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, **tokenizer.SPECIAL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(texts, tokenizer, shards) of 300 made documents."""
    folder, before = tmp_path_factory.mktemp("shards"), pytest.MonkeyPatch()
    before.chdir(folder)
    corpus = corpus_of(folder, made_texts(300))
    found = documents(corpus)
    trained = tokenizer.train("made", tokenizer.Tokenizer(vocab_size=120), found, length=64)
    shards = build(corpus, found, trained, LENGTH)
    yield ([document["text"] for document in read_documents(found)],
           tokenizers.Tokenizer.from_file(str(folder / trained / "tokenizer.json")), folder / shards)
    before.undo()


def test_pieces_of_matches_a_loop():
    random = np.random.default_rng(0)
    for size in (1, 7, 30):
        lengths = random.integers(0, 100, size=200) * random.integers(0, 2, size=200)
        bounds, expected = np.concatenate([[0], np.cumsum(lengths)]), []
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
            while start < end:
                expected.append([start, min(size, end - start)])
                start += size
        assert pieces_of(bounds, size).tolist() == expected
    assert pieces_of(np.array([0]), 5).shape == pieces_of(np.array([0, 0]), 5).shape == (0, 2)


@pytest.mark.parametrize("low, high", [(3, 129), (3, 30), (43, 65), (128, 129)])
def test_pack_takes_each_piece_once_and_wastes_little(low, high):
    costs = np.random.default_rng(1).integers(low, high, size=3_000)
    packed = pack(costs, 128)
    assert sorted(piece for row in packed for piece in row) == list(range(3_000))
    assert max(costs[row].sum() for row in packed) <= 128
    # Of pieces from 43 positions on no three share a row, of those from 65 on no two.
    bound = max(costs.sum() / 128, (costs > 128 / 3).sum() / 2, (costs > 64).sum())
    assert len(packed) <= 1.02 * bound + 1


def test_rows_hold_whole_pieces_between_special_tokens(built):
    texts, tok, folder = built
    cls, sep, pad = (tok.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    for split in ("train", "held_out"):
        expected = []
        for text in texts:
            if (place(text) < 0.2) == (split == "held_out"):
                ids = tok.encode(text, add_special_tokens=False).ids
                expected += [ids[at:at + LENGTH - 2] for at in range(0, len(ids), LENGTH - 2)]
        found, shards = [], Shards(folder, split)
        for index in range(len(shards)):
            ids, position, document = (values.tolist() for values in shards.row(index))
            at = 0
            while at < LENGTH and ids[at] == cls:
                end = ids.index(sep, at) + 1
                assert position[at:end] == list(range(end - at))
                assert document[at:end] == [document[at - 1] + 1 if at else 0] * (end - at)
                found.append(ids[at + 1:end - 1])
                at = end
            assert at and ids[at:] == [pad] * (LENGTH - at) and document[at:] == [-1] * (LENGTH - at)
        assert sorted(found) == sorted(expected)
        assert manifest(folder)[split]["rows"] == len(shards)


def test_documents_decode_to_their_text(built):
    texts, tok, folder = built
    for split in ("train", "held_out"):
        bounds, tokens = np.load(folder / split / "documents.npy"), Shards(folder, split).tokens
        decoded = [tok.decode(tokens[start:end].tolist()) for start, end in zip(bounds[:-1], bounds[1:])]
        assert decoded == [tok.normalizer.normalize_str(text) for text in texts
                           if (place(text) < 0.2) == (split == "held_out")]
        assert not any("é" in text or text != text.lower() for text in decoded)


@pytest.mark.parametrize("vocab_size, dtype", [(200, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_smallest_sufficient_integers_hold_the_largest_id(tmp_path, monkeypatch, vocab_size, dtype):
    monkeypatch.chdir(tmp_path)
    corpus = corpus_of(tmp_path, [f"w{number} w{vocab_size - 1}" for number in range(5, 60)], repeat=2)
    folder = build(corpus, documents(corpus), fixed_tokenizer(tmp_path / "tokenizer", vocab_size), LENGTH)
    held_out = sum(place(f"w{number} w{vocab_size - 1}") < 0.2 for number in range(5, 60))
    assert 0 < held_out < 55
    for split, count in (("train", 2 * (55 - held_out)), ("held_out", held_out)):
        tokens = Shards(folder, split).tokens
        assert tokens.dtype == dtype and tokens[1::2].tolist() == [vocab_size - 1] * count


def test_a_document_stays_held_out_when_others_are_added(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, held = [f"w{number} w{number % 7}" for number in range(5, 905)], {}
    for name, some in (("few", texts[::3]), ("many", texts[::-1])):
        corpus = corpus_of(tmp_path, some, name, held_out=0.1)
        folder = build(corpus, documents(corpus), fixed_tokenizer(tmp_path / "tokenizer", 1_000), LENGTH)
        held[name] = set(Shards(folder, "held_out").tokens[::2].tolist())
    assert held["few"] == held["many"] & set(range(5, 905, 3)) and 50 < len(held["many"]) < 130


def test_a_small_corpus_holds_out_one_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = corpus_of(tmp_path, [f"w{number}" for number in range(5, 15)], held_out=0)
    folder = build(corpus, documents(corpus), fixed_tokenizer(tmp_path / "tokenizer", 20), LENGTH)
    held_out, train = (Shards(folder, split).tokens.tolist() for split in ("held_out", "train"))
    assert len(held_out) == 1 and sorted(held_out + train) == list(range(5, 15))
    corpus = corpus_of(tmp_path, ["w5"], name="one")
    with pytest.raises(DataError, match=r"^corpus one: no train text \(1 documents, held_out=0.2\)$"):
        build(corpus, documents(corpus), tmp_path / "tokenizer", LENGTH)


def test_derive_makes_once_and_never_reads_what_is_half_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []

    def make(folder: Path, fails: bool = False) -> dict:
        assert not list(folder.iterdir())
        (folder / "half").write_text("half")
        if fails:
            raise KeyboardInterrupt
        made.append(folder)
        return {"count": len(made)}

    with pytest.raises(KeyboardInterrupt):
        derive("kind", "name", {"a": 1}, lambda folder: make(folder, fails=True))
    assert not list(Path("out/kind").glob("name-*"))
    first = derive("kind", "name", {"a": 1}, make)
    assert derive("kind", "name", {"a": 1}, make) == first and len(made) == 1
    assert manifest(first) == {"count": 1, "inputs": {"a": 1}}
    assert derive("kind", "name", {"a": 2}, make) != first and len(made) == 2
    (first / "manifest.json").unlink()
    assert derive("kind", "name", {"a": 1}, make) == first and manifest(first)["count"] == 3
    assert len(list(Path("out/kind").iterdir())) == 2


def test_repeats_of_a_document_do_not_share_a_row():
    lengths = np.repeat(np.random.default_rng(0).integers(8, 40, size=5_000), 3)  # each document three times over
    rows = pack(lengths, 128)
    shared = sum(len(row) - len({piece // 3 for piece in row}) for row in rows)
    assert shared / len(lengths) < 0.02
