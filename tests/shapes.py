"""The checker of shapes and types in signatures while tests run."""

import beartype

# An int is a float to Python's type system, and so to callers.
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
