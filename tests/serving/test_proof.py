import math

import pytest

from llama_factory.core.errors import VersionError
from llama_factory.serving.proof import pairs_to_measure, prove
from llama_factory.versions.proof import Proof, ProofRow


def proof(nlls=(0.2, 0.4, 0.3), base=(2.0, 3.0, 2.5)):
    rows = [ProofRow((1, 2), (3,), n, b) for n, b in zip(nlls, base, strict=True)]
    return Proof("v0007", tuple(rows))


@pytest.mark.parametrize("moved", [0.0, 0.05, -0.09])
def test_losses_near_those_of_the_round_pass(moved):
    prove([0.2 + moved, 0.4 + moved, 0.3 + moved], proof())


def test_the_base_models_answers_are_refused_with_both_numbers():
    with pytest.raises(VersionError, match=r"v0007.*base model's answers.*2\.500.*0\.300"):
        prove([2.0, 3.0, 2.5], proof())


def test_other_answers_are_refused():
    with pytest.raises(VersionError, match="not this version's answers"):
        prove([0.9, 0.9, 0.9], proof())


def test_a_version_near_its_base_is_told_from_it_as_far_as_number_formats_allow():
    near = proof(base=(0.28, 0.48, 0.38))
    prove([0.23, 0.43, 0.33], near)
    with pytest.raises(VersionError, match="base model's answers"):
        prove([0.28, 0.48, 0.38], near)


def test_a_version_like_its_base_passes_as_either():
    prove([0.21, 0.41, 0.31], proof(base=(0.21, 0.41, 0.31)))


def test_high_losses_may_differ_in_proportion():
    high = proof((8.0, 9.0, 10.0), (20.0, 20.0, 20.0))
    prove([8.4, 9.4, 10.4], high)
    with pytest.raises(VersionError):
        prove([8.6, 9.6, 10.6], high)


def test_weights_in_few_bits_may_differ_more():
    measured = [0.5, 0.7, 0.6]
    with pytest.raises(VersionError):
        prove(measured, proof())
    prove(measured, proof(), tolerance=0.4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused_with_a_proof_or_without(value):
    for each in (proof(), Proof("v0007")):
        with pytest.raises(VersionError, match="no numbers"):
            prove([value], each)


def test_a_version_whose_round_diverged_never_passes():
    with pytest.raises(VersionError):
        prove([0.2, 0.4, 0.3], proof(nlls=(math.nan, 0.4, 0.3)))


def test_without_a_proof_any_finite_loss_will_do():
    old = Proof("v0001")
    assert pairs_to_measure(old, lambda text: [5, 6, 7]) == [((5,), (6, 7))]
    prove([12.0], old)


def test_what_is_measured_is_what_was_stored():
    assert pairs_to_measure(proof(), lambda text: []) == [((1, 2), (3,))] * 3
