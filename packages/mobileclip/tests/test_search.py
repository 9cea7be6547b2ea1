"""The index on disk, and export as programs of torch.export."""

import make_data
import pytest
import torch
from mobileclip import MobileCLIP
from mobileclip.predict import Pipeline
from mobileclip.preprocess import Preprocess
from mobileclip.search import SearchIndex
from mobileclip.torch_export import export_torch
from tenfold_shared.commands import InputError


@pytest.fixture
def pipeline(tiny_model):
    return Counting(tiny_model)


class Counting(Pipeline):
    """A pipeline that remembers how many pictures it embedded."""

    def __init__(self, model):
        super().__init__(model, Preprocess(64), lambda texts: torch.ones(len(texts), 77, dtype=torch.int64))
        object.__setattr__(self, "seen", [])

    def embed_pixels(self, pixels):
        self.seen.append(len(pixels))
        return super().embed_pixels(pixels)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures/sub").mkdir(parents=True)
    for i in range(6):
        (tmp_path / f"pictures/{'sub/' if i % 2 else ''}{i}.png").write_bytes(make_data.picture(i))
    return tmp_path / "pictures"


def brute_force(pipeline, folder, query, top):
    from mobileclip import load_image

    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    scores = Pipeline.embed_pixels(pipeline, [pipeline.preprocess(load_image(folder / n)) for n in names]) @ query
    return {names[i]: pytest.approx(scores[i].item(), abs=1e-5) for i in scores.argsort(descending=True)[:top]}


def test_finds_what_brute_force_finds_and_embeds_only_what_changed(pipeline, folder, tmp_path):
    index = SearchIndex(tmp_path / "index", "tiny", 16)
    assert index.update(pipeline, folder, quiet=True)["added"] == 6
    query = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(0)), dim=0)
    assert dict(index.search(query.numpy(), 3)) == brute_force(pipeline, folder, query, 3)
    pipeline.seen.clear()
    (folder / "0.png").unlink()
    (folder / "2.png").write_bytes(make_data.picture(20, size=(50, 50)))
    (folder / "new.png").write_bytes(make_data.picture(21))
    (folder / "bad.png").write_bytes(b"no picture")
    again = SearchIndex(tmp_path / "index", "tiny", 16)
    counts = again.update(pipeline, folder, quiet=True)
    assert (counts["added"], counts["removed"], counts["unreadable"]) == (2, 2, 1)
    assert "bad.png is not a picture" in counts["first_unreadable"]
    assert pipeline.seen == [2]
    (folder / "bad.png").unlink()
    assert dict(again.search(query.numpy(), 6)) == brute_force(pipeline, folder, query, 6)
    scores = [value for _, value in again.search(query.numpy(), 6)]
    assert scores == sorted(scores, reverse=True)
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_an_index_of_another_model_is_refused(pipeline, folder, tmp_path):
    SearchIndex(tmp_path / "index", "tiny", 16).update(pipeline, folder, quiet=True)
    with pytest.raises(InputError, match="indexes with tiny, not other"):
        SearchIndex(tmp_path / "index", "other", 16)


def test_a_damaged_index_is_refused(pipeline, folder, tmp_path):
    SearchIndex(tmp_path / "index", "tiny", 16).update(pipeline, folder, quiet=True)
    next((tmp_path / "index").glob("*.usearch")).write_bytes(b"torn")
    with pytest.raises(InputError, match="no whole index"):
        SearchIndex(tmp_path / "index", "tiny", 16)


def test_exported_programs_run_without_this_package(tiny_model, tmp_path):
    distances = export_torch(tiny_model, tmp_path / "out")
    assert set(distances) == {"image", "text"} and max(distances.values()) < 1e-4
    pixels = torch.rand(3, 3, 64, 64)
    found = torch.export.load(tmp_path / "out/image.pt2").module()(pixels)
    torch.testing.assert_close(found, tiny_model.encode_image(pixels), rtol=1e-3, atol=1e-4)
    ids = torch.randint(1, 49000, (5, 77))
    found = torch.export.load(tmp_path / "out/text.pt2").module()(ids)
    torch.testing.assert_close(found, tiny_model.encode_text(ids), rtol=1e-3, atol=1e-4)


def test_a_failed_export_leaves_nothing(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("mobileclip.torch_export.PARITY_TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match="is off by"):
        export_torch(MobileCLIP(tiny_model.config), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
