"""Damaged weights and settings of other programs: what is said, and nothing written.

Each table is of a file: what is changed in it, and what the message then tells.
"""

import dataclasses
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, torch_files
from elm_jax.model import t5
from elm_jax.peft import lora
from elm_jax.runs import convert, convert_experts, export, loaded, merge
from tests.checkpoints import huggingface_sample, peft_sample, sample

SHAPE = huggingface_sample.CONFIG
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small T5 as transformers saves it."""
    theirs = huggingface_sample.to_theirs(huggingface_sample.make_params())
    folder = tmp_path_factory.mktemp("hf") / "t5"
    return huggingface_sample.write_folder(folder, theirs)


@pytest.fixture
def model(source, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(source, tmp_path / "model")


def refuse_model(folder, told, tmp_path):
    """Imports a folder, which has to be refused with nothing written."""
    run = convert.ImportHuggingFace(
        model_dir=str(tmp_path / "out"),
        huggingface_path=str(folder),
        base_name="base",
        dtype="float32",
    )
    with pytest.raises(errors.CheckpointError, match=told):
        run.run()
    assert not [*(tmp_path / "out").glob("base*"), *(tmp_path / "out").glob(".base*")]


def change(path, changes):
    """Puts other values into a JSON file, or other text in its place."""
    if isinstance(changes, dict):
        changes = json.dumps(json.loads(path.read_text()) | changes)
    path.write_bytes(changes if isinstance(changes, bytes) else changes.encode())


CONFIGS = [
    ({"num_layers": 10**9}, "num_layers is 1000000000"),  # hf_config_layers.json
    ({"num_decoder_layers": 2 * 10**7}, "num_decoder_layers is 20000000"),
    ({"num_layers": 1000}, "tensors of .* do not fit: missing"),
    ({"d_model": 64.0}, "d_model is 64.0"),
    ({"num_heads": True}, "num_heads is True"),
    ({"d_ff": 0}, "d_ff is 0"),
    ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj is \['relu'\]"),
    ({"relative_attention_num_buckets": [32]}, r"num_buckets is \[32\]"),
    ({"relative_attention_max_distance": "128"}, "max_distance is '128'"),
    ({"relative_attention_num_buckets": 6}, "relpos_buckets = 6"),
    ({"architectures": 5}, "architectures is 5"),
    ({"model_type": {"t5": 1}}, "model_type is {'t5': 1}"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"\x1b[2J": 1}, r"unknown field \\x1b\[2J is 1"),
    ({"x" * 100_000: "y" * 100_000}, "unknown field x{56}.* is 'y{56}"),
    ('{"d_model": NaN}', "NaN, which is not finite"),
    ('{"model_type": "t5", "model_type": "mt5"}', "the key 'model_type' 2 times"),
    (DEEP, "more than 64 lists"),
    ('{"model_type": "t5"', "no JSON"),
    ("\0\0\0\0", "no JSON"),
    (b"\xff\xfe", "no UTF-8"),
    ("[1]", "a list instead of an object"),
]


@pytest.mark.parametrize(("changes", "told"), CONFIGS, ids=lambda v: f"{v}"[:40])
def test_a_damaged_config_of_a_model_is_refused(model, tmp_path, changes, told):
    change(model / "config.json", changes)
    refuse_model(model, told, tmp_path)


def test_a_byte_order_mark_does_no_harm(model, tmp_path):
    path = model / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    convert.ImportHuggingFace(
        model_dir=str(tmp_path), huggingface_path=str(model), base_name="base"
    ).run()
    assert (tmp_path / "base" / "manifest.json").is_file()


INDEXES = [
    ({"weight_map": ["a"]}, r"weight_map is \['a'\]"),
    ({"weight_map": {"shared.weight": 5}}, "weight_map is {'shared.weight': 5}"),
    ({"weight_map": {"shared.weight": "../x.safetensors"}}, r"names '\.\./x"),
    ({"weight_map": {"shared.weight": "/etc/passwd"}}, "names '/etc/passwd'"),
    ({"weight_map": {"shared.weight": ".."}}, r"names '\.\.'"),
    ({"weight_map": {"shared.weight": ""}}, "names ''"),
    ({"weight_map": {"shared.weight": "gone"}}, "not there: gone"),
    ({"weight_map": {}}, "names 0 files"),
    ("{}", "weight_map is missing"),
    (DEEP, "more than 64 lists"),
]


@pytest.mark.parametrize(("changes", "told"), INDEXES, ids=lambda v: f"{v}"[:40])
def test_a_damaged_index_of_shards_is_refused(model, tmp_path, changes, told):
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text("{}")
    change(index, changes)
    refuse_model(model, told, tmp_path)


def test_a_tensor_in_another_file_than_the_index_says_or_in_two_is_refused(
    model, tmp_path
):
    names = list(safetensors.numpy.load_file(model / "model.safetensors"))
    first, other = model / "model-1.safetensors", model / "model-2.safetensors"
    (model / "model.safetensors").rename(first)
    safetensors.numpy.save_file({"x": np.ones(1, np.float32)}, other)
    weight_map = dict.fromkeys(names, first.name) | {"x": other.name}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: other.name}}))
    refuse_model(model, f"differ in: {names[0]}", tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    safetensors.numpy.save_file(
        {n: np.ones(1, np.float32) for n in ("x", names[0])}, other
    )
    refuse_model(model, f"tensors in several files: {names[0]}", tmp_path)


def header(text, data=b""):
    """A safetensors file of a header."""
    text = text.encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = '{"shared.weight": {"dtype": "%s", "shape": %s, "data_offsets": [0, %d]}}'
SAFETENSORS = [
    (b"", "cannot be read"),
    ((2**62).to_bytes(8, "little") + b"{}", "cannot be read"),
    (header(ONE % ("F32", f"[{2**40}, {2**20}]", 2**62)), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 31), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 64), "cannot be read"),
    (header(ONE % ("F99", "[2, 4]", 32), b"\0" * 32), "cannot be read"),
    (header(DEEP), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 32), "no lm_head.weight"),
    (header(ONE % ("F32", "[8]", 32), b"\0" * 32), "no matrix shared.weight"),
]


@pytest.mark.parametrize(("content", "told"), SAFETENSORS, ids=lambda v: f"{v}"[:40])
def test_a_damaged_file_of_tensors_is_refused(model, tmp_path, content, told):
    (model / "model.safetensors").write_bytes(content)
    refuse_model(model, told, tmp_path)


@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus inf"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_with_a_number_that_is_not_finite_is_no_base(
    model, tmp_path, bad, dtype
):
    path = model / "model.safetensors"
    loaded = {
        name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for name, array in safetensors.numpy.load_file(path).items()
    }
    loaded["encoder.final_layer_norm.weight"][1] = bad
    safetensors.numpy.save_file(loaded, path)
    refuse_model(model, r"1 of 6 in encoder/encoder_norm/scale", tmp_path)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "bool"])
def test_weights_of_dtypes_that_are_no_numbers_of_a_model_are_refused(
    model, tmp_path, dtype
):
    theirs = {"float8_e4m3fn": "F8_E4M3", "int8": "I8", "bool": "BOOL"}[dtype]
    text = ONE % (theirs, "[6]", 6)
    content = safetensors.numpy.load_file(model / "model.safetensors")
    name = "encoder.final_layer_norm.weight"
    del content[name]
    safetensors.numpy.save_file(content, model / "model-1.safetensors")
    (model / "model-2.safetensors").write_bytes(
        header(text.replace("shared.weight", name), b"\1" * 6)
    )
    (model / "model.safetensors").unlink()
    weight_map = dict.fromkeys(content, "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map | {name: "model-2.safetensors"}})
    )
    refuse_model(model, f"encoder/encoder_norm/scale of dtypes .*{dtype}", tmp_path)


# Adapters of PEFT.


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with the base of PEFT's adapters, and one that was imported."""
    path = tmp_path_factory.mktemp("work")
    params = peft_sample.base(t5.param_shapes(t5.T5(peft_sample.CONFIG)))
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(path / "base", params, info)
    importing(path, peft_sample.FOLDER / "lora").run()
    return path


def importing(work, source):
    return convert_experts.ImportPeft(
        model_dir=str(work),
        source_paths=str(source),
        initial_checkpoint_path="{MODEL_DIR}/base",
    )


ADAPTERS = [
    ({"lora_alpha": 0}, "lora_alpha = 0"),
    ({"lora_alpha": -8}, "lora_alpha = -8"),
    ({"lora_alpha": None}, "lora_alpha = None"),
    ({"lora_alpha": "8"}, "lora_alpha = '8'"),
    ({"lora_alpha": 1e308}, r"lora_alpha = 1e\+308"),
    ({"alpha_pattern": {"q": 1e308}}, r"alpha_pattern = {'q': 1e\+308}"),
    ({"alpha_pattern": ["q"]}, "alpha_pattern"),
    ({"use_rslora": "false"}, "use_rslora = 'false'"),
    ({"use_rslora": 1}, "use_rslora = 1"),
    ({"lora_dropout": None}, "lora_dropout = None"),
    ({"lora_dropout": 1.5}, "lora_dropout = 1.5"),
    ({"r": 8.0}, "r = 8.0"),
    ({"r": True}, "r = True"),
    ({"r": 10**12}, "r = 1000000000000"),
    ({"r": 5}, r"lora_A\.weight \(4, 16\) instead of \(5, 16\)"),
    ({"r": 2**30}, r"instead of \(1073741824, 16\)"),
    ({"rank_pattern": {"q": 2.0}}, "rank_pattern"),
    ({"target_modules": 5}, "target_modules = 5"),
    ({"target_modules": [5]}, r"target_modules = \[5\]"),
    ({"target_modules": {"q": 1}}, "target_modules = {'q': 1}"),
    ({"target_modules": "("}, "cannot be read: .*unterminated"),
    ({"exclude_modules": 5}, "exclude_modules = 5"),
    ({"layers_to_transform": "1"}, "layers_to_transform = '1'"),
    ({"layers_to_transform": [0], "layers_pattern": "("}, "cannot be read"),
    ({"init_lora_weights": ["eva"]}, r"init_lora_weights = \['eva'\]"),
    ({"peft_type": ["LORA"]}, r"peft_type \['LORA'\]"),
    ({"\x1b[2J": 1}, r"\\x1b\[2J = 1"),
    ('{"r": Infinity}', "Infinity, which is not finite"),
    (DEEP, "more than 64 lists"),
    ("[]", "a list instead of an object"),
    (b"\xff", "no UTF-8"),
    ("", "no JSON"),
]


@pytest.mark.parametrize(("changes", "told"), ADAPTERS, ids=lambda v: f"{v}"[:40])
def test_damaged_settings_of_an_adapter_are_refused(work, tmp_path, changes, told):
    folder = shutil.copytree(peft_sample.FOLDER / "lora", tmp_path / "damaged")
    change(folder / "adapter_config.json", changes)
    with pytest.raises(errors.CheckpointError, match=told):
        importing(work, folder).run()
    assert not (work / "imported" / "damaged").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_an_adapter_with_a_number_that_is_not_finite_is_refused(
    work, tmp_path, kind, bad
):
    folder = shutil.copytree(peft_sample.FOLDER / kind, tmp_path / "damaged")
    path = folder / "adapter_model.safetensors"
    loaded = safetensors.numpy.load_file(path)
    name = sorted(loaded)[0]
    loaded[name].flat[-1] = bad
    safetensors.numpy.save_file(loaded, path)
    with pytest.raises(errors.CheckpointError, match=f"1 of [0-9]+ in {name}"):
        importing(work, folder).run()
    loaded[name].flat[-1] = 0
    loaded[name] = loaded[name].astype(np.int32)
    safetensors.numpy.save_file(loaded, path)
    with pytest.raises(
        errors.CheckpointError, match="(lora_A.weight|ia3_l) of dtypes float32, int32"
    ):
        importing(work, folder).run()
    assert not (work / "imported" / "damaged").exists()


# Experts of ours, with manifests that somebody changed.


@pytest.fixture
def expert(work, tmp_path):
    """A copy of the imported expert."""
    return shutil.copytree(work / "imported" / "lora", tmp_path / "expert")


def folding(work, expert):
    return convert_experts.FoldExpert(
        model_dir=str(expert.parent),
        expert_path=str(expert),
        initial_checkpoint_path=str(work / "base"),
    )


def merging(work, expert):
    return merge.Merge(
        model_dir=str(expert.parent),
        experts=(str(expert),),
        expert_name="merged",
        initial_checkpoint_path=str(work / "base"),
    )


SPECS = [
    ({"rank": 5}, r"lora_a \(2, 16, 4\) instead of \(2, 16, 5\)"),
    ({"rank": 2**30}, r"instead of \(2, 16, 1073741824\)"),
    ({"rank": 10**12}, "rank = 1000000000000"),
    ({"rank": 4.0}, "rank = 4.0"),
    ({"alpha": 1e308}, r"alpha = 1e\+308"),
    ({"alpha": 0}, "alpha = 0"),
    ({"rank_stabilized": "false"}, "rank_stabilized = 'false'"),
    ({"dropout": None}, "dropout = None"),
    ({"targets": "("}, r"targets = '\('"),
    ({"kind": ["lora"]}, r"adapter kind \('lora',\)"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize("make", [folding, merging])
@pytest.mark.parametrize(("changes", "told"), SPECS, ids=lambda v: f"{v}"[:40])
def test_an_expert_is_not_folded_or_merged_by_a_spec_that_is_not_its_tensors(
    work, expert, make, changes, told
):
    adapter = manifest.read_manifest(expert).adapter | changes
    sample.edit_manifest(expert, adapter=adapter)
    for act in (make(work, expert).plan, make(work, expert).run):
        with pytest.raises(errors.CheckpointError, match=told):
            act()
    assert {p.name for p in expert.parent.iterdir()} == {expert.name}


def test_what_becomes_infinite_by_folding_is_not_saved(work, expert):
    """A scale that is allowed, and matrices that are finite: their product is not."""
    params, info = experts.load_expert(expert)
    large = {
        name: np.full_like(leaf, 1e30) for name, leaf in trees.flatten(params).items()
    }
    shutil.rmtree(expert)
    experts.save_expert(expert, trees.unflatten(large), info)
    with pytest.raises(errors.CheckpointError, match="NaN or infinite"):
        folding(work, expert).run()
    assert not (expert.parent / "folded").exists() or not any(
        (expert.parent / "folded").iterdir()
    )


@pytest.fixture
def infinite(work, tmp_path, monkeypatch):
    """An expert and a base with an infinite number, as release 0.1 would save them."""
    monkeypatch.setattr(experts.tensors, "check_finite", lambda arrays, of: None)
    params, info = experts.load_expert(work / "imported" / "lora")
    leaves = trees.flatten(params)
    leaves[next(iter(leaves))].flat[0] = np.inf
    experts.save_expert(tmp_path / "expert", trees.unflatten(leaves), info)
    whole = loaded.Base.load(work / "base")
    leaves = trees.flatten(whole.params)
    leaves["decoder/decoder_norm/scale"] = np.full(16, np.nan, np.float32)
    broken = trees.unflatten(leaves)
    changed = dataclasses.replace(
        whole.manifest, base_fingerprint=trees.fingerprint(broken)
    )
    experts.save_expert(tmp_path / "broken", broken, changed)
    monkeypatch.undo()
    return tmp_path


def exports(folder):
    here = {"model_dir": str(folder)}
    base = here | {"expert_path": str(folder / "broken")}
    yield export.ExportHuggingFace(**base), "decoder.final_layer_norm.weight"
    for file_format in ("orbax", "legacy"):
        yield export.ExportT5X(**base, file_format=file_format), "decoder_norm/scale"
    yield convert_experts.ExportPeft(**here, experts=str(folder / "expert")), "lora_"


def test_what_is_not_finite_is_neither_exported_nor_merged_nor_folded(infinite, work):
    for run, told in exports(infinite):
        with pytest.raises(errors.CheckpointError, match=f"NaN or infinite.*{told}"):
            run.run()
    for make in (folding, merging):
        with pytest.raises(errors.ElmError, match="NaN or infinite|not finite"):
            make(work, infinite / "expert").run()
    files = {p.relative_to(infinite) for p in infinite.rglob("*") if p.is_file()}
    assert {path.parts[0] for path in files} == {"expert", "broken"}


def test_the_scale_of_a_spec_is_one_that_float32_holds():
    with pytest.raises(errors.ConfigError, match=r"alpha: float, above 0 and below"):
        lora.Lora(alpha=1e308)


# Files of torch.


def torch_values():
    torch = pytest.importorskip("torch")
    one = torch.ones(2, 4)
    yield "float8", one.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"
    yield (
        "quantised",
        torch.quantize_per_tensor(one, 0.1, 0, torch.qint8),
        "torch.qint8",
    )
    yield "sparse", one.to_sparse(), "a torch.sparse_coo tensor"
    yield "csr", one.to_sparse_csr(), "a torch.sparse_csr tensor"
    yield "meta", one.to("meta"), "meta"
    yield "complex", one.to(torch.complex64), "torch.complex64"
    yield "bool", one.bool(), "torch.bool"
    yield "claims", torch.ones(1).expand(10**6, 10**6), "bytes of which the file holds"
    yield "nested", torch.nested.nested_tensor([one, one]), "nested|cannot be read"
    yield "text", "x", "a str"
    yield "list", [one], "a list"


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_torch_that_numpy_has_not_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    for name, value, told in torch_values():
        path = tmp_path / f"{name}.bin"
        torch.save({"shared.weight": value, "other": torch.ones(2)}, path)
        with pytest.raises(errors.CheckpointError, match=told):
            torch_files.open_file(path)
        torch.save(value, path)
        with pytest.raises(errors.CheckpointError, match=told):
            torch_files.read_tensor(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x02."])
def test_what_torch_cannot_read_is_refused(tmp_path, content):
    pytest.importorskip("torch")
    path = pathlib.Path(tmp_path / "x.bin")
    path.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        torch_files.open_file(path)


def test_names_that_are_no_texts_and_packed_members_are_refused(tmp_path):
    import zipfile

    torch = pytest.importorskip("torch")
    path = tmp_path / "x.bin"
    torch.save({5: torch.ones(2)}, path)
    with pytest.raises(errors.CheckpointError, match="5 is no name"):
        torch_files.open_file(path)
    packed = tmp_path / "packed.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", 8) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(errors.CheckpointError, match="is compressed"):
        torch_files.open_file(packed)
