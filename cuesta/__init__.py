"""cuesta: ranking and 3D reconstruction on one ragged core, from one install, on a CPU first.

Nothing heavy is imported here, so that `cuesta --help` answers at once; import what you use:
`from cuesta.ragged import Ragged`, `from cuesta import ops`, `from cuesta.nn import EmbeddingBags`.
"""

__version__ = "0.1.0"
