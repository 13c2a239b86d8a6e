"""The example script written next to a graph: how to run it with onnxruntime and tokenizers alone."""

from __future__ import annotations

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
SCRIPT_BODIES = {
    "single_label_classification": """for text, logits in zip(sys.argv[1:], outputs):
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{config['id2label'][str(probabilities.argmax())]}  {probabilities.max():.3f}  {text}")
""",
    "multi_label_classification": """for text, probabilities in zip(sys.argv[1:], 1 / (1 + np.exp(-outputs))):
    named = {config["id2label"][str(index)]: probability for index, probability in enumerate(probabilities)}
    print([name for name, value in named.items() if value >= config.get("thresholds", {}).get(name, 0.5)], text)
""",
    "regression": """for text, number in zip(sys.argv[1:], outputs[:, 0]):
    print(f"{number:.4f}  {text}")
""",
    "token_classification": """for encoding, tags in zip(encodings, outputs.argmax(-1)):
    for token, tag, mask, special in zip(encoding.tokens, tags, encoding.attention_mask, encoding.special_tokens_mask):
        if mask and not special:
            print(f"{config['id2label'][str(tag)]}  {token}")
""",
    "embedding": """for text, vector in zip(sys.argv[1:], outputs):
    print(np.round(vector, 4).tolist())
""",
}
SCRIPT_TITLES = {
    "single_label_classification": "Classify texts",
    "multi_label_classification": "Predict the labels of texts",
    "regression": "Predict a number for each text",
    "token_classification": "Tag the tokens of texts",
    "embedding": "Embed texts",
}


def example_script(problem_type: str, tokenizer: object, max_length: int, graph_file: str, pairs: bool = False) -> str:
    """Return the script for the graph in `graph_file`; max_length: in tokens; pairs: whether an input is two texts."""
    header = SCRIPT_HEADER.format(
        title=SCRIPT_TITLES[problem_type],
        example_arguments='"a text" "its partner"' if pairs else '"a text" "another"',
        texts="[tuple(sys.argv[1:3])]" if pairs else "sys.argv[1:]",
        max_length=max_length,
        graph_file=graph_file,
        pad_id=tokenizer.pad_token_id or 0,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token or "",
    )
    return header + SCRIPT_BODIES[problem_type]
