"""Make an experiment's SVG safe and theme-aware before it is inlined in the report page."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
# Where matplotlib's `metadata=` ends up: title and description of the work, beside those of its creator.
WORK = ".//{http://creativecommons.org/ns#}Work/{http://purl.org/dc/elements/1.1/}"

MAX_BYTES = 2_000_000  # a page of ten papers stays under what a phone opens at once

ELEMENTS = frozenset(
    "svg g path rect circle ellipse line polyline polygon text tspan defs use symbol clipPath mask marker "
    "pattern linearGradient radialGradient stop image".split()
)
ATTRIBUTES = frozenset(
    "id d x y x1 x2 y1 y2 cx cy r rx ry fx fy dx dy width height points transform viewBox "
    "preserveAspectRatio offset orient refX refY markerWidth markerHeight markerUnits gradientUnits "
    "gradientTransform spreadMethod patternUnits patternTransform patternContentUnits clipPathUnits "
    "maskUnits maskContentUnits pathLength textLength lengthAdjust rotate fill fill-opacity fill-rule "
    "stroke stroke-width stroke-opacity stroke-linecap stroke-linejoin stroke-dasharray "
    "stroke-dashoffset stroke-miterlimit opacity color stop-color stop-opacity clip-path clip-rule mask "
    "marker-start marker-mid marker-end font font-family font-size font-style font-weight text-anchor "
    "dominant-baseline baseline-shift letter-spacing white-space".split()
)
FUNCTIONS = frozenset("url rgb rgba hsl hsla translate scale rotate matrix skewX skewY".split())
COLOUR_PROPERTIES = frozenset(("fill", "stroke", "color", "stop-color"))
EMBEDDED_IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]+")
LOCAL_URL = re.compile(r"url\(\s*['\"]?#([\w.:-]+)['\"]?\s*\)")

# matplotlib's default cycle, in its order; the page gives each a light and a dark shade.
SERIES = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "7f7f7f", "bcbd22", "17becf")
NAMED = {"black": "#000000", "white": "#ffffff", "gray": "#808080", "grey": "#808080"}


@dataclass(frozen=True)
class Figure:
    """A figure that is ready for the page: markup, the words that describe it and its size in CSS pixels."""

    markup: str
    title: str
    description: str
    width: float
    height: float


def inline_svg(text: str, *, prefix: str, fallback_title: str) -> Figure:
    """Turn the text of an SVG file into markup that can stand inside an HTML page.

    Everything outside a short list of drawing elements and attributes is dropped: scripts, event handlers,
    links, style sheets, foreign objects, animations, references outside the figure. Identifiers get
    `prefix`, so that two figures of matplotlib do not share clip paths. Black becomes the page's text
    colour, white its background, greys a mixture of the two, and matplotlib's ten series colours variables
    of the page.

    Args:
        text: an SVG document, for example one written by matplotlib.
        prefix: letters, digits and hyphens; unique within the page.
        fallback_title: the figure's name where the file carries none.

    Raises:
        ValueError: not an SVG document, one with entity declarations, or one over `MAX_BYTES`.
    """
    root = _parse(text)
    title, description = _read_words(root, fallback_title)
    width, height = _read_size(root)
    _clean(root, prefix)
    for name in ("width", "height", "id", "x", "y"):
        root.attrib.pop(name, None)
    root.set("viewBox", root.get("viewBox") or f"0 0 {width:g} {height:g}")
    root.set("width", f"{width:.0f}")
    root.set("height", f"{height:.0f}")
    _label(root, prefix, title, description)
    ET.register_namespace("", SVG)
    return Figure(ET.tostring(root, encoding="unicode"), title, description, width, height)


def recolour(value: str) -> str:
    """Map one colour of a plot to the page's theme; colours with a hue of their own stay as they are.

    Example:
        >>> recolour("#000000"), recolour("#ffffff"), recolour("#1f77b4"), recolour("#abcdef")
        ('currentColor', 'var(--surface)', 'var(--series-1)', '#abcdef')
    """
    colour = NAMED.get(value.strip().lower(), value.strip().lower())
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    if not colour.startswith("#") or not re.fullmatch("[0-9a-f]{6}", digits):
        return value
    if digits in SERIES:
        return f"var(--series-{SERIES.index(digits) + 1})"
    if not digits[:2] == digits[2:4] == digits[4:]:
        return value
    ink = 100 - round(int(digits[:2], 16) / 2.55)
    return {100: "currentColor", 0: "var(--surface)"}.get(
        ink, f"color-mix(in srgb, currentColor {ink}%, var(--surface))"
    )


def _parse(text: str) -> ET.Element:
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"the figure has {len(text.encode())} bytes, the page takes at most {MAX_BYTES}")
    if "<!ENTITY" in text:
        raise ValueError("the figure declares entities, which the page does not accept")
    try:
        root = ET.fromstring(text)  # noqa: S314 (entities are refused above, external ones are never read)
    except ET.ParseError as error:
        raise ValueError(f"the figure is not well-formed XML ({error})") from error
    if root.tag != f"{{{SVG}}}svg":
        raise ValueError(f"the figure's outermost element is {root.tag!r} instead of svg")
    return root


def _read_words(root: ET.Element, fallback: str) -> tuple[str, str]:
    """Title and description as matplotlib's `metadata=` or plain SVG elements give them."""
    title = root.findtext(f"{{{SVG}}}title") or root.findtext(f"{WORK}title")
    description = root.findtext(f"{{{SVG}}}desc") or root.findtext(f"{WORK}description")
    return " ".join((title or fallback).split()), " ".join((description or "").split())


def _read_size(root: ET.Element) -> tuple[float, float]:
    view_box = re.findall(r"[-+.\deE]+", root.get("viewBox", ""))
    fallback = view_box[2:4] if len(view_box) == 4 else ["480", "320"]
    sizes = [
        _to_pixels(root.get(name, ""), default) for name, default in zip(("width", "height"), fallback, strict=True)
    ]
    if not all(math.isfinite(size) and 0 < size < 20_000 for size in sizes):
        raise ValueError(f"the figure's size is {sizes[0]:g} x {sizes[1]:g} pixels")
    return sizes[0], sizes[1]


def _to_pixels(length: str, default: str) -> float:
    match = re.fullmatch(r"\s*([-+.\deE]+)(px|pt|in|cm|mm|)\s*", length)
    number, unit = match.groups() if match else (default, "")
    scale = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54}[unit]
    try:
        return float(number) * scale
    except ValueError:
        return math.nan


def _clean(element: ET.Element, prefix: str) -> None:
    for child in list(element):
        namespace, _, name = child.tag.rpartition("}") if isinstance(child.tag, str) else ("", "", "")
        if namespace == f"{{{SVG}" and name in ELEMENTS:
            _clean(child, prefix)
        else:
            element.remove(child)
    attributes = dict(_clean_attributes(element, prefix))
    element.attrib.clear()
    element.attrib.update(attributes)


def _clean_attributes(element: ET.Element, prefix: str):
    for name, value in element.attrib.items():
        if name in ("href", f"{{{XLINK}}}href"):
            target = _clean_reference(element, value, prefix)
            if target:
                yield "href", target
        elif name == "style":
            declarations = (part.partition(":") for part in value.split(";"))
            kept = [(key.strip(), _clean_value(key.strip(), item, prefix)) for key, _, item in declarations]
            yield name, "; ".join(f"{key}: {item}" for key, item in kept if item is not None)
        elif (cleaned := _clean_value(name, value, prefix)) is not None:
            yield name, cleaned


def _clean_reference(element: ET.Element, value: str, prefix: str) -> str | None:
    if value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    is_image = element.tag == f"{{{SVG}}}image"
    return value if is_image and EMBEDDED_IMAGE.fullmatch(value) else None


def _clean_value(name: str, value: str, prefix: str) -> str | None:
    """The attribute's value for the page, None where it has no place there."""
    if name not in ATTRIBUTES or re.search(r"[\\<>{}@]", value):
        return None
    if not set(re.findall(r"([\w-]+)\s*\(", value)) <= FUNCTIONS:
        return None
    value = value.strip()
    if "url" in value.lower():
        match = LOCAL_URL.fullmatch(value)
        return f"url(#{prefix}-{match[1]})" if match else None
    if name == "id":
        return f"{prefix}-{value}"
    return recolour(value) if name in COLOUR_PROPERTIES else value


def _label(root: ET.Element, prefix: str, title: str, description: str) -> None:
    """Name the figure for a screen reader."""
    root.set("role", "img")
    words = [("title", title)] + ([("desc", description)] if description else [])
    for index, (tag, content) in enumerate(words):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = content
        root.insert(index, element)
    root.set("aria-labelledby", " ".join(f"{prefix}-{tag}" for tag, _ in words))
