"""What users read is plain technical English: no phrase of the list, no long sentence (CONTRIBUTING.md, "Words")."""

import re

import click
import pytest

from tests.conftest import ROOT
from xpmlp.commands import cli

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LISTS = [ROOT / "CHANGELOG.md", ROOT / "BENCHMARKS.md"]
MOST_WORDS = 25

AVOIDED = (
    "anew", "told by", "is told", "bears", "subtracted of", "looked for in", "everything that is drawn",
    "schedule's greatest", "swallows packets", "network nothing", "in the measure", "whosever", "thereof", "hereby",
    "utilize", "in order to", "please note", "simply", "obviously", "as well as", "and/or", "make use of",
)  # fmt: skip
"""Phrases that a native engineer would not write, or that say nothing."""


def prose(text):
    """Return the sentences of a page, without code, tables, headings, links' targets and pictures."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"^(\||#).*$|^!\[.*$", "", text, flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) )", text)
    for paragraph in paragraphs:
        plain = " ".join(paragraph.split()).replace("…", "")
        yield from re.split(r"(?<=[.?!:;])\s+(?=[A-Z`*\[(\"])|(?<=[:;])\s", plain)


def commands():
    return [cli, *cli.commands.values()]


@pytest.mark.parametrize("page", [*PAGES, *LISTS], ids=lambda page: page.name)
def test_a_page_has_none_of_the_phrases(page):
    text = " ".join(page.read_text(encoding="utf-8").lower().split())
    if page.name == "CONTRIBUTING.md":  # which has them in its table
        text = text.partition("## words")[0]
    assert [phrase for phrase in AVOIDED if re.search(rf"\b{re.escape(phrase)}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_short_sentences(page):
    long = [s for s in prose(page.read_text(encoding="utf-8")) if len(re.findall(r"\w[\w.'’-]*", s)) > MOST_WORDS]
    assert long == []


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_help_is_short_and_has_none_of_the_phrases(command):
    context = click.Context(command, info_name="xpmlp")
    text = " ".join(command.get_help(context).lower().split())
    assert [phrase for phrase in AVOIDED if re.search(rf"\b{re.escape(phrase)}\b", text)] == []
    assert "..." not in " ".join(cli.get_help(click.Context(cli)).split("Commands:")[1:]), "a one-line help is cut"
    texts = [command.help or "", *(option.help or "" for option in command.params if isinstance(option, click.Option))]
    long = [s for text in texts for s in prose(text) if len(re.findall(r"\w[\w.'’-]*", s)) > MOST_WORDS]
    assert long == []
