# Every target makes what it needs; only make and Python 3.11 or newer have to be there.
#
#   make demo    train the bundled workflow, offline
#   make demo-llm   train with a small real language model on this machine: about 200 MB
#   make test    lint, types, layers and every test, embedded PostgreSQL included
#   make coverage   the same with branch coverage, which has a floor; it takes longer
#   make compat  the evaluators of other packages, as they are: about 1.6 GB
#   make test-llm   the tests with that model
#   make test-orcheo   the tests inside real Orcheo: about 1.1 GB, Python 3.12 or newer
#   make serve   the LangGraph dev server on PORT (2024)
#   make serve-cluster   WORKERS (2) on one queue, with PostgreSQL and Redis, on PORT (2024)
#   make test-cluster   the tests of such workers, and of aegra (Python 3.12): some minutes of two processors
#   make docs    make the pages that are made, and of all pages the site in site/
#   make bench   side by side with other libraries for evaluation and optimization
#   make bench-routing   the same on real queries with real embeddings: about 180 MB more
#   make lock    compile requirements/*.txt anew; UPGRADE=--upgrade for newer versions
#   make check-locks   install each set as if every package had a newer release by now
#   make clean   remove what the others made

PYTHON ?= python3
PYTHON312 ?= python3.12
PORT ?= 2024
WORKERS ?= 2
UPGRADE ?=

VENV := .venv
BENCH := .venv-bench
EMBEDDING := .venv-embedding
COMPAT := .venv-compat
ORCHEO := .venv-orcheo
CLUSTER := .venv-cluster
AEGRA := .venv-aegra
LLM := .venv-llm
DOCS := .venv-docs
LOCK := .venv-lock

export PYTHONUNBUFFERED := 1
export LANGGRAPH_CLI_NO_ANALYTICS := 1
export LANGGRAPH_NO_VERSION_CHECK := true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-llm test coverage compat test-llm test-orcheo serve serve-cluster test-cluster bench bench-routing lint docs lock check-locks clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime
	@$(VENV)/bin/agentensor demo

demo-llm: $(VENV)/.runtime $(LLM)/.llm
	@$(VENV)/bin/python examples/local_model/demo.py $(LLM)/bin/python

serve: $(VENV)/.server
	@AGENTENSOR_DEV_SERVER=true $(VENV)/bin/langgraph dev --no-browser --no-reload --n-jobs-per-worker 10 --port $(PORT)

serve-cluster: $(CLUSTER)/.cluster
	@AGENTENSOR_DEV_SERVER=true $(CLUSTER)/bin/python cluster/launch.py --workers $(WORKERS) --port $(PORT)

test-cluster: $(VENV)/.dev $(CLUSTER)/.cluster $(AEGRA)/.aegra
	@$(VENV)/bin/python -m pytest -m cluster tests/cluster

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

# Lines and branches that the tests reach in their own processes: 95 of 100 were when the floor was
# set. Measuring takes about two thirds more time on Python 3.11, so that it is a target of its own.
coverage: COVERAGE := --cov --cov-report= --cov-fail-under=93
coverage: test

# Four processes on two cores: a good half of the time of a test is waiting for a server or a disk.
test: lint
	@$(VENV)/bin/python -m pytest --numprocesses 4 $(COVERAGE)

docs: $(VENV)/.dev $(DOCS)/.docs
	@$(VENV)/bin/python docs/reference/make_api.py
	@$(VENV)/bin/python docs/reference/make_requirements.py
	@$(VENV)/bin/python docs/explanation/make_benchmarks.py
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	@echo "site/index.html is written; for its search, too: python -m http.server --directory site"

test-orcheo: $(ORCHEO)/.orcheo
	@$(ORCHEO)/bin/python -m pytest tests/orcheo

test-llm: $(VENV)/.dev $(LLM)/.llm
	@$(VENV)/bin/python -m pytest -m real_model tests/real_model

# Then the page that says what works, of these tests and of those marked in the others.
compat: $(COMPAT)/.compat
	@$(COMPAT)/bin/python -m pytest tests/compat tests/unit/test_upstream.py -k 'compat or ragas'
	@$(COMPAT)/bin/python docs/reference/make_compatibility.py

bench: $(BENCH)/.bench
	@$(BENCH)/bin/python -m benchmarks.evaluation; evaluation=$$?; \
	  $(BENCH)/bin/python -m benchmarks.optimizers && exit $$evaluation

bench-routing: $(EMBEDDING)/.embedding
	@$(EMBEDDING)/bin/python -m benchmarks.optimizers --only routing

clean:
	rm -rf $(VENV) $(BENCH) $(EMBEDDING) $(COMPAT) $(ORCHEO) $(CLUSTER) $(AEGRA) $(LLM) $(DOCS) $(LOCK) site .langgraph_api .pytest_cache .mypy_cache
	rm -rf .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* dist build

# One environment: its requirements are subsets of requirements/dev.txt, so that a larger set goes
# on top of a smaller one. A stamp file says that a set is there; sets that were there before are
# brought up to date with it, since `pip check` looks at everything.

INSTALLED = $(patsubst $(VENV)/.%,%,$(wildcard $(VENV)/.runtime $(VENV)/.server $(VENV)/.dev))
INSTALL := requirements/install.py requirements/build.txt pyproject.toml

$(VENV)/.%: requirements/%.txt $(INSTALL) | $(VENV)/bin/python
	@$(VENV)/bin/python requirements/install.py $(sort $* $(INSTALLED))
	@touch $@

$(BENCH)/.bench: requirements/bench.txt $(INSTALL) | $(BENCH)/bin/python
	@$(BENCH)/bin/python requirements/install.py bench
	@touch $@

# The network beside the bench, without what its package asks for (requirements/embedding.in). Made
# anew each time: `pip check` would miss that in an environment which has it already.
$(EMBEDDING)/.embedding: requirements/embedding.txt requirements/bench.txt $(INSTALL)
	@$(PYTHON) -m venv --clear $(EMBEDDING)
	@$(EMBEDDING)/bin/python requirements/install.py bench
	@$(EMBEDDING)/bin/python requirements/install.py --alone embedding
	@touch $@

$(COMPAT)/.compat: requirements/compat.txt $(INSTALL) | $(COMPAT)/bin/python
	@$(COMPAT)/bin/python requirements/install.py compat
	@touch $@

# The model and its server, without what the model's package asks for: see requirements/llm.in.
$(LLM)/.llm: requirements/llm.txt $(INSTALL) | $(LLM)/bin/python
	@$(LLM)/bin/python requirements/install.py --alone llm
	@touch $@

# What makes the site knows nothing of the project.
$(DOCS)/.docs: requirements/docs.txt $(INSTALL) | $(DOCS)/bin/python
	@$(DOCS)/bin/python requirements/install.py --alone docs
	@touch $@

$(CLUSTER)/.cluster: requirements/cluster.txt $(INSTALL) | $(CLUSTER)/bin/python
	@$(CLUSTER)/bin/python requirements/install.py cluster
	@touch $@

# Where there is no Python 3.12, its tests are skipped, with a word.
$(AEGRA)/.aegra: requirements/aegra.txt $(INSTALL)
	@for python in $(PYTHON312) $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null || continue; \
	  test -x $(AEGRA)/bin/python || $$python -m venv $(AEGRA) || exit 1; \
	  $(AEGRA)/bin/python requirements/install.py aegra && touch $@; \
	  exit; \
	done; \
	echo "The tests of aegra are left out: neither '$(PYTHON312)' nor '$(PYTHON)' is Python 3.12 or newer."

$(ORCHEO)/.orcheo: requirements/orcheo.txt $(INSTALL) | $(ORCHEO)/bin/python
	@$(ORCHEO)/bin/python requirements/install.py orcheo
	@touch $@

$(VENV)/bin/python $(BENCH)/bin/python $(COMPAT)/bin/python $(CLUSTER)/bin/python $(LLM)/bin/python $(DOCS)/bin/python $(LOCK)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	  exit 1; }
	@$(PYTHON) -m venv $(@:/bin/python=)

$(ORCHEO)/bin/python:
	@for python in $(PYTHON312) $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null && \
	    exec $$python -m venv $(ORCHEO); \
	done; \
	echo "Python 3.12 or newer is needed, and neither '$(PYTHON312)' nor '$(PYTHON)' is that."; \
	echo "Name one: make $(MAKECMDGOALS) PYTHON312=/path/to/python3.12"; \
	exit 1

COMPILE = $(LOCK)/bin/uv pip compile --quiet --universal --generate-hashes --no-strip-extras \
  --no-annotate --no-header --no-emit-index-url $(UPGRADE) -c requirements/held.in \
  requirements/build.in
LIBRARY = $(COMPILE) pyproject.toml --python-version 3.11

lock: $(LOCK)/bin/python
	@$(LOCK)/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(LIBRARY) --group dev --extra postgres --extra server --extra openai -o requirements/dev.txt
	$(COMPILE) --python-version 3.11 -c requirements/dev.txt -o requirements/build.txt
	$(LIBRARY) -c requirements/dev.txt --extra openai -o requirements/runtime.txt
	$(LIBRARY) -c requirements/dev.txt --extra postgres --extra server --extra openai \
	  -o requirements/server.txt
	$(LIBRARY) -c requirements/dev.txt --group bench --extra postgres -o requirements/bench.txt
	$(LIBRARY) -c requirements/build.txt --group cluster --extra postgres --extra openai --extra view \
	  -o requirements/cluster.txt
	$(COMPILE) pyproject.toml --python-version 3.12 -c requirements/build.txt --group aegra \
	  -o requirements/aegra.txt
	$(LIBRARY) -c requirements/build.txt --group compat --extra openai -o requirements/compat.txt
	$(COMPILE) pyproject.toml --python-version 3.12 -c requirements/build.txt --extra orcheo \
	  --group orcheo -o requirements/orcheo.txt
	$(filter-out requirements/build.in,$(COMPILE)) requirements/docs.in --python-version 3.11 \
	  -c requirements/dev.txt -o requirements/docs.txt
	$(filter-out requirements/build.in,$(COMPILE)) requirements/llm.in --no-deps --python-version 3.11 \
	  -o requirements/llm.txt
	$(filter-out requirements/build.in,$(COMPILE)) requirements/embedding.in --no-deps \
	  --python-version 3.11 -o requirements/embedding.txt

check-locks:
	@$(PYTHON) tests/project/check_locks.py
