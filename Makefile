PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests with real processes under load, kills, proxies, browsers or the binary: minutes.
PROCESS_TESTS := $(addprefix tests/,system crash network fuzz systemd binary tracker)
# Of these, the tests without coverage: they kill the collector, change its code or build the binary.
UNCOVERED_TESTS := $(addprefix tests/,crash network fuzz systemd binary)

# What tests/tracker drives. Without coverage, too: most of what it tests is JavaScript.
ENGINES := chromium firefox webkit

# Tests outside tests/crash that do more where TORTURE is set.
LONG_FORMS := $(addprefix tests/,edge/test_batch_model.py edge/test_client_ip_model.py ingest/test_hostile.py ingest/test_replay.py journal/flush/test_rejects.py journal/test_model.py)

# Tests that run over the compiled modules too.
COMPILED_TESTS := $(addprefix tests/,edge ingest journal crash)

.PHONY: help run test test-fast test-binary test-compiled engines $(ENGINES:%=engine-%) binary compiled torture fuzz check docs \
  tracker tracker-release bench bench-rivals lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

run: $(VENV)/run.done  ## set up, and serve a demo site on 127.0.0.1:8080
	@printf '%s\n' \
	  '' \
	  'Open the demo shop, click, and see what the tracker sends:' \
	  '' \
	  "  http://127.0.0.1:$${COLLECTOR__SERVER__PORT:-8080}/demo/" \
	  '' \
	  'Or send an event yourself (from another terminal):' \
	  '' \
	  "  curl -i http://127.0.0.1:$${COLLECTOR__SERVER__PORT:-8080}/public/demo/analytics/collect -d '{\"session_id\": \"s-1\", \"visitor_id\": \"visitor-1\", \"event_type\": \"pageview\", \"page_path\": \"/pricing\", \"event_time\": \"2026-05-12T10:00:00Z\"}'" \
	  '' \
	  'Within 3 seconds each event is in a Parquet file under data/events/site=demo/. Look at them:' \
	  '' \
	  '  $(BIN)/collector inspect data/events --rows 5' \
	  '' \
	  "Metrics: http://127.0.0.1:$${COLLECTOR__ADMIN__PORT:-9090}/metrics    Stop: Ctrl-C" \
	  ''
	@exec $(BIN)/collector serve --config demo/collector.toml

test: $(VENV)/dev.done check  ## set up, and run all checks and tests: a quarter of an hour
	@! sh packaging/missing.sh || $(MAKE) --no-print-directory test-binary
	$(MAKE) --no-print-directory test-compiled
	ENGINE_CASES=1 $(MAKE) --no-print-directory $(if $(filter true,$(CI)),engines,engine-chromium)
	$(BIN)/python -m pytest $(UNCOVERED_TESTS)
	$(BIN)/python -m pytest --cov $(addprefix --ignore=,$(UNCOVERED_TESTS) tests/tracker)

test-fast: $(VENV)/dev.done  ## set up, and run the tests without kills, proxies, browsers and binary: about a minute
	$(BIN)/python -m pytest -n auto $(addprefix --ignore=,$(PROCESS_TESTS))

# The binary instead of `python -m collector`. Left out: what does not depend on how the collector is started.
test-binary: $(VENV)/dev.done binary  ## run the process tests against the binary
	COLLECTOR_COMMAND=$(CURDIR)/dist/collector $(BIN)/python -m pytest tests/system tests/crash/test_kill.py \
	  --ignore=tests/system/test_elsewhere.py --ignore=tests/system/test_layout.py --ignore=tests/system/test_odd_files.py \
	  --ignore=tests/system/test_tracker_build.py

# The compiled modules instead of their source. The binary has them too, and runs tests/crash/test_kill.py.
test-compiled: $(VENV)/dev.done compiled  ## run the tests of the hot modules over their compiled form
	@if ls build/compiled/*.so >/dev/null 2>&1; then \
	  cd build/compiled && PYTHONPATH=$$PWD COMPILED=1 $(CURDIR)/$(BIN)/python -m pytest $(COMPILED_TESTS); \
	elif [ "$$CI" = true ]; then echo 'CI must compile the hot modules' >&2; exit 1; \
	else echo 'skipped: the tests of the compiled modules'; fi

engines: $(VENV)/dev.done  ## run the tests of the tracker in Chromium, Firefox and WebKitGTK, side by side
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(ENGINES:%=engine-%)

$(ENGINES:%=engine-%): engine-%: $(VENV)/dev.done
	ENGINES=$* $(BIN)/python -m pytest tests/tracker

compiled: $(VENV)/dev.done  ## copy this clone to build/compiled, with the hot modules compiled
	$(BIN)/python packaging/compile.py build/compiled

binary: .venv-binary/done .venv-binary-compile/done  ## build dist/collector, one file that needs no Python (on Debian 12; packaging/README.md)
	.venv-binary-compile/bin/python packaging/compile.py build/binary/source
	PYTHONHASHSEED=0 .venv-binary/bin/python packaging/bundle.py build/binary/tree "$$($(COMMIT))" build/binary/source
	.venv-binary/bin/python packaging/pack.py build/binary/tree dist/collector

COMMIT := git describe --always --exclude='*' --abbrev=7 --dirty 2>/dev/null

.PHONY: .venv-binary/needs
.venv-binary/needs:
	@sh packaging/missing.sh

.venv-binary/done: requirements/run.txt | .venv-binary/needs
.venv-binary-compile/done: requirements/compile.txt | .venv-binary/needs

.venv-binary/done .venv-binary-compile/done:
	rm -rf $(@D)
	/usr/bin/python3.11 -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

torture: $(VENV)/dev.done  ## try to lose an event: kills, power cuts, failing disks; half an hour, best as root
	TORTURE=1 $(BIN)/python -m pytest -v -s tests/crash $(LONG_FORMS)

fuzz: $(VENV)/dev.done  ## send FUZZ_REQUESTS requests (a million), valid and broken, and check every response
	FUZZ_REQUESTS=$${FUZZ_REQUESTS:-1000000} $(BIN)/python -m pytest -v -s tests/fuzz

check: $(VENV)/dev.done  ## run ruff, mypy and the check of import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy packaging
	$(BIN)/lint-imports --no-logo

tracker: tracker/node_modules/.package-lock.json  ## check the script for pages and build it into collector/tracker (needs Node.js)
	npm run --prefix tracker --silent build
	npm run --prefix tracker --silent check

tracker-release:  ## keep the built script for the pages that will pin it; before each release
	@set -e; hash=$$(sha256sum collector/tracker/t.js | cut -c 1-12); for form in js js.br js.gz; do \
	  cp collector/tracker/t.$$form collector/tracker/released/t-$$hash.$$form; done; \
	  echo 'Add this line to RELEASED in tests/edge/test_released.py:'; \
	  printf '    "%s",\n' "$$(sha256sum collector/tracker/t.js | cut -c 1-64)"

# --ignore-scripts: esbuild's script only replaces its launcher with its program.
tracker/node_modules/.package-lock.json: tracker/package-lock.json
	npm ci --prefix tracker --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

docs: $(VENV)/dev.done  ## write the reference tables of docs/ from the code
	@$(BIN)/python -m tests.docs.tables

bench: $(VENV)/run.done $(VENV)/bench.done bench-rivals  ## measure this machine: five minutes; bench/README.md explains it
	@$(BIN)/python -m bench all --quick; code=$$?; $(BIN)/python -m bench report --quick; exit $$code

RIVALS_NPM := bun fastify

# A server that cannot be installed is left out of the comparison, which names it. So a failure here does not stop `make bench`.
bench-rivals: .venv-rivals/done $(RIVALS_NPM:%=bench/rivals/%/node_modules/.package-lock.json)  ## install the servers used for comparison

.venv-rivals/done: requirements/rivals.txt | $(VENV)/bin/python
	-$(PYTHON) -m venv .venv-rivals && \
	  .venv-rivals/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@

# --ignore-scripts: bun's script moves its program to another folder, and downloads one if it finds none.
bench/rivals/%/node_modules/.package-lock.json: bench/rivals/%/package-lock.json
	-npm ci --prefix bench/rivals/$* --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@

# The tested versions, pinned by hash. The collector itself is installed from this clone, in editable mode.
$(VENV)/%.done: requirements/%.txt setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$*.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'The collector needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'This Python cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock:  ## pin the dependencies of setup.cfg anew in requirements/*.txt (needs uv)
	$(LOCK) setup.cfg requirements/build.in -o requirements/run.txt
	$(LOCK) setup.cfg requirements/build.in --extra dev -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) setup.cfg requirements/build.in --extra bench -c requirements/run.txt -o requirements/bench.txt
	$(LOCK) requirements/compile.in -c requirements/dev.txt -o requirements/compile.txt
	$(LOCK) requirements/rivals.in -c requirements/run.txt -o requirements/rivals.txt

clean:  ## delete everything that make has made
	rm -rf $(VENV) .venv-rivals .venv-binary .venv-binary-compile $(RIVALS_NPM:%=bench/rivals/%/node_modules) \
	  build dist tracker/node_modules *.egg-info
