"""The reference recipe: transformers' `run_mlm` example, or `run_clm`, on the same network, text and machine as ours.

HF `Trainer`, `DataCollatorForLanguageModeling` (15% masked, 80/10/10), `group_texts` (documents concatenated and split
into blocks of one length, with attention across documents), fused AdamW, linear decay. Options are its own flags.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

FASTER = {"bf16": True, "logging_nan_inf_filter": False}  # the filter waits for the device at every step
FLAGS = {"run_mlm": {}, "run_mlm bf16": FASTER, "run_mlm bf16 compile": {**FASTER, "torch_compile": True}}
GPU_WORKERS = 4  # that collate batches at the faster flags; on a CPU they would take the cores from the training
BATCH_SIZE = 8  # run_mlm's default, and its fastest on the machines of RESULTS.md


def prepare(dataset, tokenizer, max_length: int):
    """Tokenize, concatenate and split a `datasets.Dataset` with a column `text` into blocks, as run_mlm does."""
    tokens = dataset.map(
        lambda rows: tokenizer(rows["text"], return_special_tokens_mask=True),
        batched=True,
        num_proc=os.cpu_count(),
        remove_columns=dataset.column_names,
    )

    def group_texts(rows: dict) -> dict:
        joined = {name: [value for values in lists for value in values] for name, lists in rows.items()}
        starts = range(0, len(joined["input_ids"]) // max_length * max_length, max_length)
        return {name: [values[start : start + max_length] for start in starts] for name, values in joined.items()}

    return tokens.map(group_texts, batched=True, num_proc=os.cpu_count())


def train(model, train_dataset, tokenizer, after_step: Callable[[int], bool], is_causal: bool = False, **flags) -> None:
    """Train with `Trainer`, without its output, for `max_steps` or until `after_step(step)` returns True.

    is_causal: as run_clm does, which predicts the next tokens of the same blocks.
    """
    import torch
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    class StepCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = after_step(state.global_step) or control.should_training_stop

    if flags.get("bf16") and torch.cuda.is_available():
        flags["dataloader_num_workers"] = GPU_WORKERS
    silent = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model,
            TrainingArguments(folder, use_cpu=not torch.cuda.is_available(), **silent, **flags),
            train_dataset=train_dataset,
            callbacks=[StepCallback()],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=not is_causal),
        ).train()


def load_documents(folder: Path, max_documents: int | None = None):
    """Return the first documents of a corpus folder as a `datasets.Dataset` with a column `text`."""
    from datasets import Dataset

    from data.corpus.documents import iter_documents

    return Dataset.from_dict({"text": [document["text"] for document in islice(iter_documents(folder), max_documents)]})


def to_transformers(model):
    """Return a copy of the model with transformers' own operations and its configured dropout."""
    from transformers.models.llama import modeling_llama
    from transformers.models.modernbert import modeling_modernbert
    from transformers.models.modernbert_decoder import modeling_modernbert_decoder

    from engine.kernels import attention
    from pretrain.model.rms_norm import original_rms_norm

    modeling_llama.LlamaRMSNorm.forward = original_rms_norm
    for module in (modeling_llama, modeling_modernbert, modeling_modernbert_decoder):
        module.apply_rotary_pos_emb = attention.original_apply_rotary_pos_emb
    model.config._attn_implementation = "sdpa"
    copy = type(model)._from_config(model.config)
    copy.load_state_dict(model.state_dict())
    return copy
