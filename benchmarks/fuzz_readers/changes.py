"""Changes of good inputs that know their structure: of trees (JSON, YAML), of text, of bytes, and of files."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Texts that some reader may trust too much; ``OUTSIDE`` stands for a folder beside the case's.
TEXTS = (
    "", " ", "a" * 300, "x" * 70_000, "\x00", "a\x00b", "\ud800", "\u202egpj.exe", "\x1b[2J\x1b]0;t\x07", "[/b]",
    "[bold red]x[/]", "<img src=x onerror=alert(1)>", '"><img src=x onerror=alert(1)>', "</script><img src=x "
    "onerror=alert(1)>", "=HYPERLINK(1)", "+1+1", "@SUM(1)", "-2", "../../outside/secret.txt", "OUTSIDE/secret.txt",
    "../outside/secret.safetensors", "../../../outside", "../../../../outside/secret.txt",
    "~nosuchuser/x", "/dev/zero", "/proc/self/environ", "%s%n", "{0.__class__}",
    "$(touch x)", "a/b", ".", "..", "con", "\n", "a\nb", "été", "\U0001d54f" * 40, "0" * 5000, "1e400", "null", "NaN",
    "1_0", "0x10", "2026-13-45", "!!int ''", "scratch:bert-99999x64", "scratch:bert-1x99999968",
    "package:evil_installed.sub/m",
    "evil.C", "org--name", "file:///etc/passwd", "http://127.0.0.1:9/x", "*" * 60, "(a+)+$", "a" * 40 + "!",
)  # fmt: skip

#: Numbers at the ends of what types hold.
NUMBERS = (
    0, -1, 1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, 10**30, 0.0, -0.0, 0.5, 1e-300,
    1e308, float("inf"), float("-inf"), float("nan"), 1_000_000, 4096,
)  # fmt: skip


def hostile(rng: random.Random) -> Any:
    """Return a value of any type."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind < 7:
        return rng.choice(NUMBERS)
    if kind == 7:
        return rng.choice((None, True, False))
    if kind == 8:
        return rng.choice(([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "a", None], ["x"] * 2000))
    return nested(rng.choice((20, 500, 5000)), rng.random() < 0.5)


def nested(depth: int, mapping: bool) -> Any:
    """Return brackets in brackets."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every ``(container, key)`` of a tree."""
    every, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        for key in keys:
            every.append((node, key))
            waiting.append(node[key])
    return every


def tree(rng: random.Random, value: Any) -> Any:
    """Return a copy of a tree with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        every = places(value)
        if not every or rng.random() < 0.01:
            return hostile(rng)
        # A long list of numbers would take all changes: half of them go to places near the root.
        node, key = rng.choice(every[: max(8, len(every) // 20)] if rng.random() < 0.5 else every)
        _change(rng, node, key, every)
    return value


def _change(rng: random.Random, node: Any, key: Any, every: list[tuple[Any, Any]]) -> None:
    old = node[key]
    what = rng.randrange(12)
    if what < 5:
        node[key] = hostile(rng)
    elif what == 5:
        del node[key]
    elif what == 6 and isinstance(node, dict):
        node[str(rng.choice(TEXTS))] = node.pop(key)
    elif what == 7 and isinstance(node, dict):
        node[rng.choice(("unknown", "auto_map", "quantization_config", "attn_implementation", *TEXTS))] = hostile(rng)
    elif what == 8:
        node[key] = str(old) if not isinstance(old, str) else [old]
    elif what == 9 and isinstance(old, (int, float)):
        node[key] = old * rng.choice((-1, 1000, 10**9, 0.5))
    elif what == 10 and isinstance(old, list) and old:
        node[key] = rng.choice((old * 50, old[: len(old) // 2], old[::-1], [*old, old[0]]))
    else:
        other, name = rng.choice(every)
        node[key] = copy.deepcopy(other[name])


def dumped(rng: random.Random, value: Any) -> bytes:
    """Return JSON of a tree, now and then written in an odd way."""
    try:
        text = json.dumps(value, indent=rng.choice((None, 2)))
    except RecursionError:
        text = "[" * 5000 + "]" * 5000
    what = rng.randrange(60)
    if what == 0 and text.startswith("{") and len(text) > 2:
        text = "{" + ", ".join(f'"k{i}": {i}' for i in range(20_000)) + ", " + text[1:]
    elif what == 1 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every key twice
    elif what == 2:
        return b"\xef\xbb\xbf" + text.encode()
    elif what == 3:
        return text.encode("utf-16")
    elif what == 4:
        text = text.replace("1", "1" * 5000, 1)
    return raw(rng, text.encode()) if what > 54 else text.encode()


def raw(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with a few of them changed, cut, or more of them."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not data:
            data += rng.randbytes(8)
        at, what = rng.randrange(len(data)), rng.randrange(8)
        if what < 3:
            data[at] = rng.choice((0, 0xFF, 0x80, data[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        elif what == 3:
            del data[at:]
        elif what == 4:
            del data[at : at + rng.randrange(1, 64)]
        elif what == 5:
            data[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif what == 6:
            data[at : at + 8] = rng.choice((2**63 - 1, 2**32, 0, 2**64 - 1)).to_bytes(8, "little")
        else:
            end = min(len(data), at + rng.randrange(1, 256))
            data[at:at] = data[at:end]
    return bytes(data)


#: Pieces that mean something in YAML.
_YAML = (
    "&a ", "*a", "<<: *a\n", "!!int ''", "!!python/object/apply:os.system [': > \"$FUZZ_TRACE/yaml\"']", "!!float x",
    "!!binary '='", "!!timestamp 2026-13-45", "!!set {a}", "!!omap [a: 1]", "? [a]\n: b\n", "\t", "- ", ": ", "{", "}",
    "[", "]", "'", '"', "|\n", ">-\n", "%YAML 9.9\n", "---\n", "...\n", "# ", "~", "0o8", "1__2", ".inf", "12:30:45",
    "\u2028", "\x85", "\ufeff", "[" * 500, "{a: " * 500, "!<tag:evil>", "!!null x", "<<: [1]\n", "=",
)  # fmt: skip


def text(rng: random.Random, content: str) -> str:
    """Return a text with pieces put in, taken out or exchanged at the borders of its words."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        borders = [at for at, letter in enumerate(content) if not letter.isalnum()] or [0]
        at = rng.choice(borders)
        what = rng.randrange(6)
        if what < 2:
            content = content[:at] + rng.choice(_YAML) + content[at:]
        elif what == 2:
            content = content[:at] + str(rng.choice(TEXTS + NUMBERS)) + content[at:]
        elif what == 3:
            content = content[:at] + content[at + rng.randrange(1, 30) :]
        elif what == 4:
            other = rng.choice(borders)
            content = content[:at] + content[other : other + rng.randrange(1, 60)] + content[at:]
        else:
            end = next((border for border in borders if border > at), len(content))
            content = content[: at + 1] + str(rng.choice(TEXTS + NUMBERS)) + content[end:]
    return content


def bomb(rng: random.Random) -> str:
    """Return aliases that multiply."""
    levels, width = rng.choice(((6, 10), (9, 9), (30, 2)))
    first = f"&a0 [{', '.join('x' * width)}]"
    return f"[{first}, " + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)) + "]"


def _linked(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(3 << 30)


def file(rng: random.Random, path: Path, *, named: bool = False) -> None:
    """Put something else where a regular file was: a link, a pipe, a folder, nothing, or three gigabytes of holes.

    Args:
        rng: Decides what.
        path: The file.
        named: Whether the user names it; then it is no link, because a link that its user names is followed.
    """
    outside = "secret.safetensors" if path.suffix == ".safetensors" else "secret.txt"
    links = [_linked(f"../../outside/{outside}"), _linked("/etc/passwd"), _linked("/dev/zero"), _linked("/dev/stdin")]
    others: list[Callable[[Path], object]] = [
        _linked(path.name), _linked("nowhere"), _fifo, _folder, Path.unlink, _sparse, lambda p: p.chmod(0),
        lambda p: p.write_bytes(b""),
    ]  # fmt: skip
    rng.choice([*others, *([] if named else links)])(path)
