"""What users read is plain technical English: no phrase of the list, no long sentence (CONTRIBUTING.md, "Words")."""

import ast
import inspect
import re

import click
import pytest

from tests.conftest import ROOT
from xpmlp.commands import cli

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "xpmlp").rglob("*.py"))]

TO_SHORTEN = {
    *(f"xpmlp/estimators/{name}.py" for name in ("base", "fitting", "stacks")),
    *(f"xpmlp/kernels/{name}.py" for name in ("loops", "replay", "trace")),
    *(f"xpmlp/{name}.py" for name in ("backends/base", "benchmark/checking", "training/steps", "training/threads")),
}
"""Modules that are expected to fail. One that passes fails here: take it out."""

MOST_WORDS, MOST_IN_CLAUSE = 29, 25
"""Of a sentence, and of its parts between colons and semicolons."""

AVOIDED = (
    "anew", "told by", "is told", "bears", "subtracted of", "looked for in", "everything that is drawn",
    "schedule's greatest", "swallows packets", "network nothing", "in the measure", "whosever", "thereof", "hereby",
    "utilize", "in order to", "please note", "simply", "obviously", "as well as", "and/or", "make use of",
    "to the bit", "the very", "that which", "whoever", "one's own", "go on", "goes on",
)  # fmt: skip
"""Phrases that a native engineer would not write, or that say nothing."""

NOT_PROSE = re.compile(
    r"""
      (?s:^```.*?^```$)                     # code in a page
    | (?<=::)\n(?:[ ].*\n|\n)*              # and in a docstring
    | ^(?:\||\#|!\[|>>>|-+$).*$             # a table's row, a heading, a picture, a doctest, an underline
    | ^\S.*[ ]:[ ].*$|^\w+(?:,[ ]+\w+)*$    # a parameter's name and type, a section, the errors raised
    | (?<=\])\([^)]*\)                      # a link's target
    | \([^()]*\b(?:19|20)\d\d\b[^()]*\)     # a reference, which has a year
    """,
    re.M | re.X,
)


def long_sentences(text):
    """Return the sentences of a page or a docstring that have too many words; a span of code is one word."""
    text = re.sub(r"(`+)[^`]+\1", "code", NOT_PROSE.sub("", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) )", text):
        for sentence in re.split(r"(?<=[.?!])[)\"*]*\s+", " ".join(paragraph.split())):
            lengths = [len(re.findall(r"\w[\w.'’-]*", clause)) for clause in re.split(r"[:;]\s", sentence)]
            if sum(lengths) > MOST_WORDS or max(lengths) > MOST_IN_CLAUSE:
                yield sentence


def phrases(text):
    """Return the avoided phrases in a text."""
    return [phrase for phrase in AVOIDED if re.search(rf"\b{re.escape(phrase)}\b", " ".join(text.lower().split()))]


def docstrings(module):
    """Return the docstrings of a module and of all that it defines, attributes included."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return [inspect.cleandoc(node.value) for node in nodes if isinstance(getattr(node, "value", None), str)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_in_short_plain_sentences(page):
    text = page.read_text(encoding="utf-8")
    assert list(long_sentences(text)) == []
    assert phrases(text.partition("## Words")[0]) == []  # a table of CONTRIBUTING.md has them


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_are_in_short_plain_sentences(module, request):
    if module in TO_SHORTEN:
        request.applymarker(pytest.mark.xfail)
    texts = docstrings(module)
    assert [sentence for text in texts for sentence in long_sentences(text)] == []
    assert phrases(" ".join(texts)) == []


@pytest.mark.parametrize("command", [cli, *cli.commands.values()], ids=lambda command: command.name)
def test_help_is_in_short_plain_sentences(command):
    assert phrases(command.get_help(click.Context(command, info_name="xpmlp"))) == []
    assert "..." not in " ".join(cli.get_help(click.Context(cli)).split("Commands:")[1:]), "a one-line help is cut"
    texts = [command.help or "", *(option.help or "" for option in command.params if isinstance(option, click.Option))]
    assert [sentence for text in texts for sentence in long_sentences(text)] == []


def test_a_long_sentence_and_a_phrase_are_found():
    clause = " ".join(["word"] * 15)
    long, two = f"{clause}: {clause}.", f"{clause}. {clause}."
    assert list(long_sentences(f"| Short |\n\n`Short`. {long} Short.\n\n```sh\n{long}\n```")) == [long]
    assert list(long_sentences(f"{two}\n\n| {long} |\n\n`{long}` is code (Guo 2017, {long})\n\nX : {long}")) == []
    assert phrases("It is\nsimply done anew.") == ["anew", "simply"]
