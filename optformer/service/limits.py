"""The most that a request may ask for. What exceeds a limit is refused, to that client only."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from optformer.errors import ConfigError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from vizier._src.service import study_pb2


class RefusedError(ConfigError):
    """A request that breaks a rule of the service."""


class FullError(RefusedError):
    """A request for more than the service gives."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a client may send or ask for.

    Attributes:
      message: bytes of a request.
      name: characters of the name of an owner, study, client, parameter or metric.
      parameters: of a search space, conditional ones included.
      values: of all categorical and discrete parameters of a search space together.
      metrics: of a study.
      trials: of a study.
      study: bytes of a study with its trials, metadata and measurements, and of an answer.
      studies: of an owner.
      count: suggestions in one request.
      waiting: requests of one owner that wait or run at the same time.
    """

    message: int = 4 << 20
    name: int = 256
    parameters: int = 1000
    values: int = 10_000
    metrics: int = 100
    trials: int = 10_000
    study: int = 16 << 20
    studies: int = 10_000
    count: int = 100
    waiting: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(
                    f"limit {field.name}={getattr(self, field.name)} must be above 0."
                )

    def check(self, request: "Message") -> None:
        """Checks what can be seen from the request alone.

        Raises:
          RefusedError: names the field, its value and the rule.
          FullError: more parameters or suggestions than allowed.
        """
        fields = request.DESCRIPTOR.fields_by_name
        for field in ("parent", "name", "trial_name"):
            if field in fields:
                for part in getattr(request, field).split("/"):
                    self._check_name(field, part)
        if "client_id" in fields:
            self._check_name("client_id", request.client_id)
        if "study" in fields:
            self._check_name("display_name", request.study.display_name)
            self._check_spec(request.study.study_spec)
        if "suggestion_count" in fields:
            count = request.suggestion_count
            if count < 1:
                raise RefusedError(f"count={count} suggestions: ask for at least one.")
            if count > self.count:
                raise FullError(
                    f"count={count} suggestions at once; this service gives {self.count}."
                )

    def _check_spec(self, spec: "study_pb2.StudySpec") -> None:
        self._check_most(len(spec.metrics), self.metrics, "the study has", "metrics")
        for metric in spec.metrics:
            self._check_name("a metric's name", metric.metric_id)
        parameters, values = len(spec.parameters), 0
        # Lengths before contents: a message can hold millions of either.
        self._check_most(parameters, self.parameters, "the search space has", "parameters")
        for parameter in every_parameter(spec.parameters):
            self._check_size("a parameter's name", parameter.parameter_id)
            parameters += len(parameter.conditional_parameter_specs)
            self._check_most(parameters, self.parameters, "the search space has", "parameters")
            values += len(parameter.categorical_value_spec.values)
            values += len(parameter.discrete_value_spec.values)
            for child in parameter.conditional_parameter_specs:
                values += len(child.parent_categorical_values.values)
                values += len(child.parent_discrete_values.values)
                values += len(child.parent_int_values.values)
            self._check_most(values, self.values, "the search space has", "values to choose from")

    def _check_most(self, count: int, most: int, owner: str, what: str) -> None:
        if count > most:
            raise FullError(f"{owner} {count:,} {what} or more; this service takes {most:,}.")

    def _check_size(self, field: str, name: str) -> None:
        if len(name) > self.name:
            raise RefusedError(
                f"{field} has a part of {len(name):,} characters; this service takes {self.name}."
            )

    def _check_name(self, field: str, name: str) -> None:
        self._check_size(field, name)
        if not name or not name.isprintable() or "/" in name:
            raise RefusedError(
                f"{field} has the part {name!r}: it must not be empty, and have only printable "
                "characters and no slash."
            )


def every_parameter(
    specs: "list[study_pb2.StudySpec.ParameterSpec]",
) -> "Iterator[study_pb2.StudySpec.ParameterSpec]":
    """All parameters of a search space. No recursion: clients choose the depth."""
    waiting = list(specs)
    while waiting:
        spec = waiting.pop()
        yield spec
        waiting += [child.parameter_spec for child in spec.conditional_parameter_specs]
