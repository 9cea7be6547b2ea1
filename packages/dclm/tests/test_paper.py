"""Numbers of the paper and its code that need no training."""

import dataclasses

import pytest
from dclm import PRESETS
from dclm.config import CURATED_DOMAINS, Bloom, RefinedWeb, Repetition, Threshold
from dclm.dedup.bloom_filter import filter_size
from dclm.filters.lines import RULES
from dclm.filters.url import _data_lines


def test_thresholds_are_those_of_the_authors_configuration():
    """dclm_baseline_refinedweb.yaml."""
    config = RefinedWeb()
    assert (config.min_words, config.max_words) == (50, 100_000)
    assert (config.min_word_length, config.max_word_length) == (3, 10)
    assert (config.max_symbol_ratio, config.max_bullet_lines, config.max_ellipsis_lines) == (0.1, 0.9, 0.3)
    assert (config.max_non_alphabetic, config.min_stop_words, config.min_language_probability) == (0.2, 2, 0.65)
    assert (config.max_uppercase, config.max_digits, config.min_line_words) == (0.5, 0.999999, 2)
    assert config.max_removed_words == 0.05
    assert len(RULES) == 7  # steps 19-25


def test_repetition_is_table_a1_of_gopher():
    assert Repetition().top_ngrams == ((2, 0.20), (3, 0.18), (4, 0.16))
    assert Repetition().ngrams == ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


def test_bloom_is_set_as_for_dclm_baseline():
    assert Bloom() == Bloom("old-both", 13, 13, 0.8, 0.01)


@pytest.mark.parametrize(("name", "count"), [("strict", 117), ("hard", 176), ("soft", 83)])
def test_word_lists_have_the_authors_lengths(name, count):
    assert len(_data_lines(f"url_words_{name}.txt")) == count


def test_the_two_presets_differ_by_the_curated_domains():
    first, second = (PRESETS[name].stages[1] for name in ("dclm_baseline", "refinedweb"))
    assert dataclasses.replace(first, skip_domains=CURATED_DOMAINS) == second
    assert len(CURATED_DOMAINS) == 16


def test_a_filter_for_a_thousand_million_takes_what_the_thread_says():
    """dclm issue 71: 1.1 GiB; issue 99: 2e12 n-grams, 2.2 TiB."""
    assert filter_size(10**9, 0.01)[0] / 8 / 2**30 == pytest.approx(1.1, abs=0.03)
    assert filter_size(2 * 10**12, 0.01)[0] / 8 / 2**40 == pytest.approx(2.2, abs=0.03)


def test_the_best_tenth_is_the_default():
    assert Threshold().keep_share == 0.1
