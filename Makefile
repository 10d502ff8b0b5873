# Two commands are all that a fresh machine needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test ci lint types slow docs results secured clean

quickstart: $(VENV)/.demo
	$(BIN)/study launch specs/quickstart.yaml

test: $(VENV)/.dev lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What tests/tiers.py names.
ci: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'ci and not slow'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# The documentation site, in build/docs/site; a link that leads nowhere is an error.
docs: $(VENV)/.dev
	$(BIN)/python docs/site/build.py

# What docs/results holds: an hour and a half on two free cores. STUDY_DATA: see the top of the specs.
TWINS := liu2017 smoothed2019 sgm2020 geometry
results: $(VENV)/.demo
	set -e; export COLUMNS=118; for twin in $(TWINS); do \
	  to=docs/results/$$twin; run=runs/small-$$twin; mkdir -p $$to; \
	  $(BIN)/study launch specs/small/$$twin.yaml --output $$run; \
	  $(BIN)/study show $$run > $$to/matrices.txt; \
	  if grep -q '^findings:' specs/small/$$twin.yaml; then \
	    $(BIN)/study findings $$run > $$to/findings.txt; \
	    $(BIN)/study compare $$run --paper $$twin > $$to/comparison.txt; \
	  fi; \
	  if grep -q '^geometry:' specs/small/$$twin.yaml; then $(BIN)/study geometry $$run > $$to/geometry.txt; fi; \
	  $(BIN)/study report $$run --figures $$to; rm -f $$to/*.svg $$to/*-rmsd.png; \
	done
	$(BIN)/python benchmarks/twins.py > docs/results/beside-the-papers.md

# docs/results/secured: DATA is the folder of Fashion-MNIST's files. Half an hour on two free cores.
secured: $(VENV)/.demo
	set -e; export COLUMNS=118 WEIGHTS=runs/secured-weights; to=docs/results/secured; run=runs/secured; mkdir -p $$to; \
	train="$(BIN)/study train $(DATA) --output $$WEIGHTS --network mnist_cnn --network mnist_vit"; \
	$$train --epochs 3; $$train --epochs 2 --adversarial 16; \
	DATA=$(DATA) $(BIN)/study launch specs/small/secured.yaml --output $$run; \
	$(BIN)/study show $$run > $$to/matrices.txt; $(BIN)/study findings $$run > $$to/findings.txt; \
	$(BIN)/study show $$run --clean-correct > $$to/clean-correct.txt

# A stamp is newer than pyproject.toml when the environment holds what it names.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache *.egg-info
