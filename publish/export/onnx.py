"""A folder's network as an ONNX graph, any number of texts of any length, and the same with whole-number weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx_ir
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from torch import Tensor, nn
from torch.export import Dim
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
from transformers.exporters.configs import ExportFormat

from engine.errors import DataError
from engine.files import read_json

BLOCK_SIZE = 64  # weights of a scale
TRACE_TEXTS = (
    "a film to remember",
    "Nothing in it is new, and that is all there is to say of it.",
)  # what is traced, as a pair


class LoadedModel(NamedTuple):
    """What is exported."""

    module: nn.Module
    """Takes what the tokenizer makes, by name; gives a dict of tensors, the first being what the network says."""
    tokenizer: object
    problem_type: str
    """class, labels, number, tags, or vectors: of an encoder."""
    config: dict
    """Its config.json."""


class LogitsModel(nn.Module):
    """A network with a head: its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"logits": (texts, labels), or (texts, tokens, tags)}."""
        return {"logits": self.model(**inputs).logits}


class EmbeddingModel(nn.Module):
    """An encoder and its pooling: what sentence-transformers makes of its folder."""

    def __init__(self, model: nn.Module, mean_pooling: bool, normalize: bool):
        super().__init__()
        self.model, self.mean_pooling, self.normalize = model, mean_pooling, normalize

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"sentence_embedding": (texts, width), "last_hidden_state": (texts, tokens, width)}."""
        states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        vectors = (states * mask).sum(1) / mask.sum(1) if self.mean_pooling else states[:, 0]
        return {
            "sentence_embedding": nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors,
            "last_hidden_state": states,
        }


def load_model(folder: Path) -> LoadedModel:
    """The network in `folder`, as plain transformers loads it. Raises DataError where it cannot."""
    config = read_json(folder / "config.json")
    name = (config.get("architectures") or [""])[0]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if name.endswith("ForTokenClassification"):
            says, module = "token_classification", LogitsModel(AutoModelForTokenClassification.from_pretrained(folder))
        elif name.endswith("ForSequenceClassification"):
            says = config.get("problem_type") or "single_label_classification"
            module = LogitsModel(AutoModelForSequenceClassification.from_pretrained(folder))
        else:
            says, module = "embedding", EmbeddingModel(AutoModel.from_pretrained(folder), *read_pooling(folder))
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from None
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: its tokenizer is not in a tokenizer.json, which what runs the graph reads")
    return LoadedModel(module.float().eval(), tokenizer, says, config)


def read_pooling(folder: Path) -> tuple[bool, bool]:
    """(whether the tokens' mean is the text's vector, else the first token is; whether it is brought to length 1), as
    sentence-transformers writes it; the mean when unsaid.
    """
    pooling, modules = folder / "1_Pooling" / "config.json", folder / "modules.json"
    told = read_json(pooling) if pooling.is_file() else {}
    first = told.get("pooling_mode") == "cls" or told.get("pooling_mode_cls_token", False)
    return not first, modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8")


@contextlib.contextmanager
def silence_exporters() -> Iterator[None]:
    """Without the exporters' progress and warnings, which tell their makers something and nobody else."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_onnx(model: LoadedModel) -> onnx_ir.Model:
    """The graph. Its inputs are those of the tokenizer, int64 (texts, tokens)."""
    texts = model.tokenizer(list(TRACE_TEXTS), padding=True, return_tensors="pt")
    axes = {0: Dim("texts", min=1), 1: Dim("tokens", min=2, max=model.config.get("max_position_embeddings", 8192))}
    with silence_exporters():
        graph = (
            OnnxExporter()
            .export(
                model.module,
                dict(texts),
                config=OnnxConfig(dynamic=True, dynamic_shapes={name: axes for name in texts}),
            )
            .program
        )
    names = dict(zip(map(str, graph.graph.inputs[0].shape), ("texts", "tokens")))
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.shape = onnx_ir.Shape([names.get(str(size), size) for size in value.shape])
    return graph


def quantize_int8(graph: onnx_ir.Model) -> onnx_ir.Model:
    """The graph with its matrices in int8, a scale for each BLOCK of a column, and its embeddings, a scale for each table.

    What the matrices are multiplied with is rounded as it comes, by blocks of each token's vector, so that what is said
    of a text does not depend on the texts beside it. (One scale for all of them, as in onnxruntime's dynamic quantization,
    was three times as far from float32: docs/lab-notebook.) The product is onnxruntime's own operator, MatMulNBits.
    """
    settings = DefaultWeightOnlyQuantConfig(block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=4, bits=8)
    embeddings = OnnxRuntimeDynamicConfig(op_types_to_quantize=["Gather"])
    with silence_exporters():
        matrices = MatMulNBitsQuantizer(onnx_ir.to_proto(graph), bits=8, algo_config=settings)
        matrices.process()
        return OnnxRuntimeQuantizer(embeddings).quantize(
            onnx_ir.from_proto(matrices.model.model), {}, ExportFormat.ONNX
        )
