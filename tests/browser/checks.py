"""Checks for every page in every state: axe-core finds nothing serious, and all texts can be read.

axe-core comes from npm, in the version and with the hash of axe/package-lock.json, and is kept in the cache folder.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page

from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.packages import install_npm

_PINS: Final = Path(__file__).parent / "axe"
_SERIOUS: Final = ("serious", "critical")

# Without `preload: false`, axe-core fetches style sheets. A browser refuses to fetch files, and logs this on the
# console.
_VIOLATIONS: Final = """async () =>
  (await axe.run(document, {resultTypes: ["violations"], preload: false})).violations"""
_LOOKS: Final = 100
_BETWEEN_LOOKS: Final = 50  # milliseconds
_CUT_OFF: Final = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const style = getComputedStyle(one);
  if (one.matches(".unseen, .bar, svg *") || !one.checkVisibility()) return false;  // nor what a closed part hides
  const hides = (axis) => ["hidden", "clip"].includes(style[`overflow${axis}`]);
  const isCut = hides("X") && one.scrollWidth > one.clientWidth + 1;
  const isShort = hides("Y") && one.scrollHeight > one.clientHeight + 1;
  return (isCut || isShort) && !one.nextElementSibling?.matches("button:not([hidden])");
}).map((one) => one.outerHTML.slice(0, 120))"""
_STICKING_OUT: Final = """() => {
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const edge = document.documentElement.clientWidth;
  const scrolls = (one) => one && (/auto|scroll/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
  const sticksOut = (one) => one.getBoundingClientRect().right > edge + 1 && !scrolls(one.parentElement);
  const found = wide ? [...document.querySelectorAll("body *")].filter(sticksOut) : [];
  return found.map((one) => one.outerHTML.slice(0, 120));
}"""
_OUTSIDE_OF_CARDS: Final = """() => [...document.querySelectorAll(".scroll, .card, .conclusion, .tile")].flatMap(
  (card) => [...card.querySelectorAll("*")].filter((one) => {
    const [inner, outer] = [one.getBoundingClientRect(), card.getBoundingClientRect()];
    return inner.width && (inner.right > outer.right + 1 || inner.left < outer.left - 1);
  })).map((one) => one.outerHTML.slice(0, 100))"""
_TOUCHING_LABELS: Final = """() => [...document.querySelectorAll("main svg")].flatMap((picture) => {
  const boxes = [...picture.querySelectorAll("text")].map((one) => one.getBoundingClientRect());
  const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return boxes.flatMap((a, n) => boxes.slice(n + 1).filter((b) => touch(a, b)).map((b) => [a.x, a.y, b.x, b.y]));
})"""
# A text that begins with a letter of a script from right to left must run from right to left.
_WRONG_DIRECTION: Final = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const wrong = [];
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!/^[^\p{L}]*[\u0590-\u08ff]/u.test(walker.currentNode.data)) continue;
    if (one.closest("option, title, style, script")) continue;
    const style = getComputedStyle(one);
    if (style.direction !== "rtl" && style.unicodeBidi !== "plaintext") wrong.push(one.outerHTML.slice(0, 120));
  }
  return wrong;
}"""
_FOCUSABLE: Final = """() => [...document.querySelectorAll(
  "a[href], button, input, textarea, select, summary, [tabindex='0']")].filter((one) =>
   !one.disabled && one.checkVisibility({visibilityProperty: true})).map((one, n) => (one.dataset.stop = n))"""
_FOCUSED: Final = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  const x = Math.min(Math.max(box.left + box.width / 2, 1), innerWidth - 1);
  const covering = document.elementFromPoint(x, Math.min(Math.max(box.top + 2, 1), innerHeight - 1));
  return {
    stop: Number(one.dataset.stop ?? -1),
    markup: one.outerHTML.slice(0, 120),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
    seen: box.bottom > 0 && box.top < innerHeight && !(covering?.closest("header") && !one.closest("header")),
  };
}"""


@cache
def _axe() -> str:
    """Return the source of axe-core. Raises StepError."""
    place = cache_root() / f"axe-{key_of(_PINS / 'package-lock.json')}"
    folder = kept(place, lambda place: install_npm(_PINS, place, print, "axe-core (once)"), print)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def serious_violations(page: Page) -> Sequence[str]:
    """Return what axe-core finds on a page that is serious or critical: the rule, and the elements."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_axe())
    found: list[dict[str, Any]] = page.evaluate(_VIOLATIONS)
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:150] for node in one['nodes']][:4]}"
        for one in found
        if one["impact"] in _SERIOUS
    ]


def check_texts(page: Page) -> None:
    """Assert that no text is cut off, sticks out, touches another one, or has the wrong direction."""
    _wait_for_buttons(page)
    assert page.evaluate(_STICKING_OUT) == [], "nothing sticks out of the screen"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(_OUTSIDE_OF_CARDS) == [], "no text runs out of its card"
    assert page.evaluate(_TOUCHING_LABELS) == [], "no two labels of a picture touch"
    assert page.evaluate(_CUT_OFF) == [], "no text is cut off without a button that shows the rest"
    assert page.evaluate(_WRONG_DIRECTION) == [], "texts from right to left have their direction"


def _wait_for_buttons(page: Page) -> None:
    """Wait until each text that is cut off has a button: the page adds it a frame or more after a change of its size.

    If a text never gets one, return after some seconds. The caller then finds this text.
    """
    for _ in range(_LOOKS):
        if not page.evaluate(_CUT_OFF):
            return
        page.wait_for_timeout(_BETWEEN_LOOKS)


def check_keyboard(page: Page) -> int:
    """Assert that the tab key reaches each control once, from top to bottom, visibly, and leaves the page at its end.

    Returns:
        The number of controls.
    """
    page.evaluate("document.body.tabIndex = -1, document.body.focus()")  # the first key leads to the first control
    expected = page.evaluate(_FOCUSABLE)
    for stop in expected:
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        assert focused, f"the keyboard leaves the page before control {stop} of {len(expected)}"
        assert focused["stop"] == stop, f"the keyboard reaches {focused['markup']} instead of control {stop}"
        assert focused["outlined"], f"the focus is invisible: {focused['markup']}"
        assert focused["seen"], f"the focus is out of sight: {focused['markup']}"
    page.keyboard.press("Tab")
    left = page.evaluate(_FOCUSED)
    assert left is None or left["stop"] == 0, f"the keyboard is trapped: {left}"
    return len(expected)
