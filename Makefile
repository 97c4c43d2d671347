# make demo     run the pipeline on a simulated market, or on a log: LOGS=folder FORMAT=name [LAKE=folder] [IMAGES=folder]
# make live     start the live parts of a lake on this machine: Kafka, the stream, the server and its page; Ctrl-C stops them
# make test     run the tests; make test-fast leaves out the slow ones, make test-k8s and make test-airflow run those with a Kubernetes
#               cluster and with an Airflow
SHELL := /bin/bash
BIN := .venv/bin
LAKE ?= lake
RUN_FLAGS := $(if $(LOGS),--logs $(LOGS)) $(if $(FORMAT),--format $(FORMAT)) $(if $(IMAGES),--images $(IMAGES))
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: demo live test test-fast test-k8s test-airflow lint format docs package acceptance bench cluster lock clean

.venv/.ready: requirements.lock requirements-no-deps.lock pyproject.toml .ci/setup
	@.ci/setup

demo: .venv/.ready
	@$(BIN)/cartwheel run --lake $(LAKE) $(RUN_FLAGS) $(FLAGS)

live: .venv/.ready
	@$(BIN)/cartwheel live --lake $(LAKE) $(if $(FORMAT),--format $(FORMAT)) $(FLAGS)

test: .venv/.ready package
	$(BIN)/pytest -m "not airflow"

test-fast: .venv/.ready
	$(BIN)/pytest -m "not slow"

# On a real Kubernetes of one node, which `make cluster` may have started before; writes docs/kubernetes.md.
test-k8s: .venv/.ready
	$(BIN)/pytest tests/on_kubernetes
	$(BIN)/python -m tests.on_kubernetes.times

# Some twenty minutes on two cores; the first time Airflow (200 MB) is installed outside the checkout.
test-airflow: .venv/.ready
	$(BIN)/pytest tests/airflow

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m lib.cli.docs --check

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.ready
	$(BIN)/python -m lib.cli.docs

# The zip that spark-submit ships to the executors: lib, rl, gan and the shipped mappings.
package: .venv/.ready
	@$(BIN)/python -m lib.cli.package dist/cartwheel.zip

acceptance: .venv/.ready package
	$(BIN)/python -m acceptance

# The seconds and memory of our jobs beside other programs, which get an environment of their own outside the checkout;
# an hour or two, with nothing else on the machine.
bench: .venv/.ready
	$(BIN)/python -m benchmarks

# A real Kubernetes of one node on this machine, without Docker, with the operators and manifests of the jobs: WHAT=start, status or
# stop. It needs root, and runc, nft, buildah and mmdebstrap; the first start builds everything, half an hour.
WHAT ?= status
cluster: .venv/.ready
	@$(BIN)/python -m tests.one_node $(WHAT)

lock:
	uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url -q -o requirements.lock
	uv pip compile --group no-deps --no-deps --universal --generate-hashes --no-emit-index-url -q -o requirements-no-deps.lock
	uv pip compile benchmarks/requirements.in -c requirements.lock --universal --generate-hashes --no-emit-index-url -q -o benchmarks/requirements.lock
	uv pip compile benchmarks/requirements-recommenders.in --override benchmarks/requirements-recommenders.overrides --universal --generate-hashes --no-emit-index-url -q -o benchmarks/requirements-recommenders.lock
	uv pip compile tests/requirements-mlflow.in --universal --generate-hashes --no-emit-index-url -q -o tests/requirements-mlflow.lock
	uv pip compile conf/airflow/requirements.in --universal --generate-hashes --no-emit-index-url -q -o conf/airflow/requirements.lock
	for image in spark ray torch; do uv pip compile conf/image/$$image.in -c requirements.lock --universal --generate-hashes --no-emit-index-url -q -o conf/image/$$image.lock; done

clean:
	rm -rf .venv dist build *.egg-info
