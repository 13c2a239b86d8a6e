"""Configuration: merging YAML files and key=value arguments, error messages, and the list of keys."""

import importlib
import os
import re
import subprocess
import sys
import time
from itertools import permutations

import pytest
from helpers import ROOT, environment
from pydantic import ValidationError

from data.config import Prepare
from data.corpus.config import Filter
from data.encoders import BuiltInEncoder
from data.tasks.task import Task, TaskFile
from engine.config.help import fields_from_source, help_text, list_keys
from engine.config.loader import dump_config, load_config, merge, read_args, read_yaml, validate
from engine.config.renamed import RENAMED, RENAMED_VALUES
from engine.config.schema import Section, list_plugins
from engine.errors import ConfigError
from finetune.config import Finetune
from finetune.study.config import Study
from pretrain.config import Pretrain
from pretrain.evaluate.config import Evaluate
from publish.config import Publish

CONFIGS = ROOT / "configs"
PRETRAIN = ["run=r", "corpus={name: c, sources: [{files: a.txt}]}", "train={steps: 10, lr: 1e-3, batch_size: 8}"]
FINETUNE = ["run=r", "task={name: t, train: {files: a.csv}}"]


def error_lines(*words: str, schema: type[Section] = Pretrain) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(schema, [*(FINETUNE if schema is Finetune else PRETRAIN), *words])
    return str(caught.value).splitlines()


def test_later_arguments_win():
    assert load_config(Pretrain, [*PRETRAIN, "train.steps=20", "train.steps=30"]).train.steps == 30
    assert load_config(Pretrain, [*PRETRAIN, "train.steps=20"]).train.batch_size == 8


def test_files_and_arguments_merge_left_to_right(tmp_path):
    (tmp_path / "low.yaml").write_text("train: {steps: 1, lr: 0.5, batch_size: 4}\nrun: low\n")
    (tmp_path / "high.yaml").write_text("include: low.yaml\ntrain: {steps: 2}\n")
    config = load_config(Pretrain, [*PRETRAIN, "run=word", str(tmp_path / "high.yaml"), "train.lr=0.25"])
    assert (config.run, config.train.steps, config.train.lr, config.train.batch_size) == ("low", 2, 0.25, 4)


def test_includes_are_relative_and_merged_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text("a: 1\nb: 1\nc: 1\n")
    (tmp_path / "deep" / "two.yaml").write_text("include: one.yaml\nb: 2\nc: 2\n")
    (tmp_path / "top.yaml").write_text("include: [deep/one.yaml, deep/two.yaml, deep/one.yaml]\nc: 3\n")
    assert read_yaml(tmp_path / "top.yaml") == {"a": 1, "b": 1, "c": 3}


def test_a_circular_include_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(ConfigError, match="a.yaml: includes itself"):
        read_yaml(tmp_path / "a.yaml")


def test_files_that_include_each_other_without_an_end_are_an_error(tmp_path):
    (tmp_path / "12.yaml").write_text("a: 1\n")
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"include: [{', '.join([f'{number + 1}.yaml'] * 10)}]\n")
    with pytest.raises(ConfigError, match="0.yaml: over 1,000 files, counting what is included more than once"):
        read_yaml(tmp_path / "0.yaml")


def test_numbers_that_yaml_1_1_converts_are_words(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [02134, 12:30, 0x1F, 0b11]\nb: [0, -5, 1_000, 1e3]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": ["02134", "12:30", "0x1F", "0b11"], "b": [0, -5, 1000, 1000.0]}
    config = load_config(Finetune, [*FINETUNE, "task.train.where={zip: 02134}"])
    assert config.task.train.where == {"zip": "02134"} and "'02134'" in dump_config(config)


def test_a_section_with_a_new_name_drops_the_old_keys():
    below = {"head": {"name": "one", "size": 3}, "other": {"size": 3}}
    assert merge(below, {"head": {"name": "two"}})["head"] == {"name": "two"}
    assert merge(below, {"head": {"name": "one", "depth": 2}})["head"] == {"name": "one", "size": 3, "depth": 2}
    assert merge(below, {"head": {"depth": 2}, "other": {"name": "new"}}) == {
        "head": {"name": "one", "size": 3, "depth": 2},
        "other": {"name": "new", "size": 3},
    }
    assert below == {"head": {"name": "one", "size": 3}, "other": {"size": 3}}


def test_a_name_given_alone_keeps_the_other_keys_whatever_the_order(tmp_path):
    files = tmp_path / "file.yaml"
    files.write_text("task: {name: old, train: {files: a.csv}, label: y}\nadapter: {name: lora, rank: 4}\nrun: r\n")
    words = ["task.name=new", "task.shots=4", "adapter.dropout=0.25", "adapter.name=ia3"]
    for order in permutations(words):
        config = load_config(Finetune, [str(files), *order])
        assert (config.task.name, config.task.label, config.task.shots) == ("new", "y", 4)
        assert (config.adapter.name, config.adapter.rank, config.adapter.dropout) == ("ia3", 8, 0.25)
    for order in permutations(["task.name=new", "task.shots=4", "task.train={files: b.csv}"]):
        config = load_config(Finetune, [str(files), *order])
        assert config.task == Task(name="new", shots=4, train={"files": "b.csv"}), "another task, without old keys"
    for order in permutations(["corpus.filter.min_words=9", "corpus.name=new", "corpus.sources=[{files: b.txt}]"]):
        assert load_config(Pretrain, [*PRETRAIN, *order]).corpus.filter.min_words == 9
    assert load_config(Pretrain, [*PRETRAIN, "corpus.name=new"]).corpus.name == "new"
    assert read_args([str(files), "task={name: whole}"])["task"] == {"name": "whole"}
    assert read_args(["task.label=x", str(files)])["task"]["label"] == "y"
    other = tmp_path / "other.yaml"
    other.write_text("task: {name: other}\n")
    assert read_args([str(files), str(other)])["task"] == {"name": "other"}
    config = load_config(Finetune, [*FINETUNE, "head.name=supcon", "head.temperature=0.5", "task.name=mine"])
    assert (config.task.name, config.head.temperature) == ("mine", 0.5)


@pytest.mark.parametrize(
    "content",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40)),
        "".join(f"key{number}: {number}\n" for number in range(60_000)),
        "[" + "1, " * 60_000 + "]",
    ],
    ids=["lists", "mappings", "keys", "values"],
)
def test_an_enormous_document_is_refused_soon(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"a.yaml line \d+: not valid YAML: over 20,000 values, counting"):
        read_yaml(tmp_path / "a.yaml")
    assert time.perf_counter() - start < 20


def test_few_aliases_and_many_mistakes(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {b: [1, 2]}\nc: [*a, *a]\nd: {<<: *a, e: 1}\n")
    assert read_yaml(tmp_path / "a.yaml")["d"] == {"b": [1, 2], "e": 1}
    (tmp_path / "b.yaml").write_text("run: x\n" + "".join(f"key{number}: 1\n" for number in range(5_000)))
    start = time.perf_counter()
    lines = error_lines(str(tmp_path / "b.yaml"), schema=Finetune)
    assert time.perf_counter() - start < 20 and len(lines) == 101 and lines[-1].startswith("more: 500")


def test_yaml_values_are_read_as_people_mean_them():
    config = load_config(
        Finetune,
        [
            *FINETUNE,
            "train.lr=1e-4",
            "train.max_grad_norm=5",
            "baselines=false",
            "encoder=none",
            'task.label_names={"0": no, "1": yes, "2": on}',
            "task.text=[a, b]",
        ],
    )
    assert (
        config.train.lr == 1e-4
        and config.train.max_grad_norm == 5
        and config.baselines is False
        and config.encoder is None
    )
    assert config.task.label_names == {"0": "no", "1": "yes", "2": "on"} and config.task.text == ["a", "b"]


def test_a_key_given_twice_is_an_error(tmp_path):
    (tmp_path / "twice.yaml").write_text("run: a\ntrain:\n  steps: 1\n  steps: 2\n")
    with pytest.raises(ConfigError, match="twice.yaml line 3: not valid YAML: duplicate key 'steps'"):
        read_yaml(tmp_path / "twice.yaml")


@pytest.mark.parametrize(
    "content, message",
    [
        ("a: [1\n", "line 2: not valid YAML"),
        ("- a\n", "must contain keys and values, not a list"),
        ("include: {a: b}\n", "include must be a file name"),
        ("a: \0", "not valid YAML: unacceptable character #x0000: special characters are not allowed$"),
        ("a: !!int ''", "not valid YAML: string index out of range$"),
    ],
)
def test_a_file_that_is_no_configuration_is_an_error(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "bad.yaml")


def test_a_wrong_file_name_and_a_bare_word_are_errors(tmp_path):
    (tmp_path / "default.yaml").write_text("")
    assert error_lines(str(tmp_path / "defalt.yaml"))[0].endswith("defalt.yaml: no such file (nearest: default.yaml)")
    assert error_lines("steps") == ["steps: neither a .yaml file nor key=value"]


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_config(Pretrain, PRETRAIN).train.steps = 3


@pytest.mark.parametrize(
    "schema, word, message",
    [
        (Pretrain, "train.stepps=3", "train.stepps: no such key (nearest: train.steps)"),
        (Pretrain, "lr=3", "lr: no such key (nearest: train.lr)"),
        (Pretrain, "mask_rate=0.4", "mask_rate: no such key (nearest: objective.mask_rate)"),
        (
            Pretrain,
            "objective={name: mlm, mask_rat: 0.4}",
            "objective.mask_rat: no such key (nearest: objective.mask_rate)",
        ),
        (
            Pretrain,
            "corpus.sources=[{fils: a}]",
            "corpus.sources.0.fils: no such key (nearest: corpus.sources[].files)",
        ),
        (Finetune, "task.num_exampels=3", "task.num_exampels: no such key (nearest: task.num_examples)"),
        (Pretrain, "train.lr=fast", "train.lr: 'fast' is not a number"),
        (Pretrain, "train.steps=1.5", "train.steps: 1.5 is not a whole number"),
        (
            Pretrain,
            "train.schedule=cosin",
            "train.schedule: 'cosin' is none of linear, cosine, constant (nearest: cosine)",
        ),
        (Pretrain, "train=5", "train: 5 is not a section with keys"),
        (Pretrain, "run=", "run: has no value"),
        (
            Pretrain,
            "run=../mine",
            "run: '../mine' is not a name of letters, digits, '_', '.' and '-', the first a letter or a digit",
        ),
        (Pretrain, "corpus={name: other}", "corpus.sources: missing, and it has no default"),
    ],
)
def test_a_mistake_is_reported_with_its_key(schema, word, message):
    lines = error_lines(word, schema=schema)
    assert message in lines and all(line.startswith(word.partition("=")[0]) for line in lines)


# For each renamed key: the schema that has it and the arguments in which it is given.
SCHEMAS = {
    "adapter adapt augment layers selftrain task head": Finetune,
    "study": Study,
    "labels likeness neighbours": Evaluate,
    "licence": Publish,
}


def arguments_with(key: str) -> tuple[type[Section], list[str]]:
    """Return a schema that has a renamed key, and arguments in which its old name is given."""
    top, leaf = key.partition(".")[0], key.rpartition(".")[2]
    schema = next((schema for names, schema in SCHEMAS.items() if top in names.split()), Pretrain)
    if key in ("train.best", "train.unrecorded_lr"):
        return Finetune, [f"{key}=x"]
    if top == "*":
        return Pretrain, [f"corpus.sources=[{{files: a, {leaf}: x}}]"]
    plugin = {
        "projection": "contrastive",
        "predictor": "simsiam",
        "weight": "joint",
        "random": "mlm",
        "unchanged": "mlm",
    }
    if top == "objective":
        return schema, [f"objective.name={plugin.get(leaf, 'contrastive')}", f"{key}=x"]
    if top == "head":
        name = {"beside": "supcon", "pieces": "token_classification"}.get(leaf, "classification")
        return schema, [f"head.name={name}", f"{key}=x"]
    return schema, [f"{key}=x"]


@pytest.mark.parametrize("key", RENAMED)
def test_an_old_key_is_reported_with_its_new_name(key):
    schema, words = arguments_with(key)
    base = {Finetune: FINETUNE, Study: FINETUNE, Pretrain: PRETRAIN, Evaluate: [], Publish: []}[schema]
    with pytest.raises(ConfigError) as caught:
        load_config(schema, [*base, *words])
    old, new = (name.replace("*", "corpus.sources.0") for name in (key, RENAMED[key]))
    assert f"{old}: is now {new}" in str(caught.value).splitlines()
    known = [other.replace("[]", ".0") for other in list_keys(schema.choose_schema({}))]
    assert any(other == new or other.startswith(f"{new}.") for other in known), "the new key exists"


@pytest.mark.parametrize("key, value", RENAMED_VALUES)
def test_an_old_value_is_reported_with_its_new_name(key, value):
    words = ["head.name=token_classification"] if key == "head.label_all_tokens" else []
    assert f"{key}: {value} is now {RENAMED_VALUES[key, value]}" in error_lines(
        *words, f"{key}={value}", schema=Finetune
    )


def test_help_of_one_section(capsys):
    text = help_text(Pretrain.choose_schema({}), "pretrain", "run=x", "train")
    assert text.startswith("train:\n  train.steps ") and "corpus.name" not in text
    with pytest.raises(ConfigError, match="no section 'trian' \\(nearest: train\\)"):
        help_text(Pretrain.choose_schema({}), "pretrain", "run=x", "trian")


def test_help_lists_what_people_set_first_and_no_key_twice():
    lines = help_text(Pretrain.choose_schema({}), "pretrain", "run=x").splitlines()
    headings = [line for line in lines if re.fullmatch(r"\w+:", line)]
    assert headings[:3] == ["general:", "objective:", "train:"] and len(set(headings)) == len(headings)
    general = lines[lines.index("general:") + 1 :]
    assert general[0].split()[0] == "run" and general[1].split()[0] == "init"
    keys = [line.split()[0] for line in lines if re.match(r"  \w[\w.\[\]]* {2,}", line)]
    assert len(keys) == len(set(keys)) and not any(key.startswith("objective.pairs.wheel") for key in keys)


@pytest.mark.parametrize(
    "word", ["task.text=5", "task.num_examples=many", "task.num_examples=-1", "task.train.files=5"]
)
def test_a_key_that_takes_two_types_is_reported_once(word):
    lines = error_lines(word, schema=Finetune)
    assert len(lines) == 1 and lines[0].startswith(word.partition("=")[0] + ": ")


def test_all_mistakes_are_reported_together():
    lines = error_lines("train.lr=fast", "train.stepps=3", "seed=-1", "model.layers=no", "run=a b")
    assert [line.partition(":")[0] for line in lines] == ["run", "seed", "train.lr", "train.stepps", "model.layers"]


@pytest.mark.parametrize(
    "schema, section, package", [(Pretrain, "objective", "pretrain.objectives"), (Finetune, "head", "finetune.heads")]
)
def test_a_wrong_plugin_name_lists_the_names(schema, section, package):
    (line,) = error_lines(f"{section}.name=zzzz", schema=schema)
    assert list_plugins(package)
    assert line == (
        f"{section}: no 'zzzz' among the {package.split('.')[1]} (there are: {', '.join(list_plugins(package))})"
    )


@pytest.mark.parametrize("package", ["pretrain.objectives", "finetune.heads"])
def test_help_reads_a_plugin_s_keys_from_its_source(package):
    for plugin in list_plugins(package):
        assert fields_from_source(f"{package}.{plugin}") == list_keys(
            importlib.import_module(f"{package}.{plugin}").Config
        )


def test_help_lists_the_default_plugin_s_defaults_and_the_owners_of_a_key():
    heads, objectives = (list_keys(schema.choose_schema({})) for schema in (Finetune, Pretrain))
    assert heads["head.name"][0] == "classification" and all(
        f"{name}: " in heads["head.name"][1] for name in list_plugins("finetune.heads")
    )
    assert heads["head.class_weights"][0] == "false"
    assert re.search(r"^classification, supcon: .* multilabel: .* Default: true\.$", heads["head.class_weights"][1])
    assert heads["head.cross_entropy_weight"][1].startswith("supcon: ")
    assert objectives["objective.name"][0] == "auto"
    assert objectives["objective.predictor_dim"][1].startswith("simsiam: ")


def test_a_plugin_s_config_may_inherit_and_hold_sections(tmp_path, monkeypatch):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "first.py").write_text(
        "import torch\nfrom engine.config.schema import Section\nfrom ours.whole import Number\n"
        'class Config(Section):\n    a: Number = 3\n    """The\n    a."""\n    b: str\n'
    )
    (tmp_path / "ours" / "whole.py").write_text("Number = int\n")
    (tmp_path / "ours" / "second.py").write_text(
        "from ours import first\nfrom ours.third import Inner\n"
        "class Config(first.Config):\n    a: int | None = None\n    c: Inner | None = None\n"
    )
    (tmp_path / "ours" / "third.py").write_text(
        "from ours.first import Config\nclass Inner(Config):\n    d: list = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    inner = {"c.a": ("3", "The a."), "c.b": ("(needed)", ""), "c.d": ("", "")}
    assert fields_from_source("ours.second") == {"a": ("none", ""), "b": ("(needed)", ""), **inner}
    assert fields_from_source("ours.first")["a"] == ("3", "The a.")


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "data"])
def test_help_needs_no_torch(stage):
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", stage, "--help"], capture_output=True, text=True, check=True
    )
    assert "--help SECTION" in done.stdout
    assert not re.search(r"\| +(torch|transformers)$", done.stderr, re.MULTILINE)
    assert time.time() - start < 5, "0.5 s on an idle machine"


def test_a_key_of_the_default_plugin_needs_no_name():
    assert load_config(Pretrain, [*PRETRAIN, "objective.mask_rate=0.25"]).objective.mask_rate == 0.25


@pytest.mark.parametrize("words", [PRETRAIN, [*PRETRAIN, "objective={name: mlm, mask_rate: 0.25}", "train.lr=3e-5"]])
def test_dump_and_load_give_the_same(tmp_path, words):
    config = load_config(Pretrain, words)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(Pretrain, [str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("word", ["1e5", "123e456", "12", "0.5", "true", "no", "null", "none", "~", "1:30", "a: b"])
def test_dump_keeps_strings_that_look_like_other_types(tmp_path, word):
    task = {"name": "t", "label": word, "train": {"files": "a"}, "label_names": {word: word}}
    config = validate(Finetune, {"run": "r", "task": task})
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(Finetune, [str(tmp_path / "config.yaml")]) == config


def test_adam_refuses_a_decay_of_one_here_and_not_in_torch():
    assert error_lines("train.beta2=1")[0].startswith("train.beta2: ")


@pytest.mark.parametrize("schema", [Pretrain, Finetune, Prepare])
def test_every_key_has_a_description(schema):
    schema = schema.choose_schema({})
    assert len(list_keys(schema)) > 20
    assert not [key for key, (_, meaning) in list_keys(schema).items() if not meaning]


FILES = {
    ("corpus", Prepare): {
        *("fashion-mnist", "medline", "reviews", "reviews-and-sentences", "solar", "wiki-summaries", "your-text")
    },
    ("encoder", BuiltInEncoder): {"efficientnet-lite0", "minilm"},
    ("finetune", Finetune): {
        *("fashion-mnist", "imdb", "mesh", "my-labels", "ratings", "sentiment", "solar", "spam", "topics"),
        *("your-entities", "your-images", "your-task"),
    },
    ("pretrain", Pretrain): {
        *("base", "contrastive", "default", "joint", "mlm", "scratch", "your-text", "denoise", "causal", "skipgram"),
        *("images", "images-scratch", "vit", "your-images", "vae", "gan", "cyclegan"),
    },
}

NOT_COMPLETE = {("finetune", "default"), ("finetune", "images")}
"""Files that others include."""


@pytest.mark.parametrize("folder, schema", FILES)
def test_every_file_in_configs_goes_through_the_real_parser(folder, schema):
    seen = {
        path.stem: load_config(schema, [str(path)])
        for path in sorted((CONFIGS / folder).glob("*.yaml"))
        if (folder, path.stem) not in NOT_COMPLETE
    }
    assert seen.keys() == FILES[folder, schema]
    assert {path.name for path in CONFIGS.iterdir()} == {name for name, _ in FILES} | {"method", "launch", "quality"}


def test_every_launch_file_is_valid():
    from accelerate.commands.config.config_args import load_config_from_file

    found = sorted(path.name for path in (CONFIGS / "launch").iterdir())
    assert found == [
        "gpus.yaml",
        "one-process.yaml",
        "several-machines.sh",
        "sharded.yaml",
        "slurm.sh",
        "two-cpu-processes.yaml",
    ]
    kinds = {
        name: load_config_from_file(str(CONFIGS / "launch" / name)).distributed_type.value
        for name in found
        if name.endswith(".yaml") and name != "sharded.yaml"
    }
    assert kinds == {"gpus.yaml": "MULTI_GPU", "one-process.yaml": "NO", "two-cpu-processes.yaml": "MULTI_GPU"}
    assert load_config(
        Pretrain, [str(CONFIGS / "pretrain/base.yaml"), str(CONFIGS / "launch/sharded.yaml")]
    ).train.sharded
    for name in ("several-machines.sh", "slurm.sh"):
        assert os.access(CONFIGS / "launch" / name, os.X_OK)
        assert subprocess.run(["bash", "-n", CONFIGS / "launch" / name]).returncode == 0


def test_the_launch_file_for_cpus_starts_two_processes(tmp_path):
    (tmp_path / "worker.py").write_text("import os; open('rank-' + os.environ['RANK'], 'w').close()")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command = [*launch, str(ROOT / "configs/launch/two-cpu-processes.yaml"), "worker.py"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=120)
    assert sorted(path.name for path in tmp_path.glob("rank-*")) == ["rank-0", "rank-1"]


def test_every_file_of_quality_rules_is_a_corpus_filter():
    found = {path.stem: read_yaml(path) for path in (CONFIGS / "quality").glob("*.yaml")}
    assert found.keys() == {"english"}
    for tree in found.values():
        assert tree.keys() == {"corpus"} and tree["corpus"].keys() == {"filter"}
        rules = validate(Filter, tree["corpus"]["filter"])
        assert rules != Filter() and validate(Filter, rules.model_dump()) == rules


def test_quality_rules_are_included_in_a_corpus(tmp_path):
    (tmp_path / "own.yaml").write_text(
        f"include: {CONFIGS}/quality/english.yaml\ncorpus:\n  name: own\n"
        "  sources: [{files: a.txt}]\n  filter: {min_words: 7}\n"
    )
    rules = load_config(Prepare, [str(tmp_path / "own.yaml")]).corpus.filter
    assert rules.min_words == 7 and rules.languages == ["en"] and rules.mean_word_length == [3, 10]


def test_a_corpus_reads_only_the_task_of_a_fine_tuning_file():
    path = str(CONFIGS / "finetune" / "sentiment.yaml")
    assert load_config(TaskFile, [path]).task == load_config(Finetune, [path]).task


@pytest.mark.parametrize(
    "word, message",
    [
        ("corpus.sources=[{files: a, repeat: 3}]", "corpus.sources.0.repeat: no such key"),
        ("corpus.sources=[{files: a, weight: 0}]", "corpus.sources.0.weight: "),
        ("corpus.clean.mask_pi=true", "corpus.clean.mask_pi: no such key (nearest: corpus.clean.mask_pii)"),
        ("corpus.filter.min_letters=2", "corpus.filter.min_letters: "),
        ("corpus.filter.mean_word_length=[3]", "corpus.filter.mean_word_length: "),
        ("corpus.decontaminate.action=drop", "corpus.decontaminate.action: 'drop' is none of report, remove"),
        ("corpus.runner=spark", "corpus.runner: 'spark' is none of native, ray"),
        ("tokenizer.algorithm=bpee", "tokenizer.algorithm: 'bpee' is none of wordpiece, bpe, unigram (nearest: bpe)"),
    ],
)
def test_mistakes_in_a_corpus_are_reported(word, message):
    (line,) = error_lines(word)
    assert line.startswith(message)


@pytest.mark.parametrize("folder, schema", [("pretrain", Pretrain), ("finetune", Finetune)])
def test_no_two_files_write_to_one_run(folder, schema):
    for name in FILES[folder, schema]:
        assert load_config(schema, [str(CONFIGS / folder / f"{name}.yaml")]).run == name
