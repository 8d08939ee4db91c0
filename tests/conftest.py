"""What every test shares: two threads, one hypothesis profile with no deadline and a fixed seed,
data in a folder of its own.
"""

import os
import tempfile
from pathlib import Path

import hypothesis
import torch

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(2)

# Streams and encoders that tests make are kept between runs, apart from the user's own.
os.environ["CUESTA_DATA"] = str(Path(tempfile.gettempdir()) / f"cuesta-tests-{os.getuid()}")
