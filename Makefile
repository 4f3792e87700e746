# make run    set up, and serve the demo site on 127.0.0.1:8080
# make test   set up, check (ruff, mypy, import direction), and run every test
# make binary  build dist/collector, one file that runs where there is no Python (on Debian 12; see packaging/README.md)
# make test-binary  run the system tests against it
# make torture  the long form of tests/crash: kills, power cuts, failing disks; minutes, and best as root
# make fuzz   the long form of tests/fuzz: a million requests, whole and broken; FUZZ_REQUESTS=... for more or fewer
# make check  only the checks
# make bench  measure: a quick pass of some three minutes; bench/README.md says what, and has the long form
# make bench-rivals  install what it is compared with (lists of bench/rivals and requirements/rivals.txt)
# make lock   compile requirements/*.txt anew from setup.cfg (needs uv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-binary binary torture fuzz check bench bench-rivals lock clean

run: $(VENV)/run.done
	@printf '%s\n' \
	  '' \
	  'Send an event (from another terminal):' \
	  '' \
	  "  curl -i http://127.0.0.1:8080/public/demo/analytics/collect -d '{\"session_id\": \"s-1\", \"visitor_id\": \"visitor-1\", \"event_type\": \"pageview\", \"page_path\": \"/pricing\", \"event_time\": \"2026-05-12T10:00:00Z\"}'" \
	  '' \
	  'Within 3 seconds it is in a Parquet file under data/events/site=demo/. Look at it:' \
	  '' \
	  '  $(BIN)/collector inspect data/events --rows 5' \
	  '' \
	  'Metrics: http://127.0.0.1:9090/metrics    Stop: Ctrl-C' \
	  ''
	@exec $(BIN)/collector serve --config demo/collector.toml

test: $(VENV)/dev.done check
	@! sh packaging/missing.sh || $(MAKE) --no-print-directory test-binary
	$(BIN)/python -m pytest

# The tests of the whole process once more, the binary in the place of `python -m collector`; without those of what is the
# same in both, files and layouts.
test-binary: $(VENV)/dev.done binary
	COLLECTOR_COMMAND=$(CURDIR)/dist/collector $(BIN)/python -m pytest tests/system tests/crash/test_kill.py \
	  --ignore=tests/system/test_elsewhere.py --ignore=tests/system/test_layout.py --ignore=tests/system/test_odd_files.py

binary: .venv-binary/done
	PYTHONHASHSEED=0 .venv-binary/bin/python packaging/bundle.py build/binary/tree "$$($(COMMIT))"
	.venv-binary/bin/python packaging/pack.py build/binary/tree dist/collector

COMMIT := git describe --always --exclude='*' --abbrev=7 --dirty 2>/dev/null

.PHONY: .venv-binary/needs
.venv-binary/needs:
	@sh packaging/missing.sh

.venv-binary/done: requirements/run.txt | .venv-binary/needs
	rm -rf .venv-binary
	/usr/bin/python3.11 -m venv .venv-binary
	.venv-binary/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

torture: $(VENV)/dev.done
	TORTURE=1 $(BIN)/python -m pytest -v -s tests/crash

fuzz: $(VENV)/dev.done
	FUZZ_REQUESTS=$${FUZZ_REQUESTS:-1000000} $(BIN)/python -m pytest -v -s tests/fuzz

check: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy packaging
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/run.done $(VENV)/bench.done bench-rivals
	@$(BIN)/python -m bench all --quick; code=$$?; $(BIN)/python -m bench report --quick; exit $$code

# What cannot be installed here is left out of the comparison, by name; so nothing of this fails `make bench`.
bench-rivals: .venv-rivals/done bench/rivals/fastify/node_modules/.package-lock.json

.venv-rivals/done: requirements/rivals.txt | $(VENV)/bin/python
	-$(PYTHON) -m venv .venv-rivals && \
	  .venv-rivals/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@

bench/rivals/fastify/node_modules/.package-lock.json: bench/rivals/fastify/package-lock.json
	-npm ci --prefix bench/rivals/fastify --no-audit --no-fund --loglevel=error && touch $@

# The versions that were tested, by hash. The collector itself is installed from this clone, editable.
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
lock:
	$(LOCK) setup.cfg requirements/build.in -o requirements/run.txt
	$(LOCK) setup.cfg requirements/build.in --extra dev -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) setup.cfg requirements/build.in --extra bench -c requirements/run.txt -o requirements/bench.txt
	$(LOCK) requirements/rivals.in -c requirements/run.txt -o requirements/rivals.txt

clean:
	rm -rf $(VENV) .venv-rivals bench/rivals/fastify/node_modules build dist *.egg-info
