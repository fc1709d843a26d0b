"""Token ids of text pieces, bins and statuses. No other module depends on their numbers.

    0 … first_bin-1        text pieces of a SentencePiece model (0 pads, 1 ends, 2 is unknown)
    first_bin … +Q-1       bins <0> … <Q-1>
    then                   <INFEASIBLE> <PENDING> <MISSING> <INACTIVE>

In our own layout the decoder outputs only bins and statuses, so its outputs start at the first
bin. The released layout has no statuses, and its decoder outputs every id. With T5's vocabulary:

    0 … 32,099 text pieces, 32,100 … 33,099 bins, then padding up to 33,151
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from optformer.errors import ConfigError
from optformer.tokenization.quantize import from_bins

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SEPARATORS = ("*", "|")
"""The tokens before and after a trial's metric in the released layout."""

STATUSES = ("INFEASIBLE", "PENDING", "MISSING", "INACTIVE")

PAD = 0
"""Fills arrays, and starts the decoder, as in T5."""

NO_ID = -1
"""Stands for a token that the vocabulary does not have."""

OUTPUT_MULTIPLE = 128
"""If the decoder outputs every id, their number is padded to a multiple of this, as in T5X."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """A number inside a text, encoded as the single token of a bin."""

    index: int

    def __str__(self) -> str:
        return f"<{self.index}>"


Chunk = str | Bin
"""Metadata text is a list of chunks, so that a name that looks like a bin remains text."""


class Vocabulary:
    """The ids of one SentencePiece model and Q bins.

    Args:
      text_model: a serialized SentencePiece model.
      bins: Q, the number of bins.
      statuses: whether there are tokens for infeasible, pending, missing and inactive values.
      text_output: whether the decoder outputs text too, as T5's does. Bins are then pieces of
        the text model, so any `<17>` in a text is encoded as a bin.
    """

    def __init__(
        self,
        text_model: bytes,
        bins: int = 1000,
        *,
        statuses: bool = True,
        text_output: bool = False,
    ) -> None:
        import sentencepiece

        if bins < 2:
            raise ConfigError(f"bins={bins} is too few: a number needs at least 2 bins.")
        self.text_model = text_model
        self.bins = bins
        self.statuses = STATUSES if statuses else ()
        self.text_output = text_output
        try:
            self._text = sentencepiece.SentencePieceProcessor(model_proto=text_model)
            if text_output:
                text_model = _with_bins(self._text, text_model, bins)
                self._text = sentencepiece.SentencePieceProcessor(model_proto=text_model)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"not a SentencePiece model: {error}") from error

    @property
    def first_bin(self) -> int:
        """The id of bin 0; every id below is text."""
        return int(self._text.vocab_size()) - (self.bins if self.text_output else 0)

    @property
    def size(self) -> int:
        """Number of ids."""
        used = self.first_bin + self.bins + len(self.statuses)
        return -(-used // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE if self.text_output else used

    @property
    def first_output(self) -> int:
        """The first id that the decoder can output."""
        return 0 if self.text_output else self.first_bin

    @property
    def outputs(self) -> int:
        """The number of ids that the decoder can output, beginning with `first_output`."""
        return self.size - self.first_output

    @property
    def infeasible(self) -> int:
        """Stands for the metric of a trial that could not be measured."""
        return self._status("INFEASIBLE")

    @property
    def pending(self) -> int:
        """Stands for the metric of a trial that is not measured yet."""
        return self._status("PENDING")

    @property
    def missing(self) -> int:
        """Stands for a metric that a completed trial does not have."""
        return self._status("MISSING")

    @property
    def inactive(self) -> int:
        """Stands for the value of a parameter that its parent disables."""
        return self._status("INACTIVE")

    @functools.cached_property
    def separators(self) -> tuple[int, int]:
        """The ids of `*` and `|`, the separators of the released layout."""
        star, bar = (self._text.piece_to_id(piece) for piece in SEPARATORS)
        return star, bar

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids that the text model inserts before a leading bin; with T5's model, a space."""
        return tuple(self._text.encode("<0>")[:-1]) if self.text_output else ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of everything that gives ids their meaning."""
        digest = hashlib.sha256(self.text_model)
        meaning = (self.bins, self.statuses, *(["text_output"] if self.text_output else []))
        digest.update(repr(meaning).encode())
        return digest.hexdigest()[:16]

    def is_bin(self, ids: Int[np.ndarray, "*T"]) -> Bool[np.ndarray, "*T"]:
        """Which ids are bins."""
        return (ids >= self.first_bin) & (ids < self.first_bin + self.bins)

    def to_units(self, ids: Int[np.ndarray, "*T"], other: float) -> Float64[np.ndarray, "*T"]:
        """The centre of each bin, in [0, 1]; `other` for ids that are not bins."""
        units = from_bins(np.asarray(ids - self.first_bin, np.int64), self.bins)
        return np.where(self.is_bin(ids), units, other)

    def encode(self, chunks: Sequence[Chunk]) -> Int32[np.ndarray, " S"]:
        """The ids of a text; a number outside the range of bins is encoded as text."""
        if self.text_output:
            return np.array(self._text.encode("".join(map(str, chunks))), dtype=np.int32)
        ids: list[int] = []
        for chunk in chunks:
            if isinstance(chunk, Bin) and 0 <= chunk.index < self.bins:
                ids.append(self.first_bin + chunk.index)
            else:
                ids.extend(self._text.encode(str(chunk)))
        return np.array(ids, dtype=np.int32)

    def words(self, ids: Iterable[int]) -> list[str]:
        """A readable name of each id: a piece of text, `<17>`, or `<PENDING>`."""
        names = []
        for token in ids:
            number = int(token) - self.first_bin
            if number < 0:
                names.append(self._text.id_to_piece(int(token)))
            elif number < self.bins:
                names.append(str(Bin(number)))
            else:
                names.append(f"<{dict(enumerate(self.statuses, self.bins)).get(number, 'UNUSED')}>")
        return names

    def text(self, ids: Sequence[int]) -> str:
        """The text of these ids, the inverse of `encode`, with bins as `<17>`.

        If `text_output`, the text model decodes the ids, and characters that it does not cover
        are lost.
        """
        if self.text_output:
            known = self.first_bin + self.bins
            return self._text.decode([int(token) for token in ids if token < known])
        out, run = [], list[int]()
        for token in [*ids, self.first_bin]:
            if token < self.first_bin:
                run.append(int(token))
            else:
                out += [self._text.decode(run) if run else "", *self.words([token])]
                run = []
        return "".join(out[:-1])

    def _status(self, name: str) -> int:
        if name not in self.statuses:
            return NO_ID
        return self.first_bin + self.bins + self.statuses.index(name)


def train_text_model(lines: Iterable[str], pieces: int) -> bytes:
    """A SentencePiece model with `pieces` pieces and byte fallback.

    Without normalization, any text decodes to itself.
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
        num_threads=1,  # with more threads, each run gives a different model
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


def _with_bins(text: "SentencePieceProcessor", text_model: bytes, bins: int) -> bytes:
    """The model with separators and bins as user-defined pieces, which are never split."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(text_model)
    unknown = [piece for piece in SEPARATORS if text.piece_to_id(piece) == text.unk_id()]
    for piece in [*unknown, *(str(Bin(index)) for index in range(bins))]:
        model.pieces.add(piece=piece, type=model.SentencePiece.USER_DEFINED)
    return model.SerializeToString()


@functools.cache
def default_text_model() -> bytes:
    """The SentencePiece model that ships with the package; `corpus.py` trains it."""
    return resources.files("optformer.tokenization").joinpath("text.model").read_bytes()
