# The project's commands; each makes .venv when it is missing. `make demo` is where to begin.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench peers

demo: .venv/made-core
	$(BIN)/cuesta demo

test: .venv/made-dev
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 3 --dist loadfile

check: .venv/made-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: .venv/made-core
	for name in embedding_bag dlrm tiers planner low_precision jagged_attention gdpa jagged_training jagged_quality reader reconstruct worlds depth fuse end_to_end; do $(BIN)/cuesta bench $$name || exit 1; done

# The libraries that `cuesta bench` compares with, in an environment of their own; then use
# .venv-peers/bin/cuesta bench NAME. torchrec goes in without its pins, which ask for fbgemm-gpu.
peers: .venv-peers/made

.venv/made-core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -e '.[vision,view]'
	touch $@

# One installation where there is none: dev asks for vision and view too.
.venv/made-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'
	touch .venv/made-core $@

.venv-peers/made: pyproject.toml
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet 'torch==2.13.0' 'numba>=0.66'
	.venv-peers/bin/python -m pip install --quiet 'fbgemm-gpu-cpu==1.8.0' 'tensordict>=0.15' \
	    'torchmetrics==1.0.3' pyre-extensions tqdm 'fuxictr==2.3.10' 'polars>=1.30,<2'
	.venv-peers/bin/python -m pip install --quiet --no-deps 'torchrec==1.8.0'
	.venv-peers/bin/python -m pip install --quiet -e .
	.venv-peers/bin/python -c 'import fbgemm_gpu, torchrec, fuxictr.pytorch.models'
	touch $@
