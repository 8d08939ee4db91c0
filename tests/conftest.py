"""What every test shares: two threads, one hypothesis profile with no deadline and a fixed seed."""

import hypothesis
import torch

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(2)
