"""The twenty lines written beside a graph: how to ask it, with onnxruntime and tokenizers alone."""

from __future__ import annotations

BEGINS = '''"""{what}:  python example.py {asked}   (by onnxruntime and tokenizers alone)"""
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
ENDS = {
    "class": '''for text, logits in zip(sys.argv[1:], said):
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{config['id2label'][str(share.argmax())]}  {share.max():.3f}  {text}")
''',
    "labels": '''for text, shares in zip(sys.argv[1:], 1 / (1 + np.exp(-said))):
    named = {config["id2label"][str(place)]: share for place, share in enumerate(shares)}
    print([name for name, share in named.items() if share >= config.get("thresholds", {}).get(name, 0.5)], text)
''',
    "number": '''for text, number in zip(sys.argv[1:], said[:, 0]):
    print(f"{number:.4f}  {text}")
''',
    "tags": '''for each, tags in zip(encoded, said.argmax(-1)):
    for token, tag, mask, special in zip(each.tokens, tags, each.attention_mask, each.special_tokens_mask):
        if mask and not special:
            print(f"{config['id2label'][str(tag)]}  {token}")
''',
    "vectors": '''for text, vector in zip(sys.argv[1:], said):
    print(np.round(vector, 4).tolist())
'''}
DOES = {"class": "The class of texts", "labels": "The labels of texts", "number": "A number for texts",
        "tags": "A tag for each token of texts", "vectors": "A vector for each text"}


def example(says: str, tokenizer: object, longest: int, file: str, pairs: bool = False) -> str:
    """The lines, for what a network says (of pairs of texts), with its tokenizer's padding, the longest text in tokens, and
    the graph's file beside it."""
    texts, asked = ("[tuple(sys.argv[1:3])]", '"a text" "its partner"') if pairs else ("sys.argv[1:]", '"a text" "another"')
    return BEGINS.format(what=DOES[says], longest=longest, texts=texts, asked=asked, pad_id=tokenizer.pad_token_id or 0, file=file,
                         pad_type_id=tokenizer.pad_token_type_id, pad_token=tokenizer.pad_token or "") + ENDS[says]
