"""The command class of all verbs."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperOption

from calibrant.errors import ConfigError
from calibrant.files import refuse_further_process

SHARED = ("tune", "restore")
"""What several processes do together; ``restore`` itself says what of it they do not."""


class Verb(TyperCommand):
    """A command that refuses an option given twice, where only the last value would count, and further processes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer; :class:`ConfigError` for an option that takes one value and was given several."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag) and given.count(option) > 1:
                raise ConfigError(
                    asked=f"{option.opts[0]} given {given.count(option)} times",
                    found="only the last value would count",
                    todo="give it once",
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """As typer; :class:`ConfigError` in a further process of a run of several, where the command is not made for them."""
        if ctx.info_name not in SHARED:
            refuse_further_process(f"calibrant {ctx.info_name}")
        return super().invoke(ctx)
