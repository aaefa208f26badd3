"""A choice between words on the command line."""

from typing import Any

import click

from xpmlp.errors import expected_one_of


class Choice(click.Choice):  # type: ignore[type-arg]  # generic in newer versions alone
    """click's, which offers the nearest word in the place of a misspelt one."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the word, or refuse it."""
        if value not in self.choices:
            self.fail(f"{value!r}: {expected_one_of(value, map(str, self.choices))}", parameter, context)
        return super().convert(value, parameter, context)
