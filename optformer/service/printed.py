"""The metrics in what a program printed."""

import json
import re
from collections.abc import Mapping, Sequence

# Numbers end here, but not where more follows, as in 12.3s, 85%, 1,234.5 or model-7.pt.
_DIGITS = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?"
_NUMBER = rf"(?P<number>[-+]?(?:{_DIGITS}|inf(?:inity)?|nan))"
_END = r"(?=$|[\s;)\]}\"']|,(?![0-9])|\.(?:\s|$))"
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ALONE = re.compile(rf"\s*{_NUMBER}\s*", re.IGNORECASE)
_SHOWN = 120  # characters of a line in a message


class UnreadableError(ValueError):
    """What a program printed holds no metric; says how it could."""


def metrics_in(
    output: str, names: Sequence[str], pattern: re.Pattern[str] | None = None
) -> dict[str, float]:
    """The metrics of these names, the first of which is the objective.

    A metric is, in this order:
    - the first group of `pattern`'s last match, for the objective only, and then nothing else;
    - a member of a JSON object on the last line that is not empty;
    - a number alone on that line, for the objective only;
    - the number after the last `name: ` or `name=` in the output.

    Raises:
      UnreadableError: one is missing, or no number.
    """
    output = _COLOUR.sub("", output)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    found = _members(last)
    metrics: dict[str, float] = {}
    for index, name in enumerate(names):
        is_objective = index == 0
        if is_objective and pattern is not None:
            metrics[name] = _matched(output, pattern)
            continue
        alone = _ALONE.fullmatch(last) if is_objective else None
        if name in found:
            metrics[name] = found[name]
        elif alone is not None:
            metrics[name] = float(alone["number"])
        else:
            metrics[name] = _named(lines, name)
    return metrics


def _members(line: str) -> Mapping[str, float]:
    """The numbers of a JSON object; none if the line is not an object."""
    if not line.startswith("{"):
        return {}
    try:
        document = json.loads(line)
        return {
            key: float(value)
            for key, value in document.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    except (ValueError, RecursionError, OverflowError):
        return {}


def _named(lines: Sequence[str], name: str) -> float:
    """The number after the last `name: ` or `name=`."""
    named = re.compile(
        rf"(?<![\w./-]){re.escape(name)}[\"']?\s*[:=]\s*{_NUMBER}{_END}", re.IGNORECASE
    )
    for line in reversed(lines):
        matches = list(named.finditer(line))
        if matches:
            return float(matches[-1]["number"])
    last = f"the last line is {lines[-1][:_SHOWN]!r}" if lines else "it printed nothing"
    raise UnreadableError(
        f"the output has no metric {name!r}: {last}. Print a number alone on the last line, "
        f"`{name}: NUMBER`, or a JSON object with {name!r}; or give --metric-pattern."
    )


def _matched(output: str, pattern: re.Pattern[str]) -> float:
    matches = list(pattern.finditer(output))
    if not matches:
        raise UnreadableError(
            f"nothing in the output matches --metric-pattern {pattern.pattern!r}."
        )
    text = matches[-1][1]
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise UnreadableError(
            f"--metric-pattern {pattern.pattern!r} found {text!r}, which is not a number."
        ) from error
