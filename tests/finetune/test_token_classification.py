"""Token classification: CoNLL files, tagging schemes, alignment of words and tokens, metrics and the command."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers import error_lines
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification, BertModel, pipeline

from data.encoders import resolve_encoder
from data.sources.readers import DataFile, FileFormat
from data.sources.source import Source, iter_rows
from data.tasks import iob, metrics
from data.tasks.problem_types.token_classification import PROBLEM_TYPE, decode_word_tags
from data.tasks.task import Example, Task, list_label_names, read_task, sample_examples
from data.tokens.dataset import TextDataset, align_words, pad_labels, tokenize_examples
from engine.errors import DataError
from finetune.__main__ import main
from finetune.heads import token_classification
from finetune.model import layerwise
from finetune.model.network import Network

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NAMES = ["O", "B-a", "I-a", "B-b", "I-b"]


def random_tags(random: np.random.Generator, length: int) -> tuple[str, ...]:
    """Random tags in IOB2."""
    tags = []
    for _ in range(length):
        kind = str(random.choice(["a", "b"]))
        continues = tags and tags[-1] != "O" and random.random() < 0.5
        tags.append(f"I-{tags[-1][2:]}" if continues else str(random.choice(["O", f"B-{kind}"])))
    return tuple(tags)


def tagged_task(path, **keys) -> Task:
    return Task(
        name="t", problem_type="token_classification", train={"files": str(path)}, text="tokens", label="tags", **keys
    )


# ---- files ----------------------------------------------------------------------------------------------------------

SENTENCES = [(["#tag", "# ", "Anna", "in", "Rome\u00a0I"], ["O", "O", "B-person", "O", "B-place"]), (["yes"], ["O"])]


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
def test_variants_of_conll_files_are_read(tmp_path, content):
    (tmp_path / "a.conll").write_bytes(content.encode())
    (tmp_path / "a.iob2.gz").write_bytes(gzip.compress(content.encode()))
    expected = [([token.strip(" ") for token in words], tags) for words, tags in SENTENCES]
    for name in ("a.conll", "a.iob2.gz"):
        rows = list(iter_rows(Source(files=str(tmp_path / name))))
        assert [(row["tokens"], row["tags"]) for row in rows] == expected
        assert rows[0]["text"] == "#tag # Anna in Rome\u00a0I"


def test_a_line_without_a_tag_is_an_error_or_skips_its_sentence(tmp_path):
    path = tmp_path / "a.bio"
    path.write_text("one\tO\n\ntwo\tO\nthree\nfour\tO\n\nfive\tO\n")
    with pytest.raises(DataError) as caught:
        list(iter_rows(Source(files=str(path))))
    assert str(caught.value) == f"{path} line 4: 'three' has no tag; expected a word, a tab or spaces, a tag"
    problems: list[str] = []
    with DataFile(str(path)) as file:
        assert [row["text"] for row in file.iter_rows(FileFormat("conll"), problems)] == ["one", "five"]
    assert problems == [f"{path}: 1 sentence with an untagged line, skipped"]


def test_conll_json_and_parquet_give_the_same_examples(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {"tokens": [f"w{number}-{index}" for index in range(5)], "tags": list(random_tags(random, 5))}
        for number in range(60)
    ]
    sentences = ["\n".join(map("\t".join, zip(*row.values(), strict=True))) for row in rows]
    (tmp_path / "a.conll").write_text("\n\n".join(sentences))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    splits, *others = (read_task(tagged_task(tmp_path / name)) for name in ("a.conll", "a.jsonl", "a.parquet"))
    assert others == [splits, splits] and sum(map(len, splits.values())) == 60
    assert set(splits["train"]) <= {Example((" ".join(row["tokens"]),), tuple(row["tags"])) for row in rows}
    assert list_label_names(tagged_task("x"), splits) == NAMES
    before: set[Example] = set()
    for count in (3, 10, 40):
        sample = set(sample_examples(splits["train"], count, seed=0))
        assert len(sample) == count and before <= sample
        before = sample


# ---- tags -----------------------------------------------------------------------------------------------------------


def convert_tags(tags: tuple[str, ...], scheme: str) -> list[str]:
    """Convert IOB2 tags to another scheme by its definition, entity by entity."""
    converted, starts = list(tags), [index for index, tag in enumerate(tags) if tag[0] == "B"]
    for start in starts:
        end, kind = start + 1, tags[start][2:]
        while end < len(tags) and tags[end][0] == "I":
            end += 1
        prefixes = {
            "IOB2": ["B"] + ["I"] * (end - start - 1),
            "IOE2": ["I"] * (end - start - 1) + ["E"],
            "IOB1": ["B" if start and tags[start - 1][2:] == kind else "I"] + ["I"] * (end - start - 1),
            "BIOES": ["S"] if end == start + 1 else ["B", *["I"] * (end - start - 2), "E"],
            "BILOU": ["U"] if end == start + 1 else ["B", *["I"] * (end - start - 2), "L"],
        }[scheme]
        converted[start:end] = [f"{prefix}-{kind}" for prefix in prefixes]
    return converted


@pytest.mark.parametrize("scheme", ["IOB2", "IOB1", "IOE2", "BIOES", "BILOU"])
def test_tags_of_every_scheme_become_iob2(scheme):
    random = np.random.default_rng(1)
    for _ in range(300):
        tags = random_tags(random, 12)
        assert iob.to_iob2(convert_tags(tags, scheme)) == tags


@pytest.mark.parametrize(
    "row, message",
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, " row 2: 1 words in column 'tokens', but 2 tags in column 'tags'"),
        ({"tokens": ["a b"], "tags": ["O"]}, " row 2: the word 'a b' contains a space"),
        ({"tokens": ["", "b"], "tags": ["O", "O"]}, " row 2: the word '' is empty"),
        ({"tokens": ["a", "b"], "tags": ["O", "person"]}, " row 2: tag 2, 'person', is not O, B-X or I-X"),
        ({"tokens": "a b", "tags": ["O"]}, " row 2: 2 words in column 'tokens', but 1 tags in column 'tags'"),
        (
            {"tokens": "a b", "tags": "O"},
            " row 2: column 'tags' holds no list; words and tags must be lists of equal length",
        ),
        (
            {"tokens": "a b", "tags": [[0, 4, "x"]]},
            " row 2: span 0 to 4 (x) in column 'tags' is not inside the text of 3 characters",
        ),
        (
            {"tokens": "a b", "tags": [[0, 3, "x"], [2, 3, "y"]]},
            " row 2: span 2 to 3 (y) in column 'tags' overlaps the one before; a word has one tag",
        ),
        ({"tokens": ["a"], "tag": ["O"]}, " row 2: no column 'tags' (nearest: tag)"),
    ],
)
def test_invalid_rows_are_reported(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["a"], "tags": ["B-a"]}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read_task(tagged_task(path))
    assert str(caught.value).removeprefix(str(path)) == message


def test_label_names_rename_numeric_tags(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["Anna", "Lee", "went"], "tags": [1, 2, 0]}\n' * 40)
    splits = read_task(tagged_task(path, label_names={"0": "O", "1": "B-a", "2": "I-a"}))
    assert splits["train"][0] == Example(("Anna Lee went",), ("B-a", "I-a", "O"))
    with pytest.raises(DataError, match="row 1: tag '2' has no name in task.label_names"):
        read_task(tagged_task(path, label_names={"0": "O", "1": "B-a"}))


# ---- alignment of words and tokens ----------------------------------------------------------------------------------

WORDS = [
    ["Empire", "State", "Building", "=", "ESB", "."],
    ["\u200b", "naïve", "U.S.A", "\ufeff", "#WeLove'em", "你好"],
    ["😂", "antidisestablishmentarianism", "[SEP]", "x" * 300, "e\u0301t\u00e9"],
    ["one"] * 40,
]


def tokenize(examples: list[Example], max_length: int) -> TextDataset:
    return tokenize_examples(examples, resolve_encoder("minilm"), max_length, "here", PROBLEM_TYPE, NAMES)


@pytest.mark.parametrize("max_length", [64, 12])
def test_words_align_with_tokens_as_in_transformers(max_length):
    texts = tokenize([Example((" ".join(words),), ("O",) * len(words)) for words in WORDS], max_length)
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    expected = tokenizer(WORDS, is_split_into_words=True, truncation=True, max_length=max_length)
    for row, (words, (_, first, last)) in enumerate(zip(WORDS, texts.labels, strict=True)):
        assert texts.fields["input_ids"][row].tolist() == expected["input_ids"][row]
        word_ids = expected.word_ids(row)
        tokens = [[index for index, id_ in enumerate(word_ids) if id_ == word] for word in range(len(words))]
        assert first.tolist() == [indices[0] if indices else -1 for indices in tokens]
        assert last.tolist() == [indices[-1] if indices else -1 for indices in tokens]
    assert (texts.labels[1][1][[0, 3]] == -1).all() and (texts.labels[3][1] >= 0).sum() == min(40, max_length - 2)


def test_words_align_with_tokens_that_include_the_space_before():
    spans = [(0, 0), (0, 1), (1, 2), (2, 4), (4, 5), (5, 6), (0, 0)]
    assert align_words("ab c d", spans).tolist() == [[1, 3, 5], [2, 3, 5]]
    assert align_words("ab c", [(0, 0), (0, 2), (0, 0)]).tolist() == [[1, -1], [1, -1]]
    padded = pad_labels([np.array([[1, 2], [3, 4]]), np.array([[5], [6]])])
    assert padded.tolist() == [[[1, 2], [3, 4]], [[5, -100], [6, -100]]]


@pytest.mark.parametrize("label_all_tokens", [False, True])
def test_loss_equals_the_transformers_loss_of_the_labeled_tokens(label_all_tokens):
    torch.manual_seed(0)
    random = np.random.default_rng(2)
    texts = tokenize([Example((" ".join(words),), random_tags(random, len(words))) for words in WORDS], 24)
    model = BertForTokenClassification(BertConfig(**TINY, num_labels=5)).eval()
    head = token_classification.Head(token_classification.Config(label_all_tokens=label_all_tokens), Network(model))
    batch = texts.get_batch(np.arange(4))
    output = head(**batch.inputs)
    labels = torch.full(batch.inputs["input_ids"].shape, -100)
    for row, word_labels in enumerate(texts.labels):
        for tag, first, last in word_labels.T.tolist():
            if first >= 0:
                labels[row, first] = tag
                inside = NAMES.index(NAMES[tag].replace("B-", "I-"))
                labels[row, first + 1 : last + 1] = inside if label_all_tokens else -100
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "labels"}
    assert output.count == (labels >= 0).sum() > 30
    assert torch.allclose(output.loss / output.count, model(**inputs, labels=labels).loss)
    assert set(layerwise.find_depths(model, 2).parameters.values()) == {0, 1, 2, 3}
    parts = [head(**texts.get_batch(np.array([row])).inputs) for row in range(4)]
    assert torch.allclose(sum(part.loss for part in parts), output.loss, rtol=1e-5)
    probabilities = [part.detach().numpy() for part in head.predict(**inputs)]
    for row, (_, first, _) in enumerate(texts.labels):
        tags = decode_word_tags(probabilities[row], first)
        assert tags.tolist() == [probabilities[row][index].argmax() if index >= 0 else 0 for index in first]


# ---- metrics --------------------------------------------------------------------------------------------------------


def list_entities(tags: list[str]) -> set[tuple]:
    """(type, first word, end) of the entities; an I-X that continues nothing is none."""
    entities, start = set(), 0
    while start < len(tags):
        end = start + 1
        if tags[start][0] == "B":
            while end < len(tags) and tags[end] == "I" + tags[start][1:]:
                end += 1
            entities.add((tags[start][2:], start, end))
        start = end
    return entities


def test_entity_metrics_match_seqeval_and_manual_counts():
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    random = np.random.default_rng(3)
    for num_sentences in (1, 30):
        true = [list(random_tags(random, length)) for length in random.integers(1, 12, num_sentences)]
        predicted = [[tag if random.random() < 0.6 else str(random.choice(NAMES)) for tag in row] for row in true]
        scores = metrics.entity_metrics(predicted, true)
        predicted_entities, true_entities = (
            {(row, *entity) for row, tags in enumerate(rows) for entity in list_entities(tags)}
            for rows in (predicted, true)
        )
        correct = len(predicted_entities & true_entities)
        precision, recall = correct / max(1, len(predicted_entities)), correct / max(1, len(true_entities))
        assert scores["precision"] == pytest.approx(precision) and scores["recall"] == pytest.approx(recall)
        assert scores["f1"] == pytest.approx(2 * precision * recall / max(1e-9, precision + recall))
        assert scores["f1"] == pytest.approx(f1_score(true, predicted, mode="strict", scheme=IOB2, zero_division=0))
        assert scores["n"] == num_sentences and scores["entities"] == len(true_entities)
        is_correct = np.concatenate(predicted) == np.concatenate(true)
        assert scores["accuracy"] == pytest.approx(is_correct.mean())
    assert metrics.entity_metrics([["O", "O"]], [["O", "O"]])["f1"] == 0


def test_truncated_words_count_as_o():
    probabilities = np.eye(5)[[0, 1, 2, 0]]  # O, B-a, I-a, O at the four tokens
    labels = np.array([[1, 2, 3], [1, 2, -1], [1, 2, -1]])
    scores = PROBLEM_TYPE.quick_metrics([probabilities], [labels])
    assert scores == {"f1": 2 / 3, "precision": 1, "recall": 0.5, "accuracy": 2 / 3, "entities": 2, "n": 1}


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def entity_workspace(workspace):
    """A workspace with a two-layer network, minilm's tokenizer and sentences with entities."""
    torch.manual_seed(0)
    BertModel(BertConfig(**TINY)).save_pretrained(workspace / "tiny")
    for path in resolve_encoder("minilm").glob("*token*"):
        (workspace / "tiny" / path.name).write_bytes(path.read_bytes())
    random, sentences = np.random.default_rng(4), []
    people, cities = ["Anna", "Ben", "Cleopatra", "Dmitri"], ["Rome", "Ulaanbaatar", "Paris", "Oslo"]
    for _ in range(240):
        person, city = str(random.choice(people)), str(random.choice(cities))
        surname = ["Smith\tI-person"] * int(random.integers(2))
        sentences.append([f"{person}\tB-person", *surname, "went\tO", "to\tO", f"{city}\tB-place", "!\tO"])
    (workspace / "own.conll").write_text("\n\n".join("\n".join(lines) for lines in sentences))
    return workspace


ARGS = [
    "configs/finetune/your-entities.yaml",
    "task.train.files=own.conll",
    "encoder=tiny",
    "run=x",
    "train.precision=float32",
]


@pytest.mark.parametrize("label_all_tokens, aggregation", [(False, "first"), (True, "simple")])
def test_a_fine_tuned_model_finds_entities_in_plain_transformers(
    entity_workspace, capsys, label_all_tokens, aggregation
):
    main(
        [
            *ARGS,
            "max_length=32",
            f"head.label_all_tokens={label_all_tokens}".lower(),
            "train.steps=150",
            "train.lr=3e-3",
            "train.eval_every=50",
            *["baselines=false"] * label_all_tokens,
        ]
    )
    folder = entity_workspace / "out/runs/x"
    test_metrics = json.loads((folder / "metrics.json").read_text())["test"]
    printed = capsys.readouterr().out
    assert "entity F1" in printed and ("the most frequent tag of each word" in printed) == (not label_all_tokens)
    assert "next    make predict MODEL=out/runs/x FILE=FILE" in printed
    assert test_metrics["f1"] > 0.9 and test_metrics["entities"] == 2 * test_metrics["n"] == 60
    card = (folder / "model/README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "person, place" in card
    assert 'pipeline("token-classification", ' in card and 'aggregation_strategy="first")' in card
    find = pipeline("token-classification", str(folder / "model"), aggregation_strategy=aggregation)
    entities = [(entity["entity_group"], entity["word"]) for entity in find("Anna Smith went to Ulaanbaatar !")]
    assert entities == [("person", "anna smith"), ("place", "ulaanbaatar")]
    tag_tokens = pipeline("token-classification", str(folder / "model"), ignore_labels=[])
    rows, predictions = read_task(tagged_task("own.conll"))["test"], []
    for example in rows:
        starts = np.cumsum([0, *(len(word) + 1 for word in example.texts[0].split(" "))])[:-1].tolist()
        tag_at = {token["start"]: token["entity"] for token in reversed(tag_tokens(example.texts[0]))}
        predictions.append([tag_at[start] for start in starts])
    assert metrics.entity_metrics(predictions, [list(row.label) for row in rows]) == pytest.approx(test_metrics)


@pytest.mark.parametrize(
    "content, args, expected",
    [
        ("one\tO\ntwo\n", [], "own.conll line 2: 'two' has no tag; expected a word, a tab or spaces, a tag"),
        ("one\tO\ntwo\tperson\n", [], "own.conll row 1: tag 2, 'person', is not O, B-X or I-X"),
        ("one\tO\n\n" * 40, [], "own.conll: every tag is O; there is no entity to learn"),
        (None, ["task.text=[tokens, text]"], "task.text: token classification takes one column, not tokens and text"),
        (None, ["task.text=words"], "own.conll row 1: no column 'words' (there are: tags, text, tokens)"),
        (None, ["task.shots=3"], "task.shots=3: "),
        (None, ["task.num_examples=5000"], "task.num_examples=5000: only 180 training rows"),
        (
            None,
            ["task.test.files=test.conll"],
            "test.conll: label 'B-river' (1 test row) does not occur in the training rows",
        ),
        (
            None,
            ["task.text=text", "task.problem_type=single_label_classification"],
            "own.conll row 1: column 'tags' holds a list; set task.problem_type to",
        ),
        (None, ["head.name=classification"], "head.name: classification is for single_label_classification, and "),
    ],
)
def test_mistakes_are_reported_in_one_line(entity_workspace, monkeypatch, capsys, content, args, expected):
    (entity_workspace / "test.conll").write_text("Po\tB-river\n\nAnna\tB-person\n")
    if content:
        (entity_workspace / "own.conll").write_text(content)
    lines = error_lines(main, [*ARGS, *args], capsys, monkeypatch)
    assert len(lines) == 1 and lines[0].startswith(expected), lines
    assert not (entity_workspace / "out/runs").exists()
