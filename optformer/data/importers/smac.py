"""SMAC3: runhistory.json, with configspace.json and scenario.json beside it; a file or a folder.

    {"data": [{"config_id": 1, "cost": 0.25, "status": 1, "seed": 0, "budget": null}],
     "configs": {"1": {"lr": 0.01, "optimizer": "adam"}}}

Every runhistory.json below the folder is a study. SMAC minimizes the cost. The search space is that
of configspace.json; without it, or with distributions other than uniform ones, it is what was
tried. Of a configuration's runs, the mean cost at its greatest budget counts. SUCCESS is COMPLETED;
CRASHED, TIMEOUT and MEMORYOUT are INFEASIBLE; RUNNING is ACTIVE. The forms of SMAC 1.x (tuples) and
2.x both work.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optformer.data.importers import infer, text
from optformer.data.importers.record import Options, Record
from optformer.errors import SourceError, StudyError
from optformer.study import Condition, Goal, Parameter, ParameterType, Scale

FILE = "runhistory.json"
_STATUS = {0: "running", 1: "success", 2: "crashed", 3: "timeout", 4: "memoryout"}
_FIELDS = "config_id instance seed budget cost time cpu_time status".split()


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(path: Path) -> list[infer.Table]:
    document = text.document(path)
    runs = document.get("data") if isinstance(document, Mapping) else None
    configs = document.get("configs") if isinstance(document, Mapping) else None
    if not isinstance(runs, Sequence) or not isinstance(configs, Mapping):
        raise SourceError(f"{path} is not a run history of SMAC: it has no 'data' and 'configs'.")
    names = _objectives(path.with_name("scenario.json"))
    by_config: dict[str, list[Mapping[str, object]]] = {}
    faults: list[infer.Row | StudyError] = []
    for run in runs:
        fields = _fields_of(run)
        if str(fields.get("config_id")) in configs:
            by_config.setdefault(str(fields["config_id"]), []).append(fields)
        else:
            faults.append(StudyError(f"the run {str(run)[:60]} has no configuration."))
    rows = [_row(configs[key], of_config, names) for key, of_config in by_config.items()]
    space = path.with_name("configspace.json")
    return [
        infer.Table(
            name=path.parent.name if not path.parent.name.isdigit() else path.parents[1].name,
            rows=[*rows, *faults],
            goals=dict.fromkeys(names, Goal.MINIMIZE),
            parameters=_space(text.document(space)) if space.is_file() else (),
            algorithm="smac",
        )
    ]


def _fields_of(run: object) -> Mapping[str, object]:
    """A run by the names of its fields, in any of SMAC's forms."""
    if isinstance(run, Mapping):
        return run
    if not isinstance(run, Sequence) or isinstance(run, str):
        return {}
    if len(run) == 2 and all(isinstance(part, Sequence) for part in run):  # SMAC 1.x
        key, (cost, _, status, *_) = run
        word = status.get("__enum__", "") if isinstance(status, Mapping) else status
        named = dict(zip(_FIELDS, key, strict=False))
        return named | {"cost": cost, "status": str(word).rpartition(".")[2].lower()}
    # Before 2.2, a run has no CPU time.
    fields = _FIELDS if len(run) >= 11 else [name for name in _FIELDS if name != "cpu_time"]
    return dict(zip(fields, run, strict=False))


def _row(
    config: object, runs: Sequence[Mapping[str, object]], names: Sequence[str]
) -> infer.Row | StudyError:
    if not isinstance(config, Mapping):
        return StudyError(f"the configuration {str(config)[:60]} is not an object.")
    budget = max(_budget(run) for run in runs)
    final = [run for run in runs if _budget(run) == budget]
    status = [_STATUS.get(run.get("status"), str(run.get("status"))) for run in final]  # type: ignore[call-overload]
    costs = [
        cost if isinstance(cost := run.get("cost"), Sequence) else [cost]
        for run, word in zip(final, status, strict=True)
        if word == "success"
    ]
    if not costs:
        return infer.Row(parameters=config, metrics={}, state=status[0])
    metrics: dict[str, object] = {}
    for name, values in zip(names, zip(*costs, strict=True), strict=False):
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        metrics[name] = statistics.fmean(numbers) if len(numbers) == len(values) else None
    return infer.Row(parameters=config, metrics=metrics)


def _budget(run: Mapping[str, object]) -> float:
    budget = run.get("budget")
    return float(budget) if isinstance(budget, int | float) else 0.0


def _objectives(path: Path) -> list[str]:
    """The names of the costs; SMAC calls a single one "cost" by default."""
    scenario = text.document(path) if path.is_file() else {}
    names = scenario.get("objectives", "cost") if isinstance(scenario, Mapping) else "cost"
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _space(document: object) -> tuple[Parameter, ...]:
    """The search space in ConfigSpace's JSON; () if it has something that ours do not."""
    if not isinstance(document, Mapping):
        return ()
    conditions = document.get("conditions", ())
    described = document.get("hyperparameters", ())
    if not isinstance(conditions, Sequence) or not isinstance(described, Sequence):
        return ()
    try:
        of_child: dict[str, list[Condition]] = {}
        for condition in conditions:
            kinds = {"EQ": "value", "IN": "values"}
            values = condition[kinds[condition["type"]]]
            values = tuple(map(_value, values)) if isinstance(values, list) else (_value(values),)
            found = Condition(parent=condition["parent"], values=values)
            of_child.setdefault(condition["child"], []).append(found)
        if any(len(several) > 1 for several in of_child.values()):
            return ()  # there, all of them have to hold; with us, one of them
        parameters = [
            _parameter(each, tuple(of_child.get(each["name"], ())))
            for each in described
            if each["type"] != "constant"
        ]
    except (KeyError, TypeError, AttributeError, StudyError):
        return ()
    return tuple(sorted(parameters, key=lambda each: bool(each.conditions)))


def _parameter(each: Mapping[str, object], conditions: tuple[Condition, ...]) -> Parameter:
    kinds = {"uniform_float": ParameterType.DOUBLE, "uniform_int": ParameterType.INTEGER}
    name = str(each["name"])
    if each["type"] in kinds:
        low, high = each["lower"], each["upper"]
        return Parameter(
            name=name,
            type=kinds[str(each["type"])],
            scale=Scale.LOG if each.get("log") else Scale.LINEAR,
            bounds=(float(low), float(high)),  # type: ignore[arg-type]
            conditions=conditions,
        )
    choices = {"categorical": "choices", "ordinal": "sequence"}[str(each["type"])]
    values = tuple(_value(choice) for choice in each[choices])  # type: ignore[attr-defined]
    return Parameter(
        name=name, type=ParameterType.CATEGORICAL, values=values, conditions=conditions
    )


def _value(value: object) -> str:
    return infer.label(value) if isinstance(value, bool | int | float | str) else str(value)
