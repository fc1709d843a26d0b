"""Which learner and table each study has, from its number: any beginning of a run is balanced.

Learners take turns in random order. A learner meets each of its real tables once before it meets
one again, and synthetic tables in between.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from optformer.data import data_tables
from optformer.data.collect.config import CollectConfig
from optformer.data.data_tables.table import Task
from optformer.data.learners import LEARNERS, find
from optformer.data.learners.learner import Learner
from optformer.errors import ConfigError, SourceError, did_you_mean

EVERY = "*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealTable:
    """A table that can be learned from."""

    name: str
    task: Task
    twins: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What studies can be made of.

    Attributes:
      allowed: for each learner its real tables, in the order of their names.
      refused: tables that cannot be used -> why.
    """

    seed: int
    real: float
    allowed: Mapping[str, tuple[RealTable, ...]]
    refused: Mapping[str, str]

    def assignment(self, number: int) -> "Assignment":
        """The learner and table of the study with this number."""
        names = sorted(self.allowed)
        turn, place = divmod(number, len(names))
        learner = names[_generator(self.seed, "turn", turn).permutation(len(names))[place]]
        tables = self.allowed[learner]
        # Evenly spread over the turns, and begun elsewhere by each learner.
        shift = _generator(self.seed, learner).random()
        before = math.floor(turn * self.real + shift)
        if tables and math.floor((turn + 1) * self.real + shift) > before:
            cycle, index = divmod(before, len(tables))
            order = _generator(self.seed, learner, cycle).permutation(len(tables))
            table = tables[order[index]]
            return Assignment(
                number=number, learner=learner, table=table.name, task=table.task, twins=table.twins
            )
        tasks = sorted(LEARNERS[learner].variants)
        task = tasks[int(_generator(self.seed, learner, "task", turn).integers(len(tasks)))]
        name = f"synthetic/{task}-{number}"
        twins = f"synthetic/{task}-{self.seed}-{number}"  # runs with other seeds have other tables
        return Assignment(number=number, learner=learner, table=name, task=task, twins=twins)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """A study to make."""

    number: int
    learner: str
    table: str
    task: Task
    twins: str


def make_plan(config: CollectConfig, seed: int) -> Plan:
    """Looks at every table; files of folders that cannot be used are left out, with the reason.

    Raises:
      ConfigError: an unknown learner, a missing package, or nothing to do.
      SourceError: a table that was named and cannot be used, a folder without tables, or a broken
        index or file of held-out pairs.
    """
    learners = [find(name) for name in config.learners or _installed()]
    held_out = read_held_out(Path(config.held_out)) if config.held_out else {}
    folders = tuple(map(Path, config.folders))
    tables = [data_tables.load(name, folders, config.target) for name in config.tables]
    refused: dict[str, str] = {}
    for name in data_tables.names_of(folders):
        try:
            tables.append(data_tables.load(name, folders, config.target))
        except SourceError as error:  # one of many, which nobody named
            refused[name] = str(error)
    known = sorted(
        (RealTable(name=table.name, task=table.task, twins=table.twins) for table in tables),
        key=lambda table: table.name,
    )
    if config.real == 1.0 and not known:
        raise ConfigError(
            "no real table can be used, and real=1 asks for nothing else. "
            + (f"The first reason: {next(iter(refused.values()))}" if refused else "Name some.")
        )
    return Plan(
        seed=seed,
        real=config.real if known else 0.0,
        allowed={
            learner.name: tuple(
                table
                for table in known
                if table.task in learner.variants and not is_held_out(held_out, table, learner)
            )
            for learner in learners
        },
        refused=refused,
    )


def read_held_out(path: Path) -> dict[str, frozenset[str]]:
    """Tables that some learners must not see, from a JSON object such as

        {"wdbc": ["*"], "pmlb/sonar": ["svm"], "car": ["boosting", "adaboost"]}

    A table is named with or without its origin, or by its group. A list names learners or whole
    families of them; "*" stands for all.

    Raises:
      SourceError: another form, or an unknown learner or family.
    """
    try:
        pairs = json.loads(path.read_text("utf-8"))
        found = {str(table): frozenset(map(str, names)) for table, names in pairs.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SourceError(
            f"{path} does not say which tables are held out ({error}). It needs the form "
            '{"TABLE": ["LEARNER or FAMILY", ...]}, with "*" for all learners.'
        ) from error
    known = {EVERY, *LEARNERS} | {f for learner in LEARNERS.values() for f in learner.families}
    for table, names in found.items():
        for name in sorted(names - known):
            raise SourceError(
                f"{path}: table {table!r} is held out from {name!r}, which is no learner or family."
                f"{did_you_mean(name, known)} There are: {', '.join(sorted(known))}."
            )
    return found


def is_held_out(held_out: Mapping[str, frozenset[str]], table: RealTable, learner: Learner) -> bool:
    """Whether the learner must not see the table."""
    names = {table.name, table.name.partition("/")[2], table.twins}
    banned = frozenset().union(*(held_out.get(name, frozenset()) for name in names))
    return bool(banned & {EVERY, learner.name, *learner.families})


def _installed() -> list[str]:
    """The learners whose packages are there; scikit-learn's must be."""
    found = []
    for name, learner in LEARNERS.items():
        try:
            found.append(find(name).name)
        except ConfigError:
            if learner.package == "sklearn":
                raise
    return found


def _generator(*key: object) -> np.random.Generator:
    """A generator that depends on all of the key."""
    letters = [letter for part in key for letter in str(part).encode()]
    return np.random.default_rng([*letters, len(key)])
