"""The one place where markup is made: templates of ours, in which every value is escaped unless it is markup itself.

Jinja2 escapes what stands in ``page.html``; MarkupSafe, which is its escaping, does so in the pieces. Plain text that
is put where markup is expected is escaped and shows, so that a forgotten step is seen and runs nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import sha256

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from toolchain.deliver.report.page.style import read

__all__ = ["Markup", "breakable", "escape", "fill", "join", "page", "source"]


def fill(template: str, *values: object, **named: object) -> Markup:
    """Return a template with its values in it.

    Args:
        template: Markup of ours, a constant, with places as ``str.format`` has them.
        values: What stands there; escaped unless it is ``Markup``.
        named: The same, by name.
    """
    return Markup(template).format(*values, **named)


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Return parts one after the other; escaped unless they are ``Markup``."""
    return Markup(between).join(parts)


def breakable(text: object, at: str = "/") -> Markup:
    """Return a text that a browser may break after each ``at``."""
    return escape(text).replace(at, Markup(at) + Markup("<wbr>"))


@cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(read("page.html"))


def page(*, style: str, script: str, **values: object) -> str:
    """Return the whole page.

    Args:
        style: Ours, the only one that the page's policy allows.
        script: Likewise.
        values: The other places of ``page.html``.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template().render(policy=policy, style=Markup(style), script=Markup(script), **values)


def source(text: str) -> str:
    """Return the digest by which a Content-Security-Policy knows a script or a style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
