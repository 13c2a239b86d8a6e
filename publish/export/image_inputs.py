"""Images as inputs of an exported model: the image processor, images to measure on, and the example script."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim
from transformers import PretrainedConfig

from data.modalities.images import MODALITY
from data.tasks.problem_types import ProblemType
from engine.errors import ConfigError
from engine.files import read_json
from publish.export.example import image_script, read_image
from publish.export.predictions import BenchmarkData

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 200
MAX_PIXEL_DIFFERENCE = 1e-5  # of normalized pixels, between the example script and the processor


class ImageInputs:
    """Images, as the image processor in a folder reads them. Raises DataError if transformers cannot load it."""

    noun, nouns, axes, tolerance = "image", "images", ("images",), 1e-4

    def __init__(self, folder: Path):
        self.processor = MODALITY.load_processor(folder)
        self.mode = "L" if len(self.processor.image_mean) == 1 else "RGB"

    def process(self, images: list["Image"], kind: str) -> dict:
        """Return {"pixel_values": (images, channels, height, width)}, `kind` pt or np."""
        return dict(self.processor([image.convert(self.mode) for image in images], return_tensors=kind))

    def trace_inputs(self) -> dict[str, Tensor]:
        """Return two images of noise to trace the network with."""
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
        inputs = self.process([Image.fromarray(pixels) for pixels in noise], "np")
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}

    def list_dynamic_axes(self, config: PretrainedConfig) -> list[dict[int, Dim]]:
        """List the axes of any size of each input, as alternatives: the number of images."""
        return [{0: Dim("images", min=1)}]

    def load_data(self, run_folder: Path, images_folder: str | None, has_labels: bool) -> BenchmarkData:
        """Load the images in `images_folder`, or in the run's test.json or sample.json. Raises ConfigError."""
        if images_folder:
            return BenchmarkData(MODALITY.open_folder(images_folder, MAX_IMAGES), None, None)
        paths = [path for path in (run_folder / "test.json", run_folder / "sample.json") if path.is_file()]
        content = read_json(paths[0]) if paths else {}
        if not content.get("images"):
            raise ConfigError(f"{run_folder}: no test.json or sample.json to measure on; set images=FOLDER")
        labels = content.get("labels") if has_labels else None
        return BenchmarkData([MODALITY.open_png(png) for png in content["images"]], labels, None)

    def order(self, data: BenchmarkData) -> list[int]:
        """Return the indices of the images."""
        return list(range(len(data.inputs)))

    def encode(self, data: BenchmarkData, indices: list[int]) -> dict[str, np.ndarray]:
        """Return some of the images as arrays."""
        return self.process([data.inputs[index] for index in indices], "np")

    def find_word_starts(self, data: BenchmarkData) -> list:
        """Return nothing, because images have no words."""
        return []

    def example_script(self, problem_type: ProblemType, data: BenchmarkData, graph_file: str) -> str:
        """Return the script for the graph in `graph_file`; empty if the image processor does more than the script."""
        settings, image = self.list_settings(), data.inputs[0].convert(self.mode)
        if settings is None:
            return ""
        own, theirs = read_image(image, *settings), self.process([image], "np")["pixel_values"][0]
        if own.shape != theirs.shape or not np.abs(own - theirs).max() <= MAX_PIXEL_DIFFERENCE:
            return ""
        return image_script(problem_type, settings, graph_file)

    def list_settings(self) -> tuple | None:
        """Return the arguments of `read_image` after the image; None for a processor of another kind."""
        processor, size = self.processor, self.processor.size
        crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
        height = (crop or size).get("height") or size.get("shortest_edge")
        width = (crop or size).get("width") or size.get("shortest_edge")
        if not height or not processor.do_normalize or not processor.do_rescale:
            return None
        shortest = size.get("shortest_edge") or 0
        mean, std = (tuple(map(float, values)) for values in (processor.image_mean, processor.image_std))
        return self.mode, int(width), int(height), int(shortest), int(processor.resample), mean, std
