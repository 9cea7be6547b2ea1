"""Reinforced sets: what is written, that others can read it, that a kill or another order of work changes nothing."""

import csv
import gzip
import hashlib
import io
import json
import os
import random
import signal
import time
from pathlib import Path

import make_data
import mobileclip_process
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from mobileclip.augment import AugmentConfig, Parameters, generator_for, replay, sample
from mobileclip.data import Tally, decode_image
from mobileclip.datacompdr import BadSample, Shape, decode, encode, join, read_set, validate
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.teachers import load_teacher

# webdataset's reader leaves its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
CONFIG = ReinforceConfig(
    teachers=("make_data:colours", "make_data:narrow"),
    captioner="make_data:caption",
    num_augmentations=3,
    num_captions=2,
    samples_per_shard=5,
    augment=AugmentConfig(image_size=16),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve pictures with captions as folder and CSV, and the same as parquet and as a tar."""
    import webdataset

    folder = tmp_path_factory.mktemp("source")
    rows = [{"uid": f"u{i:04d}", "caption": f"caption {i}", "path": f"{i}.png"} for i in range(12)]
    (folder / "csv").mkdir()
    for i, row in enumerate(rows):
        (folder / "csv" / row["path"]).write_bytes(make_data.picture(i))
    with open(folder / "csv/data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = [
        {"uid": r["uid"], "caption": r["caption"], "image": {"bytes": make_data.picture(i)}} for i, r in enumerate(rows)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "data.parquet", row_group_size=4)
    with webdataset.TarWriter(str(folder / "data.tar")) as writer:
        for i, r in enumerate(rows):
            content = {"png": make_data.picture(i), "txt": r["caption"], "json": {"uid": r["uid"]}}
            writer.write({"__key__": f"{i:08d}", **content})
    return folder


@pytest.fixture(scope="module")
def reinforced(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reinforced") / "dr"
    tally = reinforce(source / "csv/data.csv", folder, CONFIG)
    assert (tally.kept, dict(tally.dropped)) == (12, {})
    return folder


def read_all(folder):
    return {stored.uid: stored for stored, _ in read_set(folder, Tally())}


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_an_independent_reader_reads_it(reinforced):
    """Plain webdataset, json, numpy and torch, none of our code."""
    import webdataset

    shards = sorted(str(path) for path in reinforced.glob("*.tar"))
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [row["__key__"] for row in found] == [f"u{i:04d}" for i in range(12)]
    for i, row in enumerate(found):
        assert set(row) >= {"png", "txt", "url.txt", "syn.json", "paug.json", "npz", "json"}
        assert row["txt"].decode() == f"caption {i}"
        assert len(json.loads(row["syn.json"])["syn_text"]) == 2
        assert json.loads(row["json"])["uid"] == row["__key__"]
        for crop, operations in json.loads(row["paug.json"])["param_aug"]:
            assert len(crop) == 4 and len(operations) == 2
        with np.load(io.BytesIO(row["npz"]), allow_pickle=False) as arrays:
            assert arrays["image_emb"].shape == (3, 12) and arrays["image_emb"].dtype == np.float32
            assert arrays["text_emb"].shape == (3, 12)


def test_bf16_is_read_with_weights_only(source, reinforced, tmp_path):
    import webdataset

    config = ReinforceConfig(**{**vars(CONFIG), "storage": "bf16"})
    reinforce(source / "csv/data.csv", tmp_path / "dr", config)
    shards = sorted(str(path) for path in (tmp_path / "dr").glob("*.tar"))
    for row in webdataset.WebDataset(shards, shardshuffle=False):
        loaded = torch.load(io.BytesIO(gzip.decompress(row["pth.gz"])), weights_only=True)
        assert {value.dtype for value in loaded.values()} == {torch.bfloat16}
    full, half = read_all(reinforced), read_all(tmp_path / "dr")
    for uid, stored in full.items():
        assert torch.equal(half[uid].image_emb, stored.image_emb.bfloat16().float())
        assert half[uid].augmentations == stored.augmentations


def test_embeddings_are_the_teachers_on_the_replayed_pictures(reinforced):
    """By hand: draw, replay, embed, normalise, put side by side."""
    samples = read_all(reinforced)
    teachers = [make_data.colours(), make_data.narrow()]
    for i in (0, 7):
        uid, image = f"u{i:04d}", decode_image(make_data.picture(i), "x")
        generator = generator_for(0, uid)
        drawn = tuple(sample(40, 32, CONFIG.augment, generator) for _ in range(3))
        assert samples[uid].augmentations == drawn
        for which, parameters in enumerate(drawn):
            picture = replay(image, parameters, 16)
            parts = [torch.nn.functional.normalize(t.embed_images([picture])[0], dim=0) for t in teachers]
            torch.testing.assert_close(samples[uid].image_emb[which], torch.cat(parts))
        texts = [f"caption {i}", *samples[uid].captions]
        parts = [torch.nn.functional.normalize(t.embed_texts(texts), dim=1) for t in teachers]
        torch.testing.assert_close(samples[uid].text_emb, torch.cat(parts, dim=1))


@pytest.mark.parametrize("form", ["data.parquet", "data.tar"])
def test_sources_give_equal_samples(source, reinforced, tmp_path, form):
    """What is random depends on seed and uid alone; captions here also on the batch, so they are left out."""
    config = ReinforceConfig(**{**vars(CONFIG), "captioner": None})
    assert reinforce(source / form, tmp_path / "dr", config).kept == 12
    expected = read_all(reinforced)
    for uid, found in read_all(tmp_path / "dr").items():
        assert found.augmentations == expected[uid].augmentations
        torch.testing.assert_close(found.image_emb, expected[uid].image_emb)
        torch.testing.assert_close(found.text_emb, expected[uid].text_emb[:1])


def test_another_seed_draws_other_augmentations(source, reinforced, tmp_path):
    reinforce(source / "csv/data.csv", tmp_path / "dr", ReinforceConfig(**{**vars(CONFIG), "seed": 1}))
    first, second = read_all(reinforced), read_all(tmp_path / "dr")
    assert all(first[uid].augmentations != second[uid].augmentations for uid in first)


def command(source, out, *more):
    arguments = [
        "reinforce",
        source,
        "--out",
        out,
        "--teachers",
        "make_data:colours",
        "make_data:narrow",
        "--captioner",
    ]
    arguments += ["make_data:caption", "--num-augmentations", 3, "--num-captions", 2, "--samples-per-shard", 1]
    return [*arguments, "--image-size", 16, "--quiet", "--json", *more]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_twenty_kills_change_nothing(source, tmp_path):
    """Killed (-9) at 20 seeded moments, in the middle of a shard or right after one; resumed each time: equal bytes."""
    rows = ["uid,caption,path", *(f"v{i:04d},caption {i},{i % 12}.png" for i in range(60))]
    (source / "csv/more.csv").write_text("\n".join(rows))
    whole, killed, moments, log = tmp_path / "whole", tmp_path / "killed", random.Random(0), []
    mobileclip_process.finish(command(source / "csv/more.csv", whole))
    for kill in range(20):
        goal = _count(killed) + kill % 4
        process = mobileclip_process.start(command(source / "csv/more.csv", killed, "--resume"))
        while process.is_alive() and (_count(killed) < goal or not any(killed.glob(".*.tar.*.tmp"))):
            time.sleep(0.0002)
        time.sleep(moments.uniform(0, 0.003))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        log.append((_count(killed), sum(path.stat().st_size for path in killed.rglob("*") if path.is_file())))
    mobileclip_process.finish(command(source / "csv/more.csv", killed, "--resume"))
    print("shards and bytes at each kill:", log)
    assert len({count for count, _ in log}) > 10
    assert digest(killed) == digest(whole)


def _count(folder):
    return len(list(folder.glob("tallies/*.json")))


@pytest.mark.slow
def test_workers_change_nothing(source, tmp_path):
    for workers in (1, 2):
        mobileclip_process.finish(command(source / "csv/data.csv", tmp_path / str(workers), "--workers", workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_going_on_writes_only_what_is_missing(source, reinforced, tmp_path):
    import shutil

    shutil.copytree(reinforced, tmp_path / "dr")
    (tmp_path / "dr/00000001.tar").unlink()
    (tmp_path / "dr/tallies/00000001.json").unlink()
    (tmp_path / "dr/.00000001.tar.abcd.tmp").write_bytes(b"torn")
    kept = (tmp_path / "dr/00000000.tar").stat().st_mtime_ns
    reinforce(source / "csv/data.csv", tmp_path / "dr", CONFIG)
    assert (tmp_path / "dr/00000000.tar").stat().st_mtime_ns == kept
    assert digest(tmp_path / "dr") == digest(reinforced)


@pytest.mark.parametrize("storage", ["fp32", "bf16"])
def test_equal_samples_give_equal_bytes(reinforced, storage):
    for stored in read_all(reinforced).values():
        members = encode(stored, storage)
        assert members == encode(stored, storage)
        again = decode(stored.uid, members)
        assert (again.augmentations, again.captions) == (stored.augmentations, stored.captions)
        torch.testing.assert_close(again.image_emb, stored.image_emb, rtol=0, atol=0 if storage == "fp32" else 0.01)


def test_the_hubs_tables_store_augmentations_as_a_string(reinforced):
    stored = next(iter(read_all(reinforced).values()))
    members = encode(stored)
    entries = json.loads(members["paug.json"])["param_aug"]
    members["paug.json"] = json.dumps({"param_aug": json.dumps(entries)}).encode()
    assert decode(stored.uid, members).augmentations == stored.augmentations


def strip(folder, out):
    """Write a set as it is released: no images, no captions."""
    import webdataset

    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    for shard in sorted(folder.glob("*.tar")):
        with webdataset.TarWriter(str(out / shard.name), encoder=False) as writer:
            for row in webdataset.WebDataset(str(shard), shardshuffle=False):
                writer.write(
                    {
                        k: v
                        for k, v in row.items()
                        if (k not in ("png", "txt") and not k.startswith("__")) or k == "__key__"
                    }
                )


def test_join_puts_images_back(reinforced, source, tmp_path):
    """Images in img2dataset's layout, in another order, under other keys, one of them missing."""
    import webdataset

    strip(reinforced, tmp_path / "released")
    (tmp_path / "images").mkdir()
    for number, uids in enumerate([range(5), range(5, 10), range(10, 12)]):
        with webdataset.TarWriter(str(tmp_path / f"images/{number:08d}.tar")) as writer:
            for key, i in enumerate(reversed(uids)):
                if i != 7:
                    content = {"png": make_data.picture(i), "txt": f"caption {i}", "json": {"uid": f"u{i:04d}"}}
                    writer.write({"__key__": f"{key:05d}", **content})
    tally = join(tmp_path / "released", tmp_path / "images", tmp_path / "joined")
    assert (tally.kept, dict(tally.dropped)) == (11, {"image not joined": 1})
    assert "u0007" in tally.first["image not joined"]
    joined = {stored.uid: members for stored, members in read_set(tmp_path / "joined", Tally())}
    assert set(joined) == {f"u{i:04d}" for i in range(12)} - {"u0007"}
    assert all(members["png"] == make_data.picture(int(uid[1:])) for uid, members in joined.items())
    before = digest(tmp_path / "joined")
    assert join(tmp_path / "released", tmp_path / "images", tmp_path / "joined").kept == 11
    assert digest(tmp_path / "joined") == before


def test_the_validator_names_the_first_of_each_kind(reinforced, tmp_path):
    import webdataset

    good = list(read_all(reinforced).values())
    replace = torch.full_like(good[0].image_emb, float("nan"))
    bad = [
        {**encode(good[0])},
        {**encode(good[1]), "paug.json": json.dumps({"param_aug": [good[1].augmentations[0].to_json()]}).encode()},
        encode(type(good[2])(good[2].uid, good[2].augmentations, good[2].captions, replace, good[2].text_emb)),
        encode(
            type(good[3])(
                good[3].uid, good[3].augmentations, good[3].captions, good[3].image_emb[:, :8], good[3].text_emb[:, :8]
            )
        ),
        {**encode(good[4]), "npz": b"not an archive"},
        {**encode(good[5]), "syn.json": b'{"syn_text": []}'},
        {**encode(good[6]), "jpg": b"not a picture"},
        {k: v for k, v in encode(good[7]).items() if k != "paug.json"},
        {k: v for k, v in encode(good[8]).items()},
    ]
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        for stored, members in zip(good, bad, strict=False):
            writer.write({"__key__": stored.uid, **members})
    tally = validate(tmp_path)
    assert tally.kept == 2
    assert dict(tally.dropped) == {
        "wrong number of augmentations": 1, "NaN embeddings": 1, "teacher of another width": 1, "damaged entry": 2,
        "missing captions": 1, "unreadable image": 1,
    }  # fmt: skip
    expected = {"wrong number of augmentations": 1, "NaN embeddings": 2, "teacher of another width": 3}
    expected |= {"damaged entry": 4, "missing captions": 5, "unreadable image": 6}
    assert all(good[i].uid in tally.first[reason] for reason, i in expected.items())


def test_a_pickle_is_not_run(reinforced, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    stored = next(iter(read_all(reinforced).values()))
    buffer = io.BytesIO()
    torch.save({"image_emb": Hostile(), "text_emb": 0}, buffer)
    members = {k: v for k, v in encode(stored).items() if k != "npz"} | {"pth.gz": gzip.compress(buffer.getvalue())}
    with pytest.raises(BadSample, match=r"cannot be|UnpicklingError"):
        decode(stored.uid, members)
    assert not (tmp_path / "hacked").exists()


def test_a_stated_shape_is_asked_of_every_sample(reinforced):
    stored = next(iter(read_all(reinforced).values()))
    with pytest.raises(BadSample, match="3 augmentations and 3 image embeddings, expected 30"):
        decode(stored.uid, encode(stored), Shape(num_augmentations=30))


def test_our_own_folder_is_a_teacher(tiny_folder, tiny_model):
    from PIL import Image

    teacher = load_teacher(str(tiny_folder))
    image = Image.new("RGB", (64, 64), "red")
    expected = tiny_model.encode_image(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    with torch.inference_mode():
        torch.testing.assert_close(teacher.embed_images([image]), expected)
    assert teacher.image_size == 64


@pytest.mark.slow
def test_libraries_models_are_teachers(tmp_path):
    """open_clip by name, transformers from a local folder: their own preprocessing gives the same embedding."""
    import open_clip
    import transformers
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    teacher = load_teacher("open_clip:RN50")
    _, _, preprocess = open_clip.create_model_and_transforms("RN50")
    with torch.inference_mode():
        expected = teacher._model.encode_image(preprocess(image)[None])
        torch.testing.assert_close(teacher.embed_images([image]), expected, rtol=1e-4, atol=1e-5)
        assert teacher.embed_texts(["a dog"]).shape == expected.shape
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    vision = {**text, "image_size": 32, "patch_size": 16}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(tmp_path)
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(vocabulary, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokens = {names.get(key, key): value for key, value in open_clip.SimpleTokenizer().encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path))
    with torch.inference_mode():
        assert teacher.embed_images([image.resize((32, 32))]).shape == (1, 8)
        assert teacher.embed_texts(["a dog", "a longer caption of a dog"]).shape == (2, 8)


def test_parameters_of_the_released_form_are_read():
    released = [[[14, 347, 120, 130], [[0, 0.0], None]]]
    assert Parameters.from_json(released[0]).operations == ((0, 0.0), None)
