"""The five compositional tasks: sum up an English article in another language.

One instruction asks for two skills that two experts have: to summarise (XSum) and to
translate from English (Tatoeba). Languages: Korean, Spanish, Chinese, Japanese and
French. The paper judges on 300 rows of XL-Sum each; rows here are XL-Sum's as CrossSum
pairs them, an English article with the other language's summary of the same story.
`tables/compositional.json` is the table; prompts are in our own words.

The mixture `elm_compositional` holds all five; the split `eval_300` has the rows to
judge on. They are drawn from CrossSum's training part, which nothing here trains on:
for some languages its test part has fewer than 300.

The skills' own tasks are the mixtures `elm_translation` (five prompts of
`tables/translation.json`) and `xsum`; the paper trains experts of mT5 on 100,000
translations each, and on 10,000 rows of `xsum_DOC_write_summary_of_above`.
"""

from elm_jax.data import tasks
from tasks import written

TASKS = tuple(written.tasks_of("compositional"))
TRANSLATIONS = tuple(written.tasks_of("translation"))
MIXTURE = tasks.Mixture("elm_compositional", tuple(task.name for task in TASKS))
TRANSLATION_MIXTURE = tasks.Mixture(
    "elm_translation", tuple(task.name for task in TRANSLATIONS), max_examples=100_000
)

tasks.registry.add(*TASKS, *TRANSLATIONS, MIXTURE, TRANSLATION_MIXTURE)
