#!/usr/bin/env python3
"""Opens a report of `fourfold verify --report` in headless Chromium and checks it against the JSON
of the same run: no error and no message on the console, no request, nothing wider than the window at
1,200 and 400 pixels, a contrast of at least 4.5 of text in light and dark, controls that work, and
every number and every text of the run equal to the JSON's. Prints what is wrong and exits with 1. With --screenshots it also
saves pictures of the whole page.

usage: check_page.py PAGE.html REPORT.json [--screenshots FOLDER]
"""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

MAX_BYTES = 400 * 1024
WIDTHS = (1200, 400)
THEMES = ("light", "dark")
# What a number may be followed by, and what that multiplies it by.
UNITS = {"%": 0.01, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
         "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "×": 1}
NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?: ([%×kMBGT]|[KMGT]iB)(?!\w))?")


class Browser:
    """One page of a headless Chromium, driven by the DevTools protocol over two pipes."""

    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if not program:
            sys.exit("check_page: expected the program chromium; run 'tools/setup.sh --tests'")
        commands, self.to_browser = os.pipe()
        self.from_browser, answers = os.pipe()

        def pipes():  # the browser reads descriptor 3 and writes descriptor 4
            low = os.dup(commands), os.dup(answers)
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.buffer = b""
        self.last_id = 0
        self.events = []
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def receive(self):
        while b"\0" not in self.buffer:
            more = os.read(self.from_browser, 1 << 20)
            if not more:
                sys.exit("check_page: chromium ended early")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width, theme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.receive())

    def take_events(self):
        taken, self.events = self.events, []
        return taken

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self, path, width):
        height = self.evaluate("document.documentElement.scrollHeight")
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        self.call("Browser.close")
        self.process.wait(timeout=20)


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

OVERFLOW = r"""(() => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll('body *')].filter((e) =>
    e.getBoundingClientRect().right > width + 1 && !e.closest('.scroll, .keys, .defs'));
  return {page: document.documentElement.scrollWidth - width,
          wide: wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120))};
})()"""

# Texts whose contrast to what lies behind them (the nearest colour above) is below 4.5 (WCAG AA).
CONTRAST = r"""(() => {
  const channels = (c) => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d');
    canvas.fillStyle = c;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const cache = new Map();
  const known = (c) => { if (!cache.has(c)) cache.set(c, channels(c)); return cache.get(c); };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = known(getComputedStyle(e).backgroundColor);
      if (c[3] === 255) return c;
    }
    return [255, 255, 255, 255];
  };
  const bad = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || e.closest('script, style, title, desc')) continue;
    const style = getComputedStyle(e);
    const a = light(known(e.namespaceURI.endsWith('svg') ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.add(`${e.localName}.${e.getAttribute('class')} "${walker.currentNode.data.slice(0, 30)}" ${ratio.toFixed(2)}`);
  }
  return [...bad].slice(0, 5);
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


def check_events(events):
    problems = []
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            problems.append(f"console: {params['exceptionDetails']['exception'].get('description')}")
        elif method == "Runtime.consoleAPICalled":
            problems.append(f"console: {[a.get('value') for a in params['args']]}")
        elif method == "Log.entryAdded":
            problems.append(f"console: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if params.get("type") != "Document" and not url.startswith("data:"):
                problems.append(f"request: {url}")
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
                browser.open(page, width, theme)
                overflow = browser.evaluate(OVERFLOW)
                pale = browser.evaluate(CONTRAST)
                broken = browser.evaluate(PRESS)
                found = check_events(browser.take_events())
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
