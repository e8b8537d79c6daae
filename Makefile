.DEFAULT_GOAL := help
PYTHON ?= python

help: ## show this help
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

install: ## install the package with everything that tests and lint need
	$(PYTHON) -m pip install -e '.[dev]'

test: ## run the tests
	$(PYTHON) -m pytest

test-all: ## run the tests with the slow ones
	$(PYTHON) -m pytest -m 'not gpu and not interpreter'

# Python itself is built without the sanitizers: their runtimes, and libstdc++, whose exceptions they wrap, come first.
SANITIZERS = $(shell for name in libasan.so libubsan.so libstdc++.so.6; do gcc -print-file-name=$$name; done)
C_TESTS = tests/engines/native/test_library.py tests/engines/native/test_chain.py tests/engines/native/test_linear.py tests/engines/native/test_loss.py \
	tests/engines/test_skipped_zeros.py tests/engines/test_infinite_losses.py tests/engines/native/test_steps.py \
	tests/engines/native/test_denormals.py tests/engines/native/test_adam.py

sanitize: ## run the tests of the C sources under AddressSanitizer and UndefinedBehaviorSanitizer (gcc, 2 minutes)
	CC=$(CURDIR)/tests/sanitize/cc LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 \
		$(PYTHON) -m pytest -n 0 -v --capture=sys -p no:faulthandler $(C_TESTS)

wheel: ## build wheel and sdist, and give every command where nothing but the wheel is (2 minutes)
	PYTHON=$(PYTHON) tests/wheel/run

lint: ## check style, format and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: ## format the code
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

bench: ## time steps, epochs, races, memory and growth beside the peers, and draw docs/speed.png (about 30 minutes)
	for name in step epoch accuracy_time memory growth notebook health startup scaling gpu; do \
		$(PYTHON) benchmarks/$$name.py || exit 1; \
	done
	$(PYTHON) benchmarks/figure.py

experiments: ## reproduce the notebook's experiments over three seeds (about 15 minutes on two cores)
	$(PYTHON) train.py compare --notebook

accuracy: ## train the most accurate configs over three seeds, their table, and docs/accuracy.png (hours)
	$(PYTHON) benchmarks/accuracy.py

faults: ## kill, damage and starve runs, and compare what they come to with the run left alone (about 5 minutes)
	$(PYTHON) benchmarks/faults.py

leaks: ## train again and again in one process, and tell whether memory, files or threads grow (an hour)
	$(PYTHON) benchmarks/leaks.py

.PHONY: help install test test-all sanitize wheel lint format bench experiments accuracy faults leaks
