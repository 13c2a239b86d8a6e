"""The recipe people copy today: transformers' `run_mlm` example, on a model, text and machine of ours.

HF `Trainer`, `DataCollatorForLanguageModeling` (15 % hidden, 80/10/10), `group_texts` (documents joined and cut into blocks
of one length, attention across their bounds), fused AdamW, linear decay. What can be chosen for it are its own flags.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

FLAGS = {"run_mlm": {}, "run_mlm bf16": {"bf16": True}, "run_mlm bf16 compile": {"bf16": True, "torch_compile": True}}
BATCH_SIZE = 8  # its default, rows a step; on these machines its fastest too


def prepare(dataset, tokenizer, max_length: int):
    """run_mlm's data set of a `datasets.Dataset` with a column `dataset`: tokenise every text, join them, cut blocks."""
    tokens = dataset.map(
        lambda rows: tokenizer(rows["text"], return_special_tokens_mask=True),
        batched=True,
        num_proc=os.cpu_count(),
        remove_columns=dataset.column_names,
    )

    def blocks(rows: dict) -> dict:
        joined = {name: [value for values in lists for value in values] for name, lists in rows.items()}
        total = len(joined["input_ids"]) // max_length * max_length
        return {
            name: [values[at : at + max_length] for at in range(0, total, max_length)]
            for name, values in joined.items()
        }

    return tokens.map(blocks, batched=True, num_proc=os.cpu_count())


def train(model, train_dataset, tokenizer, after_step: Callable[[int], bool], **flags) -> None:
    """Train by `Trainer` until the flags' `max_steps`, or `after_step(step)` says so; its tables and bars are silenced."""
    import torch
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    class Told(TrainerCallback):
        def on_step_end(self, arguments, state, control, **rest):
            control.should_training_stop = after_step(state.global_step) or control.should_training_stop

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            **flags,
        )
        Trainer(
            model,
            arguments,
            train_dataset=train_dataset,
            callbacks=[Told()],
            data_collator=DataCollatorForLanguageModeling(tokenizer),
        ).train()


def load_documents(folder: Path, max_documents: int | None = None):
    """The first documents of a corpus folder as a `datasets.Dataset` with a column `text`."""
    from datasets import Dataset

    from data.corpus.documents import iter_documents

    return Dataset.from_dict({"text": [document["text"] for document in islice(iter_documents(folder), max_documents)]})


def to_transformers(model):
    """A network of ours as transformers would have it: its own attention and rotation, the dropout its configuration says."""
    from transformers import AutoModelForMaskedLM
    from transformers.models.modernbert import modeling_modernbert

    from engine.kernels import attention

    modeling_modernbert.apply_rotary_pos_emb = attention.original_apply_rotary_pos_emb
    model.config._attn_implementation = "sdpa"
    fresh = AutoModelForMaskedLM.from_config(model.config)
    fresh.load_state_dict(model.state_dict())
    return fresh
