"""Which package may import which, by reading the import statements."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGES = ("engine", "data", "pretrain", "explore", "label", "finetune", "predict", "publish", "compare", "headstart")
MAY_IMPORT = {
    "engine": set(),
    "data": {"engine"},
    "pretrain": {"engine", "data", "publish"},
    "label": {"engine", "data"},
    "finetune": {"engine", "data", "publish"},
    "explore": {"engine", "data"},
    "predict": {"engine", "data"},
    "publish": {"engine", "data"},
    "compare": {"engine", "data", "pretrain", "finetune"},
    "headstart": {"engine", "data", "pretrain", "explore", "label", "finetune", "predict", "publish", "compare"},
}
# The order of sub-packages and top-level modules inside a package: each imports only those before it.
ORDER = {
    "engine": "sanitize errors log hub_client charts html kernels files config system cli runs checkpointing training"
    " models",
    "data": "arrays csv_cells ngrams sampling cache sources tasks corpus images encoders tokens config contamination"
    " prepare reference_outputs modalities classifier shortcut __main__",
    "pretrain": "masking config summary collapse info_nce model views pairs skip_gram_loss next_tokens deleted_tokens"
    " dropped_tokens image_views image_outputs image_noise objective image_denoising reconstruction text_generation"
    " nearest_tokens frechet generator image_variational text_variational translation probe_samples evaluate objectives"
    " validation image_validation image_probe image_gallery modalities comparison artifacts validate_config train"
    " __main__",
    "label": "config items store session nearest export server terminal run __main__",
    "finetune": "config augment model modalities evaluation heads linear_probe validate_config class_texts method"
    " training held_out detector artifacts semi_supervised train study __main__",
    "explore": "config steps choose vectors image_encoder inputs labels queue cluster neighbors baselines names"
    " modalities model layout map pictures page output report run __main__",
    "predict": "config mixed_precision rows image_rows output predictions why pictures summary page run __main__",
    "publish": "config card report hub export compare __main__",
    "compare": "config plan pretraining scores league report run __main__",
    "headstart": "__main__",
}
# All that the stages import of publishing: from records and logs to text.
SHARED = ("publish.card.card", "publish.report.run_report")
# All that publishing imports of the data: how labels and inputs are described and decoded.
SHARED_DATA = ("data.tasks.problem_types", "data.modalities")
HEAVY = "torch transformers accelerate datasets tokenizers peft sklearn daft ray pyarrow pandas scipy ftfy matplotlib"
HEAVY = set(HEAVY.split())
LIGHT = (
    "engine.errors engine.cli engine.charts engine.html engine.config.loader engine.config.help engine.config.messages"
    " engine.runs.trackers data.config data.__main__ data.sources.source data.sources.readers data.tasks.task"
    " data.tasks.columns data.tasks.exports data.shortcut"
    " data.tasks.problem_types data.modalities.text pretrain.modalities.text finetune.modalities.text"
    " pretrain.modalities.images"
    " pretrain.config pretrain.__main__ finetune.config finetune.__main__ finetune.study.config finetune.study.__main__"
    " predict.config predict.__main__ explore.config explore.modalities.text"
    " explore.modalities.images explore.__main__"
    " label.config label.__main__"
    " compare.config compare.__main__"
    " publish.config publish.__main__ publish.compare publish.export publish.report.run_report headstart.__main__"
).split()


def file_of(module: str) -> Path | None:
    """Return the file of a module of this project; None for any other module."""
    path = ROOT / module.replace(".", "/")
    if module.partition(".")[0] not in PACKAGES:
        return None
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def import_statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING" and not inside_functions:
            continue
        elif inside_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from import_statements(child, inside_functions)


def imported_names(path: Path, inside_functions: bool) -> set[str]:
    """Return the dotted names that a file imports; `from data import sampling` gives data and data.sampling."""
    names = set()
    for statement in import_statements(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, f"{path}: a relative import, which this test does not follow"
            names |= {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}
    return names


def imported_modules(module: str, inside_functions: bool) -> set[str]:
    """Return the modules of this project that a module imports; of a package and a module in it, the module alone."""
    names = {name for name in imported_names(file_of(module), inside_functions) if file_of(name)}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)} - {module}


def all_modules(package: str) -> list[str]:
    """Return every module of a package, by dotted name."""
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def reachable_modules(module: str) -> set[str]:
    """Return everything that importing a module imports at module level."""
    seen, queue = set(), [module]
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            if file_of(name):  # importing a.b runs a/__init__.py first
                queue += imported_names(file_of(name), inside_functions=False) | {name.rpartition(".")[0]} - {""}
    return seen


def test_imports_are_found_in_functions_classes_and_branches(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("import a.b\nif a:\n    from c import d\nclass K:\n    import e\ndef f():\n    import g as h\n")
    assert imported_names(path, inside_functions=False) == {"a.b", "c", "c.d", "e"}
    assert imported_names(path, inside_functions=True) == {"a.b", "c", "c.d", "e", "g"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_those_below_them(package):
    for module in all_modules(package):
        imported = imported_modules(module, inside_functions=True)
        assert {name.partition(".")[0] for name in imported} <= MAY_IMPORT[package] | {package}, module
        outside = {name for name in imported if name.startswith("publish.") and name not in SHARED}
        assert package in ("publish", "headstart") or not outside, f"{module} imports {outside}"
        outside = {name for name in imported if name.startswith("data.") and not name.startswith(SHARED_DATA)}
        assert package != "publish" or not outside, f"{module} imports {outside}"


@pytest.mark.parametrize("package", PACKAGES)
def test_sub_packages_import_only_those_before_them(package):
    order = ORDER[package].split()
    for module in all_modules(package):
        own = module.split(".")[1:2]
        if own:
            assert own[0] in order, f"{module}: give it a place in ORDER"
            for name in imported_modules(module, inside_functions=True):
                if name.startswith(f"{package}.") and (other := name.split(".")[1]) != own[0]:
                    assert order.index(other) < order.index(own[0]), f"{module} imports {name}"


def test_no_module_imports_itself_through_others():
    modules = [module for package in PACKAGES for module in all_modules(package)]
    tuple(TopologicalSorter({module: imported_modules(module, True) for module in modules}).static_order())


@pytest.mark.parametrize("module", LIGHT)
def test_the_command_line_imports_nothing_heavy(module):
    assert file_of(module)
    assert not {name.partition(".")[0] for name in reachable_modules(module)} & HEAVY


def test_following_imports_reaches_torch():
    assert "torch" in reachable_modules("pretrain.train") and "torch" in reachable_modules("finetune.train")


def test_a_mistyped_key_is_reported_before_anything_heavy_is_loaded():
    script = f"""
import sys
from engine.errors import ConfigError
from finetune.__main__ import main
try:
    main(["configs/finetune/sentiment.yaml", "task.labelz=3", "train.lr=x"])
except ConfigError as error:
    print(error)
print(sorted(set(sys.modules) & {HEAVY}))
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT).stdout
    assert output.splitlines() == [
        "task.labelz: no such key (nearest: task.label)",
        "train.lr: 'x' is not a number",
        "[]",
    ]


def loading_calls(package: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield (place, call) of every call by which a library loads a model, a tokenizer or a data set."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if name in ("from_pretrained", "pipeline", "SentenceTransformer", "load_dataset"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks"])
def test_every_load_forbids_remote_code_and_every_load_of_weights_pickles(package):
    for place, call in loading_calls(package):
        loaded, options = ast.unparse(call.func), [ast.unparse(keyword) for keyword in call.keywords]
        if loaded == "PeftModel.from_pretrained":
            continue  # has neither option; publish.hub.checks allows only safetensors in an adapter's folder
        is_safe = {"trust_remote_code=False", "**LOAD_KWARGS", "**LOAD_WEIGHTS_KWARGS"} & {*options}
        assert is_safe, f"{place}: {loaded}"
        if "AutoModel" in loaded or loaded.startswith(("auto_class", "loader")):
            assert {"use_safetensors=True", "**LOAD_WEIGHTS_KWARGS"} & {*options}, f"{place}: {loaded}"


def test_loading_calls_are_found():
    places = [place for package in PACKAGES for place, _ in loading_calls(package)]
    assert len(places) > 10 and any(place.startswith("publish/export") for place in places)
