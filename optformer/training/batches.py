"""Batches: studies as arrays for one training step. Batch i is a function of (seed, i) only.

Therefore the position in the data is a single number, a resumed run has the same batches as an
uninterrupted one, and any worker can build any batch. All studies of a batch have trials of the
same length. Short studies share a row, in which segments separate them.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int32

from optformer.errors import SourceError
from optformer.model import experts
from optformer.settings import check_ranges
from optformer.study import ParameterType, Study
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer
from optformer.tokenization.trajectory import METRIC_SLOTS, Role, TrialLayout
from optformer.tokenization.vocabulary import PAD
from optformer.training import augment
from optformer.training.augment import AugmentConfig


class Batch(NamedTuple):
    """Arrays of one step. Position t of the decoder reads inputs[t] and predicts targets[t].

    Attributes:
      text_BS, text_slots_BS, text_segments_BS: the encoder's tokens, their slots, and the study of
        the row that they belong to (from 1; 0 is padding).
      inputs_BT, targets_BT, segments_BT: the decoder's inputs, targets and segments.
      input_slots_BT, target_slots_BT: the slots of the input and the target token.
      roles_BT: the role of the target (`trajectory.Role`).
      weights_BT: the weight of the target in the loss.
      smooth_BT: whether nearby bins of the target have nearly the same meaning.
      predictive_BT2: mean and standard deviation of the target on [0, 1], if known.
      trials_T: the index of the input's trial in the row.
      value_places_BR: the position of each trial's first metric in the row; -1 after the last
        trial. R is half of T, because a trial has at least two tokens; 0 without experts.
      expert_logs_BRE, expert_below_BRE, evidence_BRE: the fields of `experts.Followed` for it.
    """

    text_BS: Int32[np.ndarray, "B S"]
    text_slots_BS: Int32[np.ndarray, "B S"]
    text_segments_BS: Int32[np.ndarray, "B S"]
    inputs_BT: Int32[np.ndarray, "B T"]
    targets_BT: Int32[np.ndarray, "B T"]
    segments_BT: Int32[np.ndarray, "B T"]
    input_slots_BT: Int32[np.ndarray, "B T"]
    target_slots_BT: Int32[np.ndarray, "B T"]
    roles_BT: Int8[np.ndarray, "B T"]
    weights_BT: Float32[np.ndarray, "B T"]
    smooth_BT: Bool[np.ndarray, "B T"]
    predictive_BT2: Float32[np.ndarray, "B T 2"]
    trials_T: Int32[np.ndarray, " T"]
    value_places_BR: Int32[np.ndarray, "B R"]
    expert_logs_BRE: Float32[np.ndarray, "B R E"]
    expert_below_BRE: Float32[np.ndarray, "B R E"]
    evidence_BRE: Float32[np.ndarray, "B R E"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The size of a batch.

    Attributes:
      rows, tokens: the number of rows, and their largest length. If all studies of a batch are
        short, there are more and shorter rows, because the time for attention grows with the
        square of the length.
      text_tokens: the largest number of text tokens in a row.
      sizes: the number of lengths of rows, evenly spaced up to `tokens`. Texts have
        1 + log2(sizes) lengths, each half of the next up to `text_tokens`. Each pair that occurs is
        compiled once, so short runs should have few.
    """

    rows: int = 8
    tokens: int = 512
    text_tokens: int = 256
    sizes: int = 4
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_ranges(
            self, "batch.", rows=(1, None), tokens=(2, None), text_tokens=(8, None), sizes=(1, None)
        )


@runtime_checkable
class Source(Protocol):
    """A source of training studies."""

    def draw(self, seed: int, step: int) -> Sequence[Study]:
        """Studies for one batch, all with the same numbers of parameters and metrics."""


def is_held_out(study: Study, share: float) -> bool:
    """Whether a study is held out for validation, by a hash of its title or name.

    It is on the same side in every run, and all studies of a problem are on the same side.
    """
    digest = hashlib.sha256((study.problem.title or study.name).encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32 < share


class StudySource:
    """Studies in memory, drawn at random with replacement, all of the same layout.

    Args:
      studies: at least one.
      draw: the number of studies for a batch.

    Raises:
      SourceError: there are no studies.
    """

    def __init__(self, studies: Sequence[Study], draw: int = 64) -> None:
        if not studies:
            raise SourceError("there are no studies to train on. Import or generate some first.")
        groups: dict[tuple[int, int], list[Study]] = {}
        for study in studies:
            layout = len(study.problem.parameters), len(study.problem.metrics)
            groups.setdefault(layout, []).append(study)
        self._groups = list(groups.values())
        self._draw = draw
        tokens = np.array(
            [
                sum(len(s) * (len(s.problem.parameters) + len(s.problem.metrics)) for s in group)
                for group in self._groups
            ]
        )
        self._share = tokens / tokens.sum()

    def draw(self, seed: int, step: int) -> Sequence[Study]:
        """Studies of one layout, chosen in proportion to its number of tokens."""
        rng = np.random.default_rng((seed, step))
        group = self._groups[rng.choice(len(self._groups), p=self._share)]
        return [group[index] for index in rng.integers(len(group), size=self._draw)]


class Batches:
    """The batches of a run: `batches[i]` is batch i.

    Args:
      sources: sources of studies, each with its share of the batches.
      ask_experts: whether batches include the experts' predictions (`Batch.expert_logs_BRE`).
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        tokenizer: StudyTokenizer,
        config: BatchConfig,
        seed: int,
        *,
        ask_experts: bool = False,
    ) -> None:
        self._sources = [source for source, _ in sources]
        share = np.array([weight for _, weight in sources], dtype=np.float64)
        self._share = share / share.sum()
        self._tokenizer = tokenizer
        self._config = config
        self._seed = seed
        self._ask_experts = ask_experts

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self._seed, step, 1))
        source = self._sources[rng.choice(len(self._sources), p=self._share)]
        studies = source.draw(self._seed, step)
        config, tokenizer = self._config, self._tokenizer
        # One after the other, as rows take them: those beyond the last row are never encoded.
        examples = (
            augment.augment(
                study, tokenizer, config.augment, config.tokens, rng, config.text_tokens
            )
            for study in studies
        )
        layout = tokenizer.layout(studies[0].problem)
        trials = min(max(map(len, studies)), layout.trials_in(config.tokens))
        longest = places(trials * layout.length, layout)
        return pack(examples, tokenizer, config, longest=longest, ask_experts=self._ask_experts)


Example = tuple[EncodedProblem, EncodedTrials]


def pack(
    examples: Iterable[Example],
    tokenizer: StudyTokenizer,
    config: BatchConfig,
    *,
    longest: int | None = None,
    ask_experts: bool = False,
) -> Batch:
    """Puts examples of one layout into rows, in order, until the rows are full.

    Rows are as long as the longest study needs, in steps of `config.tokens / config.sizes`.

    Args:
      examples: those beyond the last row are not drawn if `longest` is given.
      longest: the most places that any of the examples takes.

    Raises:
      SourceError: when no example's text fits.
    """
    if longest is None:
        examples = list(examples)
        longest = max(
            (places(len(trials.ids_T), problem.layout) for problem, trials in examples), default=1
        )
    part = -(-config.tokens // config.sizes)
    tokens = min(config.tokens, -(-longest // part) * part)
    most_rows = config.rows * config.tokens // tokens
    rows = fill_rows(examples, most_rows, tokens, config.text_tokens)
    if not rows:
        raise SourceError(f"no study's text fits batch.text_tokens={config.text_tokens}. Raise it.")
    text_length = max(sum(len(problem.ids_S) for problem, _ in row) for row in rows)
    halves = config.sizes.bit_length() - 1
    lengths = [config.text_tokens >> half for half in range(halves, -1, -1)]
    text_length = next(length for length in lengths if length >= text_length)
    text_shape, shape = (most_rows, text_length), (most_rows, tokens)
    text_BS, text_slots_BS, text_segments_BS = (np.full(text_shape, PAD, np.int32) for _ in "123")
    inputs_BT, targets_BT, segments_BT, input_slots_BT, target_slots_BT = (
        np.full(shape, PAD, np.int32) for _ in "12345"
    )
    roles_BT = np.zeros(shape, np.int8)
    weights_BT = np.zeros(shape, np.float32)
    smooth_BT = np.zeros(shape, bool)
    predictive_BT2 = np.zeros((*shape, 2), np.float32)
    trials_shape = (most_rows, tokens // 2 if ask_experts else 0)
    value_places_BR = np.full(trials_shape, -1, np.int32)
    said_3BRE = np.zeros((3, *trials_shape, experts.EXPERTS), np.float32)
    for row, members in enumerate(rows):
        start, text_start, first_trial = 0, 0, 0
        for segment, (problem, trials) in enumerate(members, start=1):
            text = slice(text_start, text_start + len(problem.ids_S))
            text_BS[row, text] = problem.ids_S
            text_slots_BS[row, text] = problem.slots_S
            text_segments_BS[row, text] = segment
            text_start = text.stop
            prefix = problem.layout.prefix
            here = slice(start + len(prefix), start + len(prefix) + len(trials.ids_T))
            targets_BT[row, start : here.start] = prefix
            targets_BT[row, here] = trials.ids_T
            target_slots_BT[row, here] = trials.slots_T
            inputs_BT[row, start + 1 : here.stop] = targets_BT[row, start : here.stop - 1]
            input_slots_BT[row, start + 1 : here.stop] = target_slots_BT[row, start : here.stop - 1]
            segments_BT[row, start : here.stop] = segment
            roles_BT[row, here] = trials.roles_T
            weights_BT[row, here] = trials.weights_T
            predictive_BT2[row, here] = trials.predictive_T2
            smooth_BT[row, here] = is_smooth(problem, trials, tokenizer)
            if ask_experts:
                value_places = problem.layout.values_of(np.arange(here.start, here.stop))
                at = slice(first_trial, first_trial + len(value_places))
                value_places_BR[row, at] = value_places
                followed = follow(problem, trials, tokenizer)
                said_3BRE[0, row, at] = followed.log_RE
                said_3BRE[1, row, at] = followed.below_RE
                said_3BRE[2, row, at] = followed.evidence_RE
                first_trial = at.stop
            start += places(len(trials.ids_T), problem.layout)
    return Batch(
        text_BS=text_BS,
        text_slots_BS=text_slots_BS,
        text_segments_BS=text_segments_BS,
        inputs_BT=inputs_BT,
        targets_BT=targets_BT,
        segments_BT=segments_BT,
        input_slots_BT=input_slots_BT,
        target_slots_BT=target_slots_BT,
        roles_BT=roles_BT,
        weights_BT=weights_BT,
        smooth_BT=smooth_BT,
        predictive_BT2=predictive_BT2,
        trials_T=trials_along(tokens, rows[0][0][0].layout),
        value_places_BR=value_places_BR,
        expert_logs_BRE=said_3BRE[0],
        expert_below_BRE=said_3BRE[1],
        evidence_BRE=said_3BRE[2],
    )


def fill_rows(
    examples: Iterable[Example], most_rows: int, tokens: int, text_tokens: int
) -> list[list[Example]]:
    """Examples of one layout in rows. A row takes another while its trials and its text fit; a
    study whose text alone is too long is left out."""
    rows: list[list[Example]] = []
    used, used_text = 0, 0
    for problem, trials in examples:
        text = len(problem.ids_S)
        if text > text_tokens or not len(trials.ids_T):
            continue
        assert not rows or problem.layout.length == rows[0][0][0].layout.length
        used += places(len(trials.ids_T), problem.layout)
        used_text += text
        fit = tokens // problem.layout.length * problem.layout.length
        if not rows or used > fit or used_text > text_tokens:
            if len(rows) == most_rows:
                break
            rows.append([])
            used, used_text = places(len(trials.ids_T), problem.layout), text
        rows[-1].append((problem, trials))
    return rows


def follow(
    problem: EncodedProblem, trials: EncodedTrials, tokenizer: StudyTokenizer
) -> experts.Followed:
    """The experts' predictions of the first metric of each trial."""
    return experts.follow(
        *experts.read_trials(problem, trials.ids_T, tokenizer), tokenizer.vocabulary.bins
    )


def places(tokens: int, layout: TrialLayout) -> int:
    """How many places a study of so many tokens takes in a row: those of whole trials, so that all
    rows line up."""
    return layout.whole(layout.tokens_of(0) + tokens)


def trials_along(tokens: int, layout: TrialLayout) -> Int32[np.ndarray, " T"]:
    """The trial, counted from 1, of each place's input token; place 0 reads the start token."""
    return (layout.trial_of(np.arange(tokens) - 1) + 1).astype(np.int32)


def is_smooth(
    problem: EncodedProblem, trials: EncodedTrials, tokenizer: StudyTokenizer
) -> Bool[np.ndarray, " T"]:
    """Whether each token is a bin of a continuous quantity."""
    continuous = [
        parameter.type == ParameterType.DOUBLE
        or bool(parameter.type == ParameterType.INTEGER and tokenizer.value_bins(parameter).all())
        for parameter in (problem.problem.parameters[index] for index in problem.order_P)
    ]
    by_slot = np.zeros(METRIC_SLOTS + 1 + len(continuous), dtype=bool)
    by_slot[METRIC_SLOTS + 1 :] = continuous
    is_bin_T = tokenizer.vocabulary.is_bin(trials.ids_T)
    return is_bin_T & (by_slot[trials.slots_T] | (trials.roles_T == Role.VALUE))
