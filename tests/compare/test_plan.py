"""The trainings of a comparison: settings of each objective, starts, networks, and mistakes."""

from __future__ import annotations

import json

import pytest
from helpers import ROOT, error_lines

from compare.__main__ import main
from compare.config import Compare
from compare.plan import find_init, find_tasks, make_plans, read_corpus
from engine.config.loader import load_config, read_yaml


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan(*args: str):
    config = load_config(Compare, list(args))
    corpus = read_corpus(config)
    init = find_init(config, corpus.get("modality", "text"))
    return make_plans(config, corpus, init), corpus, find_tasks(config, corpus)


def test_objectives_of_text_keep_the_settings_of_their_files_and_get_the_corpus():
    plans, corpus, tasks = plan("corpus=medline", "objectives=[mlm,contrastive,simsiam]", "tasks=[spam]")
    by_name = {each.name: each for each in plans}
    assert [*by_name] == ["mlm", "contrastive", "simsiam"] and {each.start for each in plans} == {"start"}
    for name in ("mlm", "contrastive"):
        own = read_yaml(ROOT / f"configs/pretrain/{name}.yaml")
        tree = by_name[name].tree
        assert (tree["objective"], tree["train"], tree["init"]) == (own["objective"], own["train"], "minilm")
        assert tree["corpus"] == corpus["corpus"] != own["corpus"]
    assert by_name["simsiam"].tree["objective"] == {"name": "simsiam"}
    assert by_name["simsiam"].tree["train"]["batch_size"] == 60, "of the default"
    assert [path.name for path in tasks] == ["spam.yaml"]


def test_new_networks_start_as_they_are_built():
    plans, _, tasks = plan("corpus=reviews", "objectives=[contrastive,mlm]", "init=none", "pretrain=[model.layers=2]")
    assert [each.name for each in plans] == ["start", "contrastive", "mlm"] and [each.is_start for each in plans][
        :2
    ] == [True, False]
    start, contrastive, mlm = (each.tree for each in plans)
    assert start["train"]["steps"] == 1 and start["train"]["lr"] < 1e-20 and start["train"]["optimizer"] == "adamw"
    assert contrastive["train"]["batch_size"] == 60 and mlm["train"]["batch_size"] == 16
    assert "short_sequence_fraction" in mlm and "short_sequence_fraction" not in contrastive
    assert all(tree["init"] is None and tree["model"]["layers"] == 2 for tree in (start, contrastive, mlm))
    assert [path.name for path in tasks] == ["sentiment.yaml"], "the task of the corpus"


def test_objectives_that_need_a_transformer_have_a_network_of_their_own():
    plans, _, tasks = plan("corpus=fashion-mnist", "objectives=[contrastive,mae,dino]", "init=none")
    assert [(each.name, each.start) for each in plans] == [
        ("start", "start"),
        ("start mae", "start mae"),
        ("contrastive", "start"),
        ("mae", "start mae"),
        ("dino", "start mae"),
    ]
    assert [each.network for each in plans][2:] == ["new resnet", "new vit, its own", "new vit, its own"]
    assert [path.name for path in tasks] == ["fashion-mnist.yaml"]
    plans, _, _ = plan(
        "corpus=fashion-mnist", "objectives=[contrastive,mae]", "init=none", "pretrain=[model.architecture=dinov2]"
    )
    assert [(each.name, each.network) for each in plans][1:] == [("contrastive", "new dinov2"), ("mae", "new dinov2")]
    plans, _, _ = plan("corpus=solar", "objectives=[simsiam,mae]")
    assert [(each.name, each.tree["init"], each.start) for each in plans] == [
        ("simsiam", "efficientnet-lite0", "start"),
        ("mae", None, "start"),
    ], "compared with the encoder that the others start from"
    assert not any("probe" in each.tree for each in plans), "which could save the weights of init instead"


@pytest.mark.parametrize(
    "args, message",
    [
        (["objectives=[mlmm]"], "objectives.0: no 'mlmm' (nearest: mlm)"),
        (["objectives=[auto]"], "objectives: auto chooses one of the others; name those to compare"),
        (["objectives=[]"], "objectives: "),
        (["objectives=[mae]"], "objectives: mae is for modality=images, and the corpus for text"),
        (
            ["objectives=[mlm]", "tasks=[sentimen]"],
            "tasks: configs/finetune/sentimen.yaml does not exist (nearest: sentiment)",
        ),
        (["objectives=[mlm]", "tasks=[solar]"], "tasks: solar is a task of images, and the corpus is of text"),
        (["objectives=[mlm]", "corpus=medline"], "tasks: no task goes with medline; name one, tasks=[sentiment]"),
        (["objectives=[mlm]", "corpus=review"], "corpus: configs/corpus/review.yaml does not exist (nearest: reviews)"),
        (["objectives=[mlm]", "budget=0"], "budget: "),
        (["objectives=[mlm]", "seeds=2", "pretrainings=3"], "pretrainings: 3 are more than the samples of labels"),
        (["objectives=[mlm]", "budget=long"], "budget: 'long' is not a number"),
        (["objectives=[mlm]", "pretrain=[train.lrr=1]"], "mlm: train.lrr: no such key (nearest: train.lr)"),
        (["objectives=[mlm]", "finetune=[train.lrr=1]"], "train.lrr: no such key (nearest: train.lr)"),
        (["objectives=[mlm]", "init=no/such"], "no/such: not a folder or built-in encoder"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(args, message, capsys, monkeypatch, workspace):
    args = args if any(arg.startswith("corpus=") for arg in args) else ["corpus=reviews", *args]
    lines = error_lines(main, args, capsys, monkeypatch)
    assert len(lines) == 1 and lines[0].startswith(message), lines
    assert not (workspace / "out/comparisons").exists()


def test_a_file_for_another_start_gives_its_objective_and_settings_but_no_rates(tmp_path, monkeypatch):
    """As that of a network from scratch, where the start is an encoder: its batch, and the rates of a continued one."""
    own = {"init": None, "model": {"layers": 9}, "objective": {"name": "simsiam", "predictor_dim": 32}}
    own |= {"corpus": {"name": "other"}, "train": {"lr": 1.0, "beta1": 0.5, "batch_size": 7, "steps": 9}}
    for file in (ROOT / "configs/pretrain").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text().replace("../corpus", str(ROOT / "configs/corpus")))
    (tmp_path / "simsiam.yaml").write_text(json.dumps(own))
    monkeypatch.setattr("compare.plan.PRETRAIN_FOLDER", tmp_path)
    (continued,), _, _ = plan("corpus=reviews", "objectives=[simsiam]")
    assert continued.tree["objective"] == own["objective"] and "model" not in continued.tree
    train = continued.tree["train"]
    assert (train["beta1"], train["batch_size"], train["lr"]) == (0.5, 7, 5e-5) and train["steps"] != 9
    new = plan("corpus=reviews", "objectives=[mlm,simsiam]", "init=none")[0]
    assert [(each.name, each.start) for each in new] == [
        ("start", "start"),
        ("start simsiam", "start simsiam"),
        ("mlm", "start"),
        ("simsiam", "start simsiam"),
    ], "another network has another start"
    assert new[3].tree["model"] == own["model"] and new[3].tree["train"]["lr"] == 1.0
    assert new[3].tree["corpus"]["name"] == "reviews"
