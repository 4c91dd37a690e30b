"""The OpenAPI description holds for generated requests: no 5xx, nothing that it does not say."""

from pathlib import Path

import pytest

from llama_factory.serving.api import create_app
from llama_factory.serving.description import describe
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace
from tests.serving.running import make_engine, serving

KEY = "key-of-the-test"


@pytest.mark.slow
def test_generated_requests_get_what_the_description_says(
    workspace: Workspace, tiny_model: Path
) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis import checks

    described = describe(create_app(workspace, ServingSettings(), make_engine(tiny_model)))
    schema = schemathesis.openapi.from_dict(described)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == len(described["paths"])
    wanted = [
        checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    with serving(workspace, make_engine(tiny_model), api_key=KEY) as client:
        base = str(client.base_url.join("/")).rstrip("/")
        for operation in operations:
            cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

            @settings(
                max_examples=40,
                deadline=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(cases)
            def holds(case: schemathesis.Case) -> None:
                headers = {"Authorization": f"Bearer {KEY}"}
                case.call_and_validate(base_url=base, headers=headers, checks=wanted)

            holds()
