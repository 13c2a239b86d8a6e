"""Entities: CoNLL files, tags of every scheme, words and their tokens, the score, and the whole command."""

from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification, BertModel, pipeline

from data.encoders import resolve_encoder
from data.sources.readers import DataFile, FileFormat
from data.sources.source import Source, iter_rows
from data.tasks import iob
from data.tasks.task import Example, Task, list_label_names, read_task, sample_examples
from engine.cli import run_command
from engine.errors import DataError
from finetune.__main__ import main
from finetune.dataset import align_words, pad_labels, tokenize_examples
from finetune.evaluation import metrics
from finetune.heads import token_classification
from finetune.model import layerwise

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NAMES = ["O", "B-a", "I-a", "B-b", "I-b"]


def made(random: np.random.Generator, length: int) -> tuple[str, ...]:
    """Tags in IOB2 by chance."""
    found = []
    for _ in range(length):
        kind = str(random.choice(["a", "b"]))
        goes_on = found and found[-1] != "O" and random.random() < 0.5
        found.append(f"I-{found[-1][2:]}" if goes_on else str(random.choice(["O", f"B-{kind}"])))
    return tuple(found)


# ---- files ----------------------------------------------------------------------------------------------------------

WANTED = [(["#tag", "# ", "Anna", "in", "Rome\u00a0I"], ["O", "O", "B-person", "O", "B-place"]), (["yes"], ["O"])]


@pytest.mark.parametrize(
    "content",
    [
        "#tag\tO\n# \tO\nAnna\tB-person\nin\tO\nRome\u00a0I\tB-place\n\t\nyes\tO",
        "\ufeff-DOCSTART-\tX\tO\n\n\n#tag\tx\tO\r\n# \ty\tO\r\nAnna\tz\tB-person\r\nin\tx\tO\r\n"
        "Rome\u00a0I\t\tB-place\r\n\r\nyes\tx\tO\r\n\ufeff",
        "-DOCSTART- -X- -X- O\n\n# id 7 domain=x\n#tag N I O\n#  O\nAnna  N  I-NP   B-person \nin IN I-PP O\n"
        "Rome\u00a0I N I-NP B-place\n-DOCSTART- -X- -X- O\nyes UH O O\n\n",
    ],
)
def test_conll_files(tmp_path, content):
    (tmp_path / "a.conll").write_bytes(content.encode())
    (tmp_path / "a.iob2.gz").write_bytes(gzip.compress(content.encode()))
    wanted = [([token.strip(" ") for token in words], said) for words, said in WANTED]
    for name in ("a.conll", "a.iob2.gz"):
        found = list(iter_rows(Source(files=str(tmp_path / name))))
        assert [(row["tokens"], row["tags"]) for row in found] == wanted
        assert found[0]["text"] == "#tag # Anna in Rome\u00a0I"


def test_a_line_without_a_tag_is_named_or_its_sentence_passed_over(tmp_path):
    path = tmp_path / "a.bio"
    path.write_text("one\tO\n\ntwo\tO\nthree\nfour\tO\n\nfive\tO\n")
    with pytest.raises(DataError) as caught:
        list(iter_rows(Source(files=str(path))))
    assert str(caught.value) == f"{path} line 4: 'three' has no tag; expected a word, a tab or spaces, a tag"
    problems: list[str] = []
    with DataFile(str(path)) as file:
        assert [row["text"] for row in file.iter_rows(FileFormat("conll"), problems)] == ["one", "five"]
    assert problems == [f"{path}: 1 sentence with an untagged line, skipped"]


def test_the_same_examples_from_conll_json_and_parquet(tmp_path):
    random = np.random.default_rng(0)
    made_rows = [
        {"tokens": [f"w{number}-{place}" for place in range(5)], "tags": list(made(random, 5))} for number in range(60)
    ]
    (tmp_path / "a.conll").write_text("\n\n".join("\n".join(map("\t".join, zip(*row.values()))) for row in made_rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made_rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made_rows), tmp_path / "a.parquet")
    read = [
        read_task(Task(name="t", train={"files": str(tmp_path / name)}, text="tokens", label="tags"), "tags")
        for name in ("a.conll", "a.jsonl", "a.parquet")
    ]
    assert read[0] == read[1] == read[2] and sum(map(len, read[0].values())) == 60
    assert set(read[0]["train"]) <= {Example((" ".join(row["tokens"]),), tuple(row["tags"])) for row in made_rows}
    assert list_label_names(Task(name="t", train={"files": "x"}), read[0], "tags") == NAMES
    before: set[Example] = set()
    for count in (3, 10, 40):
        taken = set(sample_examples(read[0]["train"], count, seed=0))
        assert len(taken) == count and before <= taken
        before = taken


# ---- tags -----------------------------------------------------------------------------------------------------------


def written(said: tuple[str, ...], scheme: str) -> list[str]:
    """Tags in IOB2 as another scheme has them, from its definition, entity by entity."""
    found, starts = list(said), [place for place, tag in enumerate(said) if tag[0] == "B"]
    for start in starts:
        end, kind = start + 1, said[start][2:]
        while end < len(said) and said[end][0] == "I":
            end += 1
        inner = {
            "IOB2": ["B"] + ["I"] * (end - start - 1),
            "IOE2": ["I"] * (end - start - 1) + ["E"],
            "IOB1": ["B" if start and said[start - 1][2:] == kind else "I"] + ["I"] * (end - start - 1),
            "BIOES": ["S"] if end == start + 1 else ["B", *["I"] * (end - start - 2), "E"],
            "BILOU": ["U"] if end == start + 1 else ["B", *["I"] * (end - start - 2), "L"],
        }[scheme]
        found[start:end] = [f"{place}-{kind}" for place in inner]
    return found


@pytest.mark.parametrize("scheme", ["IOB2", "IOB1", "IOE2", "BIOES", "BILOU"])
def test_tags_of_every_scheme_become_iob2(scheme):
    random = np.random.default_rng(1)
    for _ in range(300):
        said = made(random, 12)
        assert iob.to_iob2(written(said, scheme)) == said


GOOD = "Anna\tB-a\nwent\tO\n\nno\tO\n\nBen\tB-a\n\nCleo\tB-a\nLee\tI-a\n\n" * 8


@pytest.mark.parametrize(
    "row, told",
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, " row 2: 1 words in column 'tokens', but 2 tags in column 'tags'"),
        ({"tokens": ["a b"], "tags": ["O"]}, " row 2: the word 'a b' holds a space"),
        ({"tokens": ["", "b"], "tags": ["O", "O"]}, " row 2: the word '' is empty"),
        ({"tokens": [], "tags": []}, " row 2: no text in column 'tokens'"),
        ({"tokens": ["a", "b"], "tags": ["O", "person"]}, " row 2: tag 2, 'person', is neither O nor B-X nor I-X"),
        (
            {"tokens": "a b", "tags": ["O"]},
            " row 2: column 'tokens' holds no list; tags stand in a list beside a list of the words",
        ),
        ({"tokens": ["a"], "tag": ["O"]}, ": no column 'tags' (nearest: tag)"),
    ],
)
def test_rows_that_are_no_tagged_words_are_told(tmp_path, row, told):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["a"], "tags": ["B-a"]}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read_task(Task(name="t", train={"files": str(path)}, text="tokens", label="tags"), "tags")
    assert str(caught.value).removeprefix(str(path)).removeprefix(" row 2" * (told[0] == ":")) == told


def test_numbers_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["Anna", "Lee", "went"], "tags": [1, 2, 0]}\n' * 40)
    task = {"name": "t", "train": {"files": str(tmp_path / "a.jsonl")}, "text": "tokens", "label": "tags"}
    read = read_task(Task(**task, label_names={"0": "O", "1": "B-a", "2": "I-a"}), "tags")
    assert read["train"][0] == Example(("Anna Lee went",), ("B-a", "I-a", "O"))
    with pytest.raises(DataError, match="row 1: tag '2' has no name in task.label_names"):
        read_task(Task(**task, label_names={"0": "O", "1": "B-a"}), "tags")


# ---- words and their tokens -----------------------------------------------------------------------------------------

WORDS = [
    ["Empire", "State", "Building", "=", "ESB", "."],
    ["\u200b", "naïve", "U.S.A", "\ufeff", "#WeLove'em", "你好"],
    ["😂", "antidisestablishmentarianism", "[SEP]", "x" * 300, "e\u0301t\u00e9"],
    ["one"] * 40,
]


@pytest.mark.parametrize("max_length", [64, 12])
def test_each_word_is_at_its_first_token(max_length):
    examples = [Example((" ".join(words),), ("O",) * len(words)) for words in WORDS]
    texts = tokenize_examples(
        examples,
        resolve_encoder("minilm"),
        max_length,
        "here",
        token_classification.encode_labels,
        NAMES,
        word_labels=True,
    )
    slow = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))(
        WORDS, is_split_into_words=True, truncation=True, max_length=max_length
    )
    for row, (words, (_, first, last)) in enumerate(zip(WORDS, texts.labels)):
        assert texts.fields["input_ids"][row].tolist() == slow["input_ids"][row]
        found = [[place for place, of in enumerate(slow.word_ids(row)) if of == word] for word in range(len(words))]
        assert first.tolist() == [places[0] if places else -1 for places in found]
        assert last.tolist() == [places[-1] if places else -1 for places in found]
    assert (texts.labels[1][1][[0, 3]] == -1).all() and (texts.labels[3][1] >= 0).sum() == min(40, max_length - 2)


def test_tokens_that_count_the_space_before_to_themselves():
    spans = [(0, 0), (0, 1), (1, 2), (2, 4), (4, 5), (5, 6), (0, 0)]
    assert align_words("ab c d", spans).tolist() == [[1, 3, 5], [2, 3, 5]]
    assert align_words("ab c", [(0, 0), (0, 2), (0, 0)]).tolist() == [[1, -1], [1, -1]]
    padded = pad_labels([np.array([[1, 2], [3, 4]]), np.array([[5], [6]])])
    assert padded.tolist() == [[[1, 2], [3, 4]], [[5, -100], [6, -100]]]


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_the_loss_is_transformers_own_of_the_tokens_that_learn(pieces):
    torch.manual_seed(0)
    random = np.random.default_rng(2)
    examples = [Example((" ".join(words),), made(random, len(words))) for words in WORDS]
    texts = tokenize_examples(
        examples, resolve_encoder("minilm"), 24, "here", token_classification.encode_labels, NAMES, word_labels=True
    )
    model = BertForTokenClassification(BertConfig(**TINY, num_labels=5)).eval()
    head, batch = (
        token_classification.Head(token_classification.Config(label_all_tokens=pieces), model),
        texts.get_batch(np.arange(4)),
    )
    output = head(**batch.inputs)
    plain = torch.full(batch.inputs["input_ids"].shape, -100)
    for row, own in enumerate(texts.labels):
        for tag, first, last in own.T.tolist():
            if first >= 0:
                plain[row, first] = tag
                goes_on = NAMES.index(NAMES[tag].replace("B-", "I-"))
                plain[row, first + 1 : last + 1] = goes_on if pieces == "all" else -100
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "labels"}
    assert output.count == (plain >= 0).sum() > 30
    assert torch.allclose(output.loss / output.count, model(**inputs, labels=plain).loss)
    assert {layerwise.layer_depth(name, 2) for name, _ in head.named_parameters()} == {0, 1, 2, 3}
    assert layerwise.layer_depth("model.classifier.weight", 2) == 0
    parts = [head(**texts.get_batch(np.array([row])).inputs) for row in range(4)]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-5)
    probabilities = [part.detach().numpy() for part in head.predict(**inputs)]
    for row, (_, places, _) in enumerate(texts.labels):
        found = token_classification.decode_word_tags(probabilities[row], places)
        assert found.tolist() == [probabilities[row][place].argmax() if place >= 0 else 0 for place in places]


# ---- the score ------------------------------------------------------------------------------------------------------


def entities(said: list[str]) -> set[tuple]:
    """(type, first, beyond the last) of the entities, by hand; an I-X that goes on nothing is none."""
    found, place = set(), 0
    while place < len(said):
        end = place + 1
        if said[place][0] == "B":
            while end < len(said) and said[end] == "I" + said[place][1:]:
                end += 1
            found.add((said[place][2:], place, end))
        place = end
    return found


def test_the_score_is_seqevals_strict_one_and_counting_by_hand():
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    random = np.random.default_rng(3)
    for sentences in (1, 30):
        true = [list(made(random, length)) for length in random.integers(1, 12, sentences)]
        said = [[tag if random.random() < 0.6 else str(random.choice(NAMES)) for tag in row] for row in true]
        found = metrics.entity_metrics(said, true)
        here, there = (
            {(row, *entity) for row, tagged in enumerate(rows) for entity in entities(tagged)} for rows in (said, true)
        )
        precision, recall = (len(here & there) / max(1, len(part)) for part in (here, there))
        assert found["precision"] == pytest.approx(precision) and found["recall"] == pytest.approx(recall)
        assert found["f1"] == pytest.approx(2 * precision * recall / max(1e-9, precision + recall))
        assert found["f1"] == pytest.approx(f1_score(true, said, mode="strict", scheme=IOB2, zero_division=0))
        assert found["n"] == sentences and found["entities"] == len(there)
        assert found["accuracy"] == pytest.approx(np.mean([a == b for x, y in zip(said, true) for a, b in zip(x, y)]))
    assert metrics.entity_metrics([["O", "O"]], [["O", "O"]])["f1"] == 0


def test_words_that_were_cut_off_count_as_o():
    sure = np.eye(5)[[0, 1, 2, 0]]  # O, B-a, I-a, O at the four tokens
    labels = np.array([[1, 2, 3], [1, 2, -1], [1, 2, -1]])
    found = token_classification.quick_metrics([sure], [labels])
    assert found == {"f1": 2 / 3, "precision": 1, "recall": 0.5, "accuracy": 2 / 3, "entities": 2, "n": 1}


# ---- the whole command ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(workspace):
    """A folder with a network of two layers, minilm's tokenizer beside it, and sentences with entities."""
    torch.manual_seed(0)
    BertModel(BertConfig(**TINY)).save_pretrained(workspace / "tiny")
    for path in resolve_encoder("minilm").glob("*token*"):
        (workspace / "tiny" / path.name).write_bytes(path.read_bytes())
    random, sentences = np.random.default_rng(4), []
    people, places = ["Anna", "Ben", "Cleopatra", "Dmitri"], ["Rome", "Ulaanbaatar", "Paris", "Oslo"]
    for _ in range(240):
        one, other = str(random.choice(people)), str(random.choice(places))
        sentences.append(
            [
                f"{one}\tB-person",
                *["Smith\tI-person"] * int(random.integers(2)),
                "went\tO",
                "to\tO",
                f"{other}\tB-place",
                "!\tO",
            ]
        )
    (workspace / "own.conll").write_text("\n\n".join("\n".join(lines) for lines in sentences))
    return workspace


WORDS_OF = [
    "configs/finetune/your-entities.yaml",
    "task.train.files=own.conll",
    "encoder=tiny",
    "run=x",
    "train.precision=float32",
]


@pytest.mark.parametrize("pieces, aggregation", [("first", "first"), ("all", "simple")])
def test_the_whole_command_and_plain_transformers(place, capsys, pieces, aggregation):
    main(
        [
            *WORDS_OF,
            "max_length=32",
            f"head.label_all_tokens={pieces}",
            "train.steps=150",
            "train.lr=3e-3",
            "train.eval_every=50",
            *["baselines=false"] * (pieces == "all"),
        ]
    )
    told = json.loads((place / "out/runs/x/metrics.json").read_text())
    printed = capsys.readouterr().out
    assert "entity F1" in printed and ("the most frequent tag of each word" in printed) == (pieces == "first")
    assert "pipeline('token-classification', 'out/runs/x/model', aggregation_strategy='first')" in printed
    assert told["test"]["f1"] > 0.9 and told["test"]["entities"] == 2 * told["test"]["n"] == 60
    card = (place / "out/runs/x/model/README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "person, place" in card
    find = pipeline("token-classification", str(place / "out/runs/x/model"), aggregation_strategy=aggregation)
    assert [(each["entity_group"], each["word"]) for each in find("Anna Smith went to Ulaanbaatar !")] == [
        ("person", "anna smith"),
        ("place", "ulaanbaatar"),
    ]
    rows = read_task(Task(name="t", train={"files": "own.conll"}, text="tokens", label="tags"), "tags")["test"]
    each_token = pipeline("token-classification", str(place / "out/runs/x/model"), ignore_labels=[])
    said = []
    for example in rows:
        starts = np.cumsum([0, *(len(word) + 1 for word in example.texts[0].split(" "))])
        said.append(
            [
                next(token["entity"] for token in each_token(example.texts[0]) if token["start"] == start)
                for start in starts[:-1].tolist()
            ]
        )
    assert metrics.entity_metrics(said, [list(example.label) for example in rows]) == pytest.approx(told["test"])


@pytest.mark.parametrize(
    "content, words, expected",
    [
        ("one\tO\ntwo\n", [], "own.conll line 2: 'two' has no tag; expected a word, a tab or spaces, a tag"),
        ("one\tO\ntwo\tperson\n", [], "own.conll row 1: tag 2, 'person', is neither O nor B-X nor I-X"),
        ("one\tO\n\n" * 40, [], "own.conll: every tag is O; there is no entity to learn"),
        (None, ["task.text=[tokens, text]"], "task.text: tags are of the words in one column, not of tokens and text"),
        (None, ["task.text=words"], "own.conll row 1: no column 'words' (there are: tags, text, tokens)"),
        (
            None,
            ["task.text=text"],
            "own.conll row 1: column 'text' holds no list; tags stand in a list beside a list of",
        ),
        (None, ["task.shots=3"], "task.shots=3: "),
        (None, ["task.num_examples=5000"], "task.num_examples=5000: there are 180 training rows"),
        (None, ["task.test.files=test.conll"], "test.conll: label 'B-river' (1 test row) is never seen in training"),
        (
            None,
            ["task.text=text", "head.name=classification"],
            "own.conll row 1: column 'tags' holds a list; what learns",
        ),
    ],
)
def test_mistakes(place, monkeypatch, capsys, content, words, expected):
    (place / "test.conll").write_text("Po\tB-river\n\nAnna\tB-person\n")
    if content:
        (place / "own.conll").write_text(content)
    monkeypatch.setattr(sys, "argv", ["finetune", *WORDS_OF, *words])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(lines) == 1 and lines[0].startswith(expected), lines
    assert not (place / "out/runs").exists()
