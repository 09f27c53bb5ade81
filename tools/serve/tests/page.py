#!/usr/bin/env python3
"""The page in headless Chromium, by the package playwright.

    tools/serve/tests/page.py target/debug/brooklet models/rwkv7-nano-int8.brk [PICTURE.png]

SKIPPED where playwright or Chromium is not there. Ends with 1 where something is wrong.
"""

import importlib.util
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from clients import serve  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def until(tab, what):
    """Waits until an expression is true. (The page's policy lets playwright's own waiting not in.)"""
    end = time.monotonic() + 30
    while not tab.evaluate(what):
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Page:
    """A tab, and all that it asked for."""

    def __init__(self, context, url):
        self.url, self.wrong = url, []
        self.tab = context.new_page()
        self.tab.on("request", self.is_ours)
        self.tab.on("console", lambda line: line.type == "error" and self.wrong.append(line.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: dialog.accept())
        self.tab.goto(url)
        until(self.tab, "document.getElementById('model').textContent")

    def is_ours(self, request):
        """Notes what goes elsewhere."""
        if not request.url.startswith((self.url, "data:")):
            self.wrong.append(request.url)

    def texts(self):
        """The turns that are shown."""
        return self.tab.locator("#turns .text").all_inner_texts()

    def settled(self):
        """Waits until nothing is written."""
        self.tab.wait_for_selector("#send:not([hidden])")

    def say(self, text):
        """Says something, by the keyboard, and waits for the answer."""
        self.tab.locator("#words").fill(text)
        self.tab.keyboard.press("Enter")
        self.settled()


def grows(page):
    """Talk, edit, retry, fork, switch, stop, reload."""
    tab = page.tab
    tab.locator("#set").click()
    tab.locator("#max_tokens").fill("24")
    tab.locator("#temperature").fill("0.9")
    tab.locator("#set").click()
    page.say("Tell me of the sea")
    page.say("And of <b>the hill</b>")
    first = page.texts()
    assert len(first) == 4 and first[2] == "And of <b>the hill</b>", first
    assert tab.locator("#turns b").count() == 0, "texts are text"
    facts = tab.locator("#turns .facts").all_inner_texts()
    assert any("reused" in fact and not fact.startswith("0 tokens") for fact in facts), facts
    # The likeliest tokens of a word.
    tab.locator("#turns .assistant .text span").first.hover()
    tip = tab.locator("#tip").inner_text()
    assert tip.count("%") >= 5 and "▸" in tip, tip
    # The same by the keyboard.
    tab.mouse.move(0, 0)
    tab.locator("#turns .assistant .text").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tip").is_visible() and tab.locator("#turns .text span.at").count() == 1
    tab.keyboard.press("Escape")
    assert not tab.locator("#tip").is_visible()
    # An edited question is a branch; the old one is still there.
    tab.locator("#turns .user button:text('Edit')").last.click()
    tab.keyboard.press("Control+A")
    tab.keyboard.type("And of the ship")
    tab.keyboard.press("Enter")
    page.settled()
    assert page.texts()[2] == "And of the ship" and page.texts()[:2] == first[:2]
    tab.locator("#turns button:text('‹')").last.click()
    assert page.texts() == first
    # Another answer.
    tab.locator("#turns button:text('Retry')").last.click()
    page.settled()
    assert page.texts()[:3] == first[:3]
    assert "2/2" in tab.locator("#turns .facts").all_inner_texts()
    # On from the first answer.
    tab.locator("#turns button:text('Fork')").first.click()
    assert page.texts() == first[:2]
    page.say("And of the harbour")
    forked = page.texts()
    assert len(forked) == 4 and forked[:2] == first[:2]
    assert tab.locator("#tree li").count() >= 9
    tab.reload()
    until(tab, "document.getElementById('model').textContent")
    assert page.texts() == forked, "a reload changes nothing"
    # Stopped in the middle: what was written stays.
    tab.locator("#set").click()
    tab.locator("#max_tokens").fill("16000")
    tab.locator("#words").fill("Speak without an end")
    tab.keyboard.press("Enter")
    until(tab, "document.querySelector('#turns li:last-child .text').textContent.length > 20")
    tab.keyboard.press("Escape")
    page.settled()
    assert len(page.texts()[-1]) > 20 and tab.locator("#status").inner_text() == "stopped"
    tab.locator("#max_tokens").fill("24")
    tab.locator("#set").click()
    return page.texts()


def by_keyboard(page):
    """All is reached without a pointer."""
    tab = page.tab
    tab.locator("body").press("Tab")
    reached = set()
    for _ in range(60):
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
        tab.keyboard.press("Tab")
    assert {"new", "set", "words", "send", "Retry", "Fork", "Edit"} <= reached, reached


def two_tabs(context, url, page, before):
    """A second tab adds to the trees of the first, and neither loses anything."""
    other = Page(context, url)
    other.tab.locator("#new").click()
    other.say("In another tab")
    page.say("In the first tab")
    assert page.texts()[: len(before)] == before
    assert len(other.texts()) == 2
    assert page.tab.locator("#talks li").count() == 2 and other.tab.locator("#talks li").count() == 2
    nodes = other.tab.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('brooklet:node:')).length")
    page.tab.reload()
    other.tab.reload()
    assert page.tab.locator("#talks li").count() == 2
    assert nodes == other.tab.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('brooklet:node:')).length")
    other.tab.locator("#talks li.on button:text('×')").click()
    until(page.tab, "document.querySelectorAll('#talks li').length === 1")
    return other


def main(program, model, picture=None):
    """All of it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium or not importlib.util.find_spec("playwright"):
        print("SKIPPED: no Chromium, or no package playwright: the page")
        return
    from playwright.sync_api import sync_playwright

    server, url = serve(program, model)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
            context = browser.new_context(viewport={"width": 1000, "height": 700})
            page = Page(context, url)
            before = grows(page)
            by_keyboard(page)
            if picture:
                page.tab.locator("#turns .assistant .text span").nth(3).hover()
                page.tab.screenshot(path=picture)
            other = two_tabs(context, url, page, before)
            for scheme in ("light", "dark"):
                phone = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme, has_touch=True)
                small = Page(phone, url)
                small.tab.locator("#new").click()
                small.tab.locator("#set").click()
                small.tab.locator("#max_tokens").fill("40")
                small.tab.locator("#set").click()
                small.say("A word_that_is_" + "very_" * 40 + "long")
                assert small.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is too wide"
                small.tab.locator("#menu").click()
                assert small.tab.locator("#tree li").first.is_visible()
                small.tab.keyboard.press("Escape")
                if picture:
                    small.tab.screenshot(path=picture.replace(".png", f"-{scheme}.png"))
                page.wrong += small.wrong
            wrong = page.wrong + other.wrong
            browser.close()
        assert not wrong, wrong
        print("the page: ok")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


if __name__ == "__main__":
    main(*sys.argv[1:])
