"""Command-line flags are the fields of the recipe: `--optim.lr 0.01 --loop.epochs 3`.

tyro parses each value by the field's type. The flag itself is looked up here, so that a mistake is
one line that names the nearest flag, instead of tyro's boxed page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cuesta.engine.registry import did_you_mean
from cuesta.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Describe one field that a flag can set: its dotted path, its type, its value now."""

    flag: str
    hint: object
    value: object

    def expected(self) -> str:
        """Return the type in words: `one of fp32, bf16`, `int or None`."""
        return _in_words(self.hint)


class Named(Protocol):
    """What flags are laid over: a frozen dataclass with a name, such as a recipe."""

    @property
    def name(self) -> str: ...


Config = TypeVar("Config")
Chosen = TypeVar("Chosen", bound=Named)


def settings(recipe: Named) -> dict[str, Setting]:
    """Return the settings of `recipe` by flag, in the order of its fields; its name is none."""
    found = {setting.flag: setting for setting in _settings(recipe, "")}
    del found["--name"]
    return found


def override(recipe: Chosen, args: Sequence[str]) -> Chosen:
    """Return `recipe` with the fields that `args` set; `--flag value`, `--flag=value`, `-` and `_`
    alike.

    Raises `UserError` naming the flag, what is wrong with it and what would be right.
    """
    known = settings(recipe)
    for flag, words in _grouped(args):
        if flag not in known:
            raise UserError(f"{recipe.name} has no setting {flag}{did_you_mean(flag, known)}")
        path = flag.removeprefix("--").replace("-", "_").split(".")
        recipe = _replaced(recipe, path, _parsed(known[flag], words))
    return recipe


def _settings(config: object, prefix: str) -> list[Setting]:
    hints = typing.get_type_hints(type(config))
    found: list[Setting] = []
    for item in dataclasses.fields(typing.cast(typing.Any, config)):
        value = getattr(config, item.name)
        path = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            found += _settings(value, f"{path}.")
        elif not _holds_dataclass(hints[item.name]):
            flag = "--" + path.replace("_", "-")
            found.append(Setting(flag=flag, hint=hints[item.name], value=value))
    return found


def _grouped(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each flag with the words that follow it."""
    groups: list[tuple[str, list[str]]] = []
    for word in args:
        if word.startswith("--"):
            flag, has_value, value = word.partition("=")
            groups.append((flag.replace("_", "-"), [value] if has_value else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise UserError(f"expected a flag such as --optim.lr, got {word!r}")
    return groups


def _parsed(setting: Setting, words: list[str]) -> object:
    import tyro

    if not words:
        raise UserError(
            f"{setting.flag} needs a value, {setting.expected()}; it is {setting.value} now"
        )
    if setting.hint in (str, Path) and len(words) == 1:
        return typing.cast(type, setting.hint)(words[0])  # also one that begins with a dash
    if setting.hint is bool:
        words = [word.capitalize() for word in words]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(typing.cast(type, setting.hint), args=words, console_outputs=False)
    except SystemExit:
        given = " ".join(words)
        raise UserError(f"{setting.flag} {given}: expected {setting.expected()}") from None


def _replaced(config: Config, path: list[str], value: object) -> Config:
    name, *rest = path
    if rest:
        value = _replaced(getattr(config, name), rest, value)
    return typing.cast(
        Config, dataclasses.replace(typing.cast(typing.Any, config), **{name: value})
    )


def _holds_dataclass(hint: object) -> bool:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return True
    return any(_holds_dataclass(inner) for inner in typing.get_args(hint))


def _in_words(hint: object) -> str:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(str(option) for option in inner)}"
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is tuple:
        if inner[-1] is Ellipsis:
            return f"one or more of {_in_words(inner[0])}"
        return " and ".join(_in_words(option) for option in inner)
    if inner:
        return " or ".join(_in_words(option) for option in inner)
    return getattr(hint, "__name__", str(hint))
