# make demo     train both stages on small synthetic data, and report
# make test     run the tests
# make lint     check style and formatting
# make bench    run the benchmarks
#
# Each makes the environment it needs on first use, in .venv:
#   VENV=DIR       in DIR instead
#   PYTHON=FILE    nothing is installed; use this Python, whose environment has OpenMMLab already

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint bench env env-demo env-lint env-test

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

ifdef PYTHON
env env-test:
	@"$(PYTHON)" -m mmdisalign.dependencies all tests
env-demo:
	@"$(PYTHON)" -m mmdisalign.dependencies seg tests
env-lint:
else
VENV ?= .venv
PYTHON = $(VENV)/bin/python
env env-demo:
	@tools/setup_env.sh "$(VENV)" all
env-test:
	@tools/setup_env.sh "$(VENV)" test
env-lint:
	@tools/setup_env.sh "$(VENV)" lint
endif

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: env-demo
	"$(PYTHON)" tools/demo.py

# Two processes of one thread each; a file's tests share what it trained. PyTorch's threads would wait
# for each other. In the order of tests/conftest.py: by size, the two demos, one test each and the longest,
# would come last.
test: env-test
	OMP_NUM_THREADS=1 "$(PYTHON)" -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: env-lint
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .

bench: env
	"$(PYTHON)" benchmarks/run.py
