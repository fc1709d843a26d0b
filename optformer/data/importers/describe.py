"""The formats of study logs in words: each importer's own docstring, for the terminal and docs."""

import ast
import textwrap
from pathlib import Path

from optformer.data.importers.detect import FORMATS, Format
from optformer.errors import SourceError, did_you_mean

_MODULES: dict[Format, str] = {
    "vizier": "vizier",
    "vizier-protos": "vizier",
    "optuna": "optuna",
    "optuna-journal": "optuna",
    "optuna-csv": "optuna_csv",
    "jsonl": "jsonl",
    "csv": "csv",
    "hpob": "hpob",
    "wandb": "wandb_csv",
    "mlflow": "mlflow_csv",
    "ray-tune": "ray_tune",
    "syne-tune": "syne_tune",
    "smac": "smac",
    "hyperopt": "hyperopt",
    "ax": "ax_csv",
}


def describe(format: str) -> str:
    """What a format looks like, with an example.

    Raises:
      SourceError: an unknown format; names the known ones.
    """
    for known in FORMATS:
        if format == known:
            # Read, not imported: some importers need a package that may not be installed.
            path = Path(__file__).with_name(f"{_MODULES[known]}.py")
            return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    raise SourceError(
        f"format {format!r} is not one of {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}"
    )


def page() -> str:
    """The page of the documentation about all formats, as Markdown."""
    parts = [
        textwrap.dedent(
            """\
            # Importing study logs

            <!-- Made by `optformer import --describe all` from optformer/data/importers. -->

            `optformer import SOURCE SHARDS` reads a log of past tuning studies. It detects the
            format; `--format NAME` names it. `optformer import --describe NAME` prints one of these
            sections.

            A bad trial never costs its study: it is left out, or counts as infeasible, and is
            reported with the reason. What a log does not say, such as a metric's goal, is assumed
            only where the report can name it.
            """
        )
    ]
    shown: dict[str, list[str]] = {}
    for format in FORMATS:
        shown.setdefault(_MODULES[format], []).append(format)
    for formats in shown.values():
        parts.append(f"## {', '.join(formats)}\n\n{describe(formats[0])}\n")
    return "\n".join(parts)
