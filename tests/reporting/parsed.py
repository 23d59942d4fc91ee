"""Pages as tags, attributes and texts."""

import html.parser

VOID = {"meta", "link", "path", "input"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text; refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = set(), [], [], []
        self.scripts = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        is_script = self.open and self.open[-1] == "script"
        (self.scripts if is_script else self.texts).append(data)
