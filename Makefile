# `make demo` and `make test` need Python ≥ 3.11, make and a package registry; each makes .venv if it is missing.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
SOURCES := $(shell find pipeline align stylegan inversion drag composite models configs web -name '*.py' -o -name '*.toml' \
	-o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name '*.safetensors' -o -name 'py.typed') pyproject.toml constraints.txt README.md

.PHONY: demo serve test lint clean

demo: .venv/installed
	.venv/bin/python docs/demo.py demo

serve: .venv/web
	.venv/bin/realdrag serve

# Two workers: most tests keep one core busy.
test: .venv/test
	.venv/bin/python -m pytest -n 2 --dist worksteal $(PYTEST)

lint: .venv/lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy -p realdrag
	.venv/bin/lint-imports

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "realdrag needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The wheel is built from a clean tree (a stale build/ would ship deleted modules) and installed, not linked.
.venv/installed: .venv/bin/python $(SOURCES)
	rm -rf build dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist -c constraints.txt .
	$(PIP) install --quiet -c constraints.txt dist/*.whl
	$(PIP) install --quiet --no-deps --force-reinstall dist/*.whl
	rm -rf build
	touch $@

.venv/web: .venv/installed
	$(PIP) install --quiet -c constraints.txt "$$(ls dist/*.whl)[web]"
	touch $@

.venv/test: .venv/installed
	$(PIP) install --quiet -c constraints.txt "$$(ls dist/*.whl)[test]"
	touch $@

.venv/lint: .venv/installed
	$(PIP) install --quiet -c constraints.txt "$$(ls dist/*.whl)[lint]"
	touch $@

clean:
	rm -rf .venv build dist demo realdrag.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
