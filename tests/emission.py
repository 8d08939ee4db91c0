"""Numba writes machine code for what is called, and not for each helper that a kernel has its own copy of.

A kernel's module holds a copy of every function that it calls, and so does the module of each of these, and
those of the three wrappers around a parallel loop: Numba has LLVM write machine code for them all, six times
for what lies deepest, of which only the kernel's is run. With `only_what_is_called` a module's code is written when an
address in it is asked for, which saves three tenths of a cold compilation. It is the same code: LLVM has
optimised the module before.
"""

from typing import Any

import llvmlite.binding as ll
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen

_waiting: dict[str, object] = {}  # environments of functions without machine code, by symbol
_written: set[str] = set()  # symbols of environments that have an address


def only_what_is_called() -> None:
    """Have Numba do so from here on, in this process."""
    whole, get_pointer, set_environment = (
        JITCodeLibrary.serialize_using_object_code,
        JITCodeLibrary.get_pointer_to_function,
        JITCPUCodegen.set_env,
    )

    def note_written(library: Any) -> None:
        for variable in (library._shared_module or library._final_module).global_variables:
            _written.add(variable.name)
            if variable.name in _waiting:
                set_environment(library._codegen, variable.name, _waiting.pop(variable.name))

    def finalize(self: Any) -> None:
        self._codegen._scan_and_fix_unresolved_refs(self._final_module)
        if is_written(self):  # it comes from the disk
            code = ll.ObjectFileRef.from_data(self._compiled_object)
            self._codegen._engine._ee.add_object_file(code)
            note_written(self)

    def is_written(library: Any) -> bool:
        return library._object_caching_enabled and library._compiled_object is not None

    def serialize(self: Any) -> object:
        self._ensure_finalized()
        return whole(self) if is_written(self) else self.serialize_using_bitcode()

    def pointer_to_function(self: Any, name: str) -> int:
        address: int = get_pointer(self, name)
        if address:
            note_written(self)
        return address

    def set_env(self: Any, name: str, environment: object) -> None:
        if name in _written:
            set_environment(self, name, environment)
        else:
            _waiting[name] = environment

    JITCodeLibrary._finalize_specific = finalize
    JITCodeLibrary.serialize_using_object_code = serialize
    JITCodeLibrary.get_pointer_to_function = pointer_to_function
    JITCPUCodegen.set_env = set_env
