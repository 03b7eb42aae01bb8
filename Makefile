# `make demo`, `make demo-det` and `make test` work in a fresh clone with
# Python >= 3.10, venv and a C++ compiler. Another torch (a CUDA build, say):
# name it as pip would,
#   make demo TORCH='torch==2.10.0 --index-url ...'
PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' requirements.txt)
MAX_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet
SHELL := /bin/bash

.PHONY: demo demo-det test clean
demo: .venv/stack
	.venv/bin/python tools/demo.py

demo-det: .venv/stack
	.venv/bin/python tools/demo.py --task det

test: .venv/tests
	.venv/bin/python -m pytest -n 2

clean:
	rm -rf .venv build dist *.egg-info mmselfkd/.mim

.venv/stack: requirements.txt requirements/build.txt setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	@echo '[1/3] $(TORCH)'
	$(PIP) -r requirements/build.txt
	$(if $(TORCH),$(PIP) $(TORCH))
	@echo '[2/3] OpenMMLab; onedl-mmcv compiles for about 10 minutes once'
	grep -v '^torch==' requirements.txt > .venv/openmmlab.txt
	MAX_JOBS=$(MAX_JOBS) $(PIP) --no-build-isolation -r .venv/openmmlab.txt
	$(PIP) --no-build-isolation --no-deps ./requirements/mmsegmentation
	@echo '[3/3] mmselfkd, editable'
	$(PIP) --no-build-isolation -e .
	touch $@

.venv/tests: .venv/stack requirements/tests.txt
	$(PIP) -r requirements/tests.txt
	touch $@
