"""Architecture search problems: decisions for each layer, an accuracy model, a cost and a budget.

The space is a stack of inverted bottlenecks, as in MobileNetV2, TuNAS and EfficientNetV2. Each
stage has a width, each of its layers a kernel size and an expansion, and all layers except the
first of a stage can be skipped. The cost is the number of multiply-adds; depthwise ones take longer
in a training step. Accuracy follows a random model of real spaces: capacity has diminishing
returns, some layers matter more than others, and neighbouring decisions interact. `burger` is a toy
example.

Array dimensions: B studies, N points, P parameters (decisions), L levels.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import ConfigError
from optformer.space import Spaces
from optformer.study import Metric, Parameter, ParameterType, Problem

Index = Int64[np.ndarray, "B N P"]
Values = Float64[np.ndarray, "B N"]
Reward = Literal["budget", "absolute", "product", "training"]

REWARDS: tuple[Reward, ...] = ("budget", "absolute", "product", "training")
ENUMERATED = 4096  # the largest number of architectures that are enumerated for the optimum
# The time of a depthwise multiply-add relative to others. The number is ours; accelerators cannot
# fully use depthwise convolutions (EfficientNetV2, section 3.2).
DEPTHWISE = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Resources:
    """The resources that architectures need, (B, N) each.

    Attributes:
      cost_BN: the number of multiply-adds, in the units of a block's `budget_B`.
      step_time_BN: the time of a training step, in units of an ordinary multiply-add.
      size_BN: the number of weights.
    """

    cost_BN: Values
    step_time_BN: Values
    size_BN: Values


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayeredConfig:
    """The distribution of architecture problems.

    Attributes:
      rewards: each study has one of these, chosen uniformly. With accuracy a, cost c, budget t
        and penalty w, "budget" is a if c <= t and otherwise infeasible (LayerNAS), "absolute" is
        a + w|c/t - 1| (TuNAS), and "product" is a (c/t)^w (MnasNet). "training" is a s^w p^v
        (EfficientNetV2): s is the time of a training step and p the size, relative to the middle
        of the space, and v is the size penalty.
      fewest_stages, most_stages, most_layers: ranges of the layout, which all studies of a block
        share; `most_layers` is for one stage.
      noise: the largest standard deviation of accuracy, which lies in [0, 1], between trainings;
        log-uniform between a tenth of it and itself.
    """

    rewards: tuple[Reward, ...] = REWARDS
    penalty: float = -0.07
    size_penalty: float = -0.05
    fewest_stages: int = 2
    most_stages: int = 4
    most_layers: int = 2
    widths: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    kernels: tuple[float, ...] = (3.0, 5.0, 7.0)
    expansions: tuple[float, ...] = (3.0, 4.0, 6.0)
    noise: float = 0.01

    def __post_init__(self) -> None:
        if not self.rewards or set(self.rewards) - set(REWARDS):
            raise ConfigError(f"rewards {self.rewards} must be among {', '.join(REWARDS)}.")
        if not 1 <= self.fewest_stages <= self.most_stages or self.most_layers < 1:
            raise ConfigError(
                f"stages from {self.fewest_stages} to {self.most_stages} with up to "
                f"{self.most_layers} layers: give at least one of each, the lower number first."
            )
        if max(self.penalty, self.size_penalty) > 0 or self.noise < 0:
            raise ConfigError(
                f"penalty {self.penalty} and size_penalty {self.size_penalty} must not be "
                f"positive, and noise {self.noise} not negative."
            )


class LayeredBlock:
    """B architecture problems over the same decisions; an `ObjectiveBlock`.

    Attributes:
      rewards: the metric of each study.
      budget_B: the budget or target of the cost.
      optimum_B, optimum_BP: the best reward and its architecture if the space is small enough to
        enumerate, otherwise NaN.
    """

    def __init__(
        self,
        *,
        problems: tuple[Problem, ...],
        accuracy: Callable[[Index], Values],
        resources: Callable[[Index], Resources],
        budget_B: Float64[np.ndarray, " B"],
        rewards: tuple[Reward, ...],
        penalty: float,
        size_penalty: float,
        noise_B: Float64[np.ndarray, " B"],
    ) -> None:
        self.problems = problems
        self.spaces = Spaces.of(problems[0].parameters, len(problems))
        self.budget_B = budget_B
        self.noise_B = noise_B
        self._levels_P = self.spaces.levels_BP[0]
        self._accuracy, self._resources = accuracy, resources
        self.rewards = rewards
        self._hard_B1, self._absolute_B1, self._product_B1, self._training_B1 = (
            np.array([[reward == name] for reward in rewards]) for name in REWARDS
        )
        self._penalty, self._size_penalty = penalty, size_penalty
        self._step_time_B1, self._size_B1 = self._typical()
        self.optimum_B = np.full(len(problems), np.nan)
        self.optimum_BP = np.full(self.spaces.levels_BP.shape, np.nan)
        if self._levels_P.prod() <= ENUMERATED:
            every_KP = np.array(list(itertools.product(*map(range, self._levels_P))))
            units_KP = (every_KP + 0.5) / self._levels_P
            values_BK = self.evaluate_exact(np.tile(units_KP, (len(problems), 1, 1)))
            self.optimum_B = np.nanmax(values_BK, axis=1)
            self.optimum_BP = units_KP[np.nanargmax(values_BK, axis=1)]

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """Rewards of architectures that are trained once; NaN if one exceeds a hard budget."""
        noise_BN = self.noise_B[:, None] * rng.standard_normal(units_BNP.shape[:2])
        return self._rewards(units_BNP, noise_BN)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """Rewards without noise; NaN if an architecture exceeds a hard budget."""
        return self._rewards(units_BNP, np.zeros(units_BNP.shape[:2]))

    def costs(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """The costs of architectures, in the units of `budget_B`."""
        return self.resources(units_BNP).cost_BN

    def resources(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Resources:
        """The resources that architectures need."""
        return self._resources(self._index(units_BNP))

    def accuracies(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """The accuracies of architectures without noise."""
        return self._accuracy(self._index(units_BNP))

    def _rewards(self, units_BNP: Float64[np.ndarray, "B N P"], noise_BN: Values) -> Values:
        accuracy_BN = self.accuracies(units_BNP) + noise_BN
        needs = self.resources(units_BNP)
        share_BN = needs.cost_BN / self.budget_B[:, None]
        reward_BN = accuracy_BN + self._absolute_B1 * self._penalty * np.abs(share_BN - 1)
        reward_BN = np.where(self._product_B1, accuracy_BN * share_BN**self._penalty, reward_BN)
        discount_BN = (needs.step_time_BN / self._step_time_B1) ** self._penalty
        discount_BN *= (needs.size_BN / self._size_B1) ** self._size_penalty
        reward_BN = np.where(self._training_B1, accuracy_BN * discount_BN, reward_BN)
        return np.where(self._hard_B1 & (share_BN > 1), np.nan, reward_BN)

    def _typical(self) -> tuple[Float64[np.ndarray, "B 1"], Float64[np.ndarray, "B 1"]]:
        """Step time and size of the architecture with the middle option of every decision."""
        middle_BNP = self.spaces.snap(np.full((len(self.problems), 1, len(self._levels_P)), 0.5))
        needs = self.resources(middle_BNP)
        return needs.step_time_BN, needs.size_BN

    def _index(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Index:
        levels_P = self._levels_P
        return np.clip(units_BNP * levels_P, 0, levels_P - 1).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decision:
    """The meaning of a parameter: the width of a stage, or a property of one of its layers."""

    kind: Literal["width", "kernel", "expansion", "skip"]
    stage: int
    layer: int


def random_block(config: LayeredConfig, rng: np.random.Generator, studies: int) -> LayeredBlock:
    """Independent problems over one random layout."""
    stages = int(rng.integers(config.fewest_stages, config.most_stages + 1))
    layers = rng.integers(1, config.most_layers + 1, stages)
    decisions = _decisions(layers.tolist())
    parameters = tuple(_parameter(config, decision) for decision in decisions)
    resources = _resources(config, rng, decisions, studies)
    accuracy = _accuracy_model(rng, decisions, parameters, studies)
    rewards = tuple(rng.choice(config.rewards, studies).tolist())
    levels_P = np.array([len(parameter.values) for parameter in parameters])
    # Many architectures meet the budget, but not the most accurate ones.
    sample_BNP = rng.integers(levels_P, size=(studies, 256, len(levels_P)))
    cost_BN = np.sort(resources(sample_BNP).cost_BN, axis=1)
    budget_B = cost_BN[np.arange(studies), rng.integers(25, 180, studies)]
    return LayeredBlock(
        problems=tuple(
            Problem(
                name=f"layered/{reward}/{instance:08x}",
                parameters=parameters,
                metrics=(Metric(name="accuracy" if reward == "budget" else "reward"),),
            )
            for reward, instance in zip(rewards, rng.integers(2**32, size=studies), strict=True)
        ),
        accuracy=accuracy,
        resources=resources,
        budget_B=budget_B,
        rewards=rewards,
        penalty=config.penalty,
        size_penalty=config.size_penalty,
        noise_B=config.noise * 10 ** -rng.random(studies),
    )


def burger(studies: int = 1) -> LayeredBlock:
    """A burger, layer by layer, for each study: the tastiest of 216 within 1000 kcal.

    The tastiest of all exceeds the budget. Bacon and cheese taste better together.
    """
    layers: dict[str, dict[str, tuple[float, float]]] = {  # option: taste, kcal
        "bun": {"plain": (0.10, 150.0), "brioche": (0.16, 250.0)},
        "patty": {"bean": (0.12, 180.0), "beef": (0.22, 300.0), "double": (0.30, 600.0)},
        "cheese": {"none": (0.0, 0.0), "cheddar": (0.08, 110.0), "blue": (0.10, 160.0)},
        "bacon": {"no": (0.0, 0.0), "yes": (0.06, 120.0)},
        "greens": {"none": (0.0, 0.0), "lettuce": (0.05, 5.0), "onions": (0.09, 90.0)},
        "sauce": {"none": (0.0, 0.0), "special": (0.08, 130.0)},
    }
    most = max(len(options) for options in layers.values())
    taste_PL, kcal_PL = np.zeros((2, len(layers), most))
    for row, options in enumerate(layers.values()):
        taste_PL[row, : len(options)], kcal_PL[row, : len(options)] = np.array(
            list(options.values())
        ).T
    rows_P = np.arange(len(layers))

    def taste(index_BNP: Index) -> Values:
        match_BN = (index_BNP[..., 2] > 0) & (index_BNP[..., 3] > 0)
        return taste_PL[rows_P, index_BNP].sum(axis=2) + 0.07 * match_BN

    def resources(index_BNP: Index) -> Resources:  # only kcal
        kcal_BN = kcal_PL[rows_P, index_BNP].sum(axis=2)
        return Resources(cost_BN=kcal_BN, step_time_BN=kcal_BN, size_BN=kcal_BN)

    rewards: tuple[Reward, ...] = ("budget",)
    return LayeredBlock(
        problems=(
            Problem(
                name="layered/burger",
                parameters=tuple(
                    Parameter(name=name, type=ParameterType.CATEGORICAL, values=tuple(options))
                    for name, options in layers.items()
                ),
                metrics=(Metric(name="taste"),),
            ),
        )
        * studies,
        accuracy=taste,
        resources=resources,
        budget_B=np.full(studies, 1000.0),
        rewards=rewards * studies,
        penalty=0.0,
        size_penalty=0.0,
        noise_B=np.zeros(studies),
    )


def _decisions(layers: list[int]) -> list[_Decision]:
    decisions = []
    for stage, count in enumerate(layers):
        decisions.append(_Decision(kind="width", stage=stage, layer=0))
        for layer in range(count):
            if layer:
                decisions.append(_Decision(kind="skip", stage=stage, layer=layer))
            decisions.append(_Decision(kind="kernel", stage=stage, layer=layer))
            decisions.append(_Decision(kind="expansion", stage=stage, layer=layer))
    return decisions


def _parameter(config: LayeredConfig, decision: _Decision) -> Parameter:
    if decision.kind == "width":
        name, values = f"stage{decision.stage + 1}_width", config.widths
    else:
        name = f"stage{decision.stage + 1}_layer{decision.layer + 1}_{decision.kind}"
        values = config.kernels if decision.kind == "kernel" else config.expansions
    if decision.kind == "skip":
        return Parameter(name=name, type=ParameterType.CATEGORICAL, values=("no", "yes"))
    return Parameter(name=name, type=ParameterType.DISCRETE, values=values)


def _resources(
    config: LayeredConfig, rng: np.random.Generator, decisions: list[_Decision], studies: int
) -> Callable[[Index], Resources]:
    """Resources of inverted bottlenecks: expand 1x1, depthwise kxk, project 1x1 (MobileNetV2)."""
    stages = 1 + decisions[-1].stage
    resolution_B1 = rng.choice([16.0, 28.0, 56.0], (studies, 1))
    base_BS = rng.choice([16.0, 24.0, 32.0], (studies, 1)) * 1.6 ** np.arange(stages)
    options = {
        "width": np.array(config.widths),
        "kernel": np.array(config.kernels),
        "expansion": np.array(config.expansions),
    }
    column = {(d.kind, d.stage, d.layer): p for p, d in enumerate(decisions)}

    def resources(index_BNP: Index) -> Resources:
        cost_BN, step_time_BN, size_BN = np.zeros((3, *index_BNP.shape[:2]))
        before_BN: Values | Float64[np.ndarray, "B 1"] = base_BS[:, :1]
        for (kind, stage, layer), p in column.items():
            if kind == "width":
                width_BN = base_BS[:, stage, None] * options["width"][index_BNP[..., p]]
            if kind != "expansion":
                continue  # the last decision of a layer
            first = layer == 0
            input_BN = before_BN if first else width_BN
            kernel_BN = options["kernel"][index_BNP[..., p - 1]]
            hidden_BN = options["expansion"][index_BNP[..., p]] * input_BN
            after_B1 = (resolution_B1 / 2**stage) ** 2
            # The first layer of a stage halves the resolution after its expansion.
            expand_B1 = 4 * after_B1 if first and stage else after_B1
            adds_BN = hidden_BN * (expand_B1 * input_BN + after_B1 * (kernel_BN**2 + width_BN))
            there_BN = 1.0 if first else index_BNP[..., p - 2] == 0
            cost_BN += adds_BN * there_BN
            slow_BN = hidden_BN * after_B1 * kernel_BN**2
            step_time_BN += (adds_BN + (DEPTHWISE - 1) * slow_BN) * there_BN
            size_BN += hidden_BN * (input_BN + kernel_BN**2 + width_BN) * there_BN
            before_BN = width_BN
        return Resources(cost_BN=cost_BN, step_time_BN=step_time_BN, size_BN=size_BN)

    return resources


def _accuracy_model(
    rng: np.random.Generator,
    decisions: list[_Decision],
    parameters: tuple[Parameter, ...],
    studies: int,
) -> Callable[[Index], Values]:
    """A random accuracy in [0, 1]: top · (1 - exp(-capacity)), capacity a sum over decisions."""
    size, most = len(decisions), max(len(parameter.values) for parameter in parameters)
    levels_P = np.array([len(parameter.values) for parameter in parameters])
    skip_P = np.array([decision.kind == "skip" for decision in decisions])
    share_BPL = np.minimum(np.arange(most) / (levels_P - 1)[:, None], 1.0)[None]
    # Concave in the level, with random importance and irregularities.
    importance_BP1 = rng.gamma(2.0, 1.0, (studies, size, 1))
    gain_BPL = importance_BP1 * (share_BPL ** rng.uniform(0.3, 1.2, (studies, size, 1)))
    gain_BPL += 0.15 * rng.standard_normal((studies, size, most))
    gain_BPL *= ~skip_P[:, None]
    pair_BPLL = 0.15 * rng.standard_normal((studies, max(size - 1, 1), most, most))
    top_B1 = rng.uniform(0.7, 0.98, (studies, 1))
    scale = 1.5 / size
    rows_B11, columns_P = np.arange(studies)[:, None, None], np.arange(size)
    # The kernel and expansion of a skipped layer, the two decisions after the skip, have no effect.
    gated_P = np.array([decision.layer > 0 and decision.kind != "skip" for decision in decisions])
    gate_of_P = np.array(
        [
            p - {"kernel": 1, "expansion": 2}[decision.kind] if gated else 0
            for p, (decision, gated) in enumerate(zip(decisions, gated_P, strict=True))
        ]
    )

    def accuracy(index_BNP: Index) -> Values:
        on_BNP = ~gated_P | (index_BNP[..., gate_of_P] == 0)
        gain_BNP = on_BNP * gain_BPL[rows_B11, columns_P, index_BNP]
        capacity_BN = gain_BNP.sum(axis=2)
        if size > 1:
            pair_BNP = pair_BPLL[rows_B11, columns_P[:-1], index_BNP[..., :-1], index_BNP[..., 1:]]
            capacity_BN += (pair_BNP * on_BNP[..., :-1] * on_BNP[..., 1:]).sum(axis=2)
        return top_B1 * (1 - np.exp(-np.maximum(0.3 + scale * capacity_BN, 0.05)))

    return accuracy
