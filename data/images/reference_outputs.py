"""Images of a run's files, which are never published: PNG files in base64."""

import base64
import io

import numpy as np

MAX_TEST_ROWS = 200


def encode_images(pixels: np.ndarray) -> list[str]:
    """Return uint8 pixels (images, size, size, channels) as PNG files in base64."""
    from PIL import Image

    encoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(file, "PNG")
        encoded.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return encoded
