PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Whole tests side by side, one thread each: most of their time is Python starting up.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
DEMO := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo train eval export nets nets-lite nets-isnet test test-all lint format clean cpp cpp-test cpp-bundle cpp-fuzz docs web phones

help: ## List these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-11s%s\n", $$1, $$2}'

setup: $(BIN)/.ready ## Make the environment .venv with what cutting out and training need

setup-dev: $(BIN)/.ready-dev ## The same with tests, linters and the optional parts (but Ray's)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/.ready: requirements.txt pyproject.toml | $(BIN)/python
	@echo "Installing what requirements.txt names into $(VENV); this takes minutes and says nothing more"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(BIN)/.ready-dev: requirements-dev.txt $(BIN)/.ready
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: setup ## Cut photos out; make a smaller net of the published one; train one: minutes on two CPU cores, no download
	rm -rf $(DEMO)
	$(BIN)/python -m u2slim.report.demo_photos out=$(DEMO)/photos
	@echo; echo "1. Cut photos out with a net that comes with the package:"
	$(BIN)/u2slim cut $(DEMO)/photos/shown -o $(DEMO)/first
	@echo; echo "2. Make a smaller net of the published one, by least squares on 16 photos, and prove it:"
	$(BIN)/python export.py model=lite_l init=pretrained init.folder=$(DEMO)/photos/learnt_from init.count=16 \
		init.lstsq.pixels=8000 init.lstsq.rounds=2 export.precision=packed export.images=$(DEMO)/photos/shown \
		export.output=$(DEMO)/small.onnx hydra.run.dir=$(DEMO)/export
	@echo; echo "3. Cut the same photos out with the published net and with the smaller one:"
	$(BIN)/u2slim cut $(DEMO)/photos/shown --net u2netp -o $(DEMO)/dense
	$(BIN)/u2slim cut $(DEMO)/photos/shown --net $(DEMO)/small.onnx -o $(DEMO)/small
	@echo; echo "4. Train a net of .7 MB for 200 steps, from random weights, on generated images:"
	$(BIN)/python train.py experiment=demo hydra.run.dir=$(DEMO)/train
	@echo; echo "5. Score all three, and draw what was made:"
	$(BIN)/python eval.py 'models=[u2netp,$(DEMO)/small.onnx,$(DEMO)/train/checkpoints/last.ckpt]' data=sample \
		stretch=true latency=0 report=true hydra.run.dir=$(DEMO)/eval
	$(BIN)/python -m u2slim.report.demo folder=$(DEMO)

train: setup ## Train: make train ARGS="model=dwsep init=pretrained data=duts data.root=DIR"
	$(BIN)/python train.py $(ARGS)

eval: setup ## Evaluate the newest checkpoint: make eval ARGS="data=ecssd data.root=DIR"
	$(BIN)/python eval.py checkpoint=last $(ARGS)

export: setup ## Export the newest checkpoint to ONNX in every precision: make export ARGS="checkpoint=lite-half"
	$(BIN)/python export.py checkpoint=last 'export.precision=[fp32,fp16,packed,fp16_compute,int8]' 'export.preprocess=[embedded,external]' $(ARGS)

# Photos without masks, such as DUTS-TR-Image.
PHOTOS ?= PHOTOS
# IS-Net; of the file that isnet-s was made of: src/u2slim/nets/README.md.
ISNET ?= isnet-general-use
nets: nets-lite nets-isnet ## Make the packed nets anew, bit for bit on one machine: make nets PHOTOS=DUTS-TR-Image ISNET=FILE (an hour)

nets-isnet: setup
	$(BIN)/python export.py model=isnet_s init=pretrained init.weights=$(ISNET) init.folder=$(PHOTOS) init.count=40 \
		init.lstsq.pixels=24000 init.lstsq.rounds=6 init.lstsq.keep=outputs/nets/isnet-s/kept export.precision=packed \
		export.count=1 export.output=outputs/nets/isnet-s.onnx hydra.run.dir=outputs/nets/isnet-s
	@ls -l outputs/nets/*.onnx

nets-lite: setup
	for size in l m s; do \
		$(BIN)/python export.py model=lite_$$size init=pretrained init.weights=u2netp init.folder=$(PHOTOS) init.count=96 \
			init.lstsq.pixels=80000 export.precision=packed export.output=outputs/nets/lite-$$size.onnx \
			hydra.run.dir=outputs/nets/lite-$$size || exit 1; \
	done
	@ls -l outputs/nets/*.onnx

test: setup-dev ## Run the quick tests
	$(PYTEST)

test-all: setup-dev ## Run all tests, the slow ones too
	$(PYTEST) -m "slow or not slow"

docs: setup-dev ## Build the documentation into dist/docs, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open dist/docs/index.html"

lint: setup-dev ## Check style, formatting, spelling, the length of sentences, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python docs/tools/words.py
	$(BIN)/mypy

format: setup-dev ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cpp: ## Build the C++ program against the system's OpenCV into build/cpp, without Python
	@command -v cmake >/dev/null && command -v c++ >/dev/null || { echo "make cpp needs: apt install cmake g++ libopencv-dev"; exit 1; }
	cmake -S cpp -B build/cpp || { echo "Without OpenCV: apt install libopencv-dev"; exit 1; }
	cmake --build build/cpp --parallel
	@echo "Built build/cpp/u2slim; to try it: build/cpp/u2slim photo.jpg -o results"

cpp-test: setup-dev ## Build the C++ program and test it beside Python
	cmake -S cpp -B build/cpp -DU2SLIM_PYTHON=$(CURDIR)/$(BIN)/python
	cmake --build build/cpp --parallel
	cd build/cpp && ctest --output-on-failure --no-tests=error

cpp-bundle: setup-dev ## Pack the C++ program with all that it needs into dist/; the first time it builds OpenCV, half an hour
	PYTHON=$(CURDIR)/$(BIN)/python cpp/bundle.sh

SECONDS ?= 600
cpp-fuzz: setup-dev ## Feed broken files to the C++ program: make cpp-fuzz SECONDS=600
	PYTHON=$(CURDIR)/$(BIN)/python cpp/fuzz.sh $(SECONDS)

# The net inside the page: a shipped one by name.
NET ?= lite-l
web: ## Build the page that cuts photos out in the browser into dist/web: make web NET=lite-s
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "make web needs Node.js from 20 on, and npm"; exit 1; }
	npm --prefix web ci --silent
	node web/build.mjs src/u2slim/nets/$(NET).onnx dist/web

# The program that makes files for LiteRT, in an environment of its own: docs/guides/phones.md.
ONNX2TF ?= onnx2tf
phones: ## Test what phones run beside torch, with the extras pnnx, litert and coreml: make phones ONNX2TF=PROGRAM
	U2SLIM_ONNX2TF=$(ONNX2TF) $(BIN)/python -m pytest -q -m "slow or not slow" \
		tests/export/test_phones.py tests/export/test_phone_operators.py

clean: ## Remove the environment, caches, builds and generated data (outputs/ and dist/ stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache data/sample data/sample_semantic build web/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
