# Every target makes .venv first. pip takes its settings (index, proxy, certificates) from the machine.
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := plugins/kwrap-lora plugins/kwrap-noise plugins/kwrap-norm plugins/kwrap-probe plugins/kwrap-prune plugins/kwrap-quantize
# In processes of their own: TensorFlow keeps all that it has traced, and the more there is, the slower all else becomes.
ZOO := tests/integration/test_zoo.py
LINTED := src plugins tests docs benchmarks tools conftest.py

export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench bench-prune bench-quantize release-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: .venv/installed ## the main job on real data: wrap, fine-tune, save, load, unwrap
	$(BIN)/kwrap demo

test: .venv/installed ## all tests, of kwrap and its plugins, and every code block of the documents
	$(BIN)/pytest -n2 $(ZOO)
	$(BIN)/pytest -n2 --ignore $(ZOO)

lint: .venv/installed ## ruff, mypy and the direction of imports
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

docs: .venv/installed ## the documents as HTML, in docs/_build; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

bench: .venv/installed .venv-tfmot/installed ## speed, beside bare models and tfmot: twenty minutes; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py .venv-tfmot/bin/python

bench-prune: .venv/installed ## the accuracy of pruned nets beside tfmot's: an hour
	$(BIN)/python benchmarks/prune_accuracy.py

bench-quantize: .venv/installed ## the accuracy of quantized nets beside tfmot's and plain post-training quantization: half an hour
	$(BIN)/python benchmarks/quantize_accuracy.py

release-check: .venv/installed ## what RELEASING.md asks of a release: builds all packages into dist/, installs and runs them
	$(BIN)/python tools/release_check.py

clean: ## remove .venv and everything built
	rm -rf .venv .venv-tfmot build dist docs/_build docs/_generated

# Made anew when what is installed changes, and left unfinished when pip fails: the stamp comes last.
.venv/installed: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@echo "Installing kwrap, its plugins and what they need into .venv: a minute or more"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]' $(PLUGINS:%=--editable %)
	@touch $@

.venv-tfmot/installed: benchmarks/tfmot.txt
	@echo "Installing tensorflow-model-optimization into .venv-tfmot: a minute or more"
	@$(PYTHON) -m venv --clear .venv-tfmot
	@.venv-tfmot/bin/pip install -qq --requirement benchmarks/tfmot.txt
	@touch $@
