"""How helpers of Numba kernels are compiled. Importing this starts no thread, unlike
`numba_support`, so that a program that forks afterwards is safe.
"""

import numba

FLAGS = {
    "contract",
    "reassoc",
    "nsz",
}  # sums may be regrouped by the compiler, the same way on every run

inner = numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
# In the hottest loops: a call that LLVM does not inline passes its lanes through memory.
inlined = numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy", inline="always")
