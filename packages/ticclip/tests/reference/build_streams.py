"""Rebuild src/ticclip/streams/*.parquet byte for byte.

    pip install resvg-py==0.3.4 pyarrow==26.0.0 pillow==13.0.0
    npm pack @mdi/svg@7.4.47 openmoji@17.0.0
    mkdir mdi openmoji && tar xzf mdi-svg-7.4.47.tgz -C mdi && tar xzf openmoji-17.0.0.tgz -C openmoji
    python tests/reference/build_streams.py mdi/package openmoji/package src/ticclip/streams
"""

import io
import json
import re
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import resvg_py
from PIL import Image

SIZE, GREYS, COLOURS = 32, 16, 48


def render(svg, grey):
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)))).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if grey:
        picture = picture.convert("L").quantize(GREYS, dither=Image.Dither.NONE)
    else:
        picture = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def material_icons(folder):
    """Name, base name, tags and the major release that added each icon; brands and withdrawn icons are left out."""
    bases = {}
    entries = json.loads((folder / "meta.json").read_text())
    for entry in entries:
        if entry["id"] == entry["baseIconId"]:
            bases[entry["id"]] = entry["name"]
    for entry in sorted(entries, key=lambda entry: entry["name"]):
        if entry["deprecated"] or any("Brand" in tag for tag in entry["tags"]):
            continue
        yield {
            "uid": entry["name"],
            "time": entry["version"],
            "group": bases.get(entry["baseIconId"], entry["name"]),
            "caption": " ".join(re.split(r"-", entry["name"])),
            "words": ", ".join(entry["aliases"]),
            "family": entry["tags"][0] if entry["tags"] else "",
            "image": render((folder / "svg" / f"{entry['name']}.svg").read_text(), grey=True),
        }


def openmoji(folder):
    """Annotation, tags and the day that added each emoji; skin tones are left out."""
    for entry in json.loads((folder / "data/openmoji.json").read_text()):
        svg = folder / "color/svg" / f"{entry['hexcode']}.svg"
        if entry["skintone"] or not svg.exists():
            continue
        tags = sorted({tag.strip() for key in ("tags", "openmoji_tags") for tag in entry[key].split(",") if tag.strip()})
        yield {
            "uid": entry["hexcode"],
            "time": entry["openmoji_date"],
            "group": entry["annotation"].split(":")[0],
            "caption": entry["annotation"],
            "words": ", ".join(tags),
            "family": entry["group"],
            "image": render(svg.read_text(), grey=False),
        }


def write(rows, path):
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19, row_group_size=len(rows))
    print(path.name, len(rows), path.stat().st_size)


def main(mdi, emoji, out):
    write(list(material_icons(Path(mdi))), Path(out) / "material.parquet")
    write(list(openmoji(Path(emoji))), Path(out) / "openmoji.parquet")


main(*sys.argv[1:])
