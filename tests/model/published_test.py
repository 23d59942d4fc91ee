"""Published models: each gin file's shape has the published number of parameters.

The numbers are of transformers' T5ForConditionalGeneration and
MT5ForConditionalGeneration on the meta device, built from the published config.json
of each model (t5-small, google/t5-v1_1-xl, google/mt5-xxl, google/byt5-small, ...);
for models that do not tie their embedding, the output layer is counted. Vocabularies
are as published: 32128 and 250112 are padded, 384 holds bytes and sentinels.
"""

import pathlib

import gin
import pytest

from elm_jax import trees
from elm_jax.model import config, t5

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = "gin/parts/models"

T5_1_1 = {
    "small": 76_961_152,
    "base": 247_577_856,
    "large": 783_150_080,
    "xl": 2_849_757_184,
    "xxl": 11_135_332_352,
}
MT5 = {
    "small": 300_176_768,
    "base": 582_401_280,
    "large": 1_229_581_312,
    "xl": 3_742_619_648,
    "xxl": 12_921_057_280,
}
PUBLISHED = {
    "t5_1_0": {
        "small": 60_506_624,
        "base": 222_903_552,
        "large": 737_668_096,
        "3b": 2_851_598_336,
        "11b": 11_307_321_344,
    },
    "t5_1_1": T5_1_1,
    "t5_1_1_lm_adapted": T5_1_1,
    "t0": {"3b": T5_1_1["xl"], "11b": T5_1_1["xxl"]},
    "flan_t5": T5_1_1,
    "mt5": MT5,
    "mt0": MT5,
    "byt5": {
        "small": 299_637_760,
        "base": 581_653_248,
        "large": 1_228_183_552,
        "xl": 3_737_801_728,
        "xxl": 12_906_899_328,
    },
}
NAMES = {
    f"{family}_{size}": count
    for family, sizes in PUBLISHED.items()
    for size, count in sizes.items()
}


def read_shape(name):
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_file(str(ROOT / FOLDER / f"{name}.gin"))
    shape = gin.get_configurable(config.T5Config)()
    gin.clear_config()
    return shape


def test_every_model_file_is_a_published_model():
    assert {path.stem for path in (ROOT / FOLDER).glob("*.gin")} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_the_published_number_of_parameters(name):
    shapes = t5.param_shapes(t5.T5(read_shape(name)))
    assert trees.count_params(shapes) == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_ties_its_embedding_and_gates_as_its_family_does(name):
    shape = read_shape(name)
    is_first = name.startswith("t5_1_0")
    assert shape.logits_via_embedding == is_first
    assert shape.mlp_activations == (("relu",) if is_first else ("gelu", "linear"))
    assert (shape.relpos_buckets, shape.relpos_max_distance) == (32, 128)
