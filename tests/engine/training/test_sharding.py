"""Sharded weights (FSDP2) without several processes: which layers are sharded, resumed states, shares of a batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from data.sampling import shard_batch
from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.errors import ConfigError
from engine.training.distributed import FSDPStrategy, shard_state
from pretrain.config import PretrainTrain
from pretrain.validate_config import validate_config


@pytest.fixture
def process_group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Chain(nn.Module):
    """Applies its layers one after the other."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return states


def test_a_network_with_layers_in_layers_can_be_sharded_and_resumed(process_group, cpu_accelerator):
    torch.manual_seed(0)
    shared, inputs = nn.Linear(3, 3), torch.randn(2, 3)
    network = Chain(Chain(nn.Linear(3, 3), shared), Chain(shared, nn.Linear(3, 3)))
    optimizer = torch.optim.AdamW(network.parameters())
    network(inputs).sum().backward()
    optimizer.step()
    strategy = FSDPStrategy(network, optimizer, cpu_accelerator)
    output = strategy.train_module(inputs)
    assert torch.allclose(output, network(inputs))
    output.sum().backward()
    optimizer.step()
    assert all(isinstance(parameter, DTensor) for parameter in strategy.train_module.parameters())
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


def test_a_resumed_optimizer_state_is_on_the_device_of_the_weights(process_group):
    """The device of the weights is one without numbers, which also a machine without a GPU has."""
    weight = DTensor.from_local(torch.empty(2, 3, device="meta"), init_device_mesh("cpu", (1,)))
    state = shard_state({"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}, weight)
    assert state["step"].device.type == "meta" and isinstance(state["exp_avg"], DTensor)


def test_a_sharded_checkpoint_is_written_after_the_log_and_its_time_is_counted(
    process_group, cpu_accelerator, tmp_path, monkeypatch
):
    network, synced = Chain(nn.Linear(3, 3)), []
    strategy = FSDPStrategy(network, torch.optim.AdamW(network.parameters()), cpu_accelerator)
    log, saver = tmp_path / "log.jsonl", AsyncSaver(tmp_path, 2, 0.0)
    log.write_text("{}\n")

    def record(path: Path) -> None:
        assert not checkpoint.list_checkpoints(tmp_path)
        synced.append(path)

    monkeypatch.setattr("engine.checkpointing.async_saver.fsync", record)
    strategy.save_checkpoint(saver, {"step": 1}, {})
    assert synced == [log] and saver.checkpoint_seconds > 0
    assert checkpoint.list_checkpoints(tmp_path) == [tmp_path / "step-000001"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_sharded_processes_need_the_same_number_of_micro_batches(processes):
    """Each pass of one process waits for all others, so a process with one more would wait forever."""
    outcomes = set()
    for batch_size in range(processes, 14):
        for rows in (None, 1, 2, 3):
            counts = {len(shard_batch(batch_size, index, processes, rows)) for index in range(processes)}
            train = PretrainTrain(lr=1e-3, batch_size=batch_size, micro_batch_size=rows, sharded=True)
            config = SimpleNamespace(train=train, objective=SimpleNamespace(name="mlm"), init_fraction=0.0)
            outcomes.add(len(counts))
            if len(counts) == 1:
                validate_config(config, processes)
                continue
            with pytest.raises(ConfigError) as error:
                validate_config(config, processes)
            message = str(error.value)
            assert message.startswith("train.batch_size: ") and f"={rows}" in message and "\n" not in message
            assert f"{batch_size} rows" in message and f"{processes} processes" in message
            config.train = train.model_copy(update={"sharded": False})
            validate_config(config, processes)
    assert outcomes == ({1} if processes == 1 else {1, 2})
