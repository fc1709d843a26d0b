"""A problem statement as text for the encoder.

    title="svc on wine",algorithm=eagle_strategy,metric="accuracy",MAXIMIZE
    &name="C",DOUBLE,LOG,0.01,100
    &name="kernel",CATEGORICAL,2,"linear","rbf"

(without the line breaks). Every part after an ampersand describes one parameter; the encoder is
told which, by slot. Names, bounds and values can be left out, as they are at random in training:
the algorithm, goals, types, scales and numbers of values always stand.
"""

import dataclasses
import json

from optformer.study import Parameter, ParameterType, Problem
from optformer.tokenization.vocabulary import Chunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetadataOptions:
    """What the text says besides the structure of the search space."""

    names: bool = True  # names of parameters and metrics, and the title
    values: bool = True  # bounds, discrete values, categories, parents
    most_values: int = 8  # values and categories beyond these are left out
    most_letters: int = 60  # of any one name


def describe(
    problem: Problem, algorithm: str, order: tuple[int, ...], options: MetadataOptions
) -> list[list[Chunk]]:
    """The text of the study, then of each parameter in this order."""
    fields = []
    if options.names and problem.title:
        fields.append(f"title={_quote(problem.title, options)}")
    fields.append(f"algorithm={algorithm}")
    for metric in problem.metrics:
        if options.names:
            fields.append(f"metric={_quote(metric.name, options)}")
        fields.append(str(metric.goal))
        if metric.safety_threshold is not None:
            fields.append(f"SAFETY,{metric.safety_threshold:.3g}")
    return [
        [",".join(fields)],
        *([_parameter(problem.parameters[index], options)] for index in order),
    ]


def _parameter(parameter: Parameter, options: MetadataOptions) -> Chunk:
    fields = [f"name={_quote(parameter.name, options)}"] if options.names else []
    fields.append(str(parameter.type))
    if parameter.scale is not None:
        fields.append(str(parameter.scale))
    if parameter.type == ParameterType.DOUBLE:
        if options.values and parameter.bounds is not None:
            fields += [f"{bound:.3g}" for bound in parameter.bounds]
    elif parameter.bounds is not None:
        low, high = parameter.bounds
        fields.append(f"{high - low + 1:.3g}")
        if options.values:
            fields += [f"{bound:.6g}" for bound in parameter.bounds]
    else:
        fields.append(str(len(parameter.values)))
        if options.values:
            fields += [
                _quote(value, options) if isinstance(value, str) else f"{value:.3g}"
                for value in parameter.values[: options.most_values]
            ]
    if options.values:
        for condition in parameter.conditions:
            values = [
                _quote(value, options) if isinstance(value, str) else f"{value:.3g}"
                for value in condition.values[: options.most_values]
            ]
            fields.append(f"if {_quote(condition.parent, options)}={'/'.join(values)}")
    elif parameter.conditions:
        fields.append("if")
    return "&" + ",".join(fields)


def _quote(text: str, options: MetadataOptions) -> str:
    return json.dumps(text[: options.most_letters], ensure_ascii=False)
