"""Fine-tuning methods: layers trained at each step, frozen-layer cache, weight averaging, adapters, linear probe."""

from __future__ import annotations

import json
import random
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import ROOT, run_module, run_two_processes, small_disk
from safetensors.torch import load_file, save_file
from tiny_models import depth_by_name
from tiny_training import run_training, train_settings
from transformers import AutoModel, AutoTokenizer, BertConfig, ModernBertConfig

from data.encoders import resolve_encoder
from data.tasks.linear_probe import fit_logistic_regression
from data.tasks.problem_types.single_label_classification import PROBLEM_TYPE as SINGLE_LABEL
from data.tasks.task import Example
from data.tokens.dataset import tokenize_examples
from engine.checkpointing import checkpoint
from engine.config.loader import load_config
from engine.errors import ConfigError
from engine.runs.run import Run
from engine.training.distributed import make_accelerator
from finetune import linear_probe, training
from finetune.config import Finetune, Layers
from finetune.model import adapters, layerwise
from finetune.model.frozen_cache import FrozenLayerCache, find_layer_list
from finetune.model.text_network import build_text_network
from finetune.train import resolve_config

DEPTH, STEPS = 4, 7
SHAPES = {
    "bert": BertConfig(
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        intermediate_size=48,
        vocab_size=30522,
        max_position_embeddings=64,
    ),
    "modernbert": ModernBertConfig(
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        vocab_size=30522,
        intermediate_size=48,
        max_position_embeddings=64,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        cls_token_id=101,
        sep_token_id=102,
    ),
}
WORDS = "a film the plot its actors dull bright slow warm never always night summer boring lovely".split()
GRADUAL = ["layers.unfreeze_every=2", "layers.unfreeze_unit=steps", "layers.unfreeze_group=1"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """Folders of random encoders with a real tokenizer, by architecture, and a file of labels."""
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        AutoModel.from_config(shape).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "1_Pooling").mkdir()
        (folder / name / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 24))) for _ in range(120)]
    lines = [f"{text},{['no', 'perhaps', 'yes'][index % 3]}\n" for index, text in enumerate(texts)]
    (folder / "labels.csv").write_text("text,label\n" + "".join(lines))
    return folder


def method_args(encoders: Path, *more: str, kind: str = "bert") -> list[str]:
    return [
        "run=r",
        f"encoder={encoders / kind}",
        f"task={{name: t, train: {{files: {encoders}/labels.csv}}}}",
        f"train.steps={STEPS}",
        "train.lr=2e-3",
        "train.batch_size=8",
        "train.eval_every=3",
        "train.log_every=1",
        "train.precision=float32",
        "train.load_best=false",
        "seed=1",
        "max_length=20",
        "baselines=false",
        "dropout=0.2",
        *more,
    ]


def read_examples(encoders: Path) -> list[Example]:
    rows = [line.split(",") for line in (encoders / "labels.csv").read_text().splitlines()[1:]]
    return [Example((text,), label) for text, label in rows]


def run_finetuning(
    encoders: Path, folder: Path, *more: str, kind: str = "bert", test_start: int = 64
) -> training.FineTuneOutput:
    """Fine-tune in `folder` on 48 texts, with 16 for validation and 16 for test."""
    config = resolve_config(load_config(Finetune, method_args(encoders, *more, kind=kind)), kind, encoders / kind, 48)
    examples = read_examples(encoders)
    splits = {"train": examples[:48], "validation": examples[48:64], "test": examples[test_start : test_start + 16]}
    accelerator = make_accelerator("float32")
    run = Run(config, "r", accelerator.is_main_process, folder)
    data = training.TaskData(splits, ["no", "perhaps", "yes"])
    return training.finetune_model(encoders / kind, config, data, run, accelerator, "t")


def copy_weights(output: training.FineTuneOutput) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in output.head.named_parameters()}


def read_losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def max_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture(autouse=True)
def reset_accelerate():
    """Reset Accelerate, which keeps one state per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# ---- trained layers -------------------------------------------------------------------------------------------------


def test_frozen_lowest_layers_are_never_unfrozen():
    layers = Layers(unfreeze_every=2, unfreeze_unit="steps", num_frozen=2, train_embeddings=True)
    depths = [layerwise.trainable_depth(step, 5, layers, 9, 12) for step in range(0, 12, 2)]
    assert depths == [0, 2, 3, 3, 3, 3]
    assert layerwise.trainable_depth(0, 5, Layers(num_frozen=1), 9, 12) == 4
    assert layerwise.trainable_depth(0, 5, Layers(num_frozen=9), 9, 12) == 0


def check_each_step(encoders: Path, folder: Path, *more: str) -> training.FineTuneOutput:
    """Check that each step changes the weights up to its trainable depth and no others, checkpoint by checkpoint."""
    more = *GRADUAL, "layers.train_embeddings=true", "layers.freeze_at=[0.9]", "train.steps=13", *more
    output = run_finetuning(encoders, folder, "train.save_every=1", "train.keep_checkpoints=99", *more)
    config = load_config(Finetune, method_args(encoders, *more)).layers
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return output
    steps = [load_file(path / "model.safetensors") for path in checkpoint.list_checkpoints(folder)]
    assert len(steps) == 13
    assert len({layerwise.trainable_depth(step, DEPTH, config, 6, 13) for step in range(13)}) == 6
    for step, (old, new) in enumerate(pairwise(steps), 1):
        max_depth = layerwise.trainable_depth(step, DEPTH, config, 6, 13)
        for name in old:
            is_trained = depth_by_name(f".{name}", DEPTH) <= max_depth and f".layer.{DEPTH}." not in name
            assert is_trained != old[name].equal(new[name]), (step, name)
    return output


@pytest.mark.parametrize("more", [(), ("adapter={name: lora, rank: 2}",), ("adapter.name=ia3",)])
def test_each_step_changes_only_the_unfrozen_weights(encoders, tmp_path, more):
    after = copy_weights(check_each_step(encoders, tmp_path, *more))
    if more:
        before = copy_weights(run_finetuning(encoders, tmp_path / "before", *more, "train.steps=1"))
        frozen = [name for name in after if not any(part in name for part in (".lora_", ".ia3_", ".modules_to_save."))]
        assert all(after[name].equal(before[name]) for name in frozen)
        assert any("original_module" in name for name in frozen)
        names = load_file(checkpoint.list_checkpoints(tmp_path)[0] / "model.safetensors")
        assert all(".lora_" in name or ".ia3_" in name or ".modules_to_save." in name for name in names), (
            "checkpoints are small"
        )


def run_as_one_of_two(encoders: Path, folder: Path) -> None:
    """Run one of two processes and save its weights."""
    check_each_step(encoders, folder / "moves")
    for name, more in METHODS.items():
        for cache in ("true", "false"):
            output = run_finetuning(encoders, folder / f"{name}-{cache}", *more, f"layers.cache_frozen={cache}")
            save_file(copy_weights(output), folder / f"{name}-{cache}-{torch.distributed.get_rank()}.safetensors")


METHODS = {
    "freezing": ["layers.freeze_at=[0.3]", "train.steps=20", "dropout=0"],
    "frozen": ["layers.num_frozen=3", "dropout=0"],
    "gradual": [*GRADUAL, "dropout=0", "train.load_best=true", "train.patience=9"],
    "lora": ["adapter={name: lora, rank: 2}", *GRADUAL, "dropout=0", "train.average_fraction=0.5"],
}


DRIVER = f"""
import os, sys
from pathlib import Path
sys.path += [{str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
import test_methods, torch
encoders, folder = map(Path, sys.argv[1:])
test_methods.run_as_one_of_two(encoders, folder)
torch.distributed.barrier()
(folder / "done").touch()
os._exit(0)  # a normal exit is sometimes aborted by gloo's threads
"""


def test_two_processes_train_as_one_and_stay_in_sync(encoders, tmp_path):
    # No forks of this process: they would wait forever for the threads of the tokenizers.
    (tmp_path / "driver.py").write_text(DRIVER)
    processes = run_two_processes("driver.py", str(encoders), str(tmp_path), cwd=tmp_path)
    assert (tmp_path / "done").is_file(), "".join(process.stderr[-3000:] for process in processes)
    for name, more in METHODS.items():
        expected = copy_weights(run_finetuning(encoders, tmp_path / f"{name}-alone", *more))
        for cache in ("true", "false"):
            ranks = [load_file(tmp_path / f"{name}-{cache}-{rank}.safetensors") for rank in range(2)]
            assert max_difference(*ranks) == 0, f"{name}: the processes differ"
            assert max_difference(ranks[0], expected) < 1e-5, name


# ---- frozen-layer cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, more, megabytes",
    [
        ("bert", ["layers.num_frozen=2"], None),
        ("bert", ["layers.num_frozen=3", "train.load_best=true"], 0.05),
        ("bert", ["layers.num_frozen=4"], None),
        ("bert", [*GRADUAL[1:], "layers.unfreeze_every=7", "train.steps=16"], 0.05),
        ("bert", ["layers.freeze_at=[0.2,0.6]", "layers.unfreeze_group=1", "train.steps=30"], 0.05),
        (
            "bert",
            ["layers.freeze_at=[0.2,0.6]", "layers.unfreeze_group=1", "train.steps=30", "train.load_best=true"],
            None,
        ),
        (
            "bert",
            ["layers.freeze_at=[0.6]", "train.steps=30", "train.load_best=true", "train.average_fraction=0.6"],
            None,
        ),
        ("bert", ["adapter={name: lora, rank: 2}", "layers.num_frozen=2"], None),
        ("modernbert", ["layers.num_frozen=2"], 0.05),
        ("modernbert", ["layers.num_frozen=4", "train.load_best=true"], None),
    ],
)
def test_cached_equals_uncached(encoders, tmp_path, monkeypatch, kind, more, megabytes):
    computed = []
    compute, initialize = FrozenLayerCache.compute_group, FrozenLayerCache.__init__
    if megabytes:  # some of these states stay in memory and the others are in a file, as of more texts with `cache_mb`
        monkeypatch.setattr(
            FrozenLayerCache, "__init__", lambda cache, *args: initialize(cache, *args[:-1], memory_mb=megabytes)
        )
    monkeypatch.setattr(
        FrozenLayerCache,
        "compute_group",
        lambda cache, group, device: (
            computed.append((cache.boundary, cache.hash_weights_below(cache.boundary), group)),
            compute(cache, group, device),
        ),
    )
    cached = run_finetuning(encoders, tmp_path / "cached", *more, kind=kind)
    assert computed and len(computed) == len(set(computed)), "each group once per boundary and weights below it"
    count = len(computed)
    plain = run_finetuning(encoders, tmp_path / "plain", *more, "layers.cache_frozen=false", kind=kind)
    assert len(computed) == count
    assert max_difference(copy_weights(cached), copy_weights(plain)) < 1e-5
    assert read_losses(tmp_path / "cached") == pytest.approx(read_losses(tmp_path / "plain"), rel=1e-5)
    for split in cached.predictions:
        assert np.allclose(cached.predictions[split], plain.predictions[split], atol=1e-5), split
    assert not list((tmp_path / "cached").glob("frozen-cache*")), "no file is left"


def test_a_cache_larger_than_the_disk_is_an_error(encoders, tmp_path):
    """Not a bus error, which ends the process."""
    with small_disk(tmp_path, "64k") as small:
        network = build_text_network(encoders / "bert", SINGLE_LABEL, "cls", ["a", "b"], 0.0)
        examples = [Example((f"film {number}",), "a") for number in range(300)]
        texts = tokenize_examples(examples, encoders / "bert", 9, "t")
        cache = FrozenLayerCache(network.model, [texts], small, memory_mb=0)
        cache.set_boundary(2)
        with pytest.raises(OSError, match="No space left"):
            network.model(**texts.get_inputs(np.arange(64)))
        assert not list(small.iterdir())


@pytest.mark.parametrize("kind", SHAPES)
def test_a_higher_boundary_resumes_from_cached_states_bit_for_bit(encoders, tmp_path, kind):
    splits = [
        tokenize_examples([Example((text,), "") for text in texts], encoders / kind, 32, "test")
        for texts in (
            ("A film.", "A film of two hours, and long.", "No.", "A film.", "It was long."),
            ("No.", "A short one."),
        )
    ]
    model, computed = AutoModel.from_pretrained(encoders / kind, dtype=torch.float32).eval(), []
    getattr(*find_layer_list(model))[0].register_forward_hook(lambda *_: computed.append("lowest"))

    def get_states(cache: FrozenLayerCache, boundary: int) -> list[torch.Tensor]:
        cache.set_boundary(boundary)
        with torch.no_grad():
            return [model(**texts.get_inputs(np.arange(len(texts.lengths)))).last_hidden_state for texts in splits]

    cache = FrozenLayerCache(model, splits, tmp_path, 1)
    moved = {boundary: get_states(cache, boundary) for boundary in (1, 3, 2)}
    cache.close()
    # The second split has a text of the first, which may be at a higher boundary than the others: recomputed.
    assert len(computed) == 2 + 1 + 2
    for boundary, states in moved.items():
        fresh = FrozenLayerCache(model, splits, tmp_path, 1)
        assert all(one.equal(other) for one, other in zip(get_states(fresh, boundary), states, strict=True))
        fresh.close()


def test_frozen_layers_run_without_dropout(encoders, tmp_path):
    output = run_finetuning(encoders, tmp_path, "train.steps=1")
    model, inputs = output.model, {"input_ids": torch.tensor([[101, 2023, 2143, 102]])}
    model.train()
    layerwise.freeze_below(layerwise.find_depths(model, DEPTH), 2, set())
    below, above = (
        [model(**inputs, output_hidden_states=True).hidden_states[index] for _ in range(2)] for index in (2, 3)
    )
    assert below[0].equal(below[1]) and not above[0].equal(above[1])


# ---- first and last weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
def test_the_top_layers_are_reinitialized(encoders, kind):
    loaded, reinitialized = (
        build_text_network(encoders / kind, SINGLE_LABEL, None, ["no", "yes"], 0.0).model for _ in range(2)
    )
    layerwise.reinitialize_top_layers(reinitialized, 2, DEPTH)
    for (name, old), new in zip(loaded.named_parameters(), reinitialized.parameters(), strict=True):
        is_random = (
            re.search(r"\.layers?\.\d", f".{name}") and 1 <= depth_by_name(f".{name}", DEPTH) <= 2 and old.ndim > 1
        )
        if "classifier" not in name and "head" not in name:
            assert bool(is_random) != old.equal(new), name
        assert not is_random or 0.001 < new.std() < 0.05, "the architecture's initialization"
    with pytest.raises(ConfigError, match="layers.reinit_layers: 5 is more than the encoder's 4 layers"):
        layerwise.reinitialize_top_layers(loaded, 5, DEPTH)


@pytest.mark.parametrize("stops", [[], [3], [7, 9]])
def test_weight_averaging_equals_the_mean_of_checkpoints(tmp_path, cpu_accelerator, stops):
    config = train_settings(average_fraction=0.4, save_every=1, keep_checkpoints=99, log_every=1)
    for fails_at in stops:
        with pytest.raises(InterruptedError):
            run_training(tmp_path, cpu_accelerator, config, fail_at_step=fails_at)
    evaluated = []
    module, *_ = run_training(
        tmp_path,
        cpu_accelerator,
        config,
        make_hooks=lambda module: {"evaluate": lambda: evaluated.append(module.first.weight.detach().clone()) or {}},
    )
    steps = [load_file(path / "model.safetensors") for path in checkpoint.list_checkpoints(tmp_path)]
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach().cpu(), torch.stack([step[name] for step in steps[6:]]).mean(0))
        assert not steps[-1][name].equal(parameter.cpu()), "training continues from the weights, not their mean"
    assert evaluated[-1].equal(module.first.weight), "the mean is evaluated"
    whole, *_ = run_training(tmp_path / "whole", cpu_accelerator, config)
    assert all(one.equal(other) for one, other in zip(module.parameters(), whole.parameters(), strict=True))


def test_an_interrupted_run_with_adapters_ends_as_an_uninterrupted_one(encoders, tmp_path, monkeypatch):
    import engine.training.trainer

    more = [
        "adapter={name: lora, rank: 2, dropout: 0.2}",
        *GRADUAL[:2],
        "layers.num_frozen=1",
        "train.average_fraction=0.6",
        "train.save_every=2",
        "train.load_best=true",
    ]
    whole = copy_weights(run_finetuning(encoders, tmp_path / "whole", *more))
    rate = engine.training.trainer.lr_at
    for stop in (3, 5):

        def interrupt(step, *rest, stop=stop):
            if step == stop:
                raise InterruptedError
            return rate(step, *rest)

        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(engine.training.trainer, "lr_at", interrupt)
            run_finetuning(encoders, tmp_path / "cut", *more)
    assert max_difference(copy_weights(run_finetuning(encoders, tmp_path / "cut", *more)), whole) == 0


# ---- adapters and linear probe --------------------------------------------------------------------------------------

RELOAD = """
import importlib.util, sys
assert importlib.util.find_spec("finetune") is None, "the project can be imported"
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification as Plain
for name in sys.argv[1:]:
    inputs = load_file(f"{name}/inputs.safetensors")
    expected = inputs.pop("expected")
    for model in (
        Plain.from_pretrained(f"{name}/model"),
        AutoPeftModelForSequenceClassification.from_pretrained(f"{name}/adapter"),
        PeftModel.from_pretrained(Plain.from_pretrained(f"{name}/base"), f"{name}/adapter"),
    ):
        with torch.no_grad():
            outputs = model.eval()(**inputs).logits.softmax(-1)
        assert (outputs - expected).abs().max() < 1e-5, (name, type(model), (outputs - expected).abs().max())
print("the same")
"""

ADAPTERS = {
    "lora": ("bert", "{name: lora, rank: 2}"),
    "dora": ("bert", "{name: lora, dora: true, rslora: true, target_modules: [query, value]}"),
    "ia3": ("bert", "{name: ia3}"),
    "modern": ("modernbert", "{name: lora, rank: 2}"),
    "modern-ia3": ("modernbert", "{name: ia3}"),
}


def test_adapters_and_merged_models_load_without_the_project(encoders, tmp_path):
    from finetune.model.network import scale_output

    for name, (kind, adapter) in ADAPTERS.items():
        output = run_finetuning(encoders, tmp_path / name, f"adapter={adapter}", kind=kind)
        scale_output(output.model, 0.5)
        adapted_modules = [
            module for module, _ in output.model.named_modules() if module.endswith((".lora_A", ".ia3_l"))
        ]
        assert adapted_modules
        assert not any(f".layer.{DEPTH}." in module for module in adapted_modules), "the pooling layer has none"
        inputs = AutoTokenizer.from_pretrained(encoders / kind)(
            ["a warm film", "the plot never bright dull"],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=kind == "bert",
        )
        with torch.no_grad():
            logits = output.model(**inputs).logits
        save_file({**inputs, "expected": logits.softmax(-1)}, tmp_path / name / "inputs.safetensors")
        adapters.save_adapter(output.peft_model, tmp_path / name)
        adapters.merge_adapters(output.peft_model)
        with torch.no_grad():
            assert torch.allclose(output.head.predict(**inputs), logits.softmax(-1), atol=1e-5)
        output.model.save_pretrained(tmp_path / name / "model")
        assert not any(
            "lora" in key or "modules_to_save" in key for key in load_file(tmp_path / name / "model/model.safetensors")
        )
        sizes = [
            (tmp_path / name / part).stat().st_size
            for part in ("adapter/adapter_model.safetensors", "base/model.safetensors")
        ]
        assert sizes[0] < sizes[1] / 20
    process = run_module(
        "-c", RELOAD, *ADAPTERS, prefix=(sys.executable, "-P"), cwd=tmp_path, PYTHONPATH="", CUDA_VISIBLE_DEVICES=""
    )
    assert process.stdout.strip() == "the same", process.stderr


def test_unknown_target_modules_are_an_error(encoders, tmp_path):
    with pytest.raises(
        ConfigError, match="adapter.target_modules: no linear layer of the encoder ends in kwery; there are dense, key,"
    ):
        run_finetuning(encoders, tmp_path / "none", "adapter={name: lora, target_modules: [value, kwery]}")
    with pytest.raises(ConfigError, match="adapter.rank: only for adapter.name=lora, not ia3"):
        run_finetuning(encoders, tmp_path / "none", "adapter={name: ia3, rank: 4}")
    with pytest.raises(ConfigError, match="layers.linear_probe: requires"):
        run_finetuning(encoders, tmp_path / "none", "adapter.name=lora", "layers.linear_probe=true")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("label_names", [("no", "yes"), ("no", "perhaps", "yes")])
def test_the_linear_probe_predicts_what_sklearn_predicts(encoders, label_names):
    rng = np.random.default_rng(0)
    model = build_text_network(encoders / "bert", SINGLE_LABEL, None, list(label_names), 0.1).model
    features, labels = rng.normal(size=(60, 32)).astype(np.float32), np.arange(60) % len(label_names)
    features[:, 0] += labels
    solution = fit_logistic_regression(features, labels, 0)
    linear_probe.copy_to_last_layer(solution, model)
    outputs = linear_probe.get_last_linear(model)(torch.from_numpy(features)).softmax(-1).detach().numpy()
    assert np.abs(outputs - solution.predict_proba(features)).max() < 1e-5
    assert (outputs.argmax(-1) == labels).mean() > 0.5
    single = fit_logistic_regression(features[:3], np.arange(3) % len(label_names), 0)
    assert single.C == 1, "one text of a class allows no cross-validation"


def test_the_linear_probe_leaves_the_encoder_unchanged(encoders, tmp_path):
    output = run_finetuning(encoders, tmp_path, "layers.linear_probe=true")
    again = run_finetuning(encoders, tmp_path / "again", "train.steps=1")
    for (name, parameter), other in zip(output.model.named_parameters(), again.model.parameters(), strict=True):
        assert "classifier" in name or ".embeddings." not in name or parameter.equal(other)
    assert output.train_result.step == 0 and output.metrics["test"]["n"] == 16


# ---- command line ---------------------------------------------------------------------------------------------------

METHOD_NAMES = {"full", "probe", "lora", "ia3", "gradual", "top"}


def test_every_method_has_a_file_that_changes_a_task_configuration():
    task = str(ROOT / "configs/finetune/sentiment.yaml")
    methods = (ROOT / "configs/method").glob("*.yaml")
    configs = {path.stem: load_config(Finetune, [task, str(path)]) for path in methods}
    default = load_config(Finetune, [task])
    assert configs.keys() >= METHOD_NAMES and all(config != default for config in configs.values())
    assert default.layers.freeze_at
    assert not configs["full"].layers.freeze_at and not configs["gradual"].layers.freeze_at


def test_the_command_writes_model_adapter_and_base(encoders, workspace):
    from finetune.__main__ import main

    main([*method_args(encoders, "train.steps=2"), "configs/method/lora.yaml"])
    folder = workspace / "out/runs/r"
    assert {path.name for path in folder.iterdir()} >= {"model", "adapter", "base", "metrics.json"}
    assert not list(folder.glob("step-*")) and not (folder / "adapter/README.md").exists()
    assert (
        json.loads((folder / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "out/runs/r/base"
    )
