"""Random views, compared with pixel-by-pixel computations, Pillow and colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.views import GRAY_LEVEL, Views, apply_views, draw_view_params, identity_params
from data.sampling import row_generator

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = {"color_prob": 0.0, "gray_prob": 0.0}


def pictures(rows: int = 3, size: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, size, size, channels), dtype=np.uint8)


def draw(settings: Views, rows: int = 3, views: int = 2, step: int = 0) -> np.ndarray:
    return draw_view_params([row_generator(0, step, row) for row in range(rows)], views, settings)


def slow_view(picture: np.ndarray, params: np.ndarray, mean, std, size: int) -> np.ndarray:
    """Compute a view (channels, size, size) pixel by pixel, in float64."""
    side, channels = picture.shape[0], picture.shape[2]
    scale_x, scale_y, shift_x, shift_y = params[:4].astype(float)
    matrix, offset = params[4:13].astype(float).reshape(3, 3), float(params[13])
    view = np.zeros((channels, size, size))
    for row in range(size):
        for column in range(size):
            x = (scale_x * ((2 * column + 1) / size - 1) + shift_x + 1) * side / 2 - 0.5
            y = (scale_y * ((2 * row + 1) / size - 1) + shift_y + 1) * side / 2 - 0.5
            color = np.zeros(channels)
            for near_y in (int(np.floor(y)), int(np.floor(y)) + 1):
                for near_x in (int(np.floor(x)), int(np.floor(x)) + 1):
                    weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                    color += weight * picture[min(max(near_y, 0), side - 1), min(max(near_x, 0), side - 1)]
            color /= 255
            color = matrix @ color + offset if channels == 3 else color * matrix[0].sum() + offset
            view[:, row, column] = (color - mean) / std
    return view


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [12, 5])
def test_views_equal_slow_ones(channels, size):
    pixels, params = pictures(channels=channels), draw(Views(vertical_flip=0.5))
    mean, std = MEAN[:channels], STD[:channels]
    views = apply_views(torch.from_numpy(pixels), torch.from_numpy(params), mean, std, size)
    slow = [slow_view(pixels[row], params[row, view], mean, std, size) for row in range(3) for view in range(2)]
    assert views.dtype == torch.float32 and views.shape == (6, channels, size, size)
    assert np.allclose(views, np.stack(slow), atol=1e-4)


def test_a_crop_equals_that_of_pillow():
    """Pillow's transform samples at the same points; its borders are left out, which it does not extend."""
    pixels, params = pictures(1, 32), draw(Views(min_area=0.3, max_area=0.5, **PLAIN), 1, 1)
    view = apply_views(torch.from_numpy(pixels), torch.from_numpy(params), (0.0,) * 3, (1 / 255,) * 3)[0].numpy()
    scale_x, scale_y, shift_x, shift_y = params[0, 0, :4].astype(float)
    affine = (scale_x, 0, 16 * (1 + shift_x - scale_x), 0, scale_y, 16 * (1 + shift_y - scale_y))
    expected = Image.fromarray(pixels[0]).transform((32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    assert np.abs(view.transpose(1, 2, 0) - np.asarray(expected, dtype=float))[1:-1, 1:-1].max() <= 1


def test_the_identity_is_the_normalized_picture():
    pixels = pictures()
    views = apply_views(torch.from_numpy(pixels), torch.from_numpy(identity_params(3)), MEAN, STD)
    assert np.allclose(views, ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2), atol=1e-5)


def test_crops_are_inside_the_picture_with_the_configured_area_and_ratio():
    params = draw(Views(min_area=0.3, max_area=0.6, aspect_ratio=1.5), 500)
    scale, shift = np.abs(params[..., :2]), params[..., 2:4]
    area, ratio = scale.prod(-1), scale[..., 0] / scale[..., 1]
    assert area.min() < 0.32 and area.max() > 0.58 and 0.3 - 1e-6 <= area.min() and area.max() <= 0.6 + 1e-6
    assert 1 / 1.5 - 1e-6 <= ratio.min() < 0.7 and 1.45 < ratio.max() <= 1.5 + 1e-6
    assert (np.abs(shift) + scale).max() <= 1 + 1e-6 and (np.abs(shift) + scale).max() > 0.99
    assert 0.45 < (params[..., 0] < 0).mean() < 0.55 and not (params[..., 1] < 0).any()


def test_colors_are_those_of_the_definitions():
    color = np.array([0.6, 0.3, 0.2])

    def change(**settings) -> np.ndarray:
        """Return the color under 200 random views."""
        off = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "gray_prob": 0, "color_prob": 1}
        params = draw(Views(**(off | settings)), 200, 1)[:, 0].astype(float)
        return params[:, 4:13].reshape(-1, 3, 3) @ color + params[:, 13:]

    brightness = change(brightness=0.5) / color
    assert np.ptp(brightness, 1).max() < 1e-6 and brightness.min() < 0.55 and brightness.max() > 1.45
    contrast = (change(contrast=0.5) - GRAY_LEVEL) / (color - GRAY_LEVEL)
    assert np.ptp(contrast, 1).max() < 1e-5 and contrast.min() < 0.55 and contrast.max() > 1.45
    luminance = color @ [0.299, 0.587, 0.114]
    saturation = (change(saturation=0.5) - luminance) / (color - luminance)
    assert np.ptp(saturation, 1).max() < 1e-4 and saturation.min() < 0.55 and saturation.max() > 1.45
    assert np.allclose(change(gray_prob=1), luminance)
    hues = change(hue=0.1)
    turned = np.array([colorsys.rgb_to_hsv(*each)[0] for each in hues]) - colorsys.rgb_to_hsv(*color)[0]
    turned = (turned + 0.5) % 1 - 0.5
    assert np.allclose(hues.sum(1), color.sum()) and 0.07 < np.abs(turned).max() < 0.13


def test_params_are_a_function_of_the_rows_generator():
    together, alone = draw(Views()), draw_view_params([row_generator(0, 0, 1)], 2, Views())
    assert np.array_equal(together[1], alone[0]) and np.array_equal(together, draw(Views()))
    assert not np.array_equal(together, draw(Views(), step=1)) and not np.array_equal(together[:, 0], together[:, 1])


def test_a_smallest_area_above_the_largest_is_refused():
    with pytest.raises(ValueError, match="min_area=0.5 is more than max_area=0.4"):
        Views(min_area=0.5, max_area=0.4)
