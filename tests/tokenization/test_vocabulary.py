"""Token ids: each has one meaning, and text survives encoding."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer.errors import ConfigError
from optformer.tokenization.tokenizer import DEFAULT, RELEASED, vocabulary_of
from optformer.tokenization.vocabulary import NO_ID, Bin, Vocabulary, default_text_model
from tests.tokenization.released import released_tokenizer

VOCABULARY = Vocabulary(default_text_model(), 1000)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40), index=st.integers(0, 999))
def test_any_text_decodes_to_itself(text: str, index: int) -> None:
    """Text in any script, and text that looks like a bin, which is not encoded as one."""
    ids = VOCABULARY.encode([f"<{index}>{text}", Bin(index)])
    assert ids[-1] == VOCABULARY.first_bin + index
    assert (ids[:-1] < VOCABULARY.first_bin).all()
    # SentencePiece writes a space as ▁, so that character decodes to a space.
    assert VOCABULARY.text(ids.tolist()) == f"<{index}>{text.replace('▁', ' ')}<{index}>"


def test_the_fingerprint_depends_on_the_bins() -> None:
    same, fewer = (Vocabulary(default_text_model(), bins) for bins in (1000, 999))
    assert VOCABULARY.fingerprint == same.fingerprint != fewer.fingerprint


def test_each_id_is_a_piece_a_bin_or_a_status() -> None:
    ids = np.arange(VOCABULARY.size)
    statuses = [
        VOCABULARY.infeasible, VOCABULARY.pending, VOCABULARY.missing, VOCABULARY.inactive
    ]  # fmt: skip
    bins = ids[VOCABULARY.is_bin(ids)].tolist()
    assert len(bins) == VOCABULARY.bins
    assert sorted([*range(VOCABULARY.first_output), *bins, *statuses]) == ids.tolist()
    assert VOCABULARY.words(bins[:2] + statuses[:1]) == ["<0>", "<1>", "<INFEASIBLE>"]


def test_bins_have_evenly_spaced_values_and_other_ids_none() -> None:
    ids = np.arange(VOCABULARY.size)
    units = VOCABULARY.to_units(ids, other=np.nan)
    np.testing.assert_array_equal(np.isnan(units), ~VOCABULARY.is_bin(ids))
    np.testing.assert_allclose(np.diff(units[VOCABULARY.is_bin(ids)]), 1 / VOCABULARY.bins)


def test_without_statuses_no_id_stands_for_one() -> None:
    vocabulary = vocabulary_of(dataclasses.replace(DEFAULT, statuses=False))
    assert vocabulary.infeasible == vocabulary.pending == vocabulary.inactive == NO_ID
    assert vocabulary.size == VOCABULARY.size - 4


def test_the_released_decoder_outputs_every_id_in_a_multiple_of_128() -> None:
    vocabulary = released_tokenizer().vocabulary
    assert vocabulary.bins == RELEASED.bins
    assert (vocabulary.first_output, vocabulary.outputs) == (0, vocabulary.size)
    assert vocabulary.size % 128 == 0
    # There, a text is split as a whole, so that a bin in it is a bin.
    assert vocabulary.encode(["<7>"])[-1] == vocabulary.first_bin + 7


def test_a_vocabulary_needs_a_text_model_and_two_bins() -> None:
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        Vocabulary(b"nonsense", 10)
    with pytest.raises(ConfigError, match="bins=1 is too few"):
        Vocabulary(default_text_model(), 1)
