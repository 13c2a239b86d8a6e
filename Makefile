# make help lists what there is. The first target that needs it makes .venv from the pinned requirements.

PYTHON := .venv/bin/python
CORPUS ?= reviews
CONFIG ?= default
TASK ?= sentiment
ENCODER ?=
HOW ?=
INIT ?=
RUN ?=
REPO ?=
PRIVATE ?=
ARGS ?=

.PHONY: help corpus pretrain finetune study publish bench test test-all

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

corpus: .venv/ready  ## text to shards, with a report   [CORPUS=reviews] [ARGS="corpus.deduplicate.near=false"]
	@$(PYTHON) -m data configs/corpus/$(CORPUS).yaml $(if $(INIT),init=$(INIT)) $(ARGS)

pretrain: .venv/ready  ## pretrain an encoder   [CONFIG=default] [INIT=minilm] [ARGS="train.steps=200 run=mine"]
	@$(PYTHON) -m pretrain configs/pretrain/$(CONFIG).yaml $(if $(INIT),init=$(INIT)) $(ARGS)

finetune: .venv/ready  ## teach it a task        [TASK=sentiment] [ENCODER=folder or hub name] [METHOD=lora] [ARGS="task.num_examples=100"]
	@$(PYTHON) -m finetune configs/finetune/$(TASK).yaml $(if $(HOW),configs/method/$(HOW).yaml run=$(TASK)-$(HOW)) $(if $(ENCODER),encoder=$(ENCODER)) $(ARGS)

study: .venv/ready  ## what pretraining is worth in labels (30 to 40 minutes)   [TASK=sentiment] [ENCODER=...]
	@$(PYTHON) -m finetune.study configs/finetune/$(TASK).yaml $(if $(ENCODER),encoder=$(ENCODER)) $(ARGS)

publish: .venv/ready  ## check a finished run, send it to a model hub   RUN=out/runs/default REPO=me/name [PRIVATE=1] [ARGS="dry_run=true"]
	@$(PYTHON) -m publish $(if $(RUN),run=$(RUN)) $(if $(REPO),repo=$(REPO)) $(if $(PRIVATE),private=true) $(ARGS)

bench: .venv/ready  ## pretraining's speed beside run_mlm's (under 10 minutes on 2 cores)
	@$(PYTHON) benchmarks/pretraining.py $(ARGS)

test: .venv/ready  ## run the tests (under 8 minutes on 2 cores)
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: .venv/ready  ## run the slow ones too
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

.venv/ready: requirements.txt
	@echo "setting up .venv (once, a few minutes)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headstart needs Python 3.11 or newer")'
	@python3 -m venv .venv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
