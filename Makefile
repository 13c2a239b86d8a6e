# `make help` lists the targets. The first one that needs it creates .venv from the pinned requirements.

PYTHON := .venv/bin/python
CORPUS ?= reviews
CONFIG ?= default
TASK ?= sentiment
ENCODER ?=
METHOD ?=
MODEL ?=
FILE ?=
INIT ?=
OBJECTIVES ?=
BUDGET ?= 300
TASKS ?=
RUN ?=
TEXT ?=
IMAGES ?=
LABELS ?=
RUNS ?=
N ?=
REPO ?=
PRIVATE ?=
ARGS ?=

# Whether a variable was given to make, rather than set here.
given = $(filter command environment,$(firstword $(origin $(1))))
# A configuration by its name, or by its path.
yaml = $(if $(findstring /,$(2)),$(2),configs/$(1)/$(2).yaml)

.PHONY: help data pretrain explore label finetune predict study compare-objectives evaluate export compare publish bench lint test test-all

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | awk -F'|' '{printf "%-26s %s\n", $$1, $$2}'

data: .venv/ready  ## raw text or images to shards, with a report   [CORPUS=reviews] [INIT=minilm] [ARGS="corpus.deduplicate.near=false"]
	@$(PYTHON) -m data $(call yaml,corpus,$(CORPUS)) $(if $(INIT),init=$(INIT)) $(ARGS)

pretrain: .venv/ready  ## pretrain an encoder   [TEXT='texts/*.txt' RUN=mine] [CONFIG=default] [INIT=minilm] [ARGS="train.steps=200"]
	@$(PYTHON) -m pretrain $(call yaml,pretrain,$(CONFIG)) $(if $(TEXT),'text=$(TEXT)') $(if $(INIT),init=$(INIT)) $(if $(RUN),run=$(RUN)) $(ARGS)

explore: .venv/ready  ## map texts or images, and list which to label first   [TEXT='notes/*.txt', IMAGES=photos, CORPUS=reviews or TASK=mine] [MODEL=out/runs/mine] [ENCODER=...]
	@$(PYTHON) -m explore $(if $(TEXT),'text=$(TEXT)')$(if $(IMAGES),'images=$(IMAGES)')$(if $(TEXT)$(IMAGES),,$(if $(call given,CORPUS)$(if $(call given,TASK)$(MODEL),,1),corpus=$(CORPUS))) $(if $(call given,TASK),task=$(TASK)) $(if $(MODEL),model=$(MODEL)) $(if $(ENCODER),encoder=$(ENCODER)) $(ARGS)

label: .venv/ready  ## label texts or images by keys, in the browser   TASK=my-labels, or FILE=texts.csv   [N=64] [ARGS="terminal=true"]
	@$(PYTHON) -m label $(if $(filter-out file undefined,$(origin TASK)),task=$(TASK)) $(if $(FILE),'file=$(FILE)') $(if $(N),num_answers=$(N)) $(ARGS)

finetune: .venv/ready  ## fine-tune an encoder on a task   [LABELS=labels.csv RUN=mine] [TASK=sentiment] [ENCODER=folder or Hub name] [METHOD=lora] [ARGS="task.num_examples=100"]
	@$(PYTHON) -m finetune $(if $(LABELS),$(call yaml,finetune,default) 'labels=$(LABELS)',$(call yaml,finetune,$(TASK))) $(if $(METHOD),method=$(METHOD) $(if $(LABELS),,run=$(TASK)-$(METHOD))) $(if $(ENCODER),encoder=$(ENCODER)) $(if $(RUN),run=$(RUN)) $(ARGS)

predict: .venv/ready  ## predict the labels of a file   MODEL=out/runs/sentiment FILE=all.csv [ARGS="precision=0.95 why=true"]
	@$(PYTHON) -m predict $(if $(MODEL),model=$(MODEL)) $(if $(FILE),'file=$(FILE)') $(ARGS)

study: .venv/ready  ## measure how many labels pretraining saves (30 to 40 minutes)   [TASK=sentiment] [ENCODER=...]
	@$(PYTHON) -m finetune.study $(call yaml,finetune,$(TASK)) $(if $(ENCODER),encoder=$(ENCODER)) $(ARGS)

compare-objectives: .venv/ready  ## train objectives for the same CPU seconds, compare them with few labels   OBJECTIVES=mlm,contrastive [CORPUS=reviews] [BUDGET=300] [TASKS=sentiment] [INIT=none]
	@$(PYTHON) -m compare corpus=$(CORPUS) $(if $(OBJECTIVES),objectives=[$(OBJECTIVES)]) budget=$(BUDGET) $(if $(TASKS),tasks=[$(TASKS)]) $(if $(INIT),init=$(INIT)) $(ARGS)

evaluate: .venv/ready  ## score the frozen embeddings of an encoder against two baselines   ENCODER=minilm [ARGS="num_examples=[100]"]
	@$(PYTHON) -m pretrain.evaluate $(if $(ENCODER),encoder=$(ENCODER)) $(ARGS)

export: .venv/ready  ## convert a model to ONNX and int8, and measure both   RUN=out/runs/sentiment [ARGS="quantize=int8"]
	@$(PYTHON) -m publish.export $(RUN) $(ARGS)

compare: .venv/ready  ## compare runs on one page   RUNS="out/runs/default out/runs/mlm"
	@$(PYTHON) -m publish.compare $(RUNS) $(ARGS)

publish: .venv/ready  ## check a finished run and upload it to the Hub   RUN=out/runs/default REPO=me/name [PRIVATE=1] [ARGS="dry_run=true"]
	@$(PYTHON) -m publish $(if $(RUN),run=$(RUN)) $(if $(REPO),repo=$(REPO)) $(if $(PRIVATE),private=true) $(ARGS)

bench: .venv/ready  ## pretraining speed compared with run_mlm (under 10 minutes on 2 cores)
	@$(PYTHON) benchmarks/pretraining.py $(ARGS)

lint: .venv/ready  ## check style and format with ruff
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

test: .venv/ready  ## run the tests (under 8 minutes on 2 cores)
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: .venv/ready  ## run the slow tests too
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

.venv/ready: requirements.txt
	@echo "setting up .venv (once, a few minutes)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headstart needs Python 3.11 or newer")'
	@python3 -m venv .venv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
