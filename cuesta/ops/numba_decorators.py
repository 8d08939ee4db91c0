"""How helpers of Numba kernels are compiled. Importing this starts no thread, unlike
`numba_support`, so that a program that forks afterwards is safe.
"""

from functools import partial

import numba

FLAGS = {
    "contract",
    "reassoc",
    "nsz",
}  # sums may be regrouped by the compiler, the same way on every run

# What only other kernels call needs nothing through which Python or C could: a sixth of the time to compile.
FROM_KERNELS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_helper = partial(
    numba.njit, cache=True, nogil=True, fastmath=FLAGS, error_model="numpy", **FROM_KERNELS
)
inner = _helper(forceinline=False)  # said, since what is called takes it from its caller
# In the hottest loops: a call that LLVM does not inline passes its lanes through memory. It is LLVM that is
# told to: Numba's own inlining copies the callee's code in Python, and takes twice as long.
inlined = _helper(forceinline=True)
