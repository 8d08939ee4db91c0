"""The engine: one training loop for both wings, and what surrounds it.

A recipe (`recipe`) says what to train; its task (`task`) turns batches into losses and a split into
an evaluation; `loop.train` runs it into a run folder (`run_folder`) with checkpoints (`checkpoint`)
from which it resumes exactly; `finish` evaluates the best weights and writes the report (`report`).
Names are imported from their modules: `registry` must stay importable without torch, for the
command to answer at once.
"""
