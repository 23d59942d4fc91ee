"""Six things that one does with experts, with transformers and PEFT and with elm_jax.

    python tests/benchmarks/hugging_face_lines.py [FOLDER]

Prints one JSON line: lines of code for each, here and there, signatures and imports
left out. With a folder, and torch, transformers, peft, datasets and accelerate
installed, the functions of transformers and PEFT run there on a T5 of random weights,
but for the one that retrieves, which needs the weights of an embedder.
"""

import ast
import collections
import inspect
import json
import sys
import textwrap

import elm_jax


def load_there(base, expert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(base)
    return tokenizer, peft.PeftModel.from_pretrained(model, expert).eval()


def load_here(base, expert):
    return elm_jax.Model(elm_jax.Base.load(base), elm_jax.Expert.load(expert))


def score_there(tokenizer, model, text, answers):
    inputs = tokenizer([text] * len(answers), return_tensors="pt")
    labels = tokenizer(answers, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(**inputs, labels=labels).logits.log_softmax(-1)
    scores = logits.gather(-1, labels[..., None])[..., 0]
    return (scores * (labels != tokenizer.pad_token_id)).sum(-1).tolist()


def score_here(model, text, answers):
    return model.score(text, answers)


def generate_there(tokenizer, model, text):
    ids = model.generate(**tokenizer(text, return_tensors="pt"))
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def generate_here(model, text):
    return model.generate(text)


def retrieve_there(embedder, texts_of_experts, texts):
    keys = {name: embedder.encode(rows) for name, rows in texts_of_experts.items()}
    votes = collections.Counter(
        max(keys, key=lambda name: (keys[name] @ query).max())
        for query in embedder.encode(texts)
    )
    return votes.most_common(1)[0][0]


def retrieve_here(folder, texts):
    return elm_jax.Library(folder).retrieve(texts).expert


def merge_there(model, second, folder):
    model.load_adapter(second, "second")
    names = ["default", "second"]
    model.add_weighted_adapter(names, [0.5, 0.5], "both", combination_type="cat")
    model.save_pretrained(folder, selected_adapters=["both"])


def merge_here(experts, base, folder):
    elm_jax.merge(experts, base, name="both").save(folder)


def train_there(tokenizer, model, rows, folder):
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM"))
    data = datasets.Dataset.from_list(rows).map(
        lambda row: tokenizer(row["inputs"], text_target=row["targets"]),
        remove_columns=list(rows[0]),
    )
    options = transformers.Seq2SeqTrainingArguments(
        folder, max_steps=50, use_cpu=True, report_to="none"
    )
    collate = transformers.DataCollatorForSeq2Seq(tokenizer, model)
    transformers.Seq2SeqTrainer(
        model, options, train_dataset=data, data_collator=collate
    ).train()
    model.save_pretrained(folder)


def train_here(base, rows, folder):
    elm_jax.train(base, rows, name="mine", steps=50).save(folder)


TASKS = ("load", "score", "generate", "retrieve", "merge", "train")


def count_lines(function):
    """Returns the lines of a function's body, as the formatter has them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body
    return body[-1].end_lineno - body[0].lineno + 1


def run_there(folder):
    """Does all but retrieval with a T5 of random weights; numbers mean nothing."""
    letters = {chr(97 + n): n for n in range(26)} | {"</s>": 26, "<pad>": 27, "?": 28}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="?"
    ).save_pretrained(f"{folder}/base")
    config = transformers.T5Config(
        **{"vocab_size": 32, "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16},
        **{"num_layers": 1, "pad_token_id": 27, "eos_token_id": 26},
        decoder_start_token_id=27,
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.save_pretrained(f"{folder}/base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{folder}/base")
    rows = [{"inputs": "a b", "targets": "c"}, {"inputs": "d", "targets": "e f"}]
    train_there(tokenizer, model, rows, f"{folder}/mine")
    tokenizer, model = load_there(f"{folder}/base", f"{folder}/mine")
    print(score_there(tokenizer, model, "a b", ["c", "e f"]))
    print(generate_there(tokenizer, model, "a b"))
    merge_there(model, f"{folder}/mine", f"{folder}/merged")


def main():
    if sys.argv[1:]:
        run_there(sys.argv[1])
    counts = {}
    for task in TASKS:
        counts[task] = {
            place: count_lines(globals()[f"{task}_{place}"])
            for place in ("here", "there")
        }
    print(json.dumps({"benchmark": "lines", **counts}))


if __name__ == "__main__":
    if sys.argv[1:]:
        import datasets
        import peft
        import tokenizers
        import torch
        import transformers
    main()
