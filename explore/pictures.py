"""Pictures of inputs on the page of a map: one in a table's cell, and sheets of many for the map itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

CELL_SIDE = 64  # pixels
SIDES = (64, 48, 32, 24)  # of a picture on a sheet, the largest first
SHEET_COLUMNS = 32  # and as many rows
QUALITY = 75


class Sheets(NamedTuple):
    """Pictures of a side in rows of SHEET_COLUMNS, in order, on as many sheets as they need."""

    side: int
    urls: list[str]


def to_url(image: Image) -> str:
    """Return an image as the data URL of a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def make_sheets(draw: Callable[[int, int], Image], indices: np.ndarray, max_chars: int) -> Sheets:
    """Return the pictures of inputs, as large as they fit in `max_chars`, and none if they do not fit.

    draw: returns the picture of an input, a square of a side.
    """
    from PIL import Image

    for side in SIDES:
        urls = []
        for start in range(0, len(indices), SHEET_COLUMNS**2):
            part = indices[start : start + SHEET_COLUMNS**2]
            rows = -(-len(part) // SHEET_COLUMNS)
            sheet = Image.new("RGB", (side * min(SHEET_COLUMNS, len(part)), side * rows))
            for place, index in enumerate(part.tolist()):
                row, column = divmod(place, SHEET_COLUMNS)
                sheet.paste(draw(index, side), (column * side, row * side))
            urls.append(to_url(sheet))
        if sum(map(len, urls)) <= max_chars:
            return Sheets(side, urls)
    return Sheets(0, [])
