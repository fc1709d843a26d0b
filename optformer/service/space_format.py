"""The format of a file with a search space, in words: for `tune --help`, messages and docs."""

TEXT = """\
A search space is a JSON file with a name, metrics and parameters:

    {
      "name": "cnn",
      "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"},
                  {"name": "latency", "goal": "MINIMIZE", "safety_threshold": 20}],
      "parameters": [
        {"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-4, 0.1], "default": 0.001},
        {"name": "layers", "type": "INTEGER", "bounds": [1, 8]},
        {"name": "batch", "type": "DISCRETE", "values": [16, 32, 64]},
        {"name": "optimizer", "type": "CATEGORICAL", "values": ["adam", "sgd"]},
        {"name": "momentum", "type": "DOUBLE", "bounds": [0, 1],
         "conditions": [{"parent": "optimizer", "values": ["sgd"]}]}
      ]
    }

metrics: the first is the objective. "goal" is MAXIMIZE or MINIMIZE. A metric with a
"safety_threshold" is a constraint: it must not be below the threshold if its goal is MAXIMIZE, and
not above it if its goal is MINIMIZE. There is one objective, and any number of constraints.

parameters:

- DOUBLE: a number between the "bounds". "scale" is LINEAR (the default), LOG or REVERSE_LOG.
- INTEGER: a whole number between the "bounds", with the same scales.
- DISCRETE: one of the "values", numbers in ascending order. The program gets them as they are
  written in the file: 32 as 32, 1e-3 as 1e-3.
- CATEGORICAL: one of the "values", which are texts.
- "default": a value that is known to be good; the search begins with it.
- "conditions": the parameter is active only while its "parent", which is listed before it, has one
  of the "values". Of several conditions one is enough. An inactive parameter's place in the command
  is empty.

"title" and "metadata" (texts by name) tell the model what is tuned. The same form, with "trials",
is a study in JSON Lines: see `optformer import --describe jsonl`.
"""

EPILOG = TEXT.replace("[", "\\[")
"""The same for a command's help, where brackets are markup."""


def page() -> str:
    """The page of the documentation, as Markdown."""
    made = (
        "<!-- Made by `optformer tune --describe-space` from optformer/service/space_format.py. -->"
    )
    return f"# The file with a search space\n\n{made}\n\n{TEXT}"
