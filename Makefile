# Each target sets up what it needs in .venv, `space` in .venv-space; the second time that takes a moment.
PYTHON ?= python3
BIN := .venv/bin
RELEASE ?= $(MODEL_ID)
DATA ?= data
SETS ?= isic9 isic2017 ham10000
PYTEST_ARGS ?=

.PHONY: demo model test test-unit test-all test-oldest-hub test-timm space lint docs clean

# Re-installs only when the list of dependencies changes.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# What serves and no more, in the versions that the Space has on the Hub: half of .venv.
.venv-space/ready: space/requirements.txt
	$(PYTHON) -m venv .venv-space
	.venv-space/bin/python -m pip install --quiet --requirement space/requirements.txt
	@touch $@

demo: .venv/ready ## fine-tune on generated lesions and print what to do next
	$(BIN)/python train_hf.py --dataset_name demo --output_dir runs/demo --image_size 96 --num_train_epochs 6

model: .venv/ready ## train the bundled release from SETS in DATA: an hour; called again, it goes on
	$(BIN)/python train_hf.py --dataset_name $(addprefix $(DATA)/,$(SETS)) \
		--model_name_or_path efficientnet-lite2 --num_train_epochs 10 --store_dtype float16 --onnx serving \
		--output_dir runs/model
	# Called again when all is done, the release would be compared with itself.
	test ! -d space/model || diff -rq space/model runs/model/release > /dev/null || \
		$(BIN)/python -m dermalert compare space/model runs/model/release --record \
			$(if $(ACCEPT),--accept-regression "$(ACCEPT)")
	rm -rf space/model
	cp -R runs/model/release space/model

test-unit: .venv/ready ## a minute: no process, training, browser or Hub
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not long and not integration" $(PYTEST_ARGS)

test: .venv/ready ## all but the long tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not long" $(PYTEST_ARGS)

test-all: .venv/ready ## the long tests too
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The oldest client of the Hub that pyproject.toml allows, before all else that .venv holds. Without the tests of data
# sets: it has their cards checked at huggingface.co, whatever HF_ENDPOINT says.
OLDEST := $(shell sed -n 's/.*"huggingface_hub>=\([0-9.]*\),.*/\1/p' pyproject.toml)
test-oldest-hub: .venv/ready ## the tests of what talks to the Hub, with the oldest client of it
	$(PYTHON) -m venv .venv-oldest
	$(BIN)/python -c "import site; print(site.getsitepackages()[0], '$(CURDIR)', '$(CURDIR)/space', sep='\n')" \
		> $$(.venv-oldest/bin/python -c "import site; print(site.getsitepackages()[0])")/newer.pth
	.venv-oldest/bin/python -m pip install --quiet --ignore-installed --no-deps huggingface_hub==$(OLDEST).*
	.venv-oldest/bin/python -c "import huggingface_hub as hub; assert hub.__version__.startswith('$(OLDEST)'), hub"
	.venv-oldest/bin/python -m pytest -n auto --dist loadfile -m "not long" \
		tests/hub tests/publishing/test_models.py tests/publishing/test_spaces.py tests/data/test_hub_datasets.py \
		tests/training/test_checkpoint_sync.py $(PYTEST_ARGS)

# timm needs torchvision, and there is none for a torch without CUDA: both are installed anew, 5 GB, before all of .venv.
test-timm: .venv/ready ## the tests of base models of timm
	$(PYTHON) -m venv .venv-timm
	$(BIN)/python -c "import site; print(site.getsitepackages()[0], '$(CURDIR)', '$(CURDIR)/space', sep='\n')" \
		> $$(.venv-timm/bin/python -c "import site; print(site.getsitepackages()[0])")/zz-rest.pth
	.venv-timm/bin/python -m pip install --quiet --ignore-installed timm torch torchvision
	.venv-timm/bin/python -m pytest tests/training/test_timm.py $(PYTEST_ARGS)

space: .venv-space/ready ## open the Space locally with RELEASE, by default the bundled one
	MODEL_ID=$(RELEASE) .venv-space/bin/python space/app.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python scripts/check_docs.py

docs: .venv/ready ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean: ## all that the other targets made
	rm -rf .venv .venv-oldest .venv-space .venv-timm build runs site .pytest_cache .ruff_cache *.egg-info
