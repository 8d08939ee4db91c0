"""What every test shares: two threads, one hypothesis profile with no deadline and a fixed seed,
data in a folder of its own.
"""

import os
import tempfile

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(2)

# Streams and encoders that tests make are the session's own: what an older version made proves nothing.
_data = tempfile.TemporaryDirectory(prefix="cuesta-tests-")
os.environ["CUESTA_DATA"] = _data.name


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same random numbers in every run."""
    torch.manual_seed(0)
