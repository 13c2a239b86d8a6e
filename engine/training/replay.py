"""A bad batch looked at again: `train.replay=12` puts the batch of `nan-step-12/` through the weights kept beside it.

Told are the loss of each micro-batch, the first part of the network whose result is not finite, and the gradients that are
not. Nothing is trained or changed.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from engine.checkpointing import checkpoint
from engine.errors import ConfigError, suggest


def replay(module: nn.Module, folder: Path, step: int, accelerator: Accelerator) -> str:
    """What a person is told. Raises ConfigError when the run has kept no bad batch of that step."""
    kept = folder / f"nan-step-{step}"
    batches = sorted(kept.glob("batch-*.safetensors"))
    if not batches or not (kept / checkpoint.WEIGHTS_NAME).is_file():
        there = [path.name.removeprefix("nan-step-") for path in folder.glob("nan-step-*")]
        raise ConfigError(f"train.replay: {folder} has kept no bad batch of step {step}{suggest(str(step), there)}")
    checkpoint.load_model_state(module, load_file(kept / checkpoint.WEIGHTS_NAME), kept)
    module.to(accelerator.device).train()
    lines = []
    for path in batches:
        inputs = {name: tensor.to(accelerator.device) for name, tensor in load_file(path).items()}
        module.zero_grad(set_to_none=True)
        first: list[str] = []
        with ExitStack() as hooks:
            for name, part in module.named_modules():
                hook = part.register_forward_hook(
                    lambda part, given, result, name=name: None if all_finite(result) else first.append(name)
                )
                hooks.callback(hook.remove)
            with accelerator.autocast():
                output = module(**inputs)
        output.loss.backward()
        bad = [
            name
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        lines += [
            f"{path.name}: loss {output.loss.item() / max(1, output.count.item()):.4f} over {output.count.item():,.0f}",
            f"  first result that is not finite: {first[0] or 'the loss'}" if first else "  every result is finite",
            f"  gradients that are not finite: {len(bad)}" + (f", {', '.join(bad[:4])}" if bad else ""),
        ]
    return "\n".join(lines)


def all_finite(result: object) -> bool:
    """Whether all numbers in a module's result, a tensor or a collection of them, are finite."""
    if isinstance(result, torch.Tensor):
        return not result.is_floating_point() or bool(result.isfinite().all())
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return all(map(all_finite, parts))
