"""Ways to adapt: what learns at a step and what must not, the cache of what is frozen, averages, adapters, the probe."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import ROOT, environment, run_module
from safetensors.torch import load_file, save_file
from tiny_training import run_training, train_settings
from transformers import AutoModel, AutoTokenizer, BertConfig, ModernBertConfig

from data.encoders import resolve_encoder
from data.tasks.task import Example
from engine.checkpointing import checkpoint
from engine.config.loader import load_config
from engine.errors import ConfigError
from engine.runs.run import Run
from engine.training.distributed import make_accelerator
from finetune import linear_probe, training
from finetune.config import Finetune, Layers
from finetune.dataset import tokenize_examples
from finetune.model import adapters, layerwise
from finetune.model.frozen_cache import FrozenLayerCache, find_layer_list
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
    """Networks with random weights and a real tokenizer, a folder for each architecture; and a file of labels."""
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        AutoModel.from_config(shape).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "1_Pooling").mkdir()
        (folder / name / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 24))) for _ in range(120)]
    (folder / "labels.csv").write_text(
        "text,label\n" + "".join(f"{text},{['no', 'perhaps', 'yes'][place % 3]}\n" for place, text in enumerate(texts))
    )
    return folder


def words(encoders: Path, *more: str, kind: str = "bert") -> list[str]:
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


def teach(
    encoders: Path, folder: Path, *more: str, kind: str = "bert", megabytes: float | None = None
) -> training.FineTuneOutput:
    """A fine-tuning in `folder`, of 48 texts and 16 to validate and test on."""
    config = resolve_config(load_config(Finetune, words(encoders, *more, kind=kind)), kind, encoders / kind, 48)
    if megabytes:
        config = config.model_copy(update={"layers": config.layers.model_copy(update={"cache_mb": megabytes})})
    rows = [line.split(",") for line in (encoders / "labels.csv").read_text().splitlines()[1:]]
    examples = [Example((text,), label) for text, label in rows]
    splits = {"train": examples[:48], "validation": examples[48:64], "test": examples[64:80]}
    alone = make_accelerator("float32")
    return training.finetune_model(
        encoders / kind,
        config,
        splits,
        ["no", "perhaps", "yes"],
        Run(config, "r", alone.is_main_process, folder),
        alone,
        "t",
    )


def weights(taught: training.FineTuneOutput) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in taught.head.named_parameters()}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture(autouse=True)
def afresh():
    """Accelerate keeps one state a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# ---- what learns ----------------------------------------------------------------------------------------------------


def test_the_lowest_layers_may_never_learn():
    reached = [
        layerwise.trainable_depth(
            step, 5, Layers(unfreeze_every=2, unfreeze_unit="steps", num_frozen=2, train_embeddings=True), 9, 12
        )
        for step in range(0, 12, 2)
    ]
    assert reached == [0, 2, 3, 3, 3, 3]
    assert (
        layerwise.trainable_depth(0, 5, Layers(num_frozen=1), 9, 12) == 4
        and layerwise.trainable_depth(0, 5, Layers(num_frozen=9), 9, 12) == 0
    )


def moves(encoders: Path, folder: Path, *more: str) -> training.FineTuneOutput:
    """Holds every step's checkpoint against the one before: what lies no deeper than the step reaches, and nothing else."""
    more = *GRADUAL, "layers.train_embeddings=true", "layers.freeze_at=[0.9]", "train.steps=13", *more
    taught = teach(encoders, folder, "train.save_every=1", "train.keep_checkpoints=99", *more)
    config = load_config(Finetune, words(encoders, *more)).layers
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return taught
    kept = [load_file(path / "model.safetensors") for path in checkpoint.list_checkpoints(folder)]
    assert len(kept) == 13 and len({layerwise.trainable_depth(step, DEPTH, config, 6, 13) for step in range(13)}) == 6
    for step, (old, new) in enumerate(zip(kept, kept[1:]), 1):
        deepest = layerwise.trainable_depth(step, DEPTH, config, 6, 13)
        for name in old:
            learns = layerwise.layer_depth(name, DEPTH) <= deepest and f".layer.{DEPTH}." not in name
            assert learns != old[name].equal(new[name]), (step, name)
    return taught


@pytest.mark.parametrize("more", [(), ("adapter={name: lora, rank: 2}",), ("adapter.name=ia3",)])
def test_each_step_moves_what_it_should_and_nothing_else(encoders, tmp_path, more):
    after = weights(moves(encoders, tmp_path, *more))
    if more:
        before = weights(teach(encoders, tmp_path / "before", *more, "train.steps=1"))
        kept = [name for name in after if not any(part in name for part in (".lora_", ".ia3_", ".modules_to_save."))]
        assert all(after[name].equal(before[name]) for name in kept) and any("original_module" in name for name in kept)
        names = load_file(checkpoint.list_checkpoints(tmp_path)[0] / "model.safetensors")
        assert all(".lora_" in name or ".ia3_" in name or ".modules_to_save." in name for name in names), (
            "checkpoints are small"
        )


def two(encoders: Path, folder: Path) -> None:
    """What each of two processes does; each leaves its weights."""
    moves(encoders, folder / "moves")
    for name, more in WAYS.items():
        for cache in ("true", "false"):
            taught = teach(encoders, folder / f"{name}-{cache}", *more, f"layers.cache_frozen={cache}")
            save_file(weights(taught), folder / f"{name}-{cache}-{torch.distributed.get_rank()}.safetensors")


WAYS = {
    "settling": ["layers.freeze_at=[0.3]", "train.steps=20", "dropout=0"],
    "frozen": ["layers.num_frozen=3", "dropout=0"],
    "gradual": [*GRADUAL, "dropout=0", "train.load_best=true", "train.patience=9"],
    "lora": ["adapter={name: lora, rank: 2}", *GRADUAL, "dropout=0", "train.average_fraction=0.5"],
}


DRIVER = """
import os, sys
from pathlib import Path
import test_adapt, torch
encoders, folder = map(Path, sys.argv[1:])
test_adapt.two(encoders, folder)
torch.distributed.barrier()
(folder / "done").touch()
os._exit(0)  # gloo's threads now and then abort a process that ends by itself
"""


def test_two_processes_learn_what_one_does_and_stay_alike(encoders, tmp_path):
    # Processes of their own: one forked off this one would wait for ever for the threads that tokenizers had here.
    (tmp_path / "driver.py").write_text(DRIVER)
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(tmp_path / "driver.py"),
            str(encoders),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"),
    )
    assert (tmp_path / "done").is_file(), told.stderr[-3000:]
    for name, more in WAYS.items():
        expected = weights(teach(encoders, tmp_path / f"{name}-alone", *more))
        for cache in ("true", "false"):
            ranks = [load_file(tmp_path / f"{name}-{cache}-{rank}.safetensors") for rank in range(2)]
            assert furthest(*ranks) == 0, f"{name}: the processes drifted apart"
            assert furthest(ranks[0], expected) < 1e-5, name


# ---- what is frozen is computed once --------------------------------------------------------------------------------


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
    compute = FrozenLayerCache.compute_group
    monkeypatch.setattr(
        FrozenLayerCache,
        "compute",
        lambda trunk, group, device: (
            computed.append((trunk.boundary, trunk.hash_weights_below(trunk.boundary), group)),
            compute(trunk, group, device),
        ),
    )
    cached = teach(encoders, tmp_path / "cached", *more, kind=kind, megabytes=megabytes)
    assert computed and len(computed) == len(set(computed)), "each group once for the weights below a boundary"
    count = len(computed)
    plain = teach(encoders, tmp_path / "plain", *more, "layers.cache_frozen=false", kind=kind)
    assert len(computed) == count
    assert furthest(weights(cached), weights(plain)) < 1e-5
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    for split in cached.predictions:
        assert np.allclose(cached.predictions[split], plain.predictions[split], atol=1e-5), split
    assert not list((tmp_path / "cached").glob("trunk*")), "nothing is left behind"


@pytest.mark.parametrize("kind", SHAPES)
def test_a_boundary_that_moves_up_goes_on_from_what_is_kept_to_the_last_bit(encoders, tmp_path, kind):
    splits = [
        tokenize_examples([Example((text,), "") for text in texts], encoders / kind, 32, "test")
        for texts in (
            ("A film.", "A film of two hours, and long.", "No.", "A film.", "It was long."),
            ("No.", "A short one."),
        )
    ]
    base, computed = AutoModel.from_pretrained(encoders / kind, dtype=torch.float32).eval(), []
    getattr(*find_layer_list(base))[0].register_forward_hook(lambda *_: computed.append("lowest"))

    def states(trunk: FrozenLayerCache, boundary: int) -> list[torch.Tensor]:
        trunk.set_boundary(boundary)
        with torch.no_grad():
            return [base(**texts.get_inputs(np.arange(len(texts.lengths)))).last_hidden_state for texts in splits]

    trunk = FrozenLayerCache(base, splits, tmp_path, 1)
    moved = {boundary: states(trunk, boundary) for boundary in (1, 3, 2)}
    trunk.close()
    # The second split holds a text of the first, which may be further along than the others: computed anew.
    assert len(computed) == 2 + 1 + 2
    for boundary, found in moved.items():
        fresh = FrozenLayerCache(base, splits, tmp_path, 1)
        assert all(one.equal(other) for one, other in zip(states(fresh, boundary), found))
        fresh.close()


def test_frozen_layers_are_constants_and_the_others_drop_out(encoders, tmp_path):
    taught = teach(encoders, tmp_path, "train.steps=1")
    model, inputs = taught.model, {"input_ids": torch.tensor([[101, 2023, 2143, 102]])}
    model.train()
    layerwise.freeze_below(model, 2, DEPTH, set())
    below, above = (
        [model(**inputs, output_hidden_states=True).hidden_states[place] for _ in range(2)] for place in (2, 3)
    )
    assert below[0].equal(below[1]) and not above[0].equal(above[1])


# ---- starts and ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
def test_the_top_layers_start_afresh(encoders, kind):
    from finetune.heads import classification

    built, again = (
        classification.build(classification.Config(), encoders / kind, ["no", "yes"], 0.0)[0] for _ in range(2)
    )
    layerwise.reinitialize_top_layers(again, 2, DEPTH)
    for (name, old), new in zip(built.named_parameters(), again.parameters()):
        drawn = (
            layerwise.LAYER_PATTERN.search(f".{name}")
            and 1 <= layerwise.layer_depth(f".{name}", DEPTH) <= 2
            and old.ndim > 1
        )
        if "classifier" not in name and "head" not in name:
            assert bool(drawn) != old.equal(new), name
        assert not drawn or 0.001 < new.std() < 0.05, "as the architecture draws them"
    with pytest.raises(ConfigError, match="layers.reinit_layers: 5 is more than the encoder's 4 layers"):
        layerwise.reinitialize_top_layers(built, 5, DEPTH)


@pytest.mark.parametrize("stops", [[], [3], [7, 9]])
def test_the_average_is_the_mean_of_the_last_weights_also_after_a_stop(tmp_path, cpu_accelerator, stops):  # noqa: F811
    config = train_settings(average=0.4, save_every=1, keep=99, log_every=1)
    for fails_at in stops:
        with pytest.raises(InterruptedError):
            run_training(tmp_path, cpu_accelerator, config, fail_at_step=fails_at)
    seen = []
    module, *_ = run_training(
        tmp_path,
        cpu_accelerator,
        config,
        make_hooks=lambda module: {"evaluate": lambda: seen.append(module.first.weight.detach().clone()) or {}},
    )
    kept = [load_file(path / "model.safetensors") for path in checkpoint.list_checkpoints(tmp_path)]
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach().cpu(), torch.stack([step[name] for step in kept[6:]]).mean(0))
        assert not kept[-1][name].equal(parameter.cpu()), "what is trained on is not the mean"
    assert seen[-1].equal(module.first.weight), "the mean is what is evaluated"
    whole, *_ = run_training(tmp_path / "whole", cpu_accelerator, config)
    assert all(one.equal(other) for one, other in zip(module.parameters(), whole.parameters()))


def test_an_interrupted_adaptation_ends_as_an_uninterrupted_one(encoders, tmp_path, monkeypatch):
    import engine.training.trainer

    more = [
        "adapter={name: lora, rank: 2, dropout: 0.2}",
        *GRADUAL[:2],
        "layers.num_frozen=1",
        "train.average_fraction=0.6",
        "train.save_every=2",
        "train.load_best=true",
    ]
    whole = weights(teach(encoders, tmp_path / "whole", *more))
    rate = engine.training.trainer.learning_rate
    for stop in (3, 5):

        def stopping(step, *rest):
            if step == stop:
                raise InterruptedError
            return rate(step, *rest)

        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(engine.training.trainer, "learning_rate", stopping)
            teach(encoders, tmp_path / "cut", *more)
    assert furthest(weights(teach(encoders, tmp_path / "cut", *more)), whole) == 0


# ---- adapters and the probe -----------------------------------------------------------------------------------------

RELOAD = """
import importlib.util, sys
assert importlib.util.find_spec("finetune") is None, "our code is in reach"
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification as Plain
for name in sys.argv[1:]:
    inputs = load_file(f"{name}/inputs.safetensors")
    told = inputs.pop("told")
    for model in (Plain.from_pretrained(f"{name}/model"), AutoPeftModelForSequenceClassification.from_pretrained(f"{name}/adapter"),
                  PeftModel.from_pretrained(Plain.from_pretrained(f"{name}/base"), f"{name}/adapter")):
        with torch.no_grad():
            found = model.eval()(**inputs).logits.softmax(-1)
        assert (found - told).abs().max() < 1e-5, (name, type(model), (found - told).abs().max())
print("the same")
"""

KINDS = {
    "lora": ("bert", "{name: lora, rank: 2}"),
    "dora": ("bert", "{name: lora, dora: true, rslora: true, targets: [query, value]}"),
    "ia3": ("bert", "{name: ia3}"),
    "modern": ("modernbert", "{name: lora, rank: 2}"),
    "modern-ia3": ("modernbert", "{name: ia3}"),
}


def test_adapters_and_merged_models_are_loaded_by_others(encoders, tmp_path):
    from finetune.model.build import scale_output

    for name, (kind, told) in KINDS.items():
        taught = teach(encoders, tmp_path / name, f"adapter={told}", kind=kind)
        scale_output(taught.model, 0.5)
        adapted = [module for module, _ in taught.model.named_modules() if module.endswith((".lora_A", ".ia3_l"))]
        assert adapted and not any(f".layer.{DEPTH}." in module for module in adapted), "the pooling layer has none"
        inputs = AutoTokenizer.from_pretrained(encoders / kind)(
            ["a warm film", "the plot never bright dull"],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=kind == "bert",
        )
        with torch.no_grad():
            logits = taught.model(**inputs).logits
        save_file({**inputs, "told": logits.softmax(-1)}, tmp_path / name / "inputs.safetensors")
        adapters.save_adapter(taught.peft_model, tmp_path / name)
        adapters.merge_adapters(taught.peft_model)
        with torch.no_grad():
            assert torch.allclose(taught.head.predict(**inputs), logits.softmax(-1), atol=1e-5)
        taught.model.save_pretrained(tmp_path / name / "model")
        assert not any(
            "lora" in key or "modules_to_save" in key for key in load_file(tmp_path / name / "model/model.safetensors")
        )
        sizes = [
            (tmp_path / name / part).stat().st_size
            for part in ("adapter/adapter_model.safetensors", "base/model.safetensors")
        ]
        assert sizes[0] < sizes[1] / 20
    done = run_module(
        "-c", RELOAD, *KINDS, prefix=(sys.executable, "-P"), cwd=tmp_path, PYTHONPATH="", CUDA_VISIBLE_DEVICES=""
    )
    assert done.stdout.strip() == "the same", done.stderr


def test_targets_that_no_layer_has_are_told(encoders, tmp_path):
    with pytest.raises(
        ConfigError, match="adapter.target_modules: no linear layer of the encoder ends in kwery; there are dense, key,"
    ):
        teach(encoders, tmp_path / "none", "adapter={name: lora, targets: [value, kwery]}")
    with pytest.raises(ConfigError, match="adapter.rank: is of adapter.name=lora, not ia3"):
        teach(encoders, tmp_path / "none", "adapter={name: ia3, rank: 4}")
    with pytest.raises(ConfigError, match="layers.linear_probe: wants"):
        teach(encoders, tmp_path / "none", "adapter.name=lora", "layers.linear_probe=true")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("names", [("no", "yes"), ("no", "perhaps", "yes")])
def test_the_probe_written_into_the_layer_says_what_sklearn_says(encoders, names):
    from finetune.heads import classification

    draw = np.random.default_rng(0)
    model, _ = classification.build(classification.Config(), encoders / "bert", list(names), 0.1)
    features, labels = draw.normal(size=(60, 32)).astype(np.float32), np.arange(60) % len(names)
    features[:, 0] += labels
    solution = linear_probe.fit_logistic_regression(features, labels, 0)
    linear_probe.copy_to_last_layer(solution, model)
    found = linear_probe.get_last_linear(model)(torch.from_numpy(features)).softmax(-1).detach().numpy()
    assert np.abs(found - solution.predict_proba(features)).max() < 1e-5
    assert (found.argmax(-1) == labels).mean() > 0.5
    assert linear_probe.fit_logistic_regression(features[:3], np.arange(3) % len(names), 0).C == 1, (
        "one text of a class leaves nothing to choose by"
    )


def test_the_probe_is_a_model_like_any_other(encoders, tmp_path):
    taught = teach(encoders, tmp_path, "layers.linear_probe=true")
    again = teach(encoders, tmp_path / "again", "train.steps=1")
    for (name, parameter), other in zip(taught.model.named_parameters(), again.model.parameters()):
        assert "classifier" in name or ".embeddings." not in name or parameter.equal(other)
    assert taught.train_result.step == 0 and taught.metrics["test"]["n"] == 16


# ---- what a person types --------------------------------------------------------------------------------------------

ADAPT = {"full", "probe", "lora", "ia3", "gradual", "top"}


def test_every_way_has_a_file_that_goes_on_top_of_a_task_s():
    task = str(ROOT / "configs/finetune/sentiment.yaml")
    found = {path.stem: load_config(Finetune, [task, str(path)]) for path in (ROOT / "configs/adapt").glob("*.yaml")}
    alone = load_config(Finetune, [task])
    assert found.keys() >= ADAPT and all(each != alone for each in found.values())
    assert alone.layers.freeze_at and not found["full"].layers.freeze_at and not found["gradual"].layers.freeze_at


def test_the_command_with_lora(encoders, workspace):
    from finetune.__main__ import main

    main([*words(encoders, "train.steps=2"), "configs/method/lora.yaml"])
    folder = workspace / "out/runs/r"
    assert {path.name for path in folder.iterdir()} >= {"model", "adapter", "base", "metrics.json"}
    assert not list(folder.glob("step-*")) and not (folder / "adapter/README.md").exists()
    assert (
        json.loads((folder / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "out/runs/r/base"
    )
