"""BBOB functions, randomized as in the OptFormer paper: rotated, shifted, partly discrete, noisy.

Array dimensions: B functions, N points, P parameters, L candidate values of one parameter.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64

from optformer.data.problems import bbob_noise, random_spaces
from optformer.data.problems.bbob_functions import FUNCTIONS
from optformer.data.problems.random_spaces import TYPES, RandomSpaces, SpaceConfig
from optformer.errors import ConfigError
from optformer.space import Spaces
from optformer.study import Goal, Metric, Problem

# OptFormer, appendix on BBOB: the split of functions, under Vizier's names.
TRAIN_FAMILIES = (
    "Sphere",
    "Ellipsoidal",
    "Rastrigin",
    "BuecheRastrigin",
    "AttractiveSector",
    "StepEllipsoidal",
    "Discus",
    "BentCigar",
    "SharpRidge",
    "Weierstrass",
    "SchaffersF7",
    "SchaffersF7IllConditioned",
    "Schwefel",
    "Gallagher21Me",
    "Gallagher101Me",
    "Katsuura",
)
TEST_FAMILIES = (
    "LinearSlope",
    "RosenbrockRotated",
    "DifferentPowers",
    "GriewankRosenbrock",
    "Lunacek",
)
# Ours: the same function as a held-out one, except for its rotation.
ALSO_HELD_OUT = ("Rosenbrock",)

LOW, HIGH = -5.0, 5.0
METRIC = Metric(name="bbob_eval", goal=Goal.MINIMIZE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BbobConfig:
    """The distribution of BBOB functions. The defaults are those of the paper.

    Attributes:
      families: each function is one of these, chosen uniformly.
      noises: each function has one of these noises, chosen uniformly.
      shift: the optimum moves by up to this much along each axis, in units of [-5, 5].
      space: parameter types and levels.
      families_per_block: with more families, a block is more varied and slower to evaluate.
    """

    families: tuple[str, ...] = TRAIN_FAMILIES
    noises: tuple[str, ...] = tuple(bbob_noise.NOISES)
    shift: float = 4.0
    rotate: bool = True
    space: SpaceConfig = dataclasses.field(default_factory=SpaceConfig)
    families_per_block: int = 4

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("BBOB family", self.families, FUNCTIONS),
            ("noise", self.noises, bbob_noise.NOISES),
        ):
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise ConfigError(
                    f"{kind} {unknown[0] if unknown else '(none)'!r} is unknown. "
                    f"Choose from {', '.join(known)}."
                )
        if not 0 <= self.shift <= HIGH:
            raise ConfigError(f"shift {self.shift} must lie in [0, {HIGH:g}].")
        if self.families_per_block < 1:
            raise ConfigError(f"families_per_block {self.families_per_block} must be at least 1.")


def refuse_held_out(families: Iterable[str]) -> None:
    """Checks that none of the families is held out for testing.

    Raises:
      ConfigError: names the families that are held out for testing.
    """
    held_out = sorted(set(families) & {*TEST_FAMILIES, *ALSO_HELD_OUT})
    if held_out:
        raise ConfigError(
            f"BBOB families {', '.join(held_out)} are held out for testing: a model trained on "
            "them cannot be compared with others. Leave them out, or generate with "
            'purpose="test" and do not train on the result.'
        )


def family_of(problem: Problem) -> str | None:
    """The BBOB family in a generated problem's name; None for other problems."""
    source, _, rest = problem.name.removeprefix("surrogate/").partition("/")
    return rest.partition("/")[0] if source == "bbob" else None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BbobBlock:
    """B randomized BBOB functions of P parameters; an `ObjectiveBlock`.

    Attributes:
      families: the family of each function; equal ones must be adjacent.
      noises: the noise setting of each function.
      rotation_BPP, rotation2_BPP: the formulas' R and Q.
      shift_BP: added to the unshifted minimizer.
      optimum_B, optimum_BP: the best noiseless value, larger better, and a point with that value;
        NaN if they are not known exactly.
    """

    problems: tuple[Problem, ...]
    drawn: RandomSpaces
    families: tuple[str, ...]
    noises: tuple[str, ...]
    rotation_BPP: Float64[np.ndarray, "B P P"]
    rotation2_BPP: Float64[np.ndarray, "B P P"]
    shift_BP: Float64[np.ndarray, "B P"]
    optimum_B: Float64[np.ndarray, " B"] = dataclasses.field(init=False)
    optimum_BP: Float64[np.ndarray, "B P"] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        optimum_BP = _find_optima(self)
        object.__setattr__(self, "optimum_BP", optimum_BP)
        known_B = ~np.isnan(optimum_BP).any(axis=1)
        value_B = self.evaluate_exact(np.where(known_B[:, None], optimum_BP, 0.5)[:, None])[:, 0]
        object.__setattr__(self, "optimum_B", np.where(known_B, value_B, np.nan))

    @property
    def spaces(self) -> Spaces:
        """The legal points."""
        return self.drawn.spaces

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """Noisy values, negated so that larger is better."""
        noises = [bbob_noise.NOISES[name] for name in self.noises]
        exact_BN = -self.evaluate_exact(units_BNP)
        return -bbob_noise.apply(noises, exact_BN, units_BNP.shape[-1], rng)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """Values without noise, negated so that larger is better."""
        return -self.minimized(LOW + (HIGH - LOW) * self.drawn.place(units_BNP))

    def minimized(self, x_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """BBOB's own functions, to be minimized, at points of [-5, 5]^P without levels."""
        moved_BNP = x_BNP - self.shift_BP[:, None]
        values_BN = np.empty(moved_BNP.shape[:2])
        start = 0
        for family, group in itertools.groupby(self.families):
            rows = slice(start, start + len(list(group)))
            start = rows.stop
            values_BN[rows] = FUNCTIONS[family].evaluate(
                moved_BNP[rows], self.rotation_BPP[rows], self.rotation2_BPP[rows]
            )
        return values_BN


def random_block(
    config: BbobConfig, rng: np.random.Generator, studies: int, parameters: int
) -> BbobBlock:
    """Independent randomized functions, of families that are defined for this many parameters.

    Raises:
      ConfigError: no family is.
    """
    families = [name for name in config.families if FUNCTIONS[name].fewest_parameters <= parameters]
    if not families:
        raise ConfigError(
            f"BBOB families {', '.join(config.families)} need more than {parameters} parameters."
        )
    here = rng.choice(families, min(config.families_per_block, len(families)), replace=False)
    drawn = random_spaces.draw(config.space, rng, studies, parameters)
    names = sorted(rng.choice(here, studies).tolist())
    instances = rng.integers(2**32, size=studies)
    return BbobBlock(
        problems=tuple(
            Problem(
                name=f"bbob/{name}/{instance:08x}",
                parameters=tuple(
                    random_spaces.plain_parameter(
                        f"x{index}", TYPES[drawn.types_BP[row, index]], int(levels), LOW, HIGH
                    )
                    for index, levels in enumerate(drawn.spaces.levels_BP[row])
                ),
                metrics=(METRIC,),
            )
            for row, (name, instance) in enumerate(zip(names, instances, strict=True))
        ),
        drawn=drawn,
        families=tuple(names),
        noises=tuple(rng.choice(config.noises, studies).tolist()),
        rotation_BPP=random_rotations(rng if config.rotate else None, studies, parameters),
        rotation2_BPP=random_rotations(rng if config.rotate else None, studies, parameters),
        shift_BP=rng.uniform(-config.shift, config.shift, (studies, parameters)),
    )


def random_rotations(
    rng: np.random.Generator | None, studies: int, size: int
) -> Float64[np.ndarray, "B P P"]:
    """Uniformly random rotations; identity matrices without a generator."""
    if rng is None:
        return np.tile(np.eye(size), (studies, 1, 1))
    q_BPP, r_BPP = np.linalg.qr(rng.standard_normal((studies, size, size)))
    # With the signs that make the factorization unique, Q is uniform (Mezzadri 2007).
    q_BPP *= np.sign(np.diagonal(r_BPP, axis1=1, axis2=2))[:, None, :]
    q_BPP[:, :, 0] *= np.linalg.det(q_BPP)[:, None]
    return q_BPP


def _find_optima(block: BbobBlock) -> Float64[np.ndarray, "B P"]:
    """Minimizers in the unit cube if they are known exactly, otherwise NaN.

    Minimizers of separable functions are found coordinate by coordinate. Those of others are known
    if all parameters are continuous and the shifted minimizer lies in the box. It may lie outside:
    Schwefel's is 2.1 from the origin before it is shifted.
    """
    studies, size = block.shift_BP.shape
    optimum_BP = np.full((studies, size), np.nan)
    continuous_B = (block.spaces.levels_BP == 0).all(axis=1)
    start_BP = np.full((studies, size), 0.5)
    ends_BP = np.zeros((studies, size), dtype=bool)
    separable_B = np.array([FUNCTIONS[name].separable for name in block.families])
    for row, name in enumerate(block.families):
        function = FUNCTIONS[name]
        if function.optimum is None:
            ends_BP[row] = True
            continue
        x_P = function.optimum(block.rotation_BPP[row : row + 1])[0] + block.shift_BP[row]
        start_BP[row] = (x_P - LOW) / (HIGH - LOW)
        inside = bool(((x_P >= LOW) & (x_P <= HIGH)).all())
        if continuous_B[row] and inside:
            optimum_BP[row] = start_BP[row]
    searched_B = separable_B & np.isnan(optimum_BP).any(axis=1)
    if searched_B.any():
        levels_BP = block.spaces.levels_BP
        best_BP = block.spaces.snap(start_BP[:, None])[:, 0]
        for column in range(size):
            most = int(max(levels_BP[:, column].max(), 2))
            candidates_BL = np.tile(best_BP[:, column, None], (1, most))
            ends_B = ends_BP[:, column] & (levels_BP[:, column] == 0)
            candidates_BL[ends_B] = np.linspace(0, 1, most)
            steps_B1 = np.maximum(levels_BP[:, column, None], 1)
            levels_BL = (np.minimum(np.arange(most), steps_B1 - 1) + 0.5) / steps_B1
            candidates_BL = np.where(levels_BP[:, column, None] > 0, levels_BL, candidates_BL)
            points_BLP = np.repeat(best_BP[:, None], most, axis=1)
            points_BLP[:, :, column] = candidates_BL
            choice_B = np.argmax(block.evaluate_exact(points_BLP), axis=1)
            best_BP[:, column] = candidates_BL[np.arange(studies), choice_B]
        optimum_BP[searched_B] = best_BP[searched_B]
    return optimum_BP
