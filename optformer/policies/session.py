"""How suggestions are made: a session reads studies, draws points, ranks them and chooses.

One suggestion, from top to bottom (`Session.propose`):

1. The engine reads what is new in each study, and the experts learn from its trials (`_view`).
2. Random points and points near the best trials are drawn, and the experts keep those of which they
   expect most (`candidates.draw`).
3. The engine samples points of its own, and predicts the metric of these and of the drawn ones.
4. The experts' predictions are mixed in and the policy scores every point (`ranking`). The best new
   point inside the trust region is suggested (`_suggest`).

Array dimensions: B studies, N points, P parameters, K places of a trial's parameters, R trials,
Q bins, T tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from optformer.errors import ConfigError, StudyError
from optformer.model.config import ModelConfig, most_parameters
from optformer.model.decode import History, Rules
from optformer.model.loaded import LoadedModel
from optformer.model.points import Coordinates, joined
from optformer.model.prior_experts import InformedPosterior
from optformer.policies import candidates
from optformer.policies.acquisition import Acquisition
from optformer.policies.config import PolicyConfig
from optformer.policies.feasibility import Feasibility
from optformer.policies.pending import Pending
from optformer.policies.ranking import Candidates
from optformer.policies.trust import TrustRegion, everywhere
from optformer.policies.view import (
    View,
    keeps,
    measured,
    objective_first,
    shorten,
    with_metrics,
    with_pending,
)
from optformer.study import Problem, State, Study
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials


class Session:
    """B studies in progress: what the model has read of them is kept between suggestions.

    Args:
      keys: problem and algorithm of each study.
    """

    def __init__(self, model: LoadedModel, keys: Sequence[tuple[Problem, str]]) -> None:
        self._model = model
        tokenizer = model.tokenizer
        for problem, _ in keys:
            check_problem(problem, most_parameters(model.config))
        self._columns = [objective_first(problem) for problem, _ in keys]
        self._problems: list[EncodedProblem] = [
            tokenizer.encode_problem(
                dataclasses.replace(
                    problem, metrics=tuple(problem.metrics[column] for column in columns_M)
                ),
                algorithm,
            )
            for (problem, algorithm), columns_M in zip(keys, self._columns, strict=True)
        ]
        self._coordinates = [
            Coordinates(problem=problem, tokenizer=tokenizer) for problem in self._problems
        ]
        self._rules: Rules = model.engine.rules(
            [tokenizer.legal_tokens(encoded) for encoded in self._problems], self._problems
        )
        self._places = max(len(problem.order_P) for problem in self._problems)
        self._priors = [model.prior_of(problem) for problem, _ in keys]
        self._history: History | None = None
        self._read: list[Int64[np.ndarray, " T"]] = []

    def propose(
        self,
        studies: Sequence[Study],
        count: int,
        policy: PolicyConfig,
        rngs: Sequence[np.random.Generator],
    ) -> list[Float64[np.ndarray, "N P"]]:
        """`count` suggestions for each study, which depend on no other study.

        Raises:
          ConfigError: the policy's acquisition is none for this model.
        """
        check_acquisition(policy.acquisition, self._model.config)
        suggest = self._sample if policy.acquisition == "prior" else self._suggest
        whole = list(studies)  # with trials for which the model has no room
        studies = [self._fit(row, study, count) for row, study in enumerate(studies)]
        scalings = [self._scalings(row, study) for row, study in enumerate(studies)]
        chosen: list[list[np.ndarray]] = [[] for _ in studies]
        for _ in range(count):
            self._update(studies, scalings)
            views = [
                self._view(row, study, scalings[row][0], policy.region(whole[row]), rng)
                for row, (study, rng) in enumerate(zip(studies, rngs, strict=True))
            ]
            for row, values_P in enumerate(suggest(views, policy, rngs)):
                chosen[row].append(values_P)
                studies[row] = with_pending(studies[row], values_P)
                whole[row] = with_pending(whole[row], values_P)
        return [np.array(rows).reshape(count, -1) for rows in chosen]

    def _suggest(
        self, views: Sequence[View], policy: PolicyConfig, rngs: Sequence[np.random.Generator]
    ) -> list[Float64[np.ndarray, " P"]]:
        """For each study the point that the policy scores highest."""
        drawn = [candidates.draw(view, policy, rng) for view, rng in zip(views, rngs, strict=True)]
        # Always as many, so that a study's suggestions do not depend on those beside it: where
        # fewer are drawn, the model samples more.
        size = policy.candidates + policy.drawn(self._model.config.experts)
        given_BNK = np.full((len(views), size, self._places), -1)
        for row, points in enumerate(drawn):
            rows = slice(policy.candidates, policy.candidates + len(points))
            given_BNK[row, rows, : points.ids_NK.shape[1]] = points.ids_NK
        ids_BNK, logits_BNO, hidden_BND = self._rollout(given_BNK, policy, rngs)
        suggestions = []
        for row, (view, rng) in enumerate(zip(views, rngs, strict=True)):
            ids_NK = ids_BNK[row, :, : len(self._problems[row].order_P)]
            # Drawn points are where they were drawn; samples are anywhere in their bins.
            given = slice(policy.candidates, policy.candidates + len(drawn[row]))
            sampled_NK = np.delete(ids_NK, given, axis=0)
            points = joined([drawn[row], view.coordinates.of_ids(sampled_NK, rng)])
            order_N = np.r_[given, np.delete(np.arange(size), given)]
            ranked = Candidates(
                self._model, view, points, logits_BNO[row][order_N], hidden_BND[row][order_N]
            )
            best = candidates.best_new(ranked.score(policy, rng), points, view.trials)
            values_P = points.values_NP[best]
            defaults = any(each.default is not None for each in view.study.problem.parameters)
            if not len(view.study) and (defaults or view.prior is None):
                # People know what works, or there is nothing to rank by.
                values_P = candidates.first(view.study.problem, values_P, rng)
            suggestions.append(values_P)
        return suggestions

    def _sample(
        self, views: Sequence[View], policy: PolicyConfig, rngs: Sequence[np.random.Generator]
    ) -> list[Float64[np.ndarray, " P"]]:
        """For each study a sample of the model as it is."""
        nothing_BNK = np.full((len(views), 1, self._places), -1)
        ids_BNK, _, _ = self._rollout(nothing_BNK, policy, rngs)
        return [
            view.coordinates.of_ids(ids_NK[:, : len(problem.order_P)], rng).values_NP[0]
            for view, ids_NK, problem, rng in zip(views, ids_BNK, self._problems, rngs, strict=True)
        ]

    def _rollout(
        self,
        given_BNK: Int64[np.ndarray, "B N K"],
        policy: PolicyConfig,
        rngs: Sequence[np.random.Generator],
    ) -> tuple[
        Int64[np.ndarray, "B N K"], Float32[np.ndarray, "B N O"], Float32[np.ndarray, "B N D"]
    ]:
        """The engine's `rollout`, with seeds from the studies' generators."""
        assert self._history is not None
        seeds_B = np.array([rng.integers(2**31) for rng in rngs])
        return self._model.engine.rollout(
            self._history, self._rules, given_BNK, policy.temperature, seeds_B
        )

    def predict(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        value_temperature: float | None = None,
        scaling: ValueScaling | None = None,
    ) -> tuple[Float64[np.ndarray, "N Q"], ValueScaling]:
        """As `OptFormer.predict`, for a session of one study.

        Args:
          scaling: of the first metric, in place of the one that the study's values give.
        """
        everywhere = PolicyConfig(trust_region=False)
        rng = np.random.default_rng(0)  # of running trials, which no prediction asks for
        ranked, used = self._candidates(study, values_NP, everywhere, rng, scaling)
        return ranked.probabilities(value_temperature), used

    def score(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        policy: PolicyConfig,
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, " N"]:
        """How the policy ranks these points, for a session of one study.

        By the acquisition's values; outside the trust region by numbers below all of them.

        Raises:
          ConfigError: the policy's acquisition is none for this model, or ranks nothing.
        """
        check_acquisition(policy.acquisition, self._model.config)
        return self._candidates(study, values_NP, policy, rng)[0].score(policy, rng)

    def _candidates(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        policy: PolicyConfig,
        rng: np.random.Generator,
        scaling: ValueScaling | None = None,
    ) -> tuple[Candidates, ValueScaling]:
        """What the model says of these points, in a session of one study, and the scaling."""
        region = policy.region(study)
        study = self._fit(0, study, 1)
        scalings = self._scalings(0, study)
        if scaling is not None:
            scalings = (scaling, *scalings[1:])
        self._update([study], [scalings])
        view = self._view(0, study, scalings[0], region, rng)
        points = view.coordinates.of_values(values_NP)
        assert self._history is not None
        _, logits_BNO, hidden_BND = self._model.engine.rollout(
            self._history, self._rules, points.ids_NK[None], 1.0, np.zeros(1, np.int64)
        )
        return Candidates(self._model, view, points, logits_BNO[0], hidden_BND[0]), scalings[0]

    def _scalings(self, row: int, study: Study) -> tuple[ValueScaling, ...]:
        """Of the metrics that the model reads, the objective first."""
        return self._model.tokenizer.fit_scalings(with_metrics(study, self._columns[row]))

    def _fit(self, row: int, study: Study, count: int) -> Study:
        """As much of the study as the model has learned to read, with room for `count` more."""
        room = self._problems[row].layout.trials_in(self._model.most_tokens)
        return shorten(study, max(1, room - count))

    def _view(
        self,
        row: int,
        study: Study,
        scaling: ValueScaling,
        region: TrustRegion,
        rng: np.random.Generator,
    ) -> View:
        """What is known of a study that has been read."""
        model, coordinates = self._model, self._coordinates[row]
        trials, ordered_K = coordinates.of_values(study.values_RP), self._problems[row].ordered_P
        values_R, kept_R = measured(study, scaling), keeps(study)
        bins = model.tokenizer.vocabulary.bins
        posterior = log_weights_E = pending = None
        if model.experts is not None:
            posterior = model.experts.condition(
                trials,
                # Not rounded to bins, as tokens are, so that the best ones can be told apart.
                scaling.to_units(scaling.sign * study.objective()),
                study.states_R == State.ACTIVE,
                ordered_K,
                self._priors[row],
            )
            log_weights_E = model.experts.weigh_by_evidence(posterior)
            if posterior.pending:
                best = float(values_R[kept_R].max(initial=0.0))
                pending = Pending.of(posterior, log_weights_E, best, rng)
            if isinstance(posterior, InformedPosterior) and posterior.log_share > np.log(0.5):
                # Where the prior is right, the best need not be near what was measured.
                region = everywhere(study.problem)
        return View(
            study=study,
            coordinates=coordinates,
            trials=trials,
            values_R=values_R,
            kept_R=kept_R,
            region=region,
            feasibility=Feasibility.of(study, trials, ordered_K, bins),
            posterior=posterior,
            log_weights_E=log_weights_E,
            pending=pending,
            prior=self._priors[row],
        )

    def _update(
        self, studies: Sequence[Study], scalings: Sequence[tuple[ValueScaling, ...]]
    ) -> None:
        """Reads what is new, and those studies again of which something read has changed since."""
        engine = self._model.engine
        encoded = [
            self._model.tokenizer.encode_trials(with_metrics(study, columns_M), problem, scaling)
            for study, columns_M, problem, scaling in zip(
                studies, self._columns, self._problems, scalings, strict=True
            )
        ]
        ids = [trials.ids_T for trials in encoded]
        changed = [
            row
            for row, (old_T, new_T) in enumerate(zip(self._read, ids, strict=False))
            if not np.array_equal(old_T, new_T[: len(old_T)])
        ]
        if self._history is None or 2 * len(changed) > len(ids):
            self._history = engine.read(self._problems, encoded)
            self._read = ids
            return
        if changed:
            problems = [self._problems[row] for row in changed]
            again = [encoded[row] for row in changed]
            self._history = engine.reread(self._history, problems, again, changed)
            for row in changed:
                self._read[row] = ids[row]
        if any(len(old) < len(new) for old, new in zip(self._read, ids, strict=True)):
            added = [
                _after(trials, len(old)) for trials, old in zip(encoded, self._read, strict=True)
            ]
            if engine.is_short(self._problems, added):
                self._history = engine.extend(self._history, self._problems, added)
            else:
                self._history = engine.read(self._problems, encoded)
        self._read = ids


def check_problem(problem: Problem, most: int) -> None:
    """Refuses what the model cannot optimize.

    Raises:
      StudyError: not one objective, or more parameters than the model has slots for.
    """
    if len(problem.objectives) != 1:
        names = [metric.name for metric in problem.objectives]
        raise StudyError(
            f"problem {problem.name!r} has the objectives {names}, but a session takes one. "
            "Name one metric without a safety threshold."
        )
    if len(problem.parameters) > most:
        raise StudyError(
            f"problem {problem.name!r} has {len(problem.parameters)} parameters; this model takes "
            f"{most}. Train one with more model.slots, or fix some of them."
        )


def check_acquisition(name: Acquisition, config: ModelConfig) -> None:
    """Refuses an acquisition that the model does not know enough for.

    Raises:
      ConfigError: `ts_joint` of a model without Gaussian processes.
    """
    if name == "ts_joint" and not config.experts:
        raise ConfigError(
            "acquisition='ts_joint' draws from the Gaussian processes of a model, and this one was "
            "trained without them (model.experts=false). Use ts, which draws each candidate's "
            "metric by itself."
        )


def _after(trials: EncodedTrials, length: int) -> EncodedTrials:
    """The tokens from `length` on."""
    return dataclasses.replace(
        trials,
        ids_T=trials.ids_T[length:],
        roles_T=trials.roles_T[length:],
        slots_T=trials.slots_T[length:],
        trials_T=trials.trials_T[length:],
        weights_T=trials.weights_T[length:],
        predictive_T2=trials.predictive_T2[length:],
    )
