"""What leaves a team with its logs: text removed, names hashed."""

import dataclasses
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from optformer.study import Condition, Parameter, ParameterType, Problem, Study, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Privacy:
    """What to remove from studies. The names of algorithms always stay: they are the prompts.

    Attributes:
      drop_text: number the studies instead of naming them; drop titles, metadata and the notes
        of trials.
      hash_names: names of studies, parameters, metrics and categories become hashes: the same
        name has the same hash under one key, and cannot be found by guessing without it. Notes
        of trials are dropped; titles and metadata stay unless `drop_text`.
      key: the secret of the hashes.
    """

    drop_text: bool = False
    hash_names: bool = False
    key: bytes = b""

    def apply(self, study: Study, number: int) -> Study:
        """The study without what must not leave; `number` names it if its name is dropped."""
        problem = study.problem
        if self.hash_names:
            problem = self._hashed(problem)
        if self.drop_text:
            problem = dataclasses.replace(
                problem, name=f"study-{number:06d}", title="", metadata=()
            )
        if not (self.drop_text or self.hash_names):
            return study
        # Notes would give away what the names do. Equal data sets still have to be told.
        data_set = study.data_set and self.hash(study.data_set)
        return dataclasses.replace(study, problem=problem, notes=None, data_set=data_set)

    def hash(self, text: str) -> str:
        """Twelve hexadecimal digits that say nothing about the text without the key."""
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()[:12]

    def _hashed(self, problem: Problem) -> Problem:
        texts = {p.name for p in problem.parameters if _is_text(p)}

        def value(owner: str, value: Value) -> Value:
            return self.hash(str(value)) if owner in texts else value

        return dataclasses.replace(
            problem,
            name=self.hash(problem.name),
            parameters=tuple(
                dataclasses.replace(
                    parameter,
                    name=self.hash(parameter.name),
                    values=tuple(self.hash(str(v)) for v in parameter.values)
                    if parameter.name in texts
                    else parameter.values,
                    default=None
                    if parameter.default is None
                    else value(parameter.name, parameter.default),
                    conditions=tuple(
                        Condition(
                            parent=self.hash(condition.parent),
                            values=tuple(value(condition.parent, v) for v in condition.values),
                        )
                        for condition in parameter.conditions
                    ),
                )
                for parameter in problem.parameters
            ),
            metrics=tuple(
                dataclasses.replace(metric, name=self.hash(metric.name))
                for metric in problem.metrics
            ),
        )


def key_beside(folder: Path) -> bytes:
    """The key of a shard folder, made at the first call; kept beside it and not in it.

    The folder can be given away. Who also has the key can find names by guessing.
    """
    path = folder.with_name(f"{folder.resolve().name}.names-key")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _is_text(parameter: Parameter) -> bool:
    return (
        parameter.type == ParameterType.CATEGORICAL
        and parameter.external_type != "BOOLEAN"  # True and False say nothing
    )
