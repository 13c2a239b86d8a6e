"""Rerun a bad batch: `train.replay=12` runs the batch and weights of `nan-step-12/` and trains nothing."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from engine.checkpointing import checkpoint
from engine.errors import ConfigError, suggest


def replay(module: nn.Module, folder: Path, step: int, accelerator: Accelerator) -> str:
    """Report losses, non-finite outputs and gradients. Raises ConfigError if no batch of `step` was saved."""
    dump = folder / f"nan-step-{step}"
    batches = sorted(dump.glob("batch-*.safetensors"))
    if not batches or not (dump / checkpoint.WEIGHTS_NAME).is_file():
        saved = [path.name.removeprefix("nan-step-") for path in folder.glob("nan-step-*")]
        raise ConfigError(f"train.replay: {folder} has no saved batch of step {step}{suggest(str(step), saved)}")
    checkpoint.load_model_state(module, load_file(dump / checkpoint.WEIGHTS_NAME), dump)
    module.to(accelerator.device).train()
    lines = []

    def record(names: list[str], name: str, part: nn.Module, args: tuple, output: object) -> None:
        if not all_finite(output):
            names.append(name)

    for path in batches:
        inputs = {name: tensor.to(accelerator.device) for name, tensor in load_file(path).items()}
        module.zero_grad(set_to_none=True)
        non_finite: list[str] = []
        with ExitStack() as hooks, accelerator.autocast():
            for name, part in module.named_modules():
                hooks.callback(part.register_forward_hook(partial(record, non_finite, name)).remove)
            output = module(**inputs)
        output.loss.backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        count = output.count.item()
        lines += [
            f"{path.name}: loss {output.loss.item() / max(1, count):.4f} over {count:,.0f}",
            f"  first non-finite output: {non_finite[0] or 'the loss'}" if non_finite else "  all outputs are finite",
            f"  non-finite gradients: {len(bad)}" + (f", {', '.join(bad[:4])}" if bad else ""),
        ]
    return "\n".join(lines)


def all_finite(output: object) -> bool:
    """Return whether all numbers in a module's output, a tensor or a collection of tensors, are finite."""
    if isinstance(output, torch.Tensor):
        return not output.is_floating_point() or bool(output.isfinite().all())
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return all(map(all_finite, parts))
