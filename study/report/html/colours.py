"""The background colours of rates in tables, and a readable text colour for each of them."""

from __future__ import annotations

Colour = tuple[int, int, int]

LEVELS = 50
"""The number of steps of the colour ramp from a rate of 0 to a rate of 1. Each step is 2 %."""
_ANCHORS: tuple[Colour, ...] = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
"""The colours of the ramp on a light page, evenly spaced from a rate of 0 to 1. A higher rate is darker.

All colours have one hue, so that they also differ in greyscale and for people with colour blindness."""
_DARK_ANCHORS: tuple[Colour, ...] = ((19, 26, 35), (14, 47, 84), (23, 92, 155), (91, 157, 210), (199, 225, 247))
"""The colours of the ramp on a dark page. A higher rate is brighter; a rate of 0 is close to the page's background."""
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def ramp(share: float, *, dark: bool = False) -> Colour:
    """Return the background colour for a share 0..1, on a light or a `dark` page. Other shares are clipped to 0..1."""
    anchors = _DARK_ANCHORS if dark else _ANCHORS
    place = min(max(share, 0.0), 1.0) * (len(anchors) - 1)
    low = min(int(place), len(anchors) - 2)
    ends = zip(anchors[low], anchors[low + 1], strict=True)
    red, green, blue = (round(start + (end - start) * (place - low)) for start, end in ends)
    return red, green, blue


def text_colour(background: Colour) -> Colour:
    """Return the text colour for a background: black or white, whichever has more contrast.

    For the colours of the ramp, the contrast ratio is at least 4.5.
    """
    return max((_BLACK, _WHITE), key=lambda colour: contrast(colour, background))


def contrast(one: Colour, other: Colour) -> float:
    """Return the contrast ratio of two colours by WCAG 2.1, 1..21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: Colour) -> float:
    parts = [channel / 255 for channel in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ramp_css() -> str:
    """Return CSS with the classes `h0` to `h50`, one for each step of the ramp.

    The colours for dark pages apply only on screens, not in print.
    """
    return f"{_classes(dark=False)}\n@media screen and (prefers-color-scheme:dark){{{_classes(dark=True)}}}"


def _classes(*, dark: bool) -> str:
    steps = [ramp(level / LEVELS, dark=dark) for level in range(LEVELS + 1)]
    return "\n".join(
        f".h{level}{{background:rgb{colour};color:rgb{text_colour(colour)}}}".replace(" ", "")
        for level, colour in enumerate(steps)
    )
