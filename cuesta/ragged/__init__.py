"""The ragged tensor: rows of unequal length as one values tensor and one offsets tensor.

`Ragged` is one ragged tensor, `RaggedFeatures` a batch of many named ones, `interchange` the doors
to torch nested tensors, Arrow and TorchRec. This layer knows nothing above torch.
"""

from cuesta.ragged.features import RaggedFeatures
from cuesta.ragged.ragged import Ragged, offsets_from_lengths

__all__ = ["Ragged", "RaggedFeatures", "offsets_from_lengths"]
