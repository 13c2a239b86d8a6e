"""Export a model to an ONNX graph for any number of inputs, and texts of any length, and quantize it to int8."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx_ir
import transformers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from torch import Tensor, nn
from transformers import AutoModel
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
from transformers.exporters.configs import ExportFormat

from data.modalities import find_architecture, find_modality
from data.tasks.problem_types import ProblemType, check_decoding, load_problem_type
from engine.errors import ConfigError, DataError, first_line
from engine.files import read_json
from engine.models import LOAD_WEIGHTS_KWARGS
from engine.models.embed import pool
from engine.models.foreign import reject_references
from engine.runs.record import read_record
from publish.export.image_inputs import ImageInputs
from publish.export.predictions import EMBEDDING
from publish.export.text_inputs import TextInputs

BLOCK_SIZE = 64  # weights per scale
HEADS = ("ForTokenClassification", "ForSequenceClassification", "ForImageClassification")


class LoadedModel(NamedTuple):
    """A model to export."""

    module: nn.Module
    """Takes the tensors of the inputs by name and returns a dict of tensors, the main output first."""
    inputs: TextInputs | ImageInputs
    problem_type: ProblemType
    """`EMBEDDING` for an encoder."""
    config: dict
    """Contents of config.json."""


class LogitsModel(nn.Module):
    """A model with a head, which returns its logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return {"logits": (inputs, labels) or (texts, tokens, tags)}."""
        return {"logits": self.model(**inputs).logits}


class EmbeddingModel(nn.Module):
    """An encoder of texts and its pooling, as in sentence-transformers."""

    def __init__(self, model: nn.Module, pooling: str, normalize: bool):
        super().__init__()
        self.model, self.pooling, self.normalize = model, pooling, normalize

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return {"sentence_embedding": (texts, width), "last_hidden_state": (texts, tokens, width)}."""
        states = self.model(**inputs).last_hidden_state
        vectors = pool(states, inputs["attention_mask"], self.pooling)
        vectors = nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors
        return {"sentence_embedding": vectors, "last_hidden_state": states}


class ImageEmbeddingModel(nn.Module):
    """An encoder of images and the mean of its last hidden states."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return {"image_embedding": (images, width)}."""
        states = self.model(**inputs).last_hidden_state
        return {"image_embedding": states.flatten(2).mean(2) if states.ndim == 4 else states.mean(1)}


def load_model(folder: Path) -> LoadedModel:
    """Load the model in `folder` with transformers. Raises DataError if that fails."""
    reject_references(folder)
    config, record = read_json(folder / "config.json"), read_record(folder)
    architecture = find_architecture(config)
    modality = find_modality(folder, record, config)
    check_decoding(folder, config)
    if modality.name not in ("text", "images"):
        raise DataError(f"{folder}: it reads {modality.inputs_noun}, and models of text and images are exported")
    inputs = ImageInputs(folder) if modality.name == "images" else TextInputs(folder)
    try:
        if architecture.endswith(HEADS):
            default = config.get("problem_type") or "single_label_classification"
            if architecture.endswith("ForTokenClassification"):
                default = "token_classification"
            problem_type = load_problem_type(record.get("problem_type", default))
            auto_class = getattr(transformers, modality.auto_class(problem_type))
            module = LogitsModel(auto_class.from_pretrained(folder, **LOAD_WEIGHTS_KWARGS))
        else:
            problem_type = EMBEDDING
            encoder = AutoModel.from_pretrained(folder, **LOAD_WEIGHTS_KWARGS)
            is_image = modality.name == "images"
            module = ImageEmbeddingModel(encoder) if is_image else EmbeddingModel(encoder, *read_pooling(folder))
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it ({first_line(error)})") from None
    return LoadedModel(module.float().eval(), inputs, problem_type, config)


def read_pooling(folder: Path) -> tuple[str, bool]:
    """Read (mean, cls or lasttoken; whether to normalize) from sentence-transformers' files."""
    path, modules = folder / "1_Pooling" / "config.json", folder / "modules.json"
    pooling = read_json(path) if path.is_file() else {}
    kinds = {"cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}
    kind = next(
        (kind for kind, key in kinds.items() if pooling.get("pooling_mode") == kind or pooling.get(key)), "mean"
    )
    return kind, modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8")


@contextlib.contextmanager
def silence_exporters() -> Iterator[None]:
    """Suppress the exporters' progress output and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_onnx(model: LoadedModel) -> onnx_ir.Model:
    """Return the graph; its inputs are those of the network, for any number of them. Raises DataError if it cannot."""
    inputs = model.inputs.trace_inputs()
    with silence_exporters():
        for axes in model.inputs.list_dynamic_axes(model.module.model.config):
            options = OnnxConfig(dynamic=True, dynamic_shapes={name: axes for name in inputs})
            try:
                graph = OnnxExporter().export(model.module, inputs, config=options).program
                break
            except Exception as error:
                failure = error
        else:
            kind = model.config.get("model_type")
            raise DataError(f"{kind}: transformers cannot export this architecture ({first_line(failure)})")
        # Otherwise each node holds the stack trace that made it, with the paths of this machine.
        ClearMetadataAndDocStringPass()(graph)
    names = dict(zip(map(str, graph.graph.inputs[0].shape), model.inputs.axes, strict=False))
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.shape = onnx_ir.Shape([names.get(str(size), size) for size in value.shape])
    return graph


def check_quantizable(model: LoadedModel) -> None:
    """Raise ConfigError if most weights are of convolutions, which int8 leaves as they are."""
    convolutions = [module for module in model.module.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    total = sum(weight.numel() for weight in model.module.parameters())
    share = sum(module.weight.numel() for module in convolutions) / max(1, total)
    if share > 0.5:
        kind = model.config.get("model_type")
        raise ConfigError(f"quantize: {share:.0%} of the weights of {kind} are convolutions, which stay in float32")


def quantize_int8(graph: onnx_ir.Model) -> onnx_ir.Model:
    """Return the graph with int8 weights, with a scale per BLOCK_SIZE weights of a column, or per embedding table.

    Activations are quantized dynamically in blocks of each token's vector, so that the output for a text does not
    depend on the rest of its batch. (A single scale, as in onnxruntime's dynamic quantization, was three times as far
    from float32: docs/lab-notebook.) The product is onnxruntime's operator MatMulNBits.
    """
    settings = DefaultWeightOnlyQuantConfig(block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(op_types_to_quantize=["Gather"]))
    with silence_exporters():
        matrices = MatMulNBitsQuantizer(onnx_ir.to_proto(graph), bits=8, algo_config=settings)
        matrices.process()
        return quantizer.quantize(onnx_ir.from_proto(matrices.model.model), {}, ExportFormat.ONNX)
