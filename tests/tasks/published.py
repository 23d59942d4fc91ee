"""Files of published forms, and what their rows are held against."""

import json

from elm_jax.data import rendering, serving, tasks
from tasks import own, table_rows


def lines(*records):
    return "".join(f"{json.dumps(record)}\n" for record in records)


def check_rows(name, source, split, texts, expected, data_dir):
    """Writes the files, reads them as the dataset, and asks our own prompt for it."""
    for paths, text in zip(source.files[split], texts, strict=True):
        path = data_dir / paths.split("|")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    rows = list(source.rows(split, data_dir=str(data_dir)))
    assert rows[0] | expected == rows[0]
    fields = {f for p in table_rows.prompts() if p.dataset == name for f in p.fields}
    assert fields <= {key.replace("-", "_") for key in rows[0]}
    for task in (task for task in own.TASKS if task.dataset == name):
        served = serving.serve(task.source, split, data_dir=str(data_dir))
        assert served.kind == "files"
        template = task.template.load("")
        rendered = rendering.render_rows(served.rows(), split=split, template=template)
        assert len(rendered) > 0
        assert not [reason for reason in rendered.dropped if reason.startswith("bad")]
        assert isinstance(task, tasks.Task)
