"""`flop_formula`: tell torch's counter what an op costs, once there is a counter.

`torch.utils.flop_counter` imports Triton: 70 MB and a quarter of a second in every process, of which few
count. So the formulas wait until somebody imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import TypeVar

Formula = TypeVar("Formula", bound=Callable[..., int])
_COUNTER = "torch.utils.flop_counter"
_waiting: list[Callable[[ModuleType], None]] = []


def flop_formula(ops: object, *, get_raw: bool = False) -> Callable[[Formula], Formula]:
    """Register the decorated function as `torch.utils.flop_counter.register_flop_formula` does."""

    def register(formula: Formula) -> Formula:
        def tell(counter: ModuleType) -> None:
            counter.register_flop_formula(ops, get_raw)(formula)

        if _COUNTER in sys.modules:
            tell(sys.modules[_COUNTER])
        else:
            _waiting.append(tell)
        return formula

    return register


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for tell in _waiting:
            tell(module)
        _waiting.clear()


class _Finder(MetaPathFinder):
    """Find the counter, once, with the loader above."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


if _COUNTER not in sys.modules:
    sys.meta_path.insert(0, _Finder())
