"""`Recipe`: everything that decides what a run computes, as one dataclass; and its JSON form.

A recipe is returned by a function and changed by `dataclasses.replace` or by command-line flags
(`override`). `recipe.json` in a run folder is the JSON form; reading it back starts from the recipe
of the same name, so that only field values are taken from the file, never code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cuesta.engine.optim import OptimConfig
from cuesta.engine.registry import did_you_mean
from cuesta.engine.task import TaskConfig
from cuesta.errors import UserError

# A recursive alias would be exact, but the shape checker that the tests run under takes none.
Json = None | bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Hold the settings of the training loop; a step is one update of the parameters.

    A run ends after `epochs` passes, after `max_steps` updates, or when `patience` evaluations in a
    row were not better than the best, whichever comes first. One update averages over `accumulate`
    batches as if they were one. Evaluations and checkpoints happen at the end of an epoch, or every
    so many steps if `evaluate_every` or `checkpoint_every` say so; a new best is always saved, and
    the last `keep_checkpoints` are kept beside the best. `monitor` names the validation metric that
    decides what is best. `bf16` runs the model under autocast, parameters stay float32. TensorBoard
    gets a point every `log_every` steps.
    """

    epochs: int = 1
    max_steps: int | None = None
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    monitor: str = "ne"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"loop.{_flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "evaluate_every", "checkpoint_every", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(
                    f"loop.{_flag(name)} must be at least 1 or None, got {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Name and settle one run: what is trained (`task`), how (`optim`, `loop`), which `seed`."""

    name: str
    task: TaskConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")


Config = TypeVar("Config")


def to_json(value: object) -> Json:
    """Return dataclasses as objects with their `class` name, tuples as lists, paths as strings.

    A field that says how a run computes and not what, `field(compare=False)`, is left out: a run may go on with
    another value of it.
    """
    if dataclasses.is_dataclass(value):
        compared = [f.name for f in dataclasses.fields(value) if f.compare]
        fields = {name: to_json(getattr(value, name)) for name in compared}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"a recipe holds numbers, words, paths, tuples and dataclasses, got {value!r}")


def from_json(saved: Json, default: Config, *, where: str) -> Config:
    """Return the dataclass `default` with the field values of `saved`, its own where none is.

    `where` names the file in errors. Raises `UserError` naming a saved field or class that no
    longer exists.
    """
    return _Restorer(where).dataclass_value(saved, default, (type(default),), path="")


def fingerprint(recipe: Recipe) -> str:
    """Return 12 hexadecimal digits that differ when any field differs."""
    text = json.dumps(to_json(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Return `path: old -> new` for every setting in which two recipes differ."""
    old, new = _flat(to_json(before)), _flat(to_json(after))
    paths = list(dict.fromkeys([*old, *new]))
    return [
        f"{path}: {json.dumps(old.get(path))} -> {json.dumps(new.get(path))}"
        for path in paths
        if old.get(path) != new.get(path)
    ]


@dataclass(frozen=True)
class _Restorer:
    """Turn JSON back into typed values, naming file and field in errors."""

    where: str

    def dataclass_value(
        self, saved: Json, default: object, classes: tuple[type, ...], *, path: str
    ) -> Any:
        """Return an object of the class that `saved` names, of the default's or `classes`."""
        if not isinstance(saved, dict) or "class" not in saved:
            raise UserError(
                f"{self.where}: {path or 'the recipe'} should be an object with a class"
            )
        by_name = {
            cls.__name__: cls for cls in (type(default), *classes) if dataclasses.is_dataclass(cls)
        }
        cls = by_name.get(str(saved["class"]))
        if cls is None:
            raise UserError(
                f"{self.where}: {path or 'the recipe'} is a {saved['class']}, which this version "
                f"of the recipe does not have{did_you_mean(str(saved['class']), by_name)}"
            )
        hints = typing.get_type_hints(cls)
        known = [f.name for f in dataclasses.fields(cls) if f.init]
        base = default if type(default) is cls else None
        values = {name: getattr(base, name) for name in known} if base is not None else {}
        for name, item in saved.items():
            inner = f"{path}.{name}" if path else name
            if name == "class":
                continue
            if name not in known:
                raise UserError(
                    f"{self.where}: field {inner} does not exist in this version"
                    f"{did_you_mean(name, known)}"
                )
            values[name] = self.value(item, values.get(name), hints[name], path=inner)
        return cls(**values)

    def value(self, saved: Json, default: object, hint: object, *, path: str) -> object:
        """Return `saved` as its type hint wants it."""
        options = _options(hint)
        if isinstance(saved, dict) and "class" in saved:
            classes = tuple(option for option in options if isinstance(option, type))
            return self.dataclass_value(saved, default, classes, path=path)
        if isinstance(saved, dict):
            return {
                k: self.value(v, None, _last(options), path=f"{path}.{k}") for k, v in saved.items()
            }
        if isinstance(saved, list):
            items = enumerate(saved)
            return tuple(
                self.value(item, None, _element(options, i), path=f"{path}.{i}")
                for i, item in items
            )
        if isinstance(saved, str) and Path in options:
            return Path(saved)
        return saved


def _options(hint: object) -> tuple[object, ...]:
    """Return the members of a union, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _element(options: tuple[object, ...], index: int) -> object:
    """Return the hint of element `index` of the first tuple among `options`."""
    for option in options:
        args = typing.get_args(option)
        if args and typing.get_origin(option) in (tuple, list):
            return args[0] if len(args) == 1 or args[1] is Ellipsis else args[index]
    return object


def _last(options: tuple[object, ...]) -> object:
    """Return the hint of a mapping's values."""
    for option in options:
        if len(typing.get_args(option)) == 2:
            return typing.get_args(option)[1]
    return object


def _flat(value: Json, path: str = "") -> dict[str, Json]:
    """Return the leaves of nested objects by dotted path."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        inner: leaf
        for name, item in value.items()
        for inner, leaf in _flat(item, f"{path}.{name}" if path else name).items()
    }


def _flag(name: str) -> str:
    return name.replace("_", "-")
