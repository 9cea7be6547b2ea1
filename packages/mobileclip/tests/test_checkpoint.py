"""Weights of every layout load, each tensor accounted for; damaged and hostile files are refused."""

import json
import os
import pickle

import pytest
import torch
from mobileclip import (
    PRESETS,
    MobileCLIP,
    create_model_and_transforms,
    from_pretrained,
    reparameterize,
    save_pretrained,
)
from mobileclip.checkpoint import build_model, read_state_dict
from tenfold_shared.commands import InputError


def assert_equal_states(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("form", ["train", "fused"])
def test_round_trip_keeps_the_form(tiny_model, tmp_path, form):
    model = tiny_model if form == "train" else reparameterize(tiny_model)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.config == model.config and not loaded.training
    assert_equal_states(loaded.state_dict(), model.state_dict())
    assert all(p.requires_grad for p in loaded.parameters())
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_half_precision_weights_become_single(tiny_model, tmp_path):
    torch.save({key: value.half() for key, value in tiny_model.state_dict().items()}, tmp_path / "half.pt")
    loaded = build_model(tiny_model.config, read_state_dict(tmp_path / "half.pt"), origin="half.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_wrapped_and_distributed_state_dicts_load(tiny_model, tmp_path):
    state = {f"module.{key}": value for key, value in tiny_model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "training.pt")
    assert_equal_states(read_state_dict(tmp_path / "training.pt"), tiny_model.state_dict())


@pytest.mark.parametrize("form", ["train", "fused"])
def test_an_official_file_loads_in_either_form(tmp_path, form, caplog):
    model = MobileCLIP(PRESETS["mobileclip_s0"]).eval()
    model = model if form == "train" else reparameterize(model)
    torch.save(model.state_dict(), tmp_path / "mobileclip_s0.pt")
    for source in (tmp_path / "mobileclip_s0.pt", tmp_path):
        loaded, _, _ = create_model_and_transforms("mobileclip_s0", str(source), reparameterize=False)
        assert_equal_states(loaded.state_dict(), model.state_dict())
    assert "Apple's licence" in caplog.text


def test_another_variant_is_named_as_such(tmp_path):
    with torch.device("meta"):
        shapes = MobileCLIP(PRESETS["mobileclip_s1"]).state_dict()
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}, tmp_path / "s1.pt")
    with pytest.raises(
        InputError, match=r"s1\.pt does not fit this model .*136 missing.*of another shape.*is it another variant"
    ):
        create_model_and_transforms("mobileclip_s2", tmp_path / "s1.pt")


def test_another_shape_is_listed(tiny_model):
    state = dict(tiny_model.state_dict())
    state["text_encoder.projection_layer"] = torch.zeros(32, 17)
    with pytest.raises(InputError, match=r"1 of another shape \[text_encoder.projection_layer\]"):
        build_model(tiny_model.config, state, origin="x")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    with open("evil.pt", "wb") as file:
        torch.save({"x": Hostile()}, file) if writer == "torch" else pickle.dump({"x": Hostile()}, file, protocol=2)
    with pytest.raises(InputError, match="would run code"):
        read_state_dict("evil.pt")
    assert not os.path.exists("hacked")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_damaged_files_are_refused(tiny_model, tiny_folder, tmp_path, name, keep):
    if name.endswith(".pt"):
        torch.save(tiny_model.state_dict(), tmp_path / name)
        content = (tmp_path / name).read_bytes()
    else:
        content = (tiny_folder / "model.safetensors").read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=name):
        read_state_dict(tmp_path / name)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state_dict(tmp_path / "list.pt")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        create_model_and_transforms("mobileclip_s0", tmp_path / "missing.pt")


@pytest.mark.parametrize("content", ["{", "{}", '{"image": {"kind": "swin"}, "text": {}}', "[1]"])
def test_a_bad_configuration_is_refused(tiny_folder, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="not a MobileCLIP configuration"):
        from_pretrained(tmp_path)


def test_a_folder_of_another_architecture_is_refused(tiny_folder):
    with pytest.raises(InputError, match="another architecture than `mobileclip_s0`"):
        create_model_and_transforms("mobileclip_s0", tiny_folder)


def test_the_hub_cannot_be_reached_offline():
    with pytest.raises(InputError, match="cannot get 'nobody/nothing' from the hub"):
        from_pretrained("hf-hub:nobody/nothing")


def test_a_failed_save_leaves_the_old_weights(tiny_model, tmp_path, monkeypatch):
    save_pretrained(tiny_model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr("mobileclip.checkpoint.save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(tiny_model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "config.json").read_text())["embed_dim"] == 16
