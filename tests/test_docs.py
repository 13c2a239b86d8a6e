"""The pages of the documentation: links, the generated configuration page, and the examples of extending.md."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from tiny_models import InMemoryShards, make_batch, tiny_bert, tiny_encoder

from data.config import Prepare
from data.encoders import BuiltInEncoder
from docs import generate_configuration
from engine.config.help import group_keys
from engine.config.loader import load_config
from engine.config.schema import Section
from finetune.config import Finetune
from finetune.model.network import Network
from pretrain.config import Pretrain

PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "AGENTS.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [
    (path.name, file, text)
    for path in sorted((ROOT / "docs").glob("*.md"))
    for file, text in re.findall(
        r"```(?:python|yaml)\n# (\S+/\S+)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL
    )
]
SCHEMAS = {"configs/corpus": Prepare, "configs/finetune": Finetune, "configs/encoder": BuiltInEncoder}
"""Folder of an example -> its schema; methods are added to a task."""


def anchors(path: Path) -> set[str]:
    """Return the anchors that a Markdown renderer gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_resolve(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_readme_is_short_and_links_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert all(f"(docs/{path.name}" in readme for path in (ROOT / "docs").glob("*.md"))


def test_the_picture_of_the_readme_is_drawn_from_the_results(tmp_path, monkeypatch):
    from docs import draw_label_efficiency

    drawn = draw_label_efficiency.PICTURE.read_text(encoding="utf-8")
    monkeypatch.setattr(draw_label_efficiency, "PICTURE", tmp_path / "drawn.svg")
    draw_label_efficiency.main()
    assert (tmp_path / "drawn.svg").read_text(encoding="utf-8") == drawn
    assert "(docs/label-efficiency.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_page_is_generated():
    page = generate_configuration.PAGE.read_text(encoding="utf-8")
    assert page == generate_configuration.format_page(), "run: python -m docs.generate_configuration"
    for _, schema in generate_configuration.COMMANDS.values():
        assert all(f"| `{key}` |" in page for keys in group_keys(schema).values() for key in keys)


def test_a_vertical_bar_stays_in_its_cell():
    table = generate_configuration.format_table({"a.b": ("x|y", "either | or")})
    assert table.splitlines()[-1] == "| `a.b` | `x\\|y` | either \\| or |"


def test_the_examples_are_found():
    assert [file for page, file, _ in EXAMPLES if page == "extending.md"] == [
        "pretrain/objectives/smooth_mlm.py",
        "finetune/heads/huber.py",
        "configs/finetune/stars.yaml",
        "configs/corpus/articles.yaml",
        "configs/encoder/minilm.yaml",
        "configs/method/gentle.yaml",
    ]


@pytest.mark.parametrize("page, file, text", [one for one in EXAMPLES if one[1].endswith(".yaml")])
def test_example_configurations_are_valid(page, file, text, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    folder = file.rpartition("/")[0]
    if folder == "configs/method":
        monkeypatch.setattr(Finetune, "presets", {"method": tmp_path / folder})
        assert load_config(Finetune, ["configs/finetune/sentiment.yaml", file]).method == "gentle"
    else:
        assert load_config(SCHEMAS[folder], [file])
    if folder == "configs/encoder":
        assert load_config(BuiltInEncoder, [file]) == load_config(BuiltInEncoder, [str(ROOT / file)])


def add_example(file: str, folder: Path, monkeypatch):
    """Write an example of extending.md to a folder that its package searches too, and import it."""
    package, name = file.removesuffix(".py").replace("/", ".").rsplit(".", 1)
    (text,) = (text for _, other, text in EXAMPLES if other == file)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    parent = importlib.import_module(package)
    monkeypatch.setattr(parent, "__path__", [*parent.__path__, str(folder)])
    return importlib.import_module(f"{package}.{name}")


def test_the_example_of_an_objective_trains(tmp_path, monkeypatch):
    plugin = add_example("pretrain/objectives/smooth_mlm.py", tmp_path, monkeypatch)
    args = ["configs/pretrain/mlm.yaml", "objective.name=smooth_mlm", "objective.label_smoothing=0.2"]
    monkeypatch.chdir(ROOT)
    config = load_config(Pretrain, args).objective
    assert isinstance(config, plugin.Config) and issubclass(plugin.Config, Section)
    encoder = tiny_encoder()
    inputs = make_batch(plugin.Dataset(config, InMemoryShards()), [0, 1, 2]).inputs
    output = plugin.Objective(config, encoder)(**inputs)
    plain = plugin.mlm.Objective(config, encoder)(**inputs)
    assert output.count == plain.count > 0 and output.loss.requires_grad and output.loss != plain.loss
    exact = plugin.Objective(config.model_copy(update={"label_smoothing": 0.0}), encoder)(**inputs)
    assert torch.allclose(exact.loss, plain.loss, rtol=1e-5)


def test_the_example_of_a_head_trains(tmp_path, monkeypatch):
    from finetune.heads import regression

    plugin = add_example("finetune/heads/huber.py", tmp_path, monkeypatch)
    monkeypatch.chdir(ROOT)
    args = ["configs/finetune/ratings.yaml", "head.name=huber", "head.delta=0.5"]
    config = load_config(Finetune, args).head
    assert isinstance(config, plugin.Config) and plugin.PROBLEM_TYPE is regression.PROBLEM_TYPE
    inputs = {"input_ids": torch.arange(5, 17).view(2, 6), "labels": torch.tensor([0.25, 9.0], dtype=torch.float64)}
    network = Network(tiny_bert(num_labels=1))
    output, squared = plugin.Head(config, network)(**inputs), regression.Head(config, network)(**inputs)
    assert output.count == squared.count == 2 and output.loss.requires_grad and output.loss < squared.loss
