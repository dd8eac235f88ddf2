# Two commands do everything: `make demo` and `make test`. They need Python >= 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo test lint format bench lock clean

help:            ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup:           ## make .venv and install the locked packages into it (does nothing where that is done)
	@$(PYTHON) tools/setup_env.py

demo: setup      ## recordings -> features -> cache -> trained fusion -> report (ARGS="--data DIR" for real recordings)
	@$(BIN)/fusecache demo $(ARGS)

test: setup      ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

lint: setup      ## ruff and pyright (strict)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tools/typelinks.py
	@$(BIN)/pyright

format: setup    ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup     ## list the benchmarks, or run one: make bench ARGS="digits --seeds 10 --json"
	@$(BIN)/python -m benchmarks $(ARGS)

lock: setup      ## solve pyproject.toml again into requirements.txt: universal, with hashes, no index address
	@$(BIN)/python tools/lock.py

clean:           ## remove what the targets made, .venv included
	rm -rf .venv build demo *.egg-info .pytest_cache .ruff_cache .hypothesis
