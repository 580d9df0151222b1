"""The drawn pictures: how a call flows through a Wrapper, and how a plan is applied. SVG as text.

Colours are classes of docs/_static/kwrap.css, so that a picture is in the theme's, light or dark.
"""

from collections.abc import Sequence
from html import escape

__all__ = ["draw_all"]

Point = tuple[float, float]


def draw_all() -> dict[str, str]:
    """Return the pictures by file name."""
    return {"call-flow.svg": _call_flow(), "plan-applied.svg": _plan_applied()}


def _picture(width: int, height: int, title: str, caption: str, *parts: str) -> str:
    return "\n".join(
        [
            f'<figure class="picture"><svg viewBox="0 0 {width} {height}" width="{width}" role="img"',
            f' aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
            *parts,
            f"</svg><figcaption>{escape(caption)}</figcaption></figure>",
        ]
    )


def _box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'


def _text(x: float, y: float, text: str, kind: str = "label", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _named(x: float, y: float, width: float, name: str, note: str, kind: str = "box") -> str:
    """Return a box with a name in the middle and a note below it."""
    middle = x + width / 2
    return "\n".join(
        [
            _box(x, y, width, 54, kind),
            _text(middle, y + 23, name, "code", "middle"),
            _text(middle, y + 42, note, "note", "middle"),
        ]
    )


def _arrow(points: Sequence[Point]) -> str:
    """Return a line through the points, with a head at the last."""
    (x0, y0), (x, y) = points[-2:]
    length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
    dx, dy = (x - x0) / length, (y - y0) / length
    back = (x - 9 * dx, y - 9 * dy)
    head = [(x, y), (back[0] - 4 * dy, back[1] + 4 * dx), (back[0] + 4 * dy, back[1] - 4 * dx)]
    line = " ".join(f"{px:g},{py:g}" for px, py in [*points[:-1], back])
    return (
        f'<polyline class="line" points="{line}"/>'
        f'<polygon class="head" points="{" ".join(f"{px:g},{py:g}" for px, py in head)}"/>'
    )


def _call_flow() -> str:
    return _picture(
        800,
        500,
        "A call goes through the hooks' call methods from the first to the last, and to the layer, which reads its "
        "weights through their parametrize methods; after an optimizer's update the constrain methods run.",
        "Left, a call: in through the hooks' call, first to last, and out in reverse. Right, a weight: what the layer "
        "reads has been through parametrize, what the optimizer stores through constrain.",
        _box(20, 70, 410, 350, "area"),
        _text(36, 94, "Wrapper, in the layer's place"),
        _box(50, 110, 350, 280),
        _text(66, 134, "first hook.call", "code"),
        _box(80, 160, 290, 200),
        _text(96, 184, "second hook.call", "code"),
        _box(110, 220, 230, 90, "layer"),
        _text(225, 262, "layer.call", "code", "middle"),
        _text(225, 284, "the layer, unchanged", "note", "middle"),
        _arrow([(265, 40), (265, 110)]),
        _text(277, 30, "inputs, mask, training, ...", "note", "middle"),
        _arrow([(265, 122), (265, 160)]),
        _text(276, 147, "call_next(...)", "note"),
        _arrow([(265, 172), (265, 220)]),
        _text(276, 207, "call_next(...)", "note"),
        _arrow([(180, 310), (180, 360)]),
        _arrow([(180, 364), (180, 390)]),
        _arrow([(180, 394), (180, 450)]),
        _text(180, 470, "outputs", "note", "middle"),
        # the weight as read
        _named(490, 90, 270, "second hook.parametrize", "gradients flow through both"),
        _named(490, 180, 270, "first hook.parametrize", "in list order"),
        _named(490, 290, 270, "variable", "the stored weight, in its own dtype", "layer"),
        _arrow([(625, 290), (625, 234)]),
        _arrow([(625, 180), (625, 144)]),
        _arrow([(490, 117), (455, 117), (455, 255), (340, 255)]),
        _text(490, 78, "the weight as the layer reads it", "note"),
        # the weight as stored
        _named(490, 400, 270, "own constraint, then constrain", "each hook's, in list order"),
        _arrow([(625, 480), (625, 454)]),
        _arrow([(625, 400), (625, 344)]),
        _text(637, 484, "optimizer's update", "note"),
        _text(637, 378, "stored", "note"),
    )


def _plan_applied() -> str:
    names = [
        ("rules", "hook.at(where)"),
        ("paths", "all layers of the model"),
        ("plan", "entries; skipped, and why"),
    ]
    steps = [
        ("build Wrappers", "hooks' variables, state"),
        ("try calls", "symbolically, as recorded"),
        ("replace layers", "wherever they are held"),
        ("follow", "traces, flags, optimizer"),
    ]
    parts = [
        _box(10, 40, 780, 210, "area"),
        _text(26, 64, "kwrap.plan(model, ...): nothing changes"),
        _named(30, 80, 200, *names[0]),
        _named(30, 170, 200, *names[1]),
        _named(300, 125, 210, *names[2], kind="layer"),
        _named(580, 80, 190, "kwrap's checks", "types, targets, names"),
        _named(580, 170, 190, "plugins' checks", "kwrap_check_plan"),
        _arrow([(230, 107), (300, 140)]),
        _arrow([(230, 197), (300, 164)]),
        _arrow([(510, 140), (580, 107)]),
        _arrow([(510, 164), (580, 197)]),
        _box(10, 290, 780, 130, "area"),
        _text(26, 314, "plan.apply(): an error on the way undoes all of it"),
        _arrow([(405, 250), (405, 290)]),
        _text(417, 275, "no problem found", "note"),
        '<line class="line dashed" x1="399" y1="326" x2="399" y2="412"/>',
        _text(390, 410, "model untouched", "note", "end"),
        _text(408, 410, "model changed, in place", "note"),
    ]
    for index, (name, note) in enumerate(steps):
        x = 26 + 190 * index
        parts.append(_named(x, 332, 176, name, note))
        if index:
            parts.append(_arrow([(x - 14, 359), (x, 359)]))
    return _picture(
        800,
        440,
        "Rules and paths make a plan, which is checked; applying it builds Wrappers, tries their calls, replaces "
        "layers, and lets compiled functions, flags and the optimizer follow.",
        "Everything is checked, built and tried before the model changes.",
        *parts,
    )
