# The one door: `make demo` and `make test` need nothing but make and CPython 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
# A sourced ROS 2 is used as it is, with the system's NumPy and OpenCV.
VENV_ARGS ?= $(if $(ROS_DISTRO),--system-site-packages)
# auto keeps the torch that is there, else takes what pip finds; cpu and cuda insist on a build.
TORCH ?= auto
# Passed to pip for torch alone, as in TORCH_PIP_ARGS='--index-url URL'.
TORCH_PIP_ARGS ?=
# Test processes; each holds a torch (about 0.5 GB).
WORKERS ?= 2

# What needs no recordings and no arguments; all others tell in their first lines what they want,
# as in make bench BENCHMARKS='storage prior_search'.
BENCHMARKS ?= posterior_latency sampling curvature_pass reading rendering alignment planning \
    fit_memory node soak held_up peers
# As in ODOMETRY_ARGS='--bags FOLDER --artifact FITTED'.
ODOMETRY_ARGS ?=

BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed-$(TORCH)
export VIRTUAL_ENV := $(abspath $(VENV))
export PATH := $(BIN):$(PATH)
# No pytest plugin loads unnamed: a sourced ROS 2 registers several, for every Python.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1
PYTEST := $(BIN)/python -m pytest -p _hypothesis_pytestplugin -p pytest_timeout --timeout 180
# Found, not imported: an rclpy that is there and broken fails the tests instead of hiding them.
HAS_ROS := $(BIN)/python -c 'import importlib.util as u; exit(not u.find_spec("rclpy"))'

.PHONY: help demo test test-core test-ros lint format bench bench-odometry peers install clean
.NOTPARALLEL:

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 26

demo: install  ## Simulate drives, fit, run the node on a held-out drive, judge it.
	@$(BIN)/bayes-vio demo

test: lint test-core test-ros  ## Check style and types, run the fast tests, then those with ROS 2.

# Several processes share the cores: threads that wait by spinning would stall one another.
test-core test-ros: export OMP_NUM_THREADS := 1

test-core: install
	@$(HAS_ROS) || echo "tests with ROS 2 are left out: no rclpy here (see bayes-vio doctor)"
	@$(PYTEST) -p xdist.plugin -n $(WORKERS) --dist loadfile \
	    -m "not slow and not ros and not oracle" --ignore tests/ros tests

# In a process of its own, without xdist: nodes and their discovery want the machine alone.
test-ros: install
	@if $(HAS_ROS); then AMENT_PREFIX_PATH="$(VIRTUAL_ENV):$$AMENT_PREFIX_PATH" \
	    $(PYTEST) -m "ros and not slow" tests; fi

lint: install  ## Check format, style and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: install  ## Format the code and mend what ruff can mend.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install  ## Run the benchmarks that need no recordings (an hour or two); results are JSON.
	@failed=; for name in $(BENCHMARKS); do echo "benchmarks/$$name.py"; \
	    $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	    test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

bench-odometry: install  ## Odometry and its covariance beside its peers (hours: renders, fits, compares).
	@$(BIN)/python benchmarks/odometry.py $(ODOMETRY_ARGS)

peers: install  ## Install the libraries that benchmarks/peers.py compares with.
	@$(BIN)/python -m pip install --quiet --no-deps -r benchmarks/requirements-peers.txt

install: $(STAMP)

# Data files (launch, config) are copied even by an editable installation: they renew the stamp.
$(STAMP): setup.py setup.cfg pyproject.toml package.xml constraints.txt requirements-ros.txt \
    tools/install.py $(wildcard launch/*) $(wildcard config/*) $(wildcard scripts/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	@$(BIN)/python tools/install.py --torch $(TORCH) --torch-pip-args='$(TORCH_PIP_ARGS)'
	@touch $@

clean:  ## Remove the environment and everything that was built.
	rm -rf $(VENV) build dist install log *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
