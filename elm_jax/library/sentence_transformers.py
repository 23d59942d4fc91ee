"""Any other model of sentence-transformers as an embedder, through an extra."""

import hashlib
import importlib
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.limits import native_files


class SentenceTransformer:
    """A model that sentence-transformers runs; a `types.Embedder`.

    The model is loaded by the first call of `embed`, not before.

    Args:
      model: A folder, or a name that sentence-transformers knows.
      max_length: Tokens of a text that count; None leaves the model's own.
      device: As torch names it; None lets sentence-transformers choose.
    """

    def __init__(
        self, model: str, *, max_length: int | None = None, device: str | None = None
    ) -> None:
        self._model, self._max_length, self._device = model, max_length, device
        self._loaded: Any = None
        self._name = ""

    @property
    def name(self) -> str:
        """What the index records: of a folder its name and content, not its place."""
        self._name = self._name or self._make_name()
        return self._name

    def _make_name(self) -> str:
        tail = "" if self._max_length is None else f"-{self._max_length}"
        folder = pathlib.Path(self._model)
        is_folder = folder.is_dir()
        model = f"{folder.name}-{_hash_files(folder)}" if is_folder else self._model
        return f"sentence-transformers:{model}{tail}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one vector per text, float32 [len(texts), width].

        Raises:
          MissingExtraError: sentence-transformers is not installed.
        """
        self._loaded = self._loaded or self._load()
        vectors = self._loaded.encode(list(texts), show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def check(self) -> None:
        """Raises LibraryError for a folder whose tokenizer.json crashes its reader."""
        path = pathlib.Path(self._model) / "tokenizer.json"
        if not path.is_file():
            return
        if problem := native_files.problem_of_tokenizer(path.read_bytes()):
            raise errors.LibraryError(
                found=f"{path} cannot be used: {problem}",
                expected="the file that the model was released with",
                do="Download the model again or name another folder",
            )

    def _load(self) -> Any:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise errors.MissingExtraError(
                found=f"no package sentence-transformers for model {self._model}",
                expected="the extra elm_jax[sentence-transformers]",
                do="Run `pip install 'elm_jax[sentence-transformers]'`, or use"
                " the embedder minilm, which needs no torch",
            )
        self.check()
        package = importlib.import_module("sentence_transformers")
        loaded = package.SentenceTransformer(self._model, device=self._device)
        if self._max_length is not None:
            loaded.max_seq_length = self._max_length
        return loaded


def _hash_files(folder: pathlib.Path) -> str:
    """Returns a hash of the names and content of all files below a folder.

    Which of them decide the vectors is the package's to know. Files whose name begins
    with a dot, such as a download's, are left out.
    """
    digest = hashlib.sha256()
    paths = (path for path in folder.rglob("*") if path.is_file())
    for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in paths):
        if not any(part.startswith(".") for part in name.split("/")):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:8]
