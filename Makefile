# Two commands are all that a newcomer needs: `make run` and `make test`. `make` alone tells of the others.
# Works with GNU make from 3.81 on. PYTHON=... chooses the interpreter that .venv is made from (3.11 or newer).

ARGS ?=
MYPY_ARGS ?=
BIN := .venv/bin
export PYTHON

# Half an hour: what is slow is slow on a small machine too.
LONG := --timeout=1800

# Two processes share the tests by file; what shares a server (tests/conftest.py) stays together. WORKERS=0 for one.
WORKERS ?= 2
TWO := -n $(WORKERS) --dist loadgroup --max-worker-restart 0
SLOWEST := --durations=20

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-vllm test-deploy quality flaky lint format bench soak requirements dist audit clean

help:
	@echo 'make run         a real base model and the proxy in front of it: prints a base URL to point a client at'
	@echo '                 make run ARGS="--port 9000" passes flags on; ARGS=--help lists them'
	@echo 'make test        the fast suite, on the real embedded model'
	@echo '                 ARGS="tests/index -x" passes flags on to pytest; WORKERS=0 runs it in one process, not two'
	@echo 'make test-slow   clients, databases, browser, a sample of the answers: 10 minutes on two cores'
	@echo 'make quality     quality of answers on all validation rows, which test-slow samples: up to half an hour'
	@echo 'make flaky       the tests that wait for something, 20 times while the machine is busy; ARGS="--repeats 3"'
	@echo 'make test-vllm   against a real vLLM server on CPU (sets up 3 GB of its own, in the cache folder, once)'
	@echo 'make test-deploy  images, Kubernetes, nginx, Prometheus, a router and the pages, with the real parts: 5 minutes'
	@echo 'make lint        style, types, and which module may import which'
	@echo 'make format      put the code into the style that lint asks for'
	@echo 'make bench       the tables of the READMEs, measured on this machine; BENCH=start for one (see tests/bench)'
	@echo 'make soak        20 minutes of load and faults at once: does anything grow? ARGS="--minutes 2" for less'
	@echo 'make requirements  pin what requirements/*.txt name anew, from pyproject.toml; UPGRADE= keeps the pins that still do'
	@echo 'make dist        wheel and sdist, checked, with hashes and a bill of materials, into dist/'
	@echo 'make audit       known weaknesses of what is pinned (asks the package index)'
	@echo 'make clean       remove .venv and what tools left behind (not the cache folder, ~/.cache/drpo)'

run:
	@sh tools/environment.sh run
	@exec $(BIN)/drpo-proxy --backend embedded --bundle default $(ARGS)

test:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest $(TWO) $(SLOWEST) $(ARGS)

test-slow:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m '(slow or network) and not vllm and not deploy' $(TWO) $(SLOWEST) $(LONG) $(ARGS)

quality:
	@sh tools/environment.sh dev
	DRPO_QUALITY=full $(BIN)/python -m pytest -m slow tests/quality $(SLOWEST) $(LONG) $(ARGS)

flaky:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.flaky $(ARGS)

test-vllm:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m vllm $(SLOWEST) $(LONG) $(ARGS)

test-deploy:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m deploy $(TWO) $(SLOWEST) $(LONG) $(ARGS)

lint:
	@sh tools/environment.sh dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(MYPY_ARGS)
	$(BIN)/lint-imports

format:
	@sh tools/environment.sh dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

BENCH ?= $(filter-out __init__,$(basename $(notdir $(wildcard tests/bench/*.py))))

bench:
	@sh tools/environment.sh dev
	@for module in $(BENCH); do \
		echo "== $$module"; $(BIN)/python -m tests.bench.$$module $(ARGS) || exit 1; \
	done

soak:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.faults.soak $(ARGS)

# run.txt and serve.txt (the image's) are held to the versions of dev.txt, so that one environment can grow from the first
# to the second.
UPGRADE ?= --upgrade
COMPILE := $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' \
	--override requirements/override.txt pyproject.toml requirements/build.in --extra experiments

requirements:
	@sh tools/environment.sh dev
	$(COMPILE) --extra embedded --extra dev --output-file requirements/dev.txt
	$(COMPILE) --extra embedded --constraint requirements/dev.txt --output-file requirements/run.txt
	$(COMPILE) --extra otel --extra postgresql --constraint requirements/dev.txt --output-file requirements/serve.txt

dist audit:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.deploy.release $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
