# `make demo`, `make demo-det`, `make compare` and `make test` work in a fresh clone with
# Python >= 3.10, venv and a C++ compiler. Another torch (a CUDA build, say):
# name it as pip would,
#   make demo TORCH='torch==2.10.0 --index-url ...'
PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' requirements.txt)
MAX_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet
TEACHERS_PIP := $(subst .venv/,.venv-teachers/,$(PIP))
UPSTREAM_PIP := $(subst .venv/,.venv-upstream/,$(PIP))
SHELL := /bin/bash

.PHONY: demo demo-det compare test teachers coverage mutants lint docs upstream clean
demo: .venv/stack
	.venv/bin/python tools/demo.py

demo-det: .venv/stack
	.venv/bin/python tools/demo.py --task det

# two methods and two seeds on procedural scenes: a table and a page. Half of
# the iterations of make demo: the students are apart by then
TOY := configs/toy/fpn_r18
SHORT := train_cfg.max_iters=500 train_cfg.val_interval=250 \
    param_scheduler.1.end=500 default_hooks.checkpoint.interval=250
compare: .venv/stack
	.venv/bin/python tools/compare.py $(TOY)-w8_1xb8-1k_toy-64x64.py \
	    --teacher $(TOY)-w32_1xb8-1k_toy-64x64.py --seeds 0 1 \
	    --methods NFDHook SKDHook:losses.loss_ho=None \
	    --jobs $(MAX_JOBS) --work-dir work_dirs/compare --cfg-options $(SHORT)
	.venv/bin/python tools/report.py work_dirs/compare

test: .venv/tests
	.venv/bin/python -m pytest -n 2

# teachers of optional libraries: beside .venv, since their torchvision would
# reach mmdet there, and must fit torch to be imported
teachers: .venv-teachers/libraries
	.venv-teachers/bin/python -m pytest tests/test_teachers/test_libraries.py

coverage: .venv/tests
	.venv/bin/python -m pytest -n 2 --cov --cov-report=term --cov-report=html

# all modules of the core, or ONLY=mmselfkd/losses/nfd_loss.py; goes on where
# it was stopped
mutants: .venv/mutants
	.venv/bin/python -m tests.mutants $(ONLY)

# needs torch and mmengine alone, nothing that compiles
lint: .venv/lint
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

docs: .venv/docs
	.venv/bin/python -m sphinx --fail-on-warning --keep-going --jobs auto \
	    --quiet docs docs/_build/html
	@echo 'docs/_build/html/index.html'

# does everything distil with the original distributions of OpenMMLab too?
# mmengine 0.10.7 reads its own checkpoints on torch 2.6 and newer only so
upstream: export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD = 1
upstream: .venv-upstream/stack
	.venv-upstream/bin/python tools/check_stack.py
	.venv-upstream/bin/python -m pytest -n 2 tests/test_distillation \
	    $(addprefix tests/test_hooks/test_, distill_hook.py inherit.py \
	    resume.py) tests/test_teachers/test_frozen.py \
	    tests/test_readme_projects.py

clean:
	rm -rf .venv .venv-teachers .venv-upstream build dist *.egg-info mmselfkd/.mim \
	    docs/_build docs/_generated htmlcov .coverage*

.venv/base: requirements.txt requirements/build.txt
	$(PYTHON) -m venv .venv
	@echo '$(TORCH) and mmengine'
	$(PIP) -r requirements/build.txt
	$(if $(TORCH),$(PIP) $(TORCH))
	$(PIP) $$(grep '^onedl-mmengine==' requirements.txt)
	touch $@

.venv/stack: .venv/base setup.py pyproject.toml
	@echo 'OpenMMLab; onedl-mmcv compiles for about 10 minutes once'
	grep -v '^torch==' requirements.txt > .venv/openmmlab.txt
	MAX_JOBS=$(MAX_JOBS) $(PIP) --no-build-isolation -r .venv/openmmlab.txt
	$(PIP) --no-build-isolation --no-deps ./requirements/mmsegmentation
	$(PIP) --no-build-isolation -e .
	touch $@

.venv/tests: .venv/stack requirements/tests.txt
	$(PIP) -r requirements/tests.txt
	touch $@

.venv/mutants: .venv/tests requirements/mutants.txt
	$(PIP) -r requirements/mutants.txt
	touch $@

.venv-teachers/libraries: .venv/tests requirements/teachers.txt
	$(PYTHON) -m venv .venv-teachers
	echo "import site; site.addsitedir('$$(echo \
	    $(CURDIR)/.venv/lib/python3.*/site-packages)')" > \
	    $$(echo .venv-teachers/lib/python3.*/site-packages)/base.pth
	$(TEACHERS_PIP) -r requirements/teachers.txt
	touch $@

.venv/lint: .venv/base requirements/lint.txt
	$(PIP) -r requirements/lint.txt
	touch $@

.venv/docs: .venv/stack requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	touch $@

.venv-upstream/stack: requirements.txt requirements/upstream.txt \
    requirements/mmcv_ext.py requirements/build.txt requirements/tests.txt
	$(PYTHON) -m venv .venv-upstream
	$(UPSTREAM_PIP) -r requirements/build.txt
	$(if $(TORCH),$(UPSTREAM_PIP) $(TORCH))
	$(UPSTREAM_PIP) -r requirements/upstream.txt -r requirements/tests.txt
	cp requirements/mmcv_ext.py \
	    $$(echo .venv-upstream/lib/python3.*/site-packages/mmcv)/_ext.py
	$(UPSTREAM_PIP) --no-build-isolation --no-deps -e .
	touch $@
