# Everything a newcomer or a CI machine runs. Needs only git, make and Python 3.11 or newer; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test check format docs docs-serve clean

help: ## list these targets
	@echo "usage: make TARGET [ARGS='--option value ...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/installed ## train a small model, let it read far past its window, write report.html (ARGS: see `handscroll quickstart --help`)
	@$(BIN)/handscroll quickstart $(ARGS)

test: $(VENV)/installed-test ## run the tests (ARGS: what pytest takes)
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/installed-dev ## lint, format, types and the order of the rooms; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## rewrite the code as `make check` wants it, as far as a machine can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed-docs ## build the documentation as a site, in site/; a link that leads nowhere stops it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

docs-serve: $(VENV)/installed-docs ## show the site on this machine while its pages are written
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

clean: ## delete .venv and every tool's cache; runs and models stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Each stamp is newer than what it was installed from, so that pip runs again only after a change of dependencies.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Handscroll into $(VENV)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Handscroll and what its tests need into $(VENV)"
	@$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Handscroll and what its checks need into $(VENV)"
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/installed $(VENV)/installed-test

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Handscroll and what makes a site of its documentation into $(VENV)"
	@$(INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/installed

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; Handscroll needs 3.11 or newer. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
