"""Text pieces, bins and statuses <-> token ids. No other module knows an id.

    0 … first_bin-1        text pieces of a SentencePiece model (0 pads, 1 ends, 2 is unknown)
    first_bin … +Q-1       bins <0> … <Q-1>
    then                   <INFEASIBLE> <PENDING> <MISSING> <INACTIVE>

The decoder of our own layout writes only bins and statuses: its outputs start at the first bin.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from importlib import resources

import numpy as np
from jaxtyping import Int32

from optformer.errors import ConfigError

STATUSES = ("INFEASIBLE", "PENDING", "MISSING", "INACTIVE")

PAD = 0
"""Fills arrays, and starts the decoder, as in T5."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """A number in a text: one token, whatever the text around it."""

    index: int


Chunk = str | Bin
"""Metadata text is a list of these, so that a name that looks like a bin stays text."""


class Vocabulary:
    """The ids of one SentencePiece model and Q bins.

    Args:
      text_model: a serialized SentencePiece model.
      bins: Q, the number of bins.
    """

    def __init__(self, text_model: bytes, bins: int = 1000) -> None:
        import sentencepiece

        if bins < 2:
            raise ConfigError(f"bins={bins} is too few: a number needs at least 2 bins.")
        self.text_model = text_model
        self.bins = bins
        try:
            self._text = sentencepiece.SentencePieceProcessor(model_proto=text_model)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"not a SentencePiece model: {error}") from error

    @property
    def first_bin(self) -> int:
        """The id of bin 0; every id below is text."""
        return int(self._text.vocab_size())

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.first_bin + self.bins + len(STATUSES)

    @property
    def first_output(self) -> int:
        """The first id that the decoder can write."""
        return self.first_bin

    @property
    def outputs(self) -> int:
        """How many ids the decoder can write, from `first_output` on."""
        return self.size - self.first_output

    @property
    def infeasible(self) -> int:
        """In place of a metric: the trial could not be measured."""
        return self.first_bin + self.bins

    @property
    def pending(self) -> int:
        """In place of a metric: the trial is not measured yet."""
        return self.infeasible + 1

    @property
    def missing(self) -> int:
        """In place of a metric: the trial is completed without it."""
        return self.infeasible + 2

    @property
    def inactive(self) -> int:
        """In place of a parameter: its parent switches it off."""
        return self.infeasible + 3

    @functools.cached_property
    def separators(self) -> tuple[int, int]:
        """The ids of `*` and `|`, which the released layout puts between tokens."""
        return self._text.piece_to_id("*"), self._text.piece_to_id("|")

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of everything that gives ids their meaning."""
        digest = hashlib.sha256(self.text_model)
        digest.update(repr((self.bins, STATUSES)).encode())
        return digest.hexdigest()[:16]

    def encode(self, chunks: Sequence[Chunk]) -> Int32[np.ndarray, " S"]:
        """The ids of a text with numbers in it."""
        ids: list[int] = []
        for chunk in chunks:
            if isinstance(chunk, Bin):
                ids.append(self.first_bin + chunk.index)
            else:
                ids.extend(self._text.encode(chunk))
        return np.array(ids, dtype=np.int32)

    def words(self, ids: Iterable[int]) -> list[str]:
        """Each id as people read it: a piece of text, `<17>`, or `<PENDING>`."""
        names = []
        for token in ids:
            if token < self.first_bin:
                names.append(self._text.id_to_piece(int(token)))
            elif token < self.infeasible:
                names.append(f"<{token - self.first_bin}>")
            else:
                names.append(f"<{STATUSES[token - self.infeasible]}>")
        return names

    def text(self, ids: Sequence[int]) -> str:
        """The text that `encode` turned into these ids, with bins as `<17>`."""
        out, run = [], list[int]()
        for token in [*ids, self.first_bin]:
            if token < self.first_bin:
                run.append(int(token))
            else:
                out += [self._text.decode(run) if run else "", *self.words([token])]
                run = []
        return "".join(out[:-1])


def train_text_model(lines: Iterable[str], pieces: int) -> bytes:
    """A SentencePiece model of `pieces` pieces with byte fallback: no text is lost.

    Spaces and letters are kept as they are, so that text decodes to itself.
    """
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        character_coverage=1.0,
        max_sentence_length=1 << 16,
        num_threads=1,  # more threads give another model each time
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


@functools.cache
def default_text_model() -> bytes:
    """The SentencePiece model that ships with the package; `corpus.py` made it."""
    return resources.files("optformer.tokenization").joinpath("text.model").read_bytes()
