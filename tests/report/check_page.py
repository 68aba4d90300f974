#!/usr/bin/env python3
"""Opens a report of `fourfold verify --report` in headless Chromium and checks it against the JSON
of the same run: no error and no message on the console, no request, nothing wider than the window at
1,200 and 400 pixels, a contrast of at least 4.5 of text in light and dark, controls that work, and
every number and every text of the run equal to the JSON's. Prints what is wrong and exits with 1. With --screenshots it also
saves pictures of the whole page.

usage: check_page.py PAGE.html REPORT.json [--screenshots FOLDER]
"""

import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
from browser import CONTRAST, OVERFLOW, THEMES, WIDTHS, Browser, check_events

MAX_BYTES = 400 * 1024
# What a number may be followed by, and what that multiplies it by.
UNITS = {"%": 0.01, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
         "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "×": 1}
NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?: ([%×kMBGT]|[KMGT]iB)(?!\w))?")


# Each shown value: its pointers, its text; and each text with a digit that has no pointer.
COLLECT = r"""(() => {
  const shown = [...document.querySelectorAll('[data-p]')].map((e) => {
    const at = e.closest('[data-at]')?.dataset.at ?? '';
    return {pointers: e.dataset.p.split(' ').map((p) => at + '/' + p), text: e.textContent,
            title: e.localName === 'title'};
  });
  const loose = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!/\d/.test(node.data) || parent.closest('[data-p], script, style, dt, .tick')) continue;
    loose.push({text: node.data.trim(), derived: parent.classList.contains('derived')});
  }
  return {shown, loose};
})()"""

# What does not work of the controls.
PRESS = r"""(() => {
  const bad = [];
  const visible = () => [...new Set([...document.querySelectorAll('.point')]
    .filter((e) => e.checkVisibility()).map((e) => e.dataset.point))].join();
  const choices = document.querySelectorAll('[name=point]');
  choices.forEach((choice, i) => {
    choice.click();
    if (visible() !== String(i)) bad.push(`choosing load ${i} shows loads ${visible()}`);
  });
  const theme = () => getComputedStyle(document.documentElement).colorScheme;
  const themes = new Set();
  for (let i = 0; i < 3; ++i) {
    document.querySelector('.theme').click();
    themes.add(theme());
  }
  if (themes.size !== 3) bad.push(`the theme button gives ${[...themes]}`);
  const key = document.querySelector('[data-pick]');
  const faded = () => [...document.querySelectorAll('tr[data-k]')].filter((e) => !e.matches('.focusing .on')).length;
  const rows = faded();
  key.click();
  if (faded() === rows) bad.push('pressing a scheme brings nothing forward');
  key.click();
  document.querySelector('.command button').click();
  document.querySelector('.download').click();
  return bad;
})()"""


def follow(report, pointer):
    value = report
    for key in pointer.split("/")[1:]:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def numbers(text):
    """Each number of a text: its value, and half of what its last digit is worth."""
    out = []
    for digits, unit in NUMBER.findall(text):
        mantissa, _, exponent = digits.replace(",", "").partition("e")
        scale = UNITS.get(unit, 1) * 10 ** int(exponent or 0)
        decimals = len(mantissa.partition(".")[2])
        out.append((float(mantissa) * scale, 0.5000001 * 10**-decimals * scale))
    return out


def check_shown(report, shown):
    """What is wrong with an element that says which values of the JSON it shows; "" where nothing."""
    values = []
    for pointer in shown["pointers"]:
        value = follow(report, pointer)
        # A summary is shown by its mean and, where there is one, its interval.
        values += [v for v in (value["mean"], value["ci95"]) if v is not None] if isinstance(value, dict) else [value]
    text = shown["text"]
    if len(values) == 1 and isinstance(values[0], str):
        return "" if text == values[0] else f"shows {text!r}, the JSON has {values[0]!r}"
    if shown["title"]:
        text = text.rpartition(": ")[2]
    found = numbers(text)
    if len(found) != len(values):
        return f"shows {text!r} for {values}"
    for (number, half), value in zip(found, values):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(number - value) > half:
            return f"shows {text!r}, the JSON has {value!r}"
    return ""


def check_values(report, collected):
    problems = []
    for shown in collected["shown"]:
        try:
            problem = check_shown(report, shown)
        except (KeyError, IndexError, TypeError, ValueError):
            problem = "points at nothing"
        if problem:
            problems.append(f"{' '.join(shown['pointers'])} {problem}")
    timed = [s for s in report["schemes"] if s.get("loads")]
    names = {s["scheme"] for s in report["schemes"]}
    points = {load["point"] for s in timed for load in s["loads"]}
    unequal = sum(1 for s in timed if s["answers"] and not s["answers"]["equal"])
    derived = {f"{len(timed)} parallel schemes", f"{unequal} of {len(timed)}",
               f"{len(report['machine']['gpus'])} ×"}
    allowed = names | points | {f"at {p}" for p in points} | {f"{n} {p}" for n in names for p in points}
    # Names of percentiles, and of a chart's title and description.
    plain = re.compile(r"p50|p90|p99|.*: KV cache and queue over time|Distribution of .* at .*|95 % interval")
    for loose in collected["loose"]:
        fits = loose["text"] in derived if loose["derived"] else (
            loose["text"] in allowed or plain.search(loose["text"]))
        if not fits:
            problems.append(f"the text {loose['text']!r} is not traced to the JSON")
    # Every mean of every load point that ran must be somewhere on the page.
    on_page = {p for shown in collected["shown"] for p in shown["pointers"]}
    for i, scheme in enumerate(report["schemes"]):
        for j, load in enumerate(scheme["loads"]):
            if load["saturated"]:
                continue
            for metric in ("ttft_ms", "tpot_ms", "itl_ms", "output_tok_s", "output_tok_s_device"):
                pointer = f"/schemes/{i}/loads/{j}/metrics/{metric}"
                if load["metrics"][metric]["mean"] is not None and pointer not in on_page:
                    problems.append(f"{pointer} is not shown")
    return problems


def main():
    page, report_path = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    pictures = pathlib.Path(sys.argv[4]) if sys.argv[3:4] == ["--screenshots"] else None
    report = json.loads(report_path.read_text())
    problems = []
    if page.stat().st_size > MAX_BYTES:
        problems.append(f"{page.stat().st_size} bytes; at most {MAX_BYTES} for eight schemes")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        for width in WIDTHS:
            for theme in THEMES:
                browser.open(page.resolve().as_uri(), width, theme)
                overflow = browser.evaluate(OVERFLOW)
                pale = browser.evaluate(CONTRAST)
                broken = browser.evaluate(PRESS)
                found = check_events(browser.take_events(), own=None)
                if overflow["page"] > 0 or overflow["wide"]:
                    found.append(f"wider than the window: {overflow}")
                found += [f"controls: {text}" for text in broken]
                found += [f"contrast below 4.5: {text}" for text in pale]
                problems += [f"at {width} pixels, {theme}: {p}" for p in found]
                if pictures:
                    browser.screenshot(pictures / f"{width}-{theme}.png", width)
        collected = browser.evaluate(COLLECT)
        browser.close()
    problems += check_values(report, collected)
    for problem in problems[:40]:
        print(problem)
    print(f"{len(collected['shown'])} values traced, {page.stat().st_size} bytes, "
          f"{len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
