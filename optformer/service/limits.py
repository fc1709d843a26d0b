"""What a request may ask for. What goes beyond is refused, to that client only."""

import dataclasses
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
      name: characters of an owner's, a study's or a client's name.
      parameters: of a search space, conditional ones included.
      trials: of a study.
      count: suggestions in one request.
    """

    message: int = 4 << 20
    name: int = 256
    parameters: int = 1000
    trials: int = 10_000
    count: int = 100

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
            count = _parameters(request.study.study_spec.parameters)
            if count > self.parameters:
                raise FullError(
                    f"the search space has {count} parameters; this service takes "
                    f"{self.parameters}."
                )
        if "suggestion_count" in fields:
            count = request.suggestion_count
            if count < 1:
                raise RefusedError(f"count={count} suggestions: ask for at least one.")
            if count > self.count:
                raise FullError(
                    f"count={count} suggestions at once; this service gives {self.count}."
                )

    def check_room(self, trials: int, more: int) -> None:
        """Checks that a study with so many trials can have more.

        Raises:
          FullError: it cannot.
        """
        if trials + more > self.trials:
            raise FullError(
                f"the study has {trials} trials; this service takes {self.trials} in one. Start "
                "another study."
            )

    def _check_name(self, field: str, name: str) -> None:
        if len(name) > self.name:
            raise RefusedError(
                f"{field} has a part of {len(name):,} characters; this service takes {self.name}."
            )
        if not name or not name.isprintable() or "/" in name:
            raise RefusedError(
                f"{field} has the part {name!r}: it must not be empty, and have only printable "
                "characters and no slash."
            )


def _parameters(specs: "list[study_pb2.StudySpec.ParameterSpec]") -> int:
    """How many parameters there are, counted with a list of our own: nesting is the client's."""
    waiting, count = list(specs), 0
    while waiting:
        spec = waiting.pop()
        count += 1
        waiting += [child.parameter_spec for child in spec.conditional_parameter_specs]
    return count
