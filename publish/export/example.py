"""The example script written next to a graph: how to run it without torch and transformers."""

import inspect

import numpy as np

from data.tasks.problem_types import ProblemType

TEXT_HEADER = '''"""{title}:  python example.py {example_arguments}   (onnxruntime and tokenizers only)"""
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder = Path(__file__).absolute().parent
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
IMAGE_HEADER = '''"""{title}:  python example.py photo.jpg another.png   (onnxruntime, Pillow and numpy only)"""
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps


{function}

folder = Path(__file__).absolute().parent
config = json.loads((folder.parent / "config.json").read_text(encoding="utf-8"))
session = InferenceSession(folder / "{graph_file}")
images = [ImageOps.exif_transpose(Image.open(path)) for path in sys.argv[1:]]
outputs = session.run(None, {{"pixel_values": np.stack([read_image(image, *{settings}) for image in images])}})[0]
'''


def text_script(
    problem_type: ProblemType, tokenizer: object, max_length: int, graph_file: str, pairs: bool = False
) -> str:
    """Return the script for the graph in `graph_file`; max_length: in tokens; pairs: whether an input is two texts."""
    header = TEXT_HEADER.format(
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


def read_image(image, mode, width, height, shortest, resample, mean, std):
    """Scale an image, its shorter side to `shortest` if it is given, cut out the center, and normalize the channels."""
    image = image.convert(mode)
    scaled = [max(shortest, int(shortest * side / min(image.size))) for side in image.size] if shortest else None
    image = image.resize(scaled or (width, height), resample)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    pixels = (pixels.reshape(height, width, -1) - np.float32(mean)) / np.float32(std)
    return pixels.transpose(2, 0, 1)


def image_script(problem_type: ProblemType, settings: tuple, graph_file: str) -> str:
    """Return the script for the graph in `graph_file`. settings: the arguments of `read_image` after the image."""
    title = problem_type.example_title.format(inputs="images")
    header = IMAGE_HEADER.format(
        title=title, function=inspect.getsource(read_image), settings=settings, graph_file=graph_file
    )
    return header + problem_type.example_code.replace("text", "path")
