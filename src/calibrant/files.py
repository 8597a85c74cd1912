"""Writing that never leaves half a file behind."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from calibrant.errors import ConfigError, OutputError

RUN_FILE, LOCK_FILE = "run.json", ".lock"
SPECIAL = "a device or a pipe, and it would be replaced by a file"


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write to a temporary name in the same folder, flush to disk, rename. Text is UTF-8.

    A file that is there keeps its permissions; of a link the file that it points to is written.

    Raises
    ------
    OutputError : no space, no permission, a folder, device or pipe in the way; the old file, if any, is untouched.
    """
    path = Path(path)
    try:
        place = Path(os.path.realpath(path))
        if _is_special(place):
            raise OSError(SPECIAL)
        temporary = place.parent / f".{place.name}.{secrets.token_hex(4)}"
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                os.chmod(temporary, stat.S_IMODE(place.stat().st_mode))
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            asked=f"write {path}", found=str(error), todo="free space or choose another place, then run again"
        ) from error
    return path


def printable(text: str) -> str:
    """The text with a question mark for what is not a character, as in a file name that is not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def write_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON, atomically. NaN and infinity are refused: a number that is not known is ``None``."""
    return write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file.

    Raises
    ------
    ConfigError : no such file, or no JSON in it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(asked=f"JSON from {path}", found=str(error), todo="name a readable JSON file") from error


def write_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines, atomically."""
    return write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """What :func:`write_lines` wrote."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def claim_folder(folder: str | Path, identity: Mapping[str, Any], kind: str) -> None:
    """Write ``run.json`` into a new folder, or check that the run in it is this very one, so that it may go on.

    Raises
    ------
    ConfigError : the folder holds a run with other settings, or files of something else.
    """
    folder = Path(folder)
    known, wanted = folder / RUN_FILE, json.loads(json.dumps(identity))
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if RUN_FILE in names:
        before = _run_in(known, kind)
        differs = [name for name in wanted if before.get(name) != wanted[name]]
        if differs:
            raise ConfigError(
                asked=f"a {kind} in {folder}",
                found=f"it holds another one, with a different {', '.join(differs)}",
                todo="choose another folder, or delete that one",
            )
    elif (folder.exists() and not folder.is_dir()) or any(not name.startswith(f".{RUN_FILE}.") for name in names):
        raise ConfigError(
            asked=f"a {kind} in {folder}",
            found="it holds something that is not a run",
            todo="choose a new or empty folder",
        )
    else:
        write_json(known, wanted)


def _run_in(path: Path, kind: str) -> dict[str, Any]:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise ConfigError(
            asked=f"a {kind} in {path.parent}",
            found=f"it holds something that is not a run: its {path.name} holds none of ours",
            todo="choose a new or empty folder",
        )
    return before


def refuse_unwritable(path: str | Path, *, inputs: Iterable[str | Path | None] = ()) -> None:
    """Before hours are spent: raise :class:`OutputError` where ``path`` cannot be written, or is one of ``inputs``."""
    path = Path(path)
    try:
        fault = "a folder of that name" if path.is_dir() else SPECIAL if _is_special(path) else None
        if any(path.exists() and Path(one).exists() and path.samefile(one) for one in inputs if one is not None):
            fault = "it is what this reads, and would be lost"
        above = next((folder for folder in path.absolute().parents if folder.exists()), path.absolute())
    except OSError as error:  # a name that is too long
        raise OutputError(asked=f"write {path}", found=str(error), todo="choose another name") from error
    if fault is None and not (above.is_dir() and os.access(above, os.W_OK)):
        fault = f"no permission to write in {above}" if above.is_dir() else f"{above} is not a folder"
    if fault is not None:
        raise OutputError(asked=f"write {path}", found=fault, todo="choose another place")


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def alone(folder: str | Path, kind: str, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Work in a folder that no other process works in as long as the block lasts; a process that dies lets go.

    Where another process holds the folder, ``waiting`` is called and the end of that process awaited; without ``waiting`` that
    is an error. Of the processes that share one run (torchrun), the first holds the folder for all; where it
    is refused, the launcher ends the others. On a file system without
    locks nothing is held.

    Raises
    ------
    ConfigError : another process is at work there.
    """
    if _is_further_process():
        yield
        return
    lock = FileLock(Path(folder) / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if waiting is None:
            raise ConfigError(
                asked=f"a {kind} in {folder}",
                found="another process is at work there",
                todo="wait for its end and run the same command again, or choose another folder",
            ) from None
        waiting()
        lock.acquire()
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()


def refuse_further_process(what: str) -> None:
    """Raise :class:`ConfigError` in all but the first of the processes that share one run (torchrun): each would do the whole
    of it once more. The launcher then ends the first.
    """
    if _is_further_process():
        raise ConfigError(
            asked=f"{what} in each of {os.environ['WORLD_SIZE']} processes",
            found="each would do the whole of it: only a tuning shares its work",
            todo="start one process; `calibrant tune`, and `restore` without preference pairs and prompts, take several",
        )


def _is_further_process() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and int(os.environ.get("RANK") or 0) > 0
