# Every target sets up what it needs in .venv. `make` lists them.
PYTHON ?= python3
PY := .venv/bin/python
DEMO := runs/demo
DATA ?= ../shared/data
SPEED := runs/speedrun
CORPORA := data/ablations
SWEEP = OMP_NUM_THREADS=1 $(PY) src/train.py -m +experiment=$(NAME) scale=laptop workers=1 hydra.launcher.parallel=2 \
    'evaluate.data_dir=[$(CORPORA)/demo/eval,data/held_out]'
GATHER = $(PY) src/collect.py name=$(NAME) 'groups={similarity: [STS*], SciFact: [SciFact], held-out pairs: [Held*], \
    Ruby: [Ruby], demo retrieval: [DemoDocstringToCode, DemoHeadingToSection, DemoNameToSummary], \
    demo others: [DemoRelatedness, DemoSourceKind, DemoTopic]}'
PIP = $(PY) -m pip install --quiet --disable-pip-version-check
# LOCKED=1: exactly the packages of requirements.lock, by their hashes, and torch of the pinned version
KIND = $(if $(LOCKED),locked,installed)
ONLY = $(if $(CHECKS),--only $(CHECKS))

.DEFAULT_GOAL := help
.PHONY: help demo speedrun ablation named has-pairs test test-all chaos gpu gpu-here gpu-pack lint lock audit collect notebooks clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else "needs Python 3.11 to 3.14, found %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/run.installed: requirements.txt | .venv/bin/python
	$(PIP) -r requirements.txt
	@touch $@

.venv/test.installed: requirements-test.txt requirements-onnx.txt requirements-notebooks.txt requirements-launchers.txt requirements-dashboard.txt requirements-remote.txt requirements.txt | .venv/bin/python
	$(PIP) -r requirements-test.txt
	@touch $@ .venv/run.installed

.venv/locked: requirements.lock requirements.txt | .venv/bin/python
	$(PIP) $(shell grep -h '^torch==' requirements.txt)
	$(PIP) --no-deps --require-hashes -r requirements.lock
	@touch $@

.venv/run.locked .venv/test.locked .venv/notebooks.locked: .venv/locked
	@touch $@

demo: .venv/run.$(KIND)  ## the whole job on a laptop: prepare, pre-train, fine-tune, evaluate, export, one table
	$(PY) src/prepare.py data=demo
	rm -rf $(DEMO)
	$(PY) src/train.py stage=pretrain model=tiny data=demo trainer=cpu logger=csv keep_initial=true out=$(DEMO)/pretrain
	$(PY) src/train.py stage=finetune model=tiny data=demo trainer=cpu logger=csv \
	    stage.init_from=$(DEMO)/pretrain out=$(DEMO)/finetune
	$(PY) src/export.py checkpoint=$(DEMO)/finetune out=$(DEMO)/model
	$(PY) src/eval.py suite=demo out=$(DEMO)/eval $(if $(DATA_DIR),data_dir=$(DATA_DIR)) \
	    'checkpoint={BM25: bm25, random weights: $(DEMO)/pretrain/checkpoints/step-0000000.ckpt, pre-trained: $(DEMO)/pretrain, fine-tuned: $(DEMO)/finetune}'
	$(PY) -c 'from sentence_transformers import SentenceTransformer as S; m = S("$(DEMO)/model"); print("sentence-transformers loads $(DEMO)/model:", m.encode(["a text"]).shape[1], "dimensions")'

has-pairs:
	@test -d "$(DATA)/pairs" && test -d "$(DATA)/eval" || \
	    { echo "error: DATA=$(DATA) must hold pairs/*.jsonl.gz and eval/: experiments/README.md says what they are" >&2; exit 2; }

named:
	@test -n "$(NAME)" || { echo "error: NAME= is missing, an experiment of conf/experiment: NAME=objective" >&2; exit 2; }

# data.path and data.decontaminate.folder each take one folder, and links that lead out of it are refused: copies
speedrun: has-pairs .venv/run.$(KIND)  ## the best model from random weights, from DATA: experiments/speedrun
	$(PY) src/prepare.py data=demo
	rm -rf data/speedrun_raw && mkdir -p data/speedrun_raw/pairs data/speedrun_raw/tasks
	cp -p $(DATA)/pairs/*.jsonl.gz data/raw/demo/*/*.jsonl.gz data/speedrun_raw/pairs
	cp -rp $(DATA)/eval/. data/raw/demo/eval/. data/speedrun_raw/tasks && chmod -R u+w data/speedrun_raw
	$(PY) src/prepare.py data=local data.path=data/speedrun_raw/pairs data.dir=data/speedrun data.mined=null \
	    data.vocab_size=30000 data.max_tokens=254 data.decontaminate.folder=data/speedrun_raw/tasks
	$(PY) src/train.py +experiment=speedrun out=$(SPEED)/pretrain
	$(PY) src/export.py checkpoint=$(SPEED)/pretrain average_last=12 out=$(SPEED)/average
	$(PY) src/train.py +experiment=speedrun_finetune stage.init_from=$(SPEED)/average out=$(SPEED)/finetune
	$(PY) src/export.py checkpoint=$(SPEED)/finetune out=$(SPEED)/model
	$(PY) src/eval.py suite=local data_dir=data/speedrun_raw/tasks out=$(SPEED)/eval \
	    tasks=[STS12,STS13,STS15,STS17,STSBenchmark,SciFact,Banking77Classification,DemoDocstringToCode,DemoHeadingToSection,DemoNameToSummary] \
	    'checkpoint={speedrun: $(SPEED)/model, first stage: $(SPEED)/pretrain, BM25: bm25}'
	$(PY) src/eval.py suite=codesearchnet tasks=[CodeSearchNetRuby] data_dir=data/speedrun_raw/tasks out=$(SPEED)/eval_code \
	    'checkpoint={speedrun: $(SPEED)/model, first stage: $(SPEED)/pretrain, BM25: bm25}'
	$(PY) experiments/speedrun/table.py $(SPEED)

test: .venv/test.$(KIND) lint  ## lint and tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-all: .venv/test.$(KIND) lint  ## the slow tests too
	$(PY) -m pytest

chaos: .venv/test.$(KIND)  ## kills, damaged files, full disks, hostile input: experiments/reliability
	$(PY) -m pytest tests/training/test_kills.py tests/training/test_remote.py tests/data/test_data_faults.py tests/data/test_fuzz.py \
	    tests/data/test_refusing_disks.py tests/training/test_numerics.py tests/test_security.py tests/data/test_input_faults.py \
	    tests/training/test_slurm.py tests/models/test_broken.py tests/test_files.py tests/data/test_page_sums.py \
	    tests/training/test_resume.py tests/training/test_locks.py tests/evaluation/test_keep_best.py \
	    tests/inference/test_embedding_cache.py tests/inference/test_index.py tests/inference/test_embedding.py

gpu:  ## check the CUDA path on one card in nine minutes, CHECKS=a,b some of it: experiments/gpu
	@$(PYTHON) src/gte/benchmarks/gpu/card.py
	@if [ -e .gpu/check.sh ] && [ ! -e .venv/bin/python ]; then bash .gpu/check.sh $(ONLY); \
	    else $(MAKE) --no-print-directory gpu-here; fi

gpu-here: .venv/test.$(KIND) | .gpu/data/manifest.json
	PYTHONPATH=src $(PY) -m gte.benchmarks.gpu $(ONLY)

.gpu/data/manifest.json: | .venv/test.$(KIND)
	PYTHONPATH=src $(PY) -m gte.benchmarks.gpu.pack --no-wheels --data $(DATA)

gpu-pack: .venv/test.$(KIND)  ## fill .gpu and .whl for a CUDA machine without a network, where .gpu/check.sh runs
	PYTHONPATH=src $(PY) -m gte.benchmarks.gpu.pack --data $(DATA)

lint: .venv/test.$(KIND)  ## style checks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(CORPORA)/pairs/manifest.json: | .venv/run.$(KIND)
	@$(MAKE) --no-print-directory has-pairs
	$(PY) experiments/held_out.py $(DATA) data/held_out
	$(PY) src/prepare.py data=demo data.dir=$(CORPORA)/demo data.decontaminate.folder=data/held_out
	$(PY) src/prepare.py data=local data.path=$(DATA)/pairs data.dir=$(CORPORA)/pairs data.mined=null \
	    data.decontaminate.folder=data/held_out

# more settings of one corpus: DEMO_ONLY="..." PAIRS_ONLY="sources=pairs_two,pairs_five,all"; DEMO_ALONE=1: without the pairs
ablation: named $(CORPORA)/pairs/manifest.json  ## NAME=objective: at laptop scale on the demo corpus and the pairs of DATA: experiments/
	$(SWEEP) data=demo data.dir=$(CORPORA)/demo $(DEMO_ONLY)
	$(GATHER)
	$(if $(DEMO_ALONE),,$(SWEEP) data=local data.dir=$(CORPORA)/pairs hydra.sweep.dir=multirun/pairs/$(NAME) $(PAIRS_ONLY))
	$(if $(DEMO_ALONE),,$(GATHER) runs=multirun/pairs/$(NAME) out=experiments/$(NAME)/pairs)

collect: named .venv/run.$(KIND)  ## NAME=mixing_ratio: an experiment's runs into experiments/NAME/
	$(PY) src/collect.py name=$(NAME) $(if $(RUNS),runs=$(RUNS))

.venv/lock.installed: requirements-lock.txt | .venv/bin/python
	$(PIP) -r requirements-lock.txt
	@touch $@

lock: .venv/lock.installed  ## write requirements.lock anew; asks the package index, so it needs a network
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links requirements-test.txt | $(PYTHON) .ci/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

.venv/audit.installed: requirements-audit.txt | .venv/bin/python
	$(PIP) -r requirements-audit.txt
	@touch $@

audit: .venv/audit.installed  ## known vulnerabilities of the pinned packages; asks the package index, so it needs a network
	$(PY) -m pip_audit --strict --no-deps --disable-pip --progress-spinner off $(patsubst %,-r %,$(wildcard requirements*.txt))

.venv/notebooks.installed: requirements-notebooks.txt requirements.txt | .venv/bin/python
	$(PIP) -r requirements-notebooks.txt
	@touch $@ .venv/run.installed

$(DEMO)/model:
	$(MAKE) demo

notebooks: .venv/notebooks.$(KIND) | $(DEMO)/model  ## run the notebooks (on the demo) and write them as HTML to runs/notebooks
	$(PY) -m nbconvert --to html --execute --output-dir runs/notebooks notebooks/*.ipynb

clean:  ## remove prepared data, runs and their models; data/raw stays but for the demo's, and .venv
	rm -rf runs multirun data/raw/demo
	[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name raw -exec rm -rf {} +
