"""A problem as text for the encoder, in one of two grammars.

`words` is our own. Each part that begins with an ampersand describes one parameter; the slots of
its tokens tell the encoder which one:

    title="svc on wine",algorithm=eagle_strategy,metric="accuracy",MAXIMIZE
    &name="C",DOUBLE,LOG,0.01,100
    &name="kernel",CATEGORICAL,2,"linear","rbf"

`letters` is the grammar of the released OptFormer models. Types and scales are numbers,
parameters with a single value stand between the two ampersands, and for a logarithmic scale the
logarithms of the bounds are written:

    N:"svc on wine",A:"eagle_strategy",O:"accuracy",G:<1>&&
    N:"C",S:<2>,P:<1>,m:-4.61,M:4.61
    *N:"kernel",P:<3>,L:<2>,C:["linear","rbf"]

(both without the line breaks). `MetadataOptions` can leave out names, and bounds and values;
training leaves them out at random. The algorithm, goals, types and numbers of values are always
written. In `letters`, scales are left out together with the values. Without both names and values,
`letters` gives the minimal metadata of the OptFormer paper.
"""

import dataclasses
import json
import math
from typing import Literal

from optformer import space
from optformer.study import Parameter, ParameterType, Problem, Scale, Value
from optformer.tokenization.vocabulary import Bin, Chunk

UNKNOWN = "unknown"
"""The algorithm name for trials whose algorithm is not known."""

OPTIMUM = "optimum"
"""The algorithm name for studies whose last trial is the known optimum."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetadataOptions:
    """The optional parts of the text, and its limits."""

    grammar: Literal["words", "letters"] = "words"
    names: bool = True  # of parameters and metrics, and the title and metadata
    values: bool = True  # bounds, discrete values, categories, parents, defaults
    most_values: int = 8  # of one parameter; the text leaves out the others
    most_letters: int = 60  # of one name; longer ones are cut


def describe(
    problem: Problem, algorithm: str, order: tuple[int, ...], options: MetadataOptions
) -> list[list[Chunk]]:
    """The text of the study, followed by the texts of its parameters in the given order."""
    parameters = [problem.parameters[index] for index in order]
    if options.grammar == "words":
        return [
            [_study(problem, algorithm, options)],
            *([_parameter(parameter, options)] for parameter in parameters),
        ]
    return [
        _letters_of_study(problem, algorithm, options),
        *(
            ["*" * (index > 0), *_letters_of_parameter(parameter, options)]
            for index, parameter in enumerate(parameters)
        ),
    ]


def _study(problem: Problem, algorithm: str, options: MetadataOptions) -> str:
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
    if options.names:
        fields += [
            f"{_quote(key, options)}={_quote(value, options)}"
            for key, value in problem.metadata[: options.most_values]
        ]
    return ",".join(fields)


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
            fields += [_value(v, options) for v in parameter.values[: options.most_values]]
    if options.values:
        for condition in parameter.conditions:
            values = [_value(value, options) for value in condition.values[: options.most_values]]
            fields.append(f"if {_quote(condition.parent, options)}={'/'.join(values)}")
        if parameter.default is not None:
            fields.append(f"default={_value(parameter.default, options)}")
    elif parameter.conditions:
        fields.append("if")
    return "&" + ",".join(fields)


_SCALES = (None, Scale.LINEAR, Scale.LOG, Scale.REVERSE_LOG, Scale.UNIFORM_DISCRETE)
_TYPES = (
    None,
    ParameterType.DOUBLE,
    ParameterType.INTEGER,
    ParameterType.CATEGORICAL,
    ParameterType.DISCRETE,
)


def _letters_of_study(problem: Problem, algorithm: str, options: MetadataOptions) -> list[Chunk]:
    fields: dict[str, _Field] = {
        "N": problem.name if options.names else "",
        "A": algorithm,
        "O": problem.metrics[0].name if options.names else "",
        "G": 1,  # always MAXIMIZE: better metric values have higher bins, whatever the goal
    }
    fixed: dict[str, _Field] = {
        parameter.name: parameter.from_number(parameter.placeholder)
        for parameter in problem.parameters
        if options.names and options.values and space.is_fixed(parameter)
    }
    return [*_letters(fields, options), "&", *_letters(fixed, options), "&"]


def _letters_of_parameter(parameter: Parameter, options: MetadataOptions) -> list[Chunk]:
    fields: dict[str, _Field] = {"N": parameter.name if options.names else ""}
    if parameter.type != ParameterType.CATEGORICAL:
        fields["S"] = _SCALES.index(parameter.scale if options.values else None)
    fields["P"] = _TYPES.index(parameter.type)
    if parameter.bounds is not None:
        is_log = parameter.scale in (Scale.LOG, Scale.REVERSE_LOG)
        whole = parameter.type == ParameterType.INTEGER and not is_log
        number = math.log if is_log else int if whole else float
        low, high = map(number, parameter.bounds)
        if options.values:
            fields |= {"m": low, "M": high}
        elif parameter.type == ParameterType.INTEGER:
            fields["L"] = high - low + 1
        return _letters(fields, options)
    fields["L"] = len(parameter.values)
    if options.values:
        kind = "C" if parameter.type == ParameterType.CATEGORICAL else "F"
        fields[kind] = _all_numbers(parameter.values)[: options.most_values]
    return _letters(fields, options)


_Field = str | float | int | tuple[str, ...] | tuple[float, ...]


def _letters(fields: dict[str, _Field], options: MetadataOptions) -> list[Chunk]:
    chunks: list[Chunk] = []
    for name, value in fields.items():
        chunks.append(f",{name}:" if chunks else f"{name}:")
        if isinstance(value, tuple):
            items = (f"{v:.3g}" if isinstance(v, float) else _ascii(v, options) for v in value)
            chunks.append(f"[{','.join(items)}]")
        elif isinstance(value, str):
            chunks.append(_ascii(value, options))
        else:
            chunks.append(f"{value:.3g}" if isinstance(value, float) else Bin(value))
    return chunks


def _all_numbers(
    values: tuple[str, ...] | tuple[float, ...],
) -> tuple[str, ...] | tuple[float, ...]:
    """The values. Numbers, and categories that are all numbers, are shortened to three digits."""
    if not all(isinstance(value, str) for value in values):
        return tuple(float(value) for value in values)
    try:
        return tuple(f"{float(value):.3g}" for value in values)
    except ValueError:
        return values


def _ascii(text: str, options: MetadataOptions) -> str:
    return json.dumps(text[: options.most_letters])


def _value(value: Value, options: MetadataOptions) -> str:
    return _quote(value, options) if isinstance(value, str) else f"{value:.3g}"


def _quote(text: str, options: MetadataOptions) -> str:
    return json.dumps(text[: options.most_letters], ensure_ascii=False)
