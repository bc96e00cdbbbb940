# Everyday commands. Bare `make` lists them.
PORT     ?= 8000
DATA_DIR ?= $(or $(STT_DATA_DIR),data)
CONFIG   ?= configs/local.yaml
PYTHON   ?= python3
# Options of chaos and the benchmarks, which replace the defaults: make bench-jobs ARGS="--jobs 100"
ARGS     ?=

BIN := .venv/bin

# A file of tests stays with one worker, and all tests of the Ray cluster with one worker.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# Diarization needs pyannote.audio, which is not installed otherwise.
SERVICE := .venv/installed $(if $(STT_DIARIZATION__PIPELINE),.venv/installed-diarization)

.PHONY: help demo serve test test-fast smoke lint chaos bench bench-gpu bench-audio bench-service bench-jobs bench-diarization \
	bench-accuracy install clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'
	@echo "Variables: PORT=$(PORT) DATA_DIR=$(DATA_DIR) CONFIG=$(CONFIG) PYTHON=$(PYTHON) ARGS=\"$(ARGS)\""

demo: $(SERVICE) ## start the service, transcribe a sample over HTTP twice, show its subtitles, stop
	$(BIN)/python examples/demo.py --config $(CONFIG) --port $(PORT) --data-dir $(DATA_DIR)

serve: $(SERVICE) ## run the service in the foreground until Ctrl-C
	$(BIN)/python -m deployments --config $(CONFIG) --port $(PORT) --data-dir $(DATA_DIR)

test: lint ## lint, types, import rules and all tests
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: .venv/installed-dev ## the service's tests without Ray, whisper-base and slow ones (a minute or two)
	$(BIN)/python -m pytest $(PARALLEL) --fast -p no:schemathesis

smoke: ## run every other command in a short form, as the nightly run does (about 20 minutes)
	.ci/smoke

lint: .venv/installed-dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: .venv/installed-dev ## kill the service's processes while 200 jobs run; nothing may be lost (about 8 minutes)
	$(BIN)/python -m chaos $(ARGS)

bench: .venv/installed-bench ## measure the engine against other engines on 2 CPU cores (about 25 minutes)
	$(BIN)/python -m benchmarks.speed $(ARGS)

bench-gpu: .venv/installed ## measure the engine against transformers on a CUDA device (about 20 minutes)
	$(BIN)/python -m benchmarks.gpu $(or $(ARGS),--save)

bench-audio: .venv/installed ## measure how fast one core turns recordings into windows (about 5 minutes)
	$(BIN)/python -m benchmarks.audio_path $(or $(ARGS),--save)

bench-service: .venv/installed ## measure the running service: efficiency, fairness, start time (about 10 minutes)
	$(BIN)/python -m benchmarks.service $(or $(ARGS),--save)

bench-jobs: .venv/installed ## measure job submissions and lists with a long queue (about 1 minute)
	$(BIN)/python -m benchmarks.jobs $(or $(ARGS),--save)

bench-diarization: .venv/installed-diarization .venv/installed-bench ## measure diarization on real conversations against others (about 15 minutes)
	$(BIN)/python -m benchmarks.diarization $(or $(ARGS),--save)

bench-accuracy: .venv/installed-bench ## measure accuracy on real speech against other engines (about an hour)
	$(BIN)/python -m benchmarks.real_speech $(or $(ARGS),--save)

install: .venv/installed-dev ## create .venv with everything, including tests and linters

# Separate stamps, so that a first demo need not wait for the linters or the other engines of the benchmarks.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv (torch alone is about 6 GB on disk; a few minutes the first time) …"
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or 3.12 is needed: make PYTHON=python3.12 …" if not (3, 11) <= sys.version_info < (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# A test client that requires an older numpy and pillow, but works with ours: installed in a separate folder.
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade --target .venv/octoai-sdk octoai-sdk
	@touch $@

.venv/installed-diarization: .venv/installed
	@echo "Installing pyannote.audio for speaker diarization (42 packages, 0.4 GB on disk) …"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[diarization]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean: ## remove .venv, caches and the data folder's temporary files
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info $(DATA_DIR)/tmp
