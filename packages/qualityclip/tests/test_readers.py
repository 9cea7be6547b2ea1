"""Captions in every format, as other writers write them, and back."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import webdataset
from qualityclip.readers import Sample, check_sample, read_captions, read_checked, write_captions
from qualityclip.sources import open_samples
from tenfold_shared.commands import InputError


def test_a_tar_of_webdataset_in_datacompdrs_layout(tmp_path, picture):
    file = tmp_path / "00000.tar"
    with webdataset.TarWriter(str(file)) as writer:
        for n in range(3):
            row = {
                "__key__": f"k{n}",
                "jpg": picture(n),
                "txt": f"alt {n}",
                "syn.json": {"syn_text": ["one", f"two {n}"]},
            }
            writer.write(row)
    found = list(read_captions(tmp_path))
    assert [sample.uid for sample in found] == ["k0", "k1", "k2"]
    assert found[2].real == ("alt 2",) and found[2].synthetic == ("one", "two 2")
    assert found[1].read_image() == picture(1), "read from its place in the tar"


def test_parquet_of_pyarrow_and_of_hugging_face(tmp_path, picture):
    plain = pyarrow.table({"uid": ["a"], "text": ["alt"], "syn_text": [["x", "y"]], "image": [picture(0)]})
    pyarrow.parquet.write_table(plain, tmp_path / "a.parquet")
    rows = [{"caption": ["c", "d"], "image": {"bytes": picture(1), "path": "x.png"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    first, second = read_captions(tmp_path)
    assert (first.uid, first.captions, first.read_image()) == ("a", ("alt", "x", "y"), picture(0))
    assert (second.real, second.read_image()) == (("c", "d"), picture(1))


def test_cocos_captions(tmp_path, picture):
    (tmp_path / "7.png").write_bytes(picture(7))
    content = {
        "images": [{"id": 7, "file_name": "7.png"}, {"id": 8, "file_name": "8.png"}],
        "annotations": [
            {"image_id": 7, "caption": "one"},
            {"image_id": 8, "caption": "x"},
            {"image_id": 7, "caption": "two"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    seven, eight = read_captions(tmp_path / "captions.json")
    assert seven.real == ("one", "two") and seven.read_image() == picture(7)
    with pytest.raises(InputError, match="no picture"):
        eight.read_image()


def test_a_folder_with_a_csv_of_several_rows_a_picture(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "list.csv").write_text('path,caption\na.png,"one, two"\na.png,three\nb.png,four\n')
    found = list(read_captions(tmp_path))
    assert [sample.real for sample in found] == [("one, two", "three"), ("four",)]
    assert found[0].read_image() == picture(1)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "tar"])
def test_what_is_written_is_read(tmp_path, picture, ending):
    file = tmp_path / "a.png"
    file.write_bytes(picture(3))
    image = file if ending == "jsonl" else picture(3)
    samples = [Sample("u1", ("é",), ("s", "t"), image, ("dog",)), Sample("u2", ("a", "b"), (), image)]
    assert write_captions(tmp_path / f"out.{ending}", samples) == 2
    found = list(read_checked(tmp_path / f"out.{ending}"))
    assert [(s.uid, s.real, s.synthetic, s.objects) for s in found] == [
        (s.uid, s.real, s.synthetic, s.objects) for s in samples
    ]
    assert all(sample.read_image() == picture(3) for sample in found)


def test_scenes_say_what_they_show():
    found = list(open_samples("scenes:nouns:5"))
    assert len(found) == 5
    assert all(all(thing in sample.synthetic[0] for thing in sample.objects) for sample in found)
    with pytest.raises(ValueError, match="did you mean 'nouns'"):
        list(open_samples("scenes:noun"))


def test_a_sample_is_checked():
    assert check_sample(Sample("u", ("x",)), "f") == Sample("u", ("x",))
    with pytest.raises(InputError, match="10000 characters"):
        check_sample(Sample("u", ("x" * 10_000,)), "f")
