import pytest

from elm_jax import errors
from elm_jax.model.decoding_spec import BeamSearch, Sampling


@pytest.mark.parametrize(
    ("spec", "fields", "named"),
    [
        (BeamSearch, {"num_beams": 0}, "num_beams"),
        (BeamSearch, {"num_beams": 2.0}, "num_beams"),
        (BeamSearch, {"rules": "fairseq"}, "rules"),
        (BeamSearch, {"length_penalty": float("nan")}, "length_penalty"),
        (BeamSearch, {"early_stopping": "always"}, "early_stopping"),
        (BeamSearch, {"early_stopping": 1}, "early_stopping"),
        (BeamSearch, {"rules": "t5x"}, "early_stopping"),
        (BeamSearch, {"rules": "t5x", "length_penalty": -1.0}, "length_penalty"),
        (Sampling, {"temperature": 0.0}, "temperature"),
        (Sampling, {"top_k": -1}, "top_k"),
        (Sampling, {"top_p": 0.0}, "top_p"),
        (Sampling, {"top_p": 1.1}, "top_p"),
        (Sampling, {"seed": -1}, "seed"),
        (Sampling, {"seed": 2**32}, "seed"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(spec, fields, named):
    with pytest.raises(errors.ConfigError, match=f"{named} = "):
        spec(**fields)


def test_one_beam_is_greedy_under_the_rules_of_hugging_face_only():
    assert BeamSearch(num_beams=1).is_greedy
    assert not BeamSearch(num_beams=2).is_greedy
    t5x = BeamSearch(num_beams=1, rules="t5x", early_stopping="never")
    assert not t5x.is_greedy
