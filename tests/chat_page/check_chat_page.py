#!/usr/bin/env python3
"""Uses the page of `fourfold serve` in headless Chromium: it asks for the key and forgets it, chats
with streaming and a stop button, shows the groups and their load, loads nothing from elsewhere, and
fits at 1,200 and 400 pixels, in light and dark. Prints what is wrong and exits with 1.

usage: check_chat_page.py FOURFOLD_BINARY [--screenshots FOLDER]
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
from browser import CONTRAST, OVERFLOW, THEMES, WIDTHS, Browser, check_events

MAX_BYTES = 100 * 1024
KEY = "sk-of-the-page"
TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}answer:{% endif %}")
ANSWER = "[...document.querySelectorAll('.turn.assistant pre')].at(-1).textContent"
NOTE = "[...document.querySelectorAll('.turn.assistant')].at(-1).querySelector('.note').textContent"


def check_files(url):
    total = 0
    for name in ("", "page.css", "page.js"):
        with urllib.request.urlopen(url + "/" + name) as answer:
            total += len(answer.read())
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy, policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert total <= MAX_BYTES, f"the page has {total} bytes"


def set_value(browser, field, value):
    browser.evaluate(f"document.getElementById('{field}').value = {json.dumps(value)}")


def send(browser, text, max_tokens):
    set_value(browser, "max_tokens", str(max_tokens))
    set_value(browser, "prompt", text)
    browser.evaluate("document.getElementById('composer').requestSubmit()")


def log_in(browser, key):
    browser.wait("!document.getElementById('login').hidden")
    set_value(browser, "key", key)
    browser.evaluate("document.getElementById('login').requestSubmit()")


def use(browser, url):
    browser.open(url, 1200, "light")
    log_in(browser, "wrong")
    log_in(browser, KEY)
    browser.wait("document.getElementById('state').textContent === 'ready'")
    browser.wait("document.querySelectorAll('.replica').length === 2")
    assert "tiny" in browser.evaluate("document.getElementById('model').textContent")
    assert "2 ranks in 2 stages" in browser.evaluate("document.getElementById('replicas').textContent")
    assert browser.evaluate("document.getElementById('mode').value") == "chat"

    send(browser, "In the beginning", 24)
    browser.wait(f"{NOTE}.startsWith('24 tokens')")
    first = browser.evaluate(ANSWER)
    assert first and browser.evaluate("turns.length") == 2

    # The settings change what is asked for: the same seed gives the same answer.
    answers = []
    for seed in ("5", "5", "6"):
        browser.evaluate("document.getElementById('clear').click()")
        set_value(browser, "seed", seed)
        set_value(browser, "temperature", "1")
        send(browser, "In the beginning", 24)
        browser.wait(f"{NOTE}.includes('tokens')")
        answers.append(browser.evaluate(ANSWER))
    assert answers[0] == answers[1] != answers[2], answers

    # A long answer comes bit by bit and can be stopped; the server then stops, too.
    browser.evaluate("document.getElementById('mode').value = 'completion'")
    set_value(browser, "max_tokens", "1000")
    browser.evaluate("const plain = settings; settings = () => ({...plain(), ignore_eos: true, n: 1})")
    send(browser, "And God said", 1000)
    browser.wait(f"{ANSWER}.length > 0 && !document.getElementById('stop').disabled")
    length = browser.evaluate(f"{ANSWER}.length")
    browser.wait(f"{ANSWER}.length > {length}")
    browser.evaluate("document.getElementById('stop').click()")
    browser.wait(f"{NOTE} === 'stopped'")
    assert not browser.evaluate("document.getElementById('send').disabled")
    browser.wait("document.getElementById('running').textContent === '0'")

    # What the server refuses is shown.
    send(browser, "And God said", 100000)
    browser.wait("document.querySelector('.failed').textContent.includes('context')")

    assert browser.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert KEY not in browser.evaluate("document.documentElement.outerHTML")


def look(browser, pictures):
    problems = []
    browser.evaluate("document.getElementById('settings').open = true;"
                     "document.getElementById('login').hidden = false")
    for width in WIDTHS:
        for theme in THEMES:
            browser.resize(width, theme)
            browser.wait("document.querySelectorAll('.replica').length === 2")
            overflow, pale = browser.evaluate(OVERFLOW), browser.evaluate(CONTRAST)
            if overflow["page"] > 0 or overflow["wide"]:
                problems.append(f"at {width} pixels, {theme}: wider than the window: {overflow}")
            problems += [f"at {width} pixels, {theme}: contrast below 4.5: {text}" for text in pale]
            if pictures:
                browser.screenshot(pictures / f"{width}-{theme}.png", width)
    return problems


def main():
    binary = sys.argv[1]
    pictures = pathlib.Path(sys.argv[3]) if sys.argv[2:3] == ["--screenshots"] else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, text in (("chat.jinja", TEMPLATE), ("keys", KEY)):
            pathlib.Path(folder, name).write_text(text)
        server = subprocess.Popen(
            [binary, "serve", "tiny", "--port", "0", "-pp=2", "-dp=2", "--ranks", "threads",
             "--chat-template", f"{folder}/chat.jinja", "--api-key-file", f"{folder}/keys"],
            stdout=subprocess.PIPE, text=True)
        browser = None
        try:
            url = re.search(r"http://\S+", server.stdout.readline()).group()
            check_files(url)
            browser = Browser(f"{folder}/profile")
            use(browser, url + "/")
            problems = look(browser, pictures)
            # Chromium writes a line for each refusal that was asked for here.
            problems += [p for p in check_events(browser.take_events(), own=url + "/")
                         if "status of 40" not in p]
            browser.close()
        finally:
            if browser:
                browser.process.kill()
            server.kill()
            server.wait()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
