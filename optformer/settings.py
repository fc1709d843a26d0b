"""Settings as nested frozen dataclasses: read from TOML and overrides, checked, written to TOML.

Only the dataclasses define defaults. An unknown key is an error that suggests the nearest name.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from optformer.errors import ConfigError, did_you_mean

Tree = dict[str, object]

Config = TypeVar("Config")


def read_config(
    kind: type[Config], path: Path | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Settings of class `kind` from a TOML file, with overrides applied.

    Raises:
      ConfigError: the file is not TOML, a key is unknown, or a value has the wrong type.
    """
    return from_tree(kind, read_tree(kind, path, overrides))


def read_tree(kind: type[Config], path: Path | None = None, overrides: Iterable[str] = ()) -> Tree:
    """The settings of the file and overrides as nested dicts, without defaults.

    A file may begin with `extends = "other.toml"`, a path relative to its own folder, and then
    contains only differences from that file. Sections are merged; other values, including lists,
    replace those of the other file.

    Raises:
      ConfigError: a file is not TOML or extends itself, or an override does not have the form
        section.field=value.
    """
    tree: Tree = {} if path is None else _read_file(kind, path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} is not of the form section.field=value.")
        _put(kind, tree, key.split("."), _parse(text), override)
    return tree


def _read_file(kind: type, path: Path, extended_by: tuple[Path, ...] = ()) -> Tree:
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        by = f", which {extended_by[-1]} extends" if extended_by else ""
        raise ConfigError(f"there is no config file {path}{by}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    extended = tree.pop("extends", None)
    if extended is None:
        return tree
    if not isinstance(extended, str):
        raise ConfigError(f"{path}: extends={extended!r} must be the path of a TOML file.")
    chain = (*extended_by, path.resolve())
    other = path.parent / extended
    if other.resolve() in chain:
        raise ConfigError(f"{path} extends {extended}, which extends it. Remove one of the two.")
    return _merge(kind, _read_file(kind, other, chain), tree)


def _merge(kind: object, tree: Tree, changes: Tree) -> Tree:
    """The tree with changes. A named preset is replaced by its settings if some of them change."""
    merged = dict(tree)
    for key, change in changes.items():
        inner = typing.get_type_hints(kind).get(key, object) if isinstance(kind, type) else object
        value = merged.get(key)
        if isinstance(change, dict) and isinstance(value, str) and hasattr(inner, "NAMED"):
            value = _named(inner, value, key)
        if isinstance(change, dict) and isinstance(value, dict):
            merged[key] = _merge(inner, value, change)
        else:
            merged[key] = change
    return merged


def from_tree(kind: type[Config], tree: Mapping[str, object] | str, where: str = "") -> Config:
    """A dataclass from nested dicts; each value is checked against its field's type.

    A class with a table `NAMED` also accepts the name of one of its presets.

    Raises:
      ConfigError: names the field, its value and the expected type.
    """
    if isinstance(tree, str):
        tree = _named(kind, tree, where)
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            hint = did_you_mean(key, hints, prefix=where)
            raise ConfigError(
                f"there is no setting {where}{key}." + (hint or f" Known: {', '.join(hints)}.")
            )
    values = {key: _convert(hints[key], value, where + key) for key, value in tree.items()}
    return kind(**values)


def to_tree(config: object) -> Tree:
    """A dataclass as nested dicts of plain values, the inverse of `from_tree`."""
    assert dataclasses.is_dataclass(config)
    tree: Tree = {}
    for field in dataclasses.fields(config):
        tree[field.name] = _plain(getattr(config, field.name))
    return tree


def to_toml(config: object) -> str:
    """A dataclass as the text of a TOML file, the inverse of `read_config`."""
    return "".join(_section(to_tree(config), ""))


def _section(tree: Tree, name: str) -> Iterator[str]:
    sections = {key: value for key, value in tree.items() if isinstance(value, dict)}
    plain = {key: value for key, value in tree.items() if key not in sections}
    if name and (plain or not sections):
        yield f"\n[{name}]\n"
    for key, value in plain.items():
        yield f"{key} = {_toml(value)}\n"
    for key, value in sections.items():
        yield from _section(value, f"{name}.{key}" if name else key)


def _toml(value: object) -> str:
    """A value in TOML; a dataclass in a list becomes an inline table."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # JSON's strings are TOML's, except that TOML also escapes DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def flat_tree(config: object, where: str = "") -> Tree:
    """The plain values of a dataclass by dotted path, as in overrides."""
    flat: Tree = {}
    for key, value in to_tree(config).items():
        inner = getattr(config, key)
        if dataclasses.is_dataclass(inner):
            flat |= flat_tree(inner, f"{where}{key}.")
        else:
            flat[where + key] = value
    return flat


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_tree(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def check_ranges(config: object, where: str, **ranges: tuple[float, float | None]) -> None:
    """Checks that fields lie in their ranges, ends included; None means no upper limit.

    Raises:
      ConfigError: names the field, its value and the range.
    """
    for field, (low, high) in ranges.items():
        value = getattr(config, field)
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{where}{field}={value} must be {limit}.")


def _named(kind: type, name: str, where: str) -> Tree:
    known = getattr(kind, "NAMED", {})
    if name not in known:
        section = where.rstrip(".") or "setting"
        hint = did_you_mean(name, known)
        raise ConfigError(f"there is no {section} {name!r}. Known: {', '.join(known)}.{hint}")
    return to_tree(known[name])


def _put(kind: type, tree: Tree, keys: list[str], value: object, override: str) -> None:
    for key in keys[:-1]:
        if kind is not object and not dataclasses.is_dataclass(kind):
            name = override.partition(f".{key}")[0]
            raise ConfigError(
                f"override {override!r}: {name} is not a section, so it has no {key!r}. Give all "
                f"of {name}, or write it in a TOML file and name that with --config."
            )
        kind = typing.get_type_hints(kind).get(key, object) if kind is not object else object
        inner = tree.setdefault(key, {})
        if isinstance(inner, str) and hasattr(kind, "NAMED"):
            inner = tree[key] = _named(kind, inner, key)
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {key} is a value, not a section.")
        tree = inner
    tree[keys[-1]] = value


def _parse(text: str) -> object:
    """The text as a TOML value, or as a string without quotes if it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(hint: object, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if not isinstance(value, Mapping) and not (
            hasattr(hint, "NAMED") and isinstance(value, str)
        ):
            raise ConfigError(f"{where}={value!r} must be a section of settings.")
        return from_tree(hint, value, where + ".")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r} must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={value!r} must be a list.")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):  # type: ignore[arg-type]
        raise ConfigError(f"{where}={value!r} must be of type {getattr(hint, '__name__', hint)}.")
    return value
