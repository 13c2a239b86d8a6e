"""The twenty lines written beside a graph: how to ask it, with onnxruntime and tokenizers alone."""

from __future__ import annotations

SCRIPT_HEADER = '''"""{what}:  python example.py {asked}   (by onnxruntime and tokenizers alone)"""
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

here = Path(__file__).resolve().parent
config = json.loads((here.parent / "config.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(here.parent / "tokenizer.json"))
tokenizer.enable_truncation({longest})
tokenizer.enable_padding(pad_id={pad_id}, pad_type_id={pad_type_id}, pad_token={pad_token!r})
session = InferenceSession(here / "{file}")
encoded = tokenizer.encode_batch({texts})
made = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
inputs = {{one.name: np.array([getattr(each, made[one.name]) for each in encoded]) for one in session.get_inputs()}}
said = session.run(None, inputs)[0]
'''
SCRIPT_BODIES = {
    "single_label_classification": """for text, logits in zip(sys.argv[1:], said):
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{config['id2label'][str(share.argmax())]}  {share.max():.3f}  {text}")
""",
    "multi_label_classification": """for text, shares in zip(sys.argv[1:], 1 / (1 + np.exp(-said))):
    named = {config["id2label"][str(place)]: share for place, share in enumerate(shares)}
    print([name for name, share in named.items() if share >= config.get("thresholds", {}).get(name, 0.5)], text)
""",
    "regression": """for text, number in zip(sys.argv[1:], said[:, 0]):
    print(f"{number:.4f}  {text}")
""",
    "token_classification": """for each, tags in zip(encoded, said.argmax(-1)):
    for token, tag, mask, special in zip(each.tokens, tags, each.attention_mask, each.special_tokens_mask):
        if mask and not special:
            print(f"{config['id2label'][str(tag)]}  {token}")
""",
    "embedding": """for text, vector in zip(sys.argv[1:], said):
    print(np.round(vector, 4).tolist())
""",
}
SCRIPT_TITLES = {
    "single_label_classification": "The class of texts",
    "multi_label_classification": "The labels of texts",
    "regression": "A number for texts",
    "token_classification": "A tag for each token of texts",
    "embedding": "A vector for each text",
}


def example_script(problem_type: str, tokenizer: object, max_length: int, graph_file: str, pairs: bool = False) -> str:
    """The lines, for what a network says (of pairs of texts), with its tokenizer's padding, the longest text in tokens, and
    the graph's file beside it.
    """
    texts, asked = (
        ("[tuple(sys.argv[1:3])]", '"a text" "its partner"') if pairs else ("sys.argv[1:]", '"a text" "another"')
    )
    return (
        SCRIPT_HEADER.format(
            what=SCRIPT_TITLES[problem_type],
            longest=max_length,
            texts=texts,
            asked=asked,
            pad_id=tokenizer.pad_token_id or 0,
            file=graph_file,
            pad_type_id=tokenizer.pad_token_type_id,
            pad_token=tokenizer.pad_token or "",
        )
        + SCRIPT_BODIES[problem_type]
    )
