"""The same numbers as open_clip and Hugging Face's CLIP, in both directions, through files of both libraries."""

import dataclasses
import json
from types import SimpleNamespace

import open_clip
import pytest
import torch
import transformers
from open_clip.model import resize_pos_embed
from qualityclip import PRESETS, from_pretrained, save_pretrained
from qualityclip.benchmark import build_open_clip
from qualityclip.config import CLIPConfig, TextConfig, VisionConfig
from qualityclip.model import CLIP, VisionTransformer
from safetensors.torch import save_file
from tenfold_shared.commands import InputError

SIZES = CLIPConfig(VisionConfig(32, 8, 128, 2, 2), TextConfig(10, 60, 64, 2, 1), 24)
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(1))
TOKENS[:, 0] = 0
for row, end in enumerate((4, 9, 6)):
    TOKENS[row, end], TOKENS[row, end + 1 :] = 59, 0


@pytest.fixture(params=[False, True], ids=["gelu", "quick_gelu"])
def config(request):
    return dataclasses.replace(SIZES, quick_gelu=request.param)


def ours(model):
    model.eval()
    with torch.no_grad():
        return model.encode_image(IMAGES), model.encode_text(TOKENS)


def equal(first, second):
    return all(float((a - b).norm() / b.norm()) < 1e-5 for a, b in zip(first, second, strict=True))


def random_model(config):
    torch.manual_seed(2)
    return CLIP(config)


def theirs(peer):
    peer.eval()
    with torch.no_grad():
        return peer.encode_image(IMAGES), peer.encode_text(TOKENS)


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_open_clip_gives_our_numbers(config, pool):
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, pool=pool))
    model, peer = random_model(config), build_open_clip(config)
    peer.load_state_dict(model.state_dict(), strict=True)
    assert equal(ours(model), theirs(peer))


def test_a_round_trip_through_open_clips_own_files(tmp_path, config):
    model = random_model(config)
    save_pretrained(model, tmp_path / "out", layout="open_clip")
    peer = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
    assert equal(ours(model), theirs(peer))
    # And back, from what open_clip holds.
    (tmp_path / "back").mkdir()
    save_file(peer.state_dict(), tmp_path / "back" / "open_clip_model.safetensors")
    record = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    (tmp_path / "back" / "open_clip_config.json").write_text(json.dumps(record))
    again = from_pretrained(tmp_path / "back")
    assert again.config == config and equal(ours(again), ours(model))


def test_a_bare_checkpoint_of_open_clip_training(tmp_path):
    peer = build_open_clip(SIZES)
    content = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in peer.state_dict().items()}}
    torch.save(content, tmp_path / "epoch_3.pt")
    model = from_pretrained(tmp_path / "epoch_3.pt")
    assert model.config == SIZES and equal(ours(model), theirs(peer))


def test_siglip_keeps_its_bias(tmp_path):
    model = random_model(dataclasses.replace(SIZES, loss="siglip"))
    save_pretrained(model, tmp_path, layout="open_clip")
    peer = open_clip.create_model(f"local-dir:{tmp_path}")
    assert peer.logit_bias.item() == -10 and from_pretrained(tmp_path).config == model.config
    with pytest.raises(InputError, match="no bias"):
        save_pretrained(model, tmp_path / "hf", layout="hugging_face")


def test_hugging_face_both_ways(tmp_path, config):
    model = random_model(config)
    save_pretrained(model, tmp_path / "out", layout="hugging_face")
    peer = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        found = peer(input_ids=TOKENS, pixel_values=IMAGES)
        image, text, scale = model.eval()(IMAGES, TOKENS)
    assert equal((image, text), (found.image_embeds, found.text_embeds))
    assert torch.allclose(scale * image @ text.T, found.logits_per_image, atol=1e-4)
    peer.save_pretrained(tmp_path / "back")
    again = from_pretrained(tmp_path / "back")
    assert again.config == config and equal(ours(again), ours(model))


@pytest.mark.slow
def test_a_mobile_tower_goes_through_open_clip(tmp_path):
    text = dataclasses.replace(SIZES.text, causal=False)
    config = dataclasses.replace(PRESETS["mci0"], text=text, embed_dim=24)
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=64))
    model = random_model(config)
    save_pretrained(model, tmp_path, layout="open_clip")
    peer = open_clip.create_model(f"local-dir:{tmp_path}")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert equal([model.eval().encode_image(images)], [peer.eval().encode_image(images)])
        assert equal([model.encode_text(TOKENS)], [peer.encode_text(TOKENS)])
    again = from_pretrained(tmp_path)
    with torch.no_grad():
        assert equal([again.encode_image(images)], [model.encode_image(images)])


def test_our_own_folder_keeps_every_bit(tmp_path):
    model = random_model(SIZES)
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == SIZES
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_texts_may_be_cut_after_their_end():
    model = random_model(SIZES).eval()
    longer = torch.cat([TOKENS[:, :7], torch.zeros(3, 3, dtype=torch.long)], dim=1)
    longer[1, 6] = 59
    with torch.no_grad():
        assert torch.allclose(model.encode_text(longer), model.encode_text(longer[:, :7]), atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "no plain weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "configuration cannot be read"),
        (lambda folder: save_file({"a": torch.zeros(1)}, folder / "model.safetensors"), "lacks"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    ],
)
def test_damaged_folders_are_named(tmp_path, damage, words):
    save_pretrained(random_model(SIZES), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=words):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("side", [2, 3, 6])
def test_positions_are_resized_as_open_clip_does(side):
    tower = VisionTransformer(VisionConfig(32, 8, 32, 2, 2), 8, torch.nn.GELU)
    theirs = {"visual.positional_embedding": tower.positional_embedding.detach().clone()}
    resize_pos_embed(theirs, SimpleNamespace(visual=SimpleNamespace(grid_size=(side, side))))
    with torch.no_grad():
        torch.testing.assert_close(tower._positions(side, side), theirs["visual.positional_embedding"])
