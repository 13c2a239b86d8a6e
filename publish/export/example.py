"""The example script written next to a graph: how to run it with onnxruntime and tokenizers alone."""

from data.tasks.problem_types import ProblemType

SCRIPT_HEADER = '''"""{title}:  python example.py {example_arguments}   (onnxruntime and tokenizers only)"""
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder = Path(__file__).resolve().parent
config = json.loads((folder.parent / "config.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder.parent / "tokenizer.json"))
tokenizer.enable_truncation({max_length})
tokenizer.enable_padding(pad_id={pad_id}, pad_type_id={pad_type_id}, pad_token={pad_token!r})
session = InferenceSession(folder / "{graph_file}")
encodings = tokenizer.encode_batch({texts})
fields = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
inputs = {{node.name: np.array([getattr(e, fields[node.name]) for e in encodings]) for node in session.get_inputs()}}
outputs = session.run(None, inputs)[0]
'''


def example_script(
    problem_type: ProblemType, tokenizer: object, max_length: int, graph_file: str, pairs: bool = False
) -> str:
    """Return the script for the graph in `graph_file`; max_length: in tokens; pairs: whether an input is two texts."""
    header = SCRIPT_HEADER.format(
        title=problem_type.example_title.format(inputs="texts"),
        example_arguments='"a text" "its partner"' if pairs else '"a text" "another"',
        texts="[tuple(sys.argv[1:3])]" if pairs else "sys.argv[1:]",
        max_length=max_length,
        graph_file=graph_file,
        pad_id=tokenizer.pad_token_id or 0,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token or "",
    )
    return header + problem_type.example_code
