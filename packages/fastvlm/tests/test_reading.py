"""The reading experiment: what its pages hold, what its models see, that they learn, and how its rows come about."""

import dataclasses
import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from fastvlm import pages as pages_module
from fastvlm.cells import Layout, WordCells
from fastvlm.pages import (
    PageOptions,
    draw_pages,
    find_questions,
    load_corpus,
    load_vocabulary,
    normalize,
    training_pairs,
)
from fastvlm.readers import (
    ARMS,
    LANGUAGE_MODELS,
    Reader,
    SmallLM,
    WordContrast,
    build_encoder,
    cut_tiles,
    look,
)
from fastvlm.reading_data import Crops, PageTensors, Words, stack_resolutions, to_pixels
from fastvlm.reading_stages import (
    Size,
    align_projector,
    blind_accuracy,
    cell_accuracy,
    page_accuracy,
    pretrain_encoder,
    pretrain_language_model,
    rate_share,
    run_steps,
    train_blind,
    train_reader,
    word_accuracy,
)

OPTIONS = PageOptions(32, resolutions=(128, 256))
WORDS = Words(32)
NAME = next(iter(LANGUAGE_MODELS))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn():
    return {split: draw_pages(split, range(24), options=OPTIONS) for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def tensors(drawn):
    return {split: [PageTensors.of(found, size) for size in (128, 256)] for split, found in drawn.items()}


def test_a_page_depends_on_its_number_alone(drawn):
    again = draw_pages("train", range(5), options=OPTIONS)
    for name in pages_module.NAMES:
        assert np.array_equal(getattr(again, name), getattr(drawn["train"], name)[:5])
    assert np.array_equal(again.pixels[256], drawn["train"].pixels[256][:5])
    other = draw_pages("train", range(5), seed=1, options=OPTIONS)
    assert not np.array_equal(again.words, other.words)


def test_questions_are_about_the_page(drawn):
    for split, found in drawn.items():
        for words, questions in zip(found.words.tolist(), found.questions.tolist(), strict=True):
            asked = [pair for pair in questions if pair[0] >= 0]
            assert asked, "every page has a question"
            for x, y in asked:
                assert words.count(x) == 1 and words[words.index(x) + 1] == y and max(x, y) < 32
                assert zlib.crc32(f"{x} {y}".encode()) % 10 in pages_module.SHARES[split]


def test_splits_share_no_article_and_no_pair(drawn):
    articles = {split: {words for words, _ in load_corpus(split, 32).articles} for split in drawn}
    assert sum(map(len, articles.values())) == 6000
    assert not articles["train"] & articles["test"] and not articles["validation"] & articles["test"]
    pairs = {s: {tuple(q) for q in found.questions.reshape(-1, 2).tolist()} - {(-1, -1)} for s, found in drawn.items()}
    assert not pairs["train"] & pairs["test"] and not pairs["train"] & pairs["validation"]


def test_test_pages_are_sentences_and_training_pages_are_not(drawn):
    def in_order(split):
        texts = [f" {' '.join(map(str, ids))} " for _, ids in load_corpus(split, 32).articles]
        rows = [[w for w in row if w >= 0] for row in drawn[split].words.tolist()]
        return [any(f" {' '.join(map(str, row))} " in text for text in texts) for row in rows]

    assert all(in_order("test")) and all(in_order("validation")) and not any(in_order("train"))


def test_words_are_where_their_middles_say(drawn):
    """Ink lies around the middle of every word, and a page has 24 to 40 words."""
    found = drawn["test"]
    assert ((found.words >= 0).sum(1) >= 24).all() and (found.words >= 0).sum(1).max() <= 40
    for page, words, centres in zip(found.pixels[256], found.words, found.centres, strict=True):
        for x, y in (centres[words >= 0] * 256).astype(int):
            assert page[max(0, y - 5) : y + 5, max(0, x - 8) : x + 8].min() < 150


def test_read_aloud_labels_hold_no_pair_of_another_split(drawn):
    found = drawn["train"]
    for words, spoken in zip(found.words.tolist(), found.spoken.tolist(), strict=True):
        for x, y, said in zip([-1, *words], words, spoken, strict=False):
            assert said in (-1, y)
            if said >= 0:
                assert zlib.crc32(f"{x} {y}".encode()) % 10 in pages_module.SHARES["train"]


def test_words():
    assert normalize("(Clarke's,") == "clarkes"
    assert load_vocabulary(4)[0] == "the"
    every = [find_questions([1, 2, 3, 2, 64], split, 64) for split in ("train", "validation", "test")]
    assert sorted(pair for pairs in every for pair in pairs) == [(1, 2), (3, 2)]


def test_token_counts_are_equal():
    """(R / 64)^2 for FastViTHD and for the reduced ViT; five views for tiles."""
    for size in (128, 192, 256, 384):
        counts = {name: arm.num_tokens(size) for name, arm in ARMS.items()}
        assert counts["FastViTHD"] == counts["ViT + pruning"] == counts["ViT + pooling"] == (size // 64) ** 2
        assert counts["ViT + pruning to a quarter"] == counts["ViT + pooling of 2 x 2"] == counts["ViT"] / 4
        assert counts["ViT"] == (size // 16) ** 2
    assert ARMS["FastViTHD, 2 x 2 tiles"].num_tokens(256) == 20


@pytest.mark.parametrize("name", list(ARMS))
def test_readers_see_as_many_tokens_as_they_say(name):
    encoder = build_encoder(ARMS[name].encoder).eval()
    reader = Reader(ARMS[name], encoder, WORDS.language_model(NAME)).eval()
    pixels, words = torch.rand(2, 1, 256, 256), torch.tensor([[0, 5, 7]] * 2)
    with torch.no_grad():
        tokens = look(encoder, pixels, [ARMS[name]])[name]
        assert tokens.shape == (2, ARMS[name].num_tokens(256), encoder.map_dims[-1])
        assert reader(pixels, words).shape == (2, 3, 34)
        placed = reader.language_model.place_words(words, torch.rand(2, 3, 2), ARMS[name].layout(256))
        assert placed.shape[:2] == tokens.shape[:2]
        torch.testing.assert_close(reader(pixels, words), reader.answer(tokens, words))


@pytest.mark.parametrize("name", ["fastvithd", "vit"])
def test_maps_are_three_views_of_the_token_map(name):
    """Strides 16, 32, 64; FastViTHD's last one is its token map, the ViT's first one, whose pooled tokens are means."""
    encoder = build_encoder(name).eval()
    with torch.no_grad():
        found, tokens = encoder.maps(torch.rand(2, 1, 256, 256)), encoder(torch.rand(2, 1, 256, 256))
        pixels = torch.rand(1, 1, 128, 128)
        maps, alone = encoder.maps(pixels), encoder(pixels)
    assert [part.shape[1:] for part in found] == [(d, s, s) for d, s in zip(encoder.map_dims, (16, 8, 4), strict=True)]
    assert tokens.shape == found[2 if name == "fastvithd" else 0].shape
    torch.testing.assert_close(alone, maps[2 if name == "fastvithd" else 0])
    if name == "vit":
        torch.testing.assert_close(maps[2][0, :, 1, 0], alone[0, :, 4:, :4].mean((1, 2)))


def test_tiles_are_the_overview_and_the_quarters():
    pixels = torch.rand(2, 1, 8, 8)
    views = cut_tiles(pixels, 2)
    assert views.shape == (10, 1, 4, 4)
    torch.testing.assert_close(views[0, 0], torch.nn.functional.avg_pool2d(pixels[:1], 2)[0, 0])
    assert torch.equal(views[6, 0], pixels[1, 0, :4, :4]) and torch.equal(views[9, 0], pixels[1, 0, 4:, 4:])
    assert torch.equal(views[7, 0], pixels[1, 0, :4, 4:])


def test_words_in_a_row_see_those_before_and_words_alone_see_the_image():
    torch.manual_seed(0)
    model = SmallLM(dataclasses.replace(LANGUAGE_MODELS[NAME], vocab_size=20))
    image, row, alone = torch.randn(2, 5, 96), torch.randint(0, 20, (2, 9)), torch.randint(0, 20, (2, 4))
    with torch.no_grad():
        logits = model(image, row, alone)
        changed = row.clone()
        changed[:, 6] = (changed[:, 6] + 1) % 20
        after = model(image, changed, alone)
        torch.testing.assert_close(after[:, :6], logits[:, :6])
        torch.testing.assert_close(after[:, 9:], logits[:, 9:])
        assert (after - logits)[:, 6:9].abs().amax((0, 2)).min() > 1e-4
        assert not torch.allclose(model(image, row.flip(1), alone).flip(1)[:, 0], logits[:, 0]), "order counts"
        for place in range(4):
            one = model(image, row[:, :0], alone[:, place : place + 1])
            torch.testing.assert_close(one[:, 0], logits[:, 9 + place])
        assert not torch.allclose(model(image.flip(1), row, alone)[:, 9:], logits[:, 9:])


def test_tokens_are_sums_of_the_words_in_their_cells():
    """With the maps of places chosen as multiples of one, a token can be counted by hand."""
    cells = WordCells(2)
    with torch.no_grad():
        cells.places.weight.copy_(torch.cat([torch.eye(2) * (place + 1) for place in range(16)]))
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    words, centres = torch.tensor([[0, 1, 1, -1]]), torch.tensor([[[0.1, 0.1], [0.4, 0.4], [0.9, 0.2], [0.9, 0.9]]])

    def near(x, y):
        middles = [((j + 0.5) / 4, (i + 0.5) / 4) for i in range(4) for j in range(4)]
        weights = [math.exp(-32 * ((x - across) ** 2 + (y - down) ** 2)) for across, down in middles]
        return sum(weight * (place + 1) for place, weight in enumerate(weights)) / sum(weights)

    with torch.no_grad():
        whole = cells(table, words, centres, Layout(2))
        torch.testing.assert_close(whole[0, 0], torch.tensor([near(0.2, 0.2), near(0.8, 0.8)]))
        torch.testing.assert_close(whole[0, 1], torch.tensor([0.0, near(0.8, 0.4)]))
        assert not whole[0, 2:].any()
        tiles = cells(table, words, centres, Layout(1, tiles=2))
        torch.testing.assert_close(tiles[0, 1:], whole[0])  # four tiles of one cell, after the overview
        torch.testing.assert_close(tiles[0, 0], torch.tensor([near(0.1, 0.1), near(0.4, 0.4) + near(0.9, 0.2)]))
        torch.testing.assert_close(cells(table, words, centres, Layout(2, keep=2)), whole[:, :2])


def test_crops_hold_the_words_they_claim(tensors):
    stacked = stack_resolutions(tensors["train"])
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(stacked, tensors["train"], strict=True))
    crops = Crops(stacked, 32, 50, seed=0)
    crops.choose()
    pixels, words, centres = crops.take()
    assert pixels.shape == (50, 1, 128, 128) and 0 <= pixels.min() and pixels.max() <= 1
    assert (((words >= 0) & (words < 32)).any(1)).all(), "a word of the vocabulary stands in the middle"
    for crop, row, places in zip(pixels[:, 0], words, centres, strict=True):
        for x, y in (places[row >= 0] * 128).long().tolist():
            assert crop[max(0, y - 4) : y + 4, max(0, x - 6) : x + 6].max() > 0.3, "ink at the word's middle"


def test_contrast_points_to_the_words_place():
    """Written into a token's places, grey values of 16-pixel squares are read back around a word."""

    class Squares(torch.nn.Module):
        map_dims = (16,)

        def maps(self, pixels):
            squares = torch.nn.functional.avg_pool2d(pixels, 16)
            return [torch.nn.functional.pixel_unshuffle(squares, 4)]

    model = WordContrast(Squares(), 1, dim=1)
    with torch.no_grad():
        model.places[0].weight.copy_(torch.eye(16))
        model.places[0].bias.zero_()
        model.words.weight.fill_(1.0)
    grey = torch.rand(16, 16)
    pixels = grey.repeat_interleave(16, 0).repeat_interleave(16, 1)[None, None]
    places = [(20, 44), (104, 8), (217, 120)]

    def around(x, y):
        cell = itertools.product(range(y // 64 * 4, y // 64 * 4 + 4), range(x // 64 * 4, x // 64 * 4 + 4))
        near = {(i, j): math.exp(-2 * ((x / 16 - j - 0.5) ** 2 + (y / 16 - i - 0.5) ** 2)) for i, j in cell}
        return sum(weight * grey[square].item() for square, weight in near.items()) / sum(near.values())

    (logits,), targets, page = model(pixels, torch.tensor([[0, 1, -1]]), torch.tensor([places]) / 256)
    torch.testing.assert_close(logits, torch.tensor([[around(*place)] * 2 for place in places[:2]]))
    assert targets.tolist() == [0, 1] and page.tolist() == [0, 0]


def test_encoders_learn_to_tell_words_apart(tensors):
    """On four pages, by heart: every map points to its words, better than an untrained one."""
    few = stack_resolutions([dataclasses.replace(part, **_first(part, 4)) for part in tensors["train"]])
    untrained, _ = pretrain_encoder("vit", few, WORDS, Size(1, 2, 0.0))
    model, loss = pretrain_encoder("vit", few, WORDS, Size(60, 8, 3e-3))
    assert loss < math.log(32) - 0.5
    assert word_accuracy(model, few, WORDS)[0] > 0.2 + word_accuracy(untrained, few, WORDS)[0]


def _first(pages, count):
    return {field.name: getattr(pages, field.name)[:count] for field in dataclasses.fields(pages)}


def test_a_language_model_finds_the_word_after_another(tensors):
    layout = Layout(24, keep=36)
    model = pretrain_language_model(NAME, tensors["train"][0], [layout], WORDS, Size(250, 32, 4e-3))
    test = tensors["test"][0]
    blind = train_blind(model, tensors["train"][0], WORDS, Size(10, 16, 1e-3))
    assert cell_accuracy(model, test, WORDS, layout) > 0.5 and blind_accuracy(blind, test, WORDS) < 0.4


def test_a_projector_is_aligned_with_words_in_cells(tensors):
    """From tokens that are a turned copy of words in cells it finds the turn."""
    torch.manual_seed(0)
    pages, layout = tensors["train"][0], Layout(4)
    reader = Reader(ARMS["FastViTHD"], build_encoder("fastvithd").eval(), WORDS.language_model(NAME))
    turn = torch.randn(96, 512) / 96**0.5
    with torch.no_grad():
        tokens = reader.language_model.place_words(pages.words, pages.centres, layout) @ turn
    before = {name: value.clone() for name, value in reader.language_model.state_dict().items()}
    assert align_projector(reader, tokens, pages, layout, Size(300, 8, 3e-3)) < 0.1
    assert all(torch.equal(before[name], value) for name, value in reader.language_model.state_dict().items())


def test_pairs_of_the_test_are_not_learned_against():
    """The loss leaves pairs that training never asks out of the running: their logits get no gradient."""
    logits = torch.zeros(1, 1, 34, requires_grad=True)
    allowed = training_pairs(32)
    assert allowed.shape == (33, 32) and 0.6 < allowed.mean() < 0.8
    masked = WORDS.mask_pairs(logits, torch.tensor([[5]]))
    loss = torch.nn.functional.cross_entropy(masked[0], torch.from_numpy(allowed[5]).float().argmax()[None])
    assert loss.item() == pytest.approx(math.log(allowed[5].sum() + 2), rel=1e-5)
    loss.backward()
    assert ((logits.grad[0, 0, :32] != 0).numpy() == allowed[5]).all()


def test_training_pages_hold_words_more_alike_than_sentences():
    """Half of their words are drawn from the vocabulary, and a third are other words, as are most of a sentence's."""
    options = PageOptions(32, resolutions=(64,))
    found, sentences = (draw_pages(split, range(300), options=options).words for split in ("train", "test"))
    counts, natural = (np.bincount(w[(w >= 0) & (w < 32)], minlength=32) for w in (found, sentences))
    assert counts.max() < 4 * counts.min() and natural.max() > 10 * natural.min()
    others = [(w >= 32).sum() / (w >= 0).sum() for w in (found, sentences)]
    assert 0.25 < others[0] < 0.4 and 0.5 < others[1] < 0.75
    answers = draw_pages("test", range(300), options=PageOptions(32, resolutions=(64,))).questions[:, 0, 1]
    assert np.bincount(answers).max() < 0.4 * len(answers), "one word is not the answer to most questions"


def test_questions_are_laid_out_with_labels_at_x():
    tokens, labels = WORDS.ask(torch.tensor([[[3, 7], [-1, -1]]]))
    assert tokens.tolist() == [[3, WORDS.pad]] and labels.tolist() == [[7, -100]]
    tokens, labels = WORDS.read_aloud(torch.tensor([[5, 6, -1]]), torch.tensor([[5, -1, -1]]))
    assert tokens.tolist() == [[WORDS.pad, 5, 6]] and labels.tolist() == [[5, -100, -100]]


def test_four_pages_are_learnt_by_heart(tensors):
    """Four pages, the same question, four answers: right with the pages, one in four at best without."""
    torch.manual_seed(0)
    few = PageTensors(**{name: part.clone() for name, part in _first(tensors["train"][0], 4).items()})
    answers = torch.from_numpy(training_pairs(32)[5]).nonzero()[:4, 0]
    few.questions[:] = -1
    few.questions[:, 0] = torch.stack([torch.full_like(answers, 5), answers], 1)
    reader = Reader(ARMS["FastViTHD"], build_encoder("fastvithd").eval(), WORDS.language_model(NAME))
    before = {name: value.clone() for name, value in reader.encoder.state_dict().items()}
    tokens = torch.randn(4, 4, reader.encoder.map_dims[-1])
    loss = train_reader(reader, tokens, few, WORDS, Size(150, 8, 4e-3))
    assert loss < 2.5 and page_accuracy(reader, tokens, few, WORDS).mean() == 1.0
    assert page_accuracy(reader, torch.zeros_like(tokens[:1]), few, WORDS).mean() <= 0.25
    assert all(torch.equal(before[name], value) for name, value in reader.encoder.state_dict().items())
    assert to_pixels(torch.tensor([255, 0])).tolist() == [0.0, 1.0]


def test_the_rate_warms_up_and_cools_down():
    shares = [rate_share(step, 20) for step in range(20)]
    assert shares[:3] == [0.5, 1.0, 1.0] and all(a > b for a, b in itertools.pairwise(shares[2:])) and shares[-1] < 0.02
    weight = torch.nn.Parameter(torch.zeros(1))
    assert run_steps([weight], Size(200, 1, 0.1), lambda: (weight - 1).square().sum()) < 1e-3
