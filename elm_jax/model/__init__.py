"""T5 encoder-decoder in Flax, its loss, choice scoring and decoding.

Shape legend, used as name suffixes and einsum letters in this room:

    B batch   S input (encoder) position   T target (decoder) position
    D model width   H heads   K head width   F feed-forward width   V vocabulary
    L layers   C answer choices, or target rows of an input   N beams
"""
