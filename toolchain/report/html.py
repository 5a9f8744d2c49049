"""Safe HTML by construction: text is escaped unless a function of this file made it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from toolchain.report.number import EVIDENCE, LABELS, Number, shown

_VOID = ("meta", "link", "br")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """An element. Children that are no `Html` are escaped, attributes always; `class_` is `class`, `data_x` `data-x`.
    An attribute that is None is left out.
    """
    words = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    opening = f"<{name}{''.join(words)}>"
    return Html(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Children one after the other."""
    return Html("".join(c if isinstance(c, Html) else html.escape(c, quote=False) for c in children))


def number(found: Number | None, *, label: bool = False) -> Html:
    """A figure with its evidence: in attributes, as a tip, and with `label` as a word behind it."""
    if found is None:
        return tag("span", "-", class_="none")
    parts = [EVIDENCE.get(found.evidence, found.evidence)]
    parts += [f"from {found.source}"] if found.source else []
    parts += [f"stack {found.stack}"] if found.stack else []
    parts += ["unstable: the machine was noisy"] if found.unstable else []
    words = LABELS.get(found.evidence, found.evidence) + (", unstable" if found.unstable else "")
    return tag(
        "data",
        shown(found).replace(" ", "\u00a0"),
        *([tag("small", f" {words}")] if label else []),
        value="" if found.value is None else repr(found.value),
        data_evidence=found.evidence,
        data_stack=found.stack or None,
        title="; ".join(parts),
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", kind: str = ""
) -> Html:
    """A table. Columns whose name ends in "|" are aligned right; columns that are empty everywhere are left out.

    On a narrow screen each row becomes a block of its own, each cell with its column's name (page.css).

    Args:
        kind: CSS class, beside the usual look.
    """
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    names = [columns[i] for i in kept]
    sides = ["right" if name.endswith("|") else None for name in names]
    head = tag(
        "tr", *(tag("th", n.rstrip("|"), scope="col", class_=s) for n, s in zip(names, sides, strict=True))
    )
    body = [
        tag(
            "tr",
            *(
                tag("td", row[i], class_=side, data_label=name.rstrip("|") or None)
                for i, name, side in zip(kept, names, sides, strict=True)
            ),
        )
        for row in rows
    ]
    return tag(
        "table",
        *([tag("caption", caption)] if caption else []),
        tag("thead", head),
        tag("tbody", *body),
        class_=kind or None,
    )


def prose(text: str) -> Html:
    """Words in which commands stand between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick alone
        return join([text])
    return join(tag("code", piece) if index % 2 else piece for index, piece in enumerate(pieces))


def more(summary: str, *children: str) -> Html:
    """What can be unfolded; it works without JavaScript, and is open in print."""
    return tag("details", tag("summary", summary), *children)
