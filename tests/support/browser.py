"""A headless Chromium, and what every page that it opens is checked for."""

import base64
import json
import os
import shutil
import subprocess
import sys

WIDTHS = (1200, 400)
THEMES = ("light", "dark")


class Browser:
    """One page of a headless Chromium, driven by the DevTools protocol over two pipes."""

    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if not program:
            sys.exit("browser: expected the program chromium; run 'tools/setup.sh --tests'")
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
                sys.exit("browser: chromium ended early")
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

    def open(self, url, width, theme):
        self.resize(width, theme)
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.receive())

    def resize(self, width, theme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": theme}])

    def take_events(self):
        taken, self.events = self.events, []
        return taken

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, condition, seconds=30):
        """Returns once the expression is true in the page, which is looked at every 10 ms."""
        expression = f"""new Promise((done) => {{
          const end = performance.now() + {seconds * 1000};
          const look = () => {{
            let value = false;
            try {{ value = !!({condition}); }} catch {{}}
            if (value || performance.now() > end) done(value); else setTimeout(look, 10);
          }};
          look();
        }})"""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if answer["result"].get("value") is not True:
            raise AssertionError(f"not so after {seconds} s: {condition}")

    def screenshot(self, path, width):
        height = self.evaluate("document.documentElement.scrollHeight")
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        self.call("Browser.close")
        self.process.wait(timeout=20)


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


def check_events(events, own):
    """What a page logged, threw, or asked for elsewhere than under `own` (None: at all)."""
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
            at_home = own is not None and url.startswith(own)
            if params.get("type") != "Document" and not url.startswith("data:") and not at_home:
                problems.append(f"request: {url}")
    return problems
