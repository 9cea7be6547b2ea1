"""From sources to an index: steps from timestamps, splits that keep near-duplicates together, random access."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ticclip import TimeIndex
from ticclip.builder import BuildConfig, build_index, hash_picture, split_rows
from ticclip.data import Batches, Examples, decode, read_ahead, shift
from ticclip.icons import build_stream
from ticclip.readers import parse_date, read_samples, step_namer
from ticclip.sampler import Mixture


def test_years_from_a_folder(index, folder):
    assert index.steps == ("2019", "2020", "2021")
    assert [sum(sizes) for sizes in zip(*map(index.sizes, ("train", "validation", "test")), strict=True)] == [40] * 3
    row = int(index.rows(1)[0])
    name = index.texts([row], "name")[0]
    assert index.image(row) == (folder / name).read_bytes(), "read where it lies"
    assert index.texts([row]) == [f"a picture of number {name.removesuffix('.png')}"]


def test_reopening_gives_the_same(index):
    again = TimeIndex(index.folder)
    assert len(again) == 120
    for step in range(3):
        assert (again.rows(step) == index.rows(step)).all()


def test_tars_are_read_where_they_lie(tmp_path, write_tar, picture):
    samples = {
        f"{n:08d}": {
            "png": picture(n),
            "txt": f"number {n}".encode(),
            "json": json.dumps({"uid": f"{n:032x}", "timestamp": 1_300_000_000 + n * 40_000_000}).encode(),
        }
        for n in range(8)
    }
    write_tar(tmp_path / "0.tar", samples)
    index = build_index([tmp_path / "0.tar"], tmp_path / "index", BuildConfig(held_out=0, validation=0))
    assert index.steps == ("2011", "2012", "2013", "2014", "2016", "2017", "2018", "2020")
    row = int(index.rows(3)[0])
    assert index.image(row) == picture(3) and index.texts([row]) == ["number 3"]
    assert (tmp_path / "index/images.bin").stat().st_size == 0, "nothing is copied"
    assert index.uids[row].item() == (0, 3)


def test_parquet_with_a_column_of_its_own(tmp_path, picture):
    rows = [{"caption": f"n {n}", "image": picture(n), "when": f"20{10 + n // 5}-01-02"} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    config = BuildConfig(by="month", held_out=0, validation=0, time_column="when")
    index = build_index([tmp_path / "x.parquet"], tmp_path / "index", config)
    assert index.steps == ("2010-01", "2011-01")
    assert index.image(int(index.rows(0)[0])) in {row["image"] for row in rows}
    assert set(index.texts(index.rows(1), "time")) == {"2011-01-02"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014", "2014-01"),
        ("201403", "2014-03"),
        ("20140309", "2014-03"),
        ("2014-03", "2014-03"),
        ("2014-03-09", "2014-03"),
        ("2014-03-09T23:30:00Z", "2014-03"),
        ("2014-03-31T23:30:00-02:00", "2014-03"),
        ("1394400000", "2014-03"),
        ("1394400000000", "2014-03"),
        ("201413", None),
        ("soon", None),
        ("", None),
    ],
)
def test_timestamps(text, expected):
    found = parse_date(text)
    assert (found and found.strftime("%Y-%m")) == expected


def test_steps_by_anything():
    assert [step_namer("major")(text) for text in ("3.3.92", "12.0", "x")] == ["3", "12", None]
    parted = step_namer("2017-01-01,2018-01-01")
    names = [parted(text) for text in ("2016-12-31", "2017-01-01", "2018-06-01", "x")]
    assert names == ["0 (before 2017-01-01)", "1 (from 2017-01-01)", "2 (from 2018-01-01)", None]
    assert step_namer("value")("v1.5") == "v1.5"


def test_near_duplicates_are_on_one_side(picture):
    look = [hash_picture(picture(n)) for n in range(400)]
    rows = [
        {"uid": n.to_bytes(16, "big"), "group": f"g{n // 2}" if n < 300 else "", "pixels": look[n]} for n in range(400)
    ]
    rows[399]["pixels"] = rows[0]["pixels"]
    splits = split_rows(rows, BuildConfig(held_out=0.3, validation=0.2))
    assert all(splits[n] == splits[n + 1] for n in range(0, 300, 2))
    assert splits[399] == splits[0] == splits[1], "linked by pixels and by name"
    shares = np.bincount(splits, minlength=3) / 400
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.08)
    assert split_rows(rows[:-1], BuildConfig(held_out=0.3, validation=0.2)) == splits[:-1], "others do not move"


def test_a_recoded_picture_looks_the_same(picture):
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(picture(1, 64))).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    assert hash_picture(buffer.getvalue()) == hash_picture(picture(1, 64)) != hash_picture(picture(2, 64))
    assert hash_picture(b"\x89PNG broken") is None


def test_the_shipped_streams(tmp_path):
    index = TimeIndex(build_stream("material", tmp_path / "m"))
    assert index.steps == tuple("1234567")
    assert len(index) == 7188 and index.meta["dropped"] == {}
    groups = {}
    for split in ("train", "validation", "test"):
        rows = np.concatenate([index.rows(step, split) for step in range(7)])
        names = index.texts(rows, "name")
        groups[split] = set(names)
    assert not groups["train"] & groups["test"]
    assert min(index.sizes("test")) >= 50
    emoji = TimeIndex(build_stream("openmoji", tmp_path / "o"))
    assert len(emoji.steps) == 6 and len(emoji) == 2465


def test_what_is_left_out_is_counted_and_listed(tmp_path, picture):
    (tmp_path / "data.csv").write_text(
        "path,caption,date\na.png,a,2019\nb.png,b,\nc.png,c,someday\nd.png,d,2019\ne.png,,2019\nf.png,f,2019\n"
    )
    for name in "abcef":
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name)))
    (tmp_path / "f.png").write_bytes(picture(1)[:60])
    index = build_index([tmp_path], tmp_path / "index", BuildConfig(held_out=0, validation=0))
    assert len(index) == 1
    assert index.meta["dropped"] == {
        "no timestamp": 1,
        "timestamp or step unknown": 1,
        "no picture": 1,
        "no caption": 1,
        "corrupt picture": 1,
    }
    listed = [json.loads(line) for line in (tmp_path / "index/dropped.jsonl").read_text().splitlines()]
    assert {(entry["name"], entry["reason"]) for entry in listed} >= {("f.png", "corrupt picture")}


def test_batches_by_number_and_by_host(index, tiny):
    mixture = Mixture((index.rows(0), index.rows(1)), seed=3)
    batches = Batches(Examples(index, tiny), mixture, 16, 10, max_shift=0)
    whole = batches[7]
    assert whole["image"].shape == (16, 16, 16, 3) and whole["text"].shape == (16, 8)
    parts = []
    for rank in range(4):
        batches.host = (rank, 4)
        parts.append(batches[7])
    for name in whole:
        assert (np.concatenate([part[name] for part in parts]) == whole[name]).all()


def test_the_reader_goes_on_where_it_was(index, tiny):
    def reader():
        mixture = Mixture((index.rows(0),), seed=1)
        return read_ahead(Batches(Examples(index, tiny), mixture, 8, 100))

    first = reader()
    read = [next(first) for _ in range(6)]
    again = reader()
    again.set_state({"next_index": 4})
    assert (next(again)["image"] == read[4]["image"]).all()
    assert first.get_state() == {"next_index": 6}


def test_pictures_are_cut_and_shifted(picture):
    import io

    from PIL import Image

    wide = Image.new("RGB", (64, 32), "red")
    wide.paste("blue", (16, 0, 48, 32))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    assert (decode(buffer.getvalue(), 16) == [0, 0, 255]).all(axis=2).mean() > 0.8, "the middle"
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    assert (decode(buffer.getvalue(), 16) == 255).all(), "white below"
    images = np.stack([decode(picture(n), 16) for n in range(50)])
    moved = shift(images, 5, 2)
    assert (moved == shift(images, 5, 2)).all() and (moved != shift(images, 6, 2)).any()
    assert (shift(images, 5, 0) == images).all()
    found = {
        (down, across)
        for n in range(50)
        for down in range(-2, 3)
        for across in range(-2, 3)
        if (moved[n, 2:-2, 2:-2] == images[n, 2 + down : 14 + down, 2 + across : 14 + across]).all()
    }
    assert len(found) > 10


def test_csv_samples_name_their_file(folder):
    samples = list(read_samples(folder))
    assert len(samples) == 120 and samples[5].file == folder / "5.png" and samples[5].offset == 0
