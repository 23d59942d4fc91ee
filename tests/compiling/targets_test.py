"""Names of accelerators, as clouds write them."""

import pytest

from elm_jax import errors
from elm_jax.compiling import targets, topology


@pytest.mark.parametrize(
    ("name", "topology_name", "num_devices", "num_hosts"),
    [
        ("v4-8", "v4:2x2x1", 4, 1),
        ("v4-32", "v4:2x2x4", 16, 4),
        ("v5litepod-1", "v5e:1x1", 1, 1),
        ("v5litepod-4", "v5e:2x2", 4, 1),
        ("v5litepod-8", "v5e:2x4", 8, 1),
        ("v5e-16", "v5e:4x4", 16, 4),
        ("v5p-8", "v5p:2x2x1", 4, 1),
        ("v5p-128", "v5p:4x4x4", 64, 16),
        ("v6e-256", "v6e:16x16", 256, 64),
        ("h100", "1x1x1", 1, 1),
        ("H100:8", "1x1x8", 8, 1),
        ("a100", "1x1x1", 1, 1),
        ("a100-40gb", "1x1x1", 1, 1),
        ("h200:4", "1x1x4", 4, 1),
        ("b200", "1x1x1", 1, 1),
    ],
)
def test_a_name_stands_for_devices(name, topology_name, num_devices, num_hosts):
    target = targets.find(name)
    assert target.topology == topology_name
    assert (target.num_devices, target.num_hosts) == (num_devices, num_hosts)


@pytest.mark.parametrize(
    ("name", "card", "gigabytes"),
    [
        ("a100", "NVIDIA A100-SXM4-80GB", 85),
        ("a100-80gb", "NVIDIA A100-SXM4-80GB", 85),
        ("a100-40gb", "NVIDIA A100-SXM4-40GB", 42),
        ("h100", "NVIDIA H100 80GB HBM3", 85),
        ("h200", "NVIDIA H200 141GB HBM3e", 151),
        ("b200", "NVIDIA B200", 192),
    ],
)
def test_a_name_of_a_card_stands_for_what_its_driver_calls_it(name, card, gigabytes):
    target = targets.find(name)
    described = targets.CARDS[target.chip]
    assert described.description == card
    assert round(described.memory_bytes / 1e9) == gigabytes
    assert targets.of_kind(card) == targets.find(target.chip)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("v5litepod-5", "v5litepod-4"),
        ("v5p-4", "v5p-8"),
        ("h10", "h100"),
        ("h100:9", "h100"),
        ("v5litepod-512", "v5litepod-"),
    ],
)
def test_a_name_that_no_cloud_has_is_told_with_what_is_near(name, near):
    with pytest.raises(errors.ConfigError, match=f"{name}.*\n.*\n.*{near}"):
        targets.find(name)


def test_programs_get_the_share_of_a_gpu_that_jax_takes(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    usual = targets.find("h100").memory_bytes
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    more = targets.find("h100").memory_bytes
    whole = targets.CARDS["h100"].memory_bytes
    assert (usual, more) == (int(0.75 * whole), int(0.9 * whole))


def test_larger_slices_are_of_the_same_kind():
    names = [each.name for each in targets.larger(targets.find("v5litepod-64"))]
    assert names == ["v5litepod-128", "v5litepod-256"]
    assert [each.name for each in targets.larger(targets.find("h100:2"))] == [
        *("h100:4", "h100:8")
    ]


def test_a_host_of_a_slice_is_a_target_of_its_own():
    host = targets.find("v5litepod-16").one_host
    assert (host.topology, host.num_devices) == ("v5e:2x2", 4)
    assert targets.find("h100:8").one_host.num_devices == 8


def test_a_package_that_is_missing_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("v5p-8", "compile_tpu"), ("b200", "compile_gpu")):
        with pytest.raises(errors.MissingExtraError, match=rf"elm_jax\[{extra}\]"):
            topology.check_installed(targets.find(name))


def test_a_card_is_described_as_xla_reads_it():
    description = topology.describe_card(targets.CARDS["a100-40gb"])
    assert "core_count: 108" in description
    assert "cuda_compute_capability { major: 8 }" in description
    assert 'device_description_str: "NVIDIA A100-SXM4-40GB"' in description
