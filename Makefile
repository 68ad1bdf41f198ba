# make book | reports | test | test-gpu | lab. Each sets up .venv first, from pyproject.toml and constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
VARIES := codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
STRIP := $(BIN)/nbstripout --keep-id --extra-keys "$(VARIES:%=metadata.language_info.%)"
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book reports test test-gpu lab clean

book: .venv/installed
	$(BIN)/seqlib run --workers 2
	$(BIN)/jupyter-book build . -n -W --keep-going -q
	@echo "The book: $(CURDIR)/_build/html/book/intro.html"

reports: .venv/installed
	$(BIN)/seqlib run --workers 2
	$(BIN)/jupyter nbconvert --config book/_ext/report.py --to markdown --no-input --log-level WARN \
		--output-dir reports book/*.ipynb book/studies/*.ipynb
	$(BIN)/seqlib export

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# On a machine with a CUDA card: each study trains on it, and is compared with the processor.
test-gpu: .venv/installed
	$(BIN)/python -m pytest -n0 -rs tests/test_gpu.py

# Jupyter refuses to run as root unless it is told to. In a clone, git sees no outputs.
lab: .venv/installed
	@git config filter.strip-outputs.clean '$(STRIP)' || true
	$(BIN)/jupyter lab --notebook-dir=notebooks $(ALLOW_ROOT) $(FLAGS)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed; name it with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv _build reports book/studies book/*.ipynb book/answer.md
