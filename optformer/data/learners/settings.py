"""The settings of a learner, and random search spaces over them, similar to those of users.

Users define different spaces for the same learner: one bounds C by 1e-3 and 1e3, another by 2^-5
and 2^15; one leaves the kernel at its default; one names a parameter `clf__C`. A `Setting` lists
the alternatives, and `draw_space` draws one space.

Array dimensions: P parameters.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from optformer.space import column_from_units
from optformer.study import Condition, Metric, Parameter, ParameterType, Problem, Scale, Value

Object = bool | int | float | str | tuple[int, ...] | None
"""The values of a learner's keywords."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One keyword of a learner, and the alternatives for search spaces.

    Attributes:
      name: the keyword, as in the learner's documentation.
      type, scale: those of the parameter. CATEGORICAL and DISCRETE have no bounds.
      lows, highs: usual lower and upper bounds; a space has one of each.
      choices: usual lists of values; a space has one of them.
      default: the documented default; in spaces without this setting, it also decides whether
        children are active.
      when: an earlier keyword and its values for which this setting has an effect.
      often: the share of spaces with this setting.
      also: its other names, in wrappers of the library.
      effort: whether larger values mostly take more time, as with the number of trees;
        `most_effort` then bounds it.
    """

    name: str
    type: ParameterType = ParameterType.DOUBLE
    scale: Scale | None = None
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    choices: tuple[tuple[Object, ...], ...] = ()
    default: Object = None
    when: tuple[str, tuple[Object, ...]] | None = None
    often: float = 1.0
    also: tuple[str, ...] = ()
    effort: bool = False


def real(name: str, lows: Sequence[float], highs: Sequence[float], **others: object) -> Setting:
    """A DOUBLE on a linear scale."""
    return _numeric(name, ParameterType.DOUBLE, Scale.LINEAR, lows, highs, others)


def log(name: str, lows: Sequence[float], highs: Sequence[float], **others: object) -> Setting:
    """A DOUBLE on a logarithmic scale."""
    return _numeric(name, ParameterType.DOUBLE, Scale.LOG, lows, highs, others)


def whole(name: str, lows: Sequence[float], highs: Sequence[float], **others: object) -> Setting:
    """An INTEGER on a linear scale."""
    return _numeric(name, ParameterType.INTEGER, Scale.LINEAR, lows, highs, others)


def whole_log(
    name: str, lows: Sequence[float], highs: Sequence[float], **others: object
) -> Setting:
    """An INTEGER on a logarithmic scale."""
    return _numeric(name, ParameterType.INTEGER, Scale.LOG, lows, highs, others)


def category(name: str, *choices: tuple[Object, ...], **others: object) -> Setting:
    """One of a list of values; each of `choices` is a list that people use."""
    return Setting(name=name, type=ParameterType.CATEGORICAL, choices=choices, **others)  # type: ignore[arg-type]


def discrete(name: str, *choices: tuple[float, ...], **others: object) -> Setting:
    """One of a list of numbers; each of `choices` is a list that people use."""
    return Setting(name=name, type=ParameterType.DISCRETE, choices=choices, **others)  # type: ignore[arg-type]


def _numeric(
    name: str,
    kind: ParameterType,
    scale: Scale,
    lows: Sequence[float],
    highs: Sequence[float],
    others: Mapping[str, object],
) -> Setting:
    return Setting(
        name=name,
        type=kind,
        scale=scale,
        lows=tuple(map(float, lows)),
        highs=tuple(map(float, highs)),
        **others,  # type: ignore[arg-type]
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A search space, and the learner's keywords and values for its parameters.

    Attributes:
      keywords: the learner's keyword of each parameter.
      objects: the learner's values of each CATEGORICAL parameter.
    """

    parameters: tuple[Parameter, ...]
    keywords: tuple[str, ...]
    objects: tuple[tuple[Object, ...], ...]

    def draw(self, rng: np.random.Generator) -> Float64[np.ndarray, " P"]:
        """A random configuration, with six digits; NaN where a parameter is inactive."""
        values_P = np.array(
            [
                column_from_units(parameter, rng.random(1)).item()
                if parameter.type != ParameterType.DOUBLE
                else _rounded(parameter, column_from_units(parameter, rng.random(1)).item())
                for parameter in self.parameters
            ]
        )
        return np.where(self._problem.active(values_P[None])[0], values_P, np.nan)

    @functools.cached_property
    def _problem(self) -> Problem:
        return Problem(parameters=self.parameters, metrics=(Metric(name="any"),))

    def keyword_values(self, values_P: Float64[np.ndarray, " P"]) -> dict[str, Object]:
        """The learner's active keywords and their values in a configuration."""
        keywords: dict[str, Object] = {}
        for parameter, keyword, objects, number in zip(
            self.parameters, self.keywords, self.objects, values_P, strict=True
        ):
            if not np.isnan(number):
                keywords[keyword] = (
                    objects[int(number)] if objects else parameter.from_number(float(number))
                )
        return keywords


def draw_space(
    settings: Sequence[Setting],
    rng: np.random.Generator,
    *,
    most_effort: int,
    prefixes: Sequence[str] = (),
) -> SearchSpace:
    """A random search space over a learner's settings, with at least two parameters.

    Args:
      most_effort: the upper bound of rounds, trees or epochs.
      prefixes: prefixes of names in pipelines, such as `clf__`, used in a quarter of the spaces.
    """
    prefix = str(rng.choice(prefixes)) if prefixes and rng.random() < 0.25 else ""
    also = rng.random() < 0.3  # a wrapper's names, throughout
    wanted = [rng.random() < setting.often for setting in settings]
    while sum(wanted) < min(2, len(settings)):
        wanted[int(rng.integers(len(settings)))] = True
    parameters: dict[str, Parameter] = {}  # by keyword
    objects: dict[str, tuple[Object, ...]] = {}
    by_name = {setting.name: setting for setting in settings}
    for setting, is_wanted in zip(settings, wanted, strict=True):
        conditions: tuple[Condition, ...] = ()
        if setting.when is not None:
            parent, activating = setting.when
            if parent in parameters:
                shown = tuple(str(each) for each in objects[parent] if each in activating)
                is_wanted &= bool(shown)
                if len(shown) < len(objects[parent]):
                    conditions = (Condition(parent=parameters[parent].name, values=shown),)
            else:
                is_wanted &= by_name[parent].default in activating
        if is_wanted:
            name = prefix + (
                str(rng.choice(setting.also)) if setting.also and also else setting.name
            )
            parameter, values = _parameter(setting, name, conditions, most_effort, rng)
            parameters[setting.name] = parameter
            objects[setting.name] = values
    if len(parameters) < min(2, len(settings)):  # children whose parents are set otherwise
        return draw_space(settings, rng, most_effort=most_effort, prefixes=prefixes)
    return SearchSpace(
        parameters=tuple(parameters.values()),
        keywords=tuple(parameters),
        objects=tuple(objects[keyword] for keyword in parameters),
    )


def _parameter(
    setting: Setting,
    name: str,
    conditions: tuple[Condition, ...],
    most_effort: int,
    rng: np.random.Generator,
) -> tuple[Parameter, tuple[Object, ...]]:
    """The parameter, and its categories as the learner takes them."""
    shows_default = rng.random() < 0.3  # most people write down no default
    if setting.choices:
        values = setting.choices[int(rng.integers(len(setting.choices)))]
        if setting.type == ParameterType.DISCRETE:
            numbers = tuple(float(str(value)) for value in values)
            return (
                Parameter(name=name, type=setting.type, values=numbers, conditions=conditions),
                (),
            )
        texts = tuple(str(value) for value in values)
        known = shows_default and setting.default in values
        return (
            Parameter(
                name=name,
                type=ParameterType.CATEGORICAL,
                values=texts,
                conditions=conditions,
                default=str(setting.default) if known else None,
            ),
            values,
        )
    low, high = float(rng.choice(setting.lows)), float(rng.choice(setting.highs))
    if setting.effort:
        high = min(high, float(most_effort))
        low = min(low, max(1.0, high // 10))
    default: Value | None = None
    if (
        shows_default
        and isinstance(setting.default, int | float)
        and low <= setting.default <= high
    ):
        default = setting.default
    return (
        Parameter(
            name=name,
            type=setting.type,
            scale=setting.scale,
            bounds=(low, high),
            conditions=conditions,
            default=default,
        ),
        (),
    )


def _rounded(parameter: Parameter, number: float) -> float:
    """The number with the six digits that logs keep, within the bounds."""
    assert parameter.bounds is not None
    low, high = parameter.bounds
    return min(max(float(f"{number:.6g}"), low), high)
