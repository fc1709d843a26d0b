"""StudyTokenizer: a study as arrays of token ids, and token ids back to values.

Array dimensions: S encoder tokens, T decoder tokens, R trials, P parameters, K parameters that
have tokens, M metrics, Q bins.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int32, Int64

from optformer import space
from optformer.errors import ConfigError, StudyError
from optformer.study import Parameter, ParameterType, Problem, State, Study
from optformer.tokenization import metadata, quantize, trajectory
from optformer.tokenization.metadata import MetadataOptions
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.trajectory import LegalTokens, Role, TrialLayout
from optformer.tokenization.vocabulary import Vocabulary, default_text_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The token format of studies; saved in the checkpoint.

    Attributes:
      bins: the number of bins of a parameter or metric.
      separators: whether `*` and `|` separate the tokens of a trial. They are text pieces, so the
        decoder then outputs text.
      statuses: whether there are tokens for infeasible, pending and missing metrics and for
        inactive parameters. Without them, an infeasible trial gets the worst metric of its study,
        pending trials are left out, and conditional parameters and second metrics are refused.
      centred: whether each of L discrete values maps to the centre of its L-th part of [0, 1]. If
        not, integers are scaled like continuous values and rounded when decoded, and the index of
        a discrete value or category is its bin.
      fixed: whether parameters with a single value have tokens.
      single: whether metrics are rounded to single precision.
    """

    NAMED: ClassVar[dict[str, "TokenizerOptions"]] = {}

    bins: int = 1000
    separators: bool = False
    statuses: bool = True
    centred: bool = True
    fixed: bool = True
    single: bool = False
    metadata: MetadataOptions = dataclasses.field(default_factory=MetadataOptions)


DEFAULT = TokenizerOptions()

RELEASED = TokenizerOptions(
    separators=True,
    statuses=False,
    centred=False,
    fixed=False,
    single=True,
    metadata=MetadataOptions(grammar="letters", most_values=1000, most_letters=100_000),
)
"""The format of Google's released checkpoints; with T5's vocabulary, the same tokens."""

TokenizerOptions.NAMED.update(default=DEFAULT, released=RELEASED)


def vocabulary_of(options: TokenizerOptions, text_model: bytes | None = None) -> Vocabulary:
    """The vocabulary for these options; `text_model` is the shipped one by default."""
    return Vocabulary(
        text_model or default_text_model(),
        options.bins,
        statuses=options.statuses,
        text_output=options.separators,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedProblem:
    """A problem as encoder tokens, and the meaning of its decoder tokens.

    Attributes:
      ids_S: token ids of the text.
      slots_S: the slot of the parameter that a token describes; 0 for the study itself, and for
        all tokens of the released format.
      order_P: the index in the problem of the parameter at each position of a trial.
    """

    problem: Problem
    ids_S: Int32[np.ndarray, " S"]
    slots_S: Int32[np.ndarray, " S"]
    order_P: Int64[np.ndarray, " P"]
    layout: TrialLayout

    @property
    def ordered_P(self) -> Bool[np.ndarray, " P"]:
        """Whether the values of the parameter at each position have an order."""
        types = [self.problem.parameters[index].type for index in self.order_P]
        return np.array([kind != ParameterType.CATEGORICAL for kind in types])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTrials:
    """A study's trials as one sequence of decoder tokens.

    Attributes:
      ids_T: token ids.
      roles_T, slots_T: the role and slot of each token (`trajectory`).
      trials_T: the index of the trial in the study, from 0.
      weights_T: the weight of each token in the loss.
      predictive_T2: mean and standard deviation, on the scale of [0, 1], of a metric whose exact
        distribution the generator provides; otherwise zeros.
      scalings: the map of each metric to [0, 1], which decoding needs.
    """

    ids_T: Int32[np.ndarray, " T"]
    roles_T: Int8[np.ndarray, " T"]
    slots_T: Int32[np.ndarray, " T"]
    trials_T: Int32[np.ndarray, " T"]
    weights_T: Float32[np.ndarray, " T"]
    predictive_T2: Float32[np.ndarray, "T 2"]
    scalings: tuple[ValueScaling, ...]


class StudyTokenizer:
    """Converts problems and trials to tokens and back, with one vocabulary and its options."""

    def __init__(
        self, options: TokenizerOptions | None = None, vocabulary: Vocabulary | None = None
    ) -> None:
        self.options = options or DEFAULT
        self.vocabulary = vocabulary or vocabulary_of(self.options)
        wanted = (self.options.bins, self.options.statuses, self.options.separators)
        given = self.vocabulary
        if wanted != (given.bins, bool(given.statuses), given.text_output):
            raise ConfigError(
                f"the vocabulary has bins={given.bins}, statuses={bool(given.statuses)}, "
                f"text_output={given.text_output}, but these options need bins={wanted[0]}, "
                f"statuses={wanted[1]}, text_output={wanted[2]}. Build it with vocabulary_of."
            )

    def layout(self, problem: Problem) -> TrialLayout:
        """The layout of this problem's trials."""
        return TrialLayout(
            parameters=len(self._with_tokens(problem)),
            metrics=len(problem.metrics),
            separators=self.options.separators,
            prefix=self.vocabulary.prefix,
        )

    def encode_problem(
        self,
        problem: Problem,
        algorithm: str,
        *,
        order_P: Int64[np.ndarray, " P"] | None = None,
        text: MetadataOptions | None = None,
    ) -> EncodedProblem:
        """The problem's text, with its parameters in this order (by default, the problem's).

        Raises:
          StudyError: the vocabulary cannot express the problem.
        """
        with_tokens = self._with_tokens(problem)
        reason = trajectory.check_problem(
            problem, self.vocabulary.bins, plain=not self.options.statuses
        )
        if not len(with_tokens):
            reason = "every parameter has a single value, so there is nothing to search"
        if reason:
            raise StudyError(f"problem {problem.name!r}: {reason}.")
        if order_P is None:
            order_P = with_tokens
        order_P = order_P[np.isin(order_P, with_tokens)]
        parts = metadata.describe(
            problem, algorithm, tuple(order_P.tolist()), text or self.options.metadata
        )
        if self.vocabulary.text_output:
            parts = [[chunk for part in parts for chunk in part]]
        ids = [self.vocabulary.encode(part) for part in parts]
        slots = [
            np.full(len(part), index and trajectory.METRIC_SLOTS + index, dtype=np.int32)
            for index, part in enumerate(ids)
        ]
        return EncodedProblem(
            problem=problem,
            ids_S=np.concatenate(ids),
            slots_S=np.concatenate(slots),
            order_P=order_P,
            layout=self.layout(problem),
        )

    def fit_scalings(
        self, study: Study, unit_low: float = 0.2, unit_high: float = 0.8
    ) -> tuple[ValueScaling, ...]:
        """`fit_scaling` for each metric. The defaults suit predictions after this history."""
        columns = range(study.metrics_RM.shape[1])
        return tuple(self.fit_scaling(study, column, unit_low, unit_high) for column in columns)

    def fit_scaling(
        self, study: Study, column: int, unit_low: float = 0.2, unit_high: float = 0.8
    ) -> ValueScaling:
        """The scaling that maps a metric's range in completed trials to [unit_low, unit_high]."""
        return quantize.fit_scaling(
            study.metrics_RM[study.states_R == State.COMPLETED, column],
            study.problem.metrics[column].sign,
            unit_low,
            unit_high,
            single=self.options.single,
            imputed=not self.options.statuses and bool((study.states_R == State.INFEASIBLE).any()),
        )

    def encode_trials(
        self,
        study: Study,
        encoded: EncodedProblem,
        scalings: tuple[ValueScaling, ...] | None = None,
    ) -> EncodedTrials:
        """The study's trials as tokens; by default, the scalings are fitted to the study.

        Raises:
          StudyError: a metric overflows single precision, and the options have `single`.
        """
        if scalings is None:
            scalings = self.fit_scalings(study)
        numbers_R = np.arange(len(study), dtype=np.int32)
        if not self.options.statuses:
            numbers_R = numbers_R[study.states_R != State.ACTIVE]
            study = study.rows(numbers_R)
        layout, trials = encoded.layout, len(study)
        if self.options.single:
            self._check_single(study)
        ids_T = layout.arrange(
            self.parameter_ids(study.problem, study.values_RP)[:, encoded.order_P],
            self.metric_ids(study, scalings),
            self.vocabulary,
        ).ravel()
        roles_T = np.tile(layout.roles(), trials)
        # Separators and pending statuses are never predicted, so they have no loss.
        counts_T = (roles_T != Role.SEPARATOR) & (ids_T != self.vocabulary.pending)
        predictive_T2 = np.zeros((len(ids_T), 2), dtype=np.float32)
        if study.predictive_R2 is not None:
            layout.values_of(predictive_T2)[:] = np.stack(
                [
                    scalings[0].to_unclipped_units(study.predictive_R2[:, 0]),
                    scalings[0].slope * study.predictive_R2[:, 1],
                ],
                axis=1,
            )
        return EncodedTrials(
            ids_T=ids_T,
            roles_T=roles_T,
            slots_T=np.tile(layout.slots(), trials),
            trials_T=numbers_R[layout.trials_along(len(ids_T))],
            weights_T=counts_T.astype(np.float32),
            predictive_T2=predictive_T2,
            scalings=scalings,
        )

    def parameter_ids(
        self, problem: Problem, values_RP: Float64[np.ndarray, "R P"]
    ) -> Int64[np.ndarray, "R P"]:
        """The token of each parameter value; for NaN, the token of an inactive parameter."""
        bins, centred = self.vocabulary.bins, self.options.centred
        ids_RP = np.empty(values_RP.shape, dtype=np.int64)
        for column, parameter in enumerate(problem.parameters):
            values_R = values_RP[:, column]
            inactive_R = np.isnan(values_R)
            if inactive_R.any():
                values_R = np.where(inactive_R, parameter.placeholder, values_R)
            bins_R = quantize.to_parameter_bins(parameter, values_R, bins, centred=centred)
            ids_RP[:, column] = np.where(
                inactive_R, self.vocabulary.inactive, self.vocabulary.first_bin + bins_R
            )
        return ids_RP

    def metric_ids(
        self, study: Study, scalings: tuple[ValueScaling, ...]
    ) -> Int64[np.ndarray, "R M"]:
        """The token of each metric: its bin, or the status that explains its absence.

        Without statuses, a trial that was not measured gets the worst value of the scaling's range.
        """
        ids_RM = np.empty(study.metrics_RM.shape, dtype=np.int64)
        for column, scaling in enumerate(scalings):
            values_R = study.metrics_RM[:, column]
            if not self.options.statuses:
                worst = scaling.sign * scaling.low
                values_R = np.where(study.states_R == State.COMPLETED, values_R, worst)
            finite_R = np.isfinite(values_R)
            units_R = scaling.to_units(np.where(finite_R, values_R, 0.0))
            bins_R = quantize.to_bins(units_R, self.vocabulary.bins)
            ids_RM[:, column] = np.where(
                finite_R, self.vocabulary.first_bin + bins_R, self.vocabulary.missing
            )
        if self.options.statuses:
            ids_RM[study.states_R == State.INFEASIBLE] = self.vocabulary.infeasible
            ids_RM[study.states_R == State.ACTIVE] = self.vocabulary.pending
        return ids_RM

    def decode_parameters(
        self,
        encoded: EncodedProblem,
        ids_RK: Int64[np.ndarray, "R K"],
        rng: np.random.Generator | None = None,
    ) -> Float64[np.ndarray, "R P"]:
        """Parameter tokens, in the order of `encoded`, as rows of `Study.values_RP`.

        A continuous value is the centre of its bin, or with `rng` a random point of the bin, so
        that equal tokens give different trials.
        """
        parameters = encoded.problem.parameters
        values_RP = np.full((len(ids_RK), len(parameters)), np.nan)
        for column, parameter in enumerate(parameters):
            if not self.options.fixed and space.is_fixed(parameter):
                values_RP[:, column] = parameter.placeholder
        for place, column in enumerate(encoded.order_P):
            bins_R = ids_RK[:, place] - self.vocabulary.first_bin
            active_R = ids_RK[:, place] != self.vocabulary.inactive
            numbers_R = quantize.from_parameter_bins(
                parameters[column],
                np.where(active_R, bins_R, 0),
                self.vocabulary.bins,
                centred=self.options.centred,
                rng=rng,
            )
            values_RP[:, column] = np.where(active_R, numbers_R, np.nan)
        return values_RP

    def decode_metrics(
        self, ids_RM: Int64[np.ndarray, "R M"], scalings: tuple[ValueScaling, ...]
    ) -> Float64[np.ndarray, "R M"]:
        """Metric tokens in the metrics' own units; NaN for statuses."""
        is_bin_RM = self.vocabulary.is_bin(ids_RM)
        bins_RM = ids_RM - self.vocabulary.first_bin
        values_RM = np.stack(
            [
                scaling.from_units(quantize.from_bins(bins_RM[:, column], self.vocabulary.bins))
                for column, scaling in enumerate(scalings)
            ],
            axis=1,
        )
        return np.where(is_bin_RM, values_RM, np.nan)

    def value_bins(self, parameter: Parameter) -> Bool[np.ndarray, " Q"]:
        """The bins that represent a legal value of the parameter."""
        return quantize.value_bins(parameter, self.vocabulary.bins, centred=self.options.centred)

    def legal_tokens(self, encoded: EncodedProblem) -> LegalTokens:
        """The legal tokens at each step of a trial of this problem."""
        return trajectory.legal_tokens(
            encoded.problem,
            encoded.order_P,
            encoded.layout,
            self.vocabulary,
            centred=self.options.centred,
        )

    def _with_tokens(self, problem: Problem) -> Int64[np.ndarray, " P"]:
        """The indices of the parameters that have tokens."""
        return np.flatnonzero(
            [self.options.fixed or not space.is_fixed(p) for p in problem.parameters]
        )

    def _check_single(self, study: Study) -> None:
        completed_R = study.states_R == State.COMPLETED
        with np.errstate(over="ignore"):
            bad_R = completed_R & ~np.isfinite(study.metrics_RM[:, 0].astype(np.float32))
        if bad_R.any():
            row = int(np.argmax(bad_R))
            raise StudyError(
                f"study {study.name!r}, trial {row + 1}: {study.problem.metrics[0].name}="
                f"{study.metrics_RM[row, 0]} is not finite in single precision, which these "
                "options need. Leave the study out, or rescale the metric."
            )
