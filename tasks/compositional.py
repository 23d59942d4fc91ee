"""The five compositional tasks: sum up an English article in another language.

One instruction asks for two skills that two experts have: to summarise (XSum) and to
translate from English (Tatoeba). Languages: Korean, Spanish, Chinese, Japanese and
French. The paper judges on 300 rows of XL-Sum each; rows here are XL-Sum's as CrossSum
pairs them, an English article with the other language's summary of the same story.
`tables/compositional.json` is the table; prompts are in our own words.

The mixture `elm_compositional` holds all five; the split `eval_300` has the rows to
judge on. They are drawn from CrossSum's training part, which nothing here trains on:
for some languages its test part has fewer than 300.
"""

from elm_jax.data import tasks
from tasks import written

TASKS = tuple(written.tasks_of("compositional"))
MIXTURE = tasks.Mixture("elm_compositional", tuple(task.name for task in TASKS))

tasks.registry.add(*TASKS, MIXTURE)
