"""StudyTokenizer: a study as arrays of token ids, and token ids as values again.

Array dimensions: S encoder tokens, T decoder tokens, R trials, P parameters, M metrics, Q bins.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int32, Int64

from optformer.errors import StudyError
from optformer.study import ParameterType, Problem, State, Study
from optformer.tokenization import metadata, quantize, trajectory
from optformer.tokenization.metadata import MetadataOptions
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.trajectory import LegalTokens, Role, TrialLayout
from optformer.tokenization.vocabulary import Vocabulary, default_text_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """How studies become tokens; saved in the checkpoint."""

    bins: int = 1000
    separators: bool = False
    metadata: MetadataOptions = dataclasses.field(default_factory=MetadataOptions)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedProblem:
    """A problem as the encoder reads it, and what its decoder tokens will mean.

    Attributes:
      ids_S: token ids of the text.
      slots_S: the slot of the parameter that a token describes; 0 for the study itself.
      order_P: which parameter of the problem stands at each place of a trial.
    """

    problem: Problem
    ids_S: Int32[np.ndarray, " S"]
    slots_S: Int32[np.ndarray, " S"]
    order_P: Int64[np.ndarray, " P"]
    layout: TrialLayout


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTrials:
    """Trials in a row as the decoder writes them.

    Attributes:
      ids_T: token ids.
      roles_T, slots_T: what each token says, and of which parameter or metric (`trajectory`).
      trials_T: the index of the trial, from 0.
      weights_T: how much a token counts in the loss.
      predictive_T2: where the generator knows a metric's exact distribution, its mean and standard
        deviation on the axis of the bins, [0, 1]; elsewhere zeros.
      scalings: how each metric was mapped to [0, 1]; decoding needs it.
    """

    ids_T: Int32[np.ndarray, " T"]
    roles_T: Int8[np.ndarray, " T"]
    slots_T: Int32[np.ndarray, " T"]
    trials_T: Int32[np.ndarray, " T"]
    weights_T: Float32[np.ndarray, " T"]
    predictive_T2: Float32[np.ndarray, "T 2"]
    scalings: tuple[ValueScaling, ...]


class StudyTokenizer:
    """Turns problems and trials into tokens and back, under one vocabulary and its options."""

    def __init__(
        self, options: TokenizerOptions | None = None, vocabulary: Vocabulary | None = None
    ) -> None:
        self.options = options or TokenizerOptions()
        self.vocabulary = vocabulary or Vocabulary(default_text_model(), self.options.bins)
        assert self.vocabulary.bins == self.options.bins

    def layout(self, problem: Problem) -> TrialLayout:
        """Where the tokens of this problem's trials stand."""
        return TrialLayout(
            parameters=len(problem.parameters),
            metrics=len(problem.metrics),
            separators=self.options.separators,
        )

    def encode_problem(
        self,
        problem: Problem,
        algorithm: str,
        *,
        order_P: Int64[np.ndarray, " P"] | None = None,
        text: MetadataOptions | None = None,
    ) -> EncodedProblem:
        """The problem's text, with its parameters in this order (their own, by default).

        Raises:
          StudyError: when the vocabulary cannot express the problem.
        """
        reason = trajectory.check_problem(problem, self.vocabulary.bins)
        if reason:
            raise StudyError(f"problem {problem.name!r}: {reason}.")
        if order_P is None:
            order_P = np.arange(len(problem.parameters))
        parts = metadata.describe(
            problem, algorithm, tuple(order_P.tolist()), text or self.options.metadata
        )
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

    def fit_scalings(self, study: Study) -> tuple[ValueScaling, ...]:
        """The scaling of each metric for continuing this history: its range at [0.2, 0.8]."""
        completed_R = study.states_R == State.COMPLETED
        return tuple(
            quantize.fit_scaling(study.metrics_RM[completed_R, column], metric.sign)
            for column, metric in enumerate(study.problem.metrics)
        )

    def encode_trials(
        self,
        study: Study,
        encoded: EncodedProblem,
        scalings: tuple[ValueScaling, ...] | None = None,
    ) -> EncodedTrials:
        """The study's trials as tokens, metrics under these scalings (fitted, by default)."""
        if scalings is None:
            scalings = self.fit_scalings(study)
        layout, trials = encoded.layout, len(study)
        ids_T = layout.arrange(
            self.parameter_ids(study.problem, study.values_RP)[:, encoded.order_P],
            self.metric_ids(study, scalings),
            self.vocabulary,
        ).ravel()
        roles_T = np.tile(layout.roles(), trials)
        # Nobody predicts a separator, nor that a trial is pending.
        counts_T = (roles_T != Role.SEPARATOR) & (ids_T != self.vocabulary.pending)
        predictive_T2 = np.zeros((len(ids_T), 2), dtype=np.float32)
        if study.predictive_R2 is not None:
            predictive_T2[layout.first_value :: layout.length] = np.stack(
                [
                    scalings[0].to_line(study.predictive_R2[:, 0]),
                    scalings[0].slope * study.predictive_R2[:, 1],
                ],
                axis=1,
            )
        return EncodedTrials(
            ids_T=ids_T,
            roles_T=roles_T,
            slots_T=np.tile(layout.slots(), trials),
            trials_T=np.repeat(np.arange(trials, dtype=np.int32), layout.length),
            weights_T=counts_T.astype(np.float32),
            predictive_T2=predictive_T2,
            scalings=scalings,
        )

    def parameter_ids(
        self, problem: Problem, values_RP: Float64[np.ndarray, "R P"]
    ) -> Int64[np.ndarray, "R P"]:
        """The token of each parameter value; of NaN, the token of an inactive parameter."""
        ids_RP = np.empty(values_RP.shape, dtype=np.int64)
        for column, parameter in enumerate(problem.parameters):
            values_R = values_RP[:, column]
            inactive_R = np.isnan(values_R)
            if inactive_R.any():
                values_R = np.where(inactive_R, parameter.some_number, values_R)
            bins_R = quantize.to_bins(quantize.to_units(parameter, values_R), self.vocabulary.bins)
            ids_RP[:, column] = np.where(
                inactive_R, self.vocabulary.inactive, self.vocabulary.first_bin + bins_R
            )
        return ids_RP

    def metric_ids(
        self, study: Study, scalings: tuple[ValueScaling, ...]
    ) -> Int64[np.ndarray, "R M"]:
        """The token of each metric: its bin, or why there is none."""
        ids_RM = np.empty(study.metrics_RM.shape, dtype=np.int64)
        for column, scaling in enumerate(scalings):
            values_R = study.metrics_RM[:, column]
            finite_R = np.isfinite(values_R)
            units_R = scaling.to_units(np.where(finite_R, values_R, 0.0))
            bins_R = quantize.to_bins(units_R, self.vocabulary.bins)
            ids_RM[:, column] = np.where(
                finite_R, self.vocabulary.first_bin + bins_R, self.vocabulary.missing
            )
        ids_RM[study.states_R == State.INFEASIBLE] = self.vocabulary.infeasible
        ids_RM[study.states_R == State.ACTIVE] = self.vocabulary.pending
        return ids_RM

    def decode_parameters(
        self,
        encoded: EncodedProblem,
        ids_RP: Int64[np.ndarray, "R P"],
        rng: np.random.Generator | None = None,
    ) -> Float64[np.ndarray, "R P"]:
        """Parameter tokens, in the order of `encoded`, as `Study.values_RP`.

        A continuous value is the middle of its bin or, given `rng`, a random point in it: so the
        same tokens twice are not the same trial twice.
        """
        values_RP = np.full(ids_RP.shape, np.nan)
        for place, column in enumerate(encoded.order_P):
            bins_R = ids_RP[:, place] - self.vocabulary.first_bin
            active_R = ids_RP[:, place] != self.vocabulary.inactive
            units_R = quantize.from_bins(np.where(active_R, bins_R, 0), self.vocabulary.bins)
            parameter = encoded.problem.parameters[column]
            if rng is not None and parameter.type == ParameterType.DOUBLE:
                units_R += (rng.random(units_R.shape) - 0.5) / self.vocabulary.bins
            numbers_R = quantize.from_units(parameter, units_R)
            values_RP[:, column] = np.where(active_R, numbers_R, np.nan)
        return values_RP

    def decode_metrics(
        self, ids_RM: Int64[np.ndarray, "R M"], scalings: tuple[ValueScaling, ...]
    ) -> Float64[np.ndarray, "R M"]:
        """Metric tokens in the metrics' own units; NaN where a token says there is none."""
        bins_RM = ids_RM - self.vocabulary.first_bin
        values_RM = np.stack(
            [
                scaling.from_units(quantize.from_bins(bins_RM[:, column], self.vocabulary.bins))
                for column, scaling in enumerate(scalings)
            ],
            axis=1,
        )
        return np.where((bins_RM >= 0) & (bins_RM < self.vocabulary.bins), values_RM, np.nan)

    def legal_tokens(self, encoded: EncodedProblem) -> LegalTokens:
        """Which tokens may stand at each parameter of a trial of this problem."""
        return trajectory.legal_tokens(encoded.problem, encoded.order_P, self.vocabulary)
