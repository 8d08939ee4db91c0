"""`Schema`: what the columns of a ranking log mean, read from and written to a TOML file.

```toml
label = "clicked"            # 0 or 1
time = "time"                # int64 seconds or a timestamp; orders the rows for the split
user = "user"                # groups the rows for gAUC
split = [0.8, 0.1, 0.1]      # train, validation, test: shares of the rows in time order
dense = ["price"]            # float columns, passed as they are

[features.item]              # the column of the same name, unless `column` says otherwise
kind = "vocabulary"          # values seen min_count times in training; 0 = unknown
min_count = 2

[features.history]
vocabulary_of = "item"       # the encoder, and so the table, of another feature
ragged = true                # a list column, oldest first
group = "history"            # ragged columns of one group agree in length row by row
weights = "history_rating"   # a float list column of the same lengths
longest = 50                 # keeps the last 50

[features.ad]
kind = "hash"                # into 1 .. size - 1; a missing value is 0
size = 100000

[features.weekday]
kind = "id"                  # already 0 .. size - 1
size = 7
```
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final, get_args

from cuesta.data.files import write_text
from cuesta.errors import UserError

Kind = Literal["vocabulary", "hash", "id"]
SPLITS = ("train", "validation", "test")


@final
@dataclass(frozen=True, kw_only=True)
class Feature:
    """Describe one id feature; the module's docstring shows every field. Raises `UserError`."""

    name: str
    column: str = ""  # "" becomes `name`
    kind: Kind = "vocabulary"
    size: int | None = None
    min_count: int = 1
    vocabulary_of: str | None = None
    ragged: bool = False
    group: str | None = None
    weights: str | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", self.column or self.name)
        where = f"features.{self.name}"
        if self.kind not in get_args(Kind):
            raise UserError(f"{where}.kind is {self.kind!r}; {_choices(self.kind, get_args(Kind))}")
        if self.vocabulary_of is not None:
            if (self.kind, self.size, self.min_count) != ("vocabulary", None, 1):
                raise UserError(
                    f"{where} has vocabulary_of {self.vocabulary_of!r} and also kind, size or "
                    "min_count; remove these, they are the other feature's"
                )
        elif self.kind == "vocabulary":
            _require(self.size is None, f"{where}.size", self.size, "remove it: the data says it")
            _require(self.min_count >= 1, f"{where}.min_count", self.min_count, "give at least 1")
        else:
            least = 2 if self.kind == "hash" else 1
            remedy = f"a feature of kind {self.kind!r} needs a whole number of at least {least}"
            _require(
                self.size is not None and self.size >= least, f"{where}.size", self.size, remedy
            )
        for key in ("group", "weights", "longest"):
            value = getattr(self, key)
            _require(
                self.ragged or value is None, f"{where}.{key}", value, "only ragged = true has it"
            )
        if self.longest is not None:
            _require(self.longest >= 1, f"{where}.longest", self.longest, "give at least 1")

    @property
    def encoder(self) -> str:
        """Return the name of the feature whose encoder this one uses, often its own."""
        return self.vocabulary_of or self.name


@final
@dataclass(frozen=True, kw_only=True)
class Schema:
    """Describe a ranking log; the module's docstring shows every field. Raises `UserError`."""

    label: str
    time: str
    user: str
    features: tuple[Feature, ...]
    dense: tuple[str, ...] = ()
    split: tuple[float, float, float] = field(default=(0.8, 0.1, 0.1))

    def __post_init__(self) -> None:
        if not self.features:
            raise UserError("the schema has no features; add at least one [features.NAME]")
        if len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-9:
            raise UserError(
                f"split is {list(self.split)}; give the shares of {', '.join(SPLITS)}: three "
                "numbers that are not negative and add up to 1"
            )
        if self.split[0] == 0:
            raise UserError(f"split is {list(self.split)}; training needs a share above 0")
        _check_unique("dense", self.dense)
        _check_unique("features", [feature.name for feature in self.features])
        for feature in self.features:
            if feature.vocabulary_of is not None:
                self._check_reference(feature)
        for name, members in self.groups().items():
            longest = {member.name: member.longest for member in members}
            if len(set(longest.values())) > 1:
                raise UserError(
                    f"longest differs within group {name!r}: {longest}; give one number"
                )

    def feature(self, name: str) -> Feature:
        """Return the feature called `name`."""
        for feature in self.features:
            if feature.name == name:
                return feature
        names = [feature.name for feature in self.features]
        raise UserError(f"no feature {name!r}; {_choices(name, names)}")

    def groups(self) -> dict[str, list[Feature]]:
        """Return the ragged features that agree in length; one without a group is its own."""
        groups: dict[str, list[Feature]] = {}
        for feature in self.features:
            if feature.ragged:
                groups.setdefault(feature.group or feature.name, []).append(feature)
        return groups

    def columns(self) -> tuple[str, ...]:
        """Return every column that reading needs, once."""
        columns = [self.label, self.time, self.user, *self.dense]
        for feature in self.features:
            columns += [feature.column] + ([feature.weights] if feature.weights else [])
        return tuple(dict.fromkeys(columns))

    def _check_reference(self, feature: Feature) -> None:
        reference = str(feature.vocabulary_of)
        owners = {other.name for other in self.features if other.vocabulary_of is None}
        _require(
            reference in owners,
            f"features.{feature.name}.vocabulary_of",
            reference,
            _choices(reference, owners),
        )


def split_bounds(num_rows: int, schema: Schema) -> list[int]:
    """Return the rows where train, validation and test begin, and where test ends."""
    train, validation, _ = schema.split
    return [0, round(train * num_rows), round((train + validation) * num_rows), num_rows]


def load_schema(path: str | Path) -> Schema:
    """Return the schema in a TOML file; raise `UserError` naming file, key, value and remedy."""
    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; write the schema there or name another") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror}; name another file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}; correct it there") from error
    try:
        return schema_from_tree(tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def schema_from_tree(tree: Mapping[str, object]) -> Schema:
    """Return the schema that a parsed TOML document describes."""
    features = tree.get("features", {})
    _require(isinstance(features, dict), "features", features, "write tables [features.NAME]")
    assert isinstance(features, dict)
    values = _checked(tree, Schema, where="")
    values["features"] = tuple(_feature_from_tree(name, table) for name, table in features.items())
    return Schema(**values)  # type: ignore[arg-type]


def schema_to_tree(schema: Schema) -> dict[str, object]:
    """Return the schema as the plain tables that TOML or JSON writes; defaults are left out."""
    tree = _tree(schema, leave_out=("features",))
    tree["features"] = {
        feature.name: _tree(feature, leave_out=("name",)) for feature in schema.features
    }
    for feature in schema.features:
        if feature.column == feature.name:
            del tree["features"][feature.name]["column"]  # type: ignore[index]
    return tree


def save_schema(schema: Schema, path: str | Path) -> None:
    """Write the schema as TOML, atomically; `load_schema` returns an equal one."""
    tree = schema_to_tree(schema)
    features = tree.pop("features")
    assert isinstance(features, dict)
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items()]
    for name, table in features.items():
        lines += ["", f"[features.{_toml_key(name)}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    write_text(path, "\n".join(lines) + "\n")


# The type that each key must have, in TOML and in words.
_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(
        ("label", "time", "user", "column", "kind", "vocabulary_of", "group", "weights"),
        (str, "text in quotes"),
    ),
    **dict.fromkeys(("size", "min_count", "longest"), (int, "a whole number")),
    "ragged": (bool, "true or false"),
    "dense": (list, "a list of column names"),
    "split": (list, "a list of three numbers"),
    "features": (dict, "tables [features.NAME]"),
}
_ELEMENTS: dict[str, type | tuple[type, ...]] = {"dense": str, "split": (int, float)}


def _feature_from_tree(name: str, table: object) -> Feature:
    where = f"features.{name}"
    _require(isinstance(table, dict), where, table, f"write a table [{where}]")
    assert isinstance(table, dict)
    return Feature(name=name, **_checked(table, Feature, where=f"{where}."))  # type: ignore[arg-type]


def _checked(tree: Mapping[str, object], target: type, *, where: str) -> dict[str, object]:
    """Return the keys of `tree` with their types checked against the fields of `target`."""
    fields = {f.name: f for f in dataclasses.fields(target) if f.name in _TYPES}
    for key in tree:
        if key not in fields:
            raise UserError(f"unknown key {where}{key}; {_choices(key, fields)}")
    for name, declared in fields.items():
        if name not in tree and declared.default is dataclasses.MISSING:
            raise UserError(f"missing key {where}{name}; add it: {_TYPES[name][1]}")
    values = {}
    for key, value in tree.items():
        expected, words = _TYPES[key]
        is_right = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
        if is_right and key in _ELEMENTS:
            assert isinstance(value, list)
            is_right = all(isinstance(element, _ELEMENTS[key]) for element in value)
        _require(is_right and value != "", f"{where}{key}", value, f"give {words}")
        values[key] = tuple(value) if isinstance(value, list) else value
    return values


def _tree(item: Schema | Feature, *, leave_out: Iterable[str]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for declared in dataclasses.fields(item):
        value = getattr(item, declared.name)
        if declared.name not in leave_out and value != declared.default:
            tree[declared.name] = list(value) if isinstance(value, tuple) else value
    return tree


def _require(holds: bool, where: str, value: object, remedy: str) -> None:
    if not holds:
        raise UserError(f"{where} is {value!r}; {remedy}")


def _check_unique(where: str, names: Iterable[str]) -> None:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} names {name!r} twice; name it once")


def _choices(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choose one of {', '.join(sorted(known))}"


def _toml(value: object) -> str:
    """Return a TOML value: TOML's strings, numbers, booleans and lists are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _toml_key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else _toml(name)
