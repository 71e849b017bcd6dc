# Everything runs in .venv, which the first target makes. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
PY := .venv/bin/python

# Some containers set it: without bytecode on disk, every script compiles its libraries for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup lint test test-long demo demo-task1 demo-panns demo-resnet demo-strong demo-song assets clean

setup: .venv/.installed

.venv/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	@echo "Installing requirements.txt into .venv (a few GB, a few minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@touch $@

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Two processes of one thread each: more threads than cores take several times as long.
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Kills at random moments, more ways to start processes, two processes in every stage.
test-long: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

# Every stage on synthesised songs, cut to fit ten minutes on two cores: the homework's networks get
# a tenth or less of their training, and PANNs random weights, which take no download of 360 MB.
# It writes to data/demo, data/weights and results/demo. What is there is used again: a second run takes a minute.
DEMO_RESULTS := --results-dir results/demo
DEMO := --data-dir data/demo $(DEMO_RESULTS)
DEMO_FIGURES := $(DEMO_RESULTS) --assets-dir results/demo/assets
DEMO_ANSWERS := --answers data/demo/answers.json
DEMO_PANNS := --encoder-weights untrained --epochs 10 --crop-seconds 1 --views 1 --windows 1
DEMO_GE2E := --encoder ge2e --epochs 10
DEMO_RESNET := --epochs 5 --crop-seconds 5 --batch-size 16 --lr 0.001
DEMO_SONG := data/demo/train_val/keldra_and_the_tarn/Idle,_Idle_Lantern/04-Midnight-Harbour.mp3

demo: setup
	@rm -rf results/demo/assets
	bash get_dataset.sh --encoder ge2e
	$(PY) -m artist20.demo data/demo --seconds 20
	$(PY) task1_preprocessing.py $(DEMO)
	$(PY) task1_train.py $(DEMO_RESULTS)
	$(PY) -m artist20.task1_inference $(DEMO) $(DEMO_ANSWERS)
	$(PY) task2_train.py $(DEMO) $(DEMO_PANNS) --resume
	$(PY) task2_train.py $(DEMO) $(DEMO_GE2E) --resume
	$(PY) task2_inference.py $(DEMO) --encoder ge2e $(DEMO_ANSWERS)
	$(PY) task2_train_wo_pretrain.py $(DEMO) $(DEMO_RESNET) --resume
	$(PY) task2_train_wo_pretrain.py $(DEMO) --recipe strong --epochs 12 --resume
	$(PY) task2_inference_wo_pretrain.py $(DEMO) --recipe strong $(DEMO_ANSWERS)
	$(PY) -m artist20.ensemble $(DEMO_RESULTS)
	@$(MAKE) --no-print-directory -j 2 demo-task1 demo-panns demo-resnet demo-strong demo-song
	@echo
	$(PY) -m artist20.comparison $(DEMO_FIGURES) $(DEMO_ANSWERS)
	$(PY) -m artist20.slides $(DEMO_FIGURES) --output results/demo/report.md

# The demo's pictures: each script keeps one core busy, so two of them run at a time.
demo-task1: ; $(PY) task1_gen_report.py $(DEMO_FIGURES)
demo-panns: ; $(PY) task2_gen_report.py $(DEMO_FIGURES)
demo-resnet: ; $(PY) task2_gen_report_wo_pretrain.py $(DEMO_FIGURES)
demo-strong: ; $(PY) task2_gen_report_wo_pretrain.py $(DEMO_FIGURES) --recipe strong
demo-song: ; $(PY) task2_gen_report_wo_pretrain.py $(DEMO_FIGURES) --recipe strong --song $(DEMO_SONG)

# What the repository shows of itself: figures, results.json, the deck, the model card and README's
# table, all of one run of the demo. It replaces what is in assets/.
assets: demo
	rm -rf assets
	cp -r results/demo/assets assets
	$(PY) -m artist20.slides $(DEMO_RESULTS) --output report.md --readme README.md

clean:
	rm -rf .venv data/demo results/demo .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
