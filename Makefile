# Every target does what it needs first: `make train-all` and `make test` work in a fresh clone.
.PHONY: setup lock upgrade train-all test quick fuzz bench bench-full bench-gpu up down doctor lint
.DEFAULT_GOAL := train-all
ARGS ?=

setup:                ## .venv with everything installed as locked; PYTHON=… and TORCH=cpu or cuda choose
	@infra/setup.sh

lock:                 ## bring the lock in line with pyproject.toml; versions that still fit stay
	@[ -x .venv/bin/python ] || infra/setup.sh
	@.venv/bin/python infra/lock.py update

upgrade: setup        ## lock and install the newest versions that fit, then the doctor; ARGS=--dry-run only tells
	@.venv/bin/python infra/lock.py upgrade $(ARGS)

train-all: setup      ## the whole journey; ARGS='-p recipe=... -p source=... -p run=...'
	@.venv/bin/python infra/stack.py run train-all/local $(ARGS)

test: setup           ## the whole suite, two files at a time
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

quick: setup          ## what needs no process or server of the suite: an answer in less than a minute
	@.venv/bin/python -m pytest -m quick -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: setup           ## every fuzz target, for MINUTES=60 together; SEED=1 draws other cases, TARGET='urls tables' picks
	@.venv/bin/python -m tests.fuzz $(TARGET) --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) \
		--folder .state/fuzz $(ARGS)

bench: setup          ## the benchmarks; one JSON line per figure, under benchmarks/results/
	@.venv/bin/python benchmarks/journey.py $(ARGS)
	@for name in training_step engine_overhead shards decode ingest metadata loader padding drawing; do \
		.venv/bin/python benchmarks/$$name.py || exit 1; done
	@.venv/bin/python benchmarks/annotations.py 100000

bench-full: setup     ## the full size on this machine: 8 GB of disk, 12 GB of memory, ten minutes on idle cores
	@.venv/bin/python benchmarks/full_size.py $(ARGS)
	@.venv/bin/python benchmarks/feature_cache.py $(ARGS)

bench-gpu: setup      ## every stage at full size on one GPU within 24 GB, beside the published loop; eight minutes
	@.venv/bin/python -m benchmarks.gpu $(ARGS)

up: setup             ## Prefect server, worker and deployments
	@.venv/bin/python infra/stack.py up

down:                 ## stop them; leaves no process behind
	@if [ -x .venv/bin/python ]; then .venv/bin/python infra/stack.py down; fi

doctor: setup         ## prove the environment by behaviour
	@.venv/bin/tinygptv doctor

lint: setup           ## style and types
	@.venv/bin/shellcheck infra/*.sh .ci/run
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

.PHONY: docs
docs: setup           ## the documentation as a site, in site/; a broken link fails
	@.venv/bin/python -c 'import material' 2>/dev/null || .venv/bin/python -m pip install --quiet --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet
