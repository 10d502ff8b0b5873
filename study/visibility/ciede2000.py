"""Colour difference, CIEDE2000: Sharma, Wu and Dalal 2005 (doi:10.1002/col.20070)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""The matrix from linear sRGB to XYZ, for the primaries of ITU-R BT.709."""

_WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of D65, the white point of sRGB, for the 2-degree observer."""

_25_TO_7 = 25.0**7


def colour_difference(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean CIEDE2000 difference (N,) over the pixels of sRGB images (N, C, H, W), floats in 0..255.

    A grey image (C = 1) counts as a colour image with three equal channels. A difference of about 1 is just visible
    when both colours are side by side.
    """
    return ciede2000(lab(clean), lab(adversarial)).mean((1, 2))


def lab(image: Tensor) -> Tensor:
    """Return CIELAB (N, 3, H, W) of sRGB images (N, C, H, W) in 0..255."""
    scaled = (image / 255).expand(-1, 3, -1, -1)
    linear = torch.where(scaled > 0.04045, ((scaled + 0.055) / 1.055) ** 2.4, scaled / 12.92)
    red, green, blue = linear.unbind(1)
    cubes = []
    for row, white in zip(_TO_XYZ, _WHITE, strict=True):
        share = (row[0] * red + row[1] * green + row[2] * blue) / white
        cubes.append(torch.where(share > 0.008856, share.clamp(min=1e-9) ** (1 / 3), 7.787 * share + 16 / 116))
    x, y, z = cubes
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Return the CIEDE2000 difference (N, H, W) for each pixel of two batches of CIELAB images (N, 3, H, W).

    The code follows equations 2 to 22 of the paper.
    """
    (l1, a1, b1), (l2, a2, b2) = first.unbind(1), second.unbind(1)
    chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    grey = 1 + 0.5 * (1 - _saturated(chroma))
    a1, a2 = a1 * grey, a2 * grey
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = _hue(a1, b1), _hue(a2, b2)

    coloured = c1 * c2 > 0
    apart = h2 - h1
    turned = torch.where(apart > 180, apart - 360, torch.where(apart < -180, apart + 360, apart))
    turned = torch.where(coloured, turned, 0)
    total = h1 + h2
    near = apart.abs() <= 180
    hue = torch.where(near, total / 2, torch.where(total < 360, total / 2 + 180, total / 2 - 180))
    hue = torch.where(coloured, hue, total)

    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    by_hue = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue) + 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    middle = (lightness - 50) ** 2
    scale_l = 1 + 0.015 * middle / torch.sqrt(20 + middle)
    scale_c = 1 + 0.045 * chroma
    scale_h = 1 + 0.015 * chroma * by_hue
    rotation = -2 * _saturated(chroma) * torch.sin(math.pi / 3 * torch.exp(-(((hue - 275) / 25) ** 2)))

    of_l = (l2 - l1) / scale_l
    of_c = (c2 - c1) / scale_c
    of_h = 2 * torch.sqrt(c1 * c2) * torch.sin(torch.deg2rad(turned / 2)) / scale_h
    squared = of_l**2 + of_c**2 + of_h**2 + rotation * of_c * of_h
    return torch.sqrt(squared.clamp(min=0))


def _saturated(chroma: Tensor) -> Tensor:
    seventh = chroma**7
    return torch.sqrt(seventh / (seventh + _25_TO_7))


def _hue(a: Tensor, b: Tensor) -> Tensor:
    """Return the hue angle in degrees, 0 to 360; 0 for a pixel without colour."""
    return torch.rad2deg(torch.atan2(b, a)) % 360


def _cos(degrees: Tensor) -> Tensor:
    return torch.cos(torch.deg2rad(degrees))
