.PHONY: install lint format types test test-all debug clean

install:        ## create .venv with the package and the development tools
	python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

test:           ## fast tests only; all of them: make test-all
	pytest -n auto

test-all:
	pytest -n auto -m ''

debug:          ## train a small codec on the example recordings
	dora run solver=compression/debug

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
