#!/usr/bin/env python3
"""Checks the files under deploy/ against the program: every query of the dashboard names series and
labels that a live server has, flags exist, probes ask for paths that exist, grace times are longer than
drains, and requests go through HAProxy with TLS, whole and streamed. What needs programs that are not
there (promtool, kubernetes-validate) is skipped, and said so. Prints what is wrong and exits with 1.

usage: check_deploy.py FOURFOLD_BINARY
"""

import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
# Of Prometheus itself; `le` is a histogram's.
SCRAPED = {"job", "instance", "le"}


def ask(url, body=None, context=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return answer.read().decode()


def check_dashboard(page):
    """Of each panel's queries: the series, and the labels by which they are chosen and grouped."""
    labels = {}
    for line in page.splitlines():
        if sample := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", line):
            names = re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', sample[2] or "")
            labels.setdefault(sample[1], set()).update(names)
    board = json.loads((DEPLOY / "grafana.json").read_text())
    queries = 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            queries += 1
            series = re.findall(r"([a-zA-Z_:][\w:]*)\{", target["expr"])
            assert series, f"{panel['title']}: no series in {target['expr']}"
            known = set(SCRAPED)
            for name in series:
                assert name in labels, f"{panel['title']}: the server has no {name}"
                known |= labels[name]
            used = re.findall(r"(\w+)=~?\"", target["expr"])
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                used += re.split(r",\s*", group)
            used += re.findall(r"{{(\w+)}}", target["legendFormat"])
            for label in used:
                assert label in known, f"{panel['title']}: {series} has no label {label}"
    assert queries > 20
    print(f"ok {queries} queries of the dashboard")


def helps(binary):
    return {command: subprocess.run([binary, command, "--help"], capture_output=True, text=True,
                                    check=True).stdout for command in ("serve", "route")}


def check_flags(binary):
    known = helps(binary)
    flags = 0
    for name in ("fourfold.service", "kubernetes.yaml", "fourfold.slurm", "Dockerfile"):
        text = re.sub(r"\\\n", " ", (DEPLOY / name).read_text())
        command = None
        for line in text.splitlines():
            if line.lstrip().startswith("#") and not re.match(r"\s*#\s+serve", line):
                continue
            if found := re.search(r"(?:fourfold |- |\bfourfold\s+|^#\s+)(serve|route)\b", line):
                command = found[1]
            elif not line.strip().startswith(("- --", "--")):
                command = None
            if command is None:
                continue
            for flag in re.findall(r"(?<=[\s-])(--[a-z][a-z-]+)", line):
                if flag in ("--kill-on-bad-exit",):
                    continue
                flags += 1
                assert re.search(rf"{flag}\b", known[command]), f"{name}: {command} has no {flag}"
    assert flags >= 15, flags
    print(f"ok {flags} flags")


def check_times(paths):
    text = (DEPLOY / "kubernetes.yaml").read_text()
    for pod in text.split("terminationGracePeriodSeconds:")[1:]:
        grace = int(pod.split()[0])
        drain = int(re.search(r"--shutdown-timeout=(\d+)", pod)[1])
        wait = int(re.search(r'"sleep", "(\d+)"', pod)[1])
        assert grace > drain + wait, f"{grace} s of grace for {wait} + {drain}"
    for path in re.findall(r"httpGet: {path: (\S+),", text):
        assert path in paths, f"kubernetes.yaml asks for {path}"
    unit = (DEPLOY / "fourfold.service").read_text()
    stop = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])
    assert stop > int(re.search(r"--shutdown-timeout (\d+)", unit)[1])
    assert re.search(r"uri (\S+)", (DEPLOY / "haproxy.cfg").read_text())[1] in paths
    print("ok probes and times")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def check_haproxy(url, folder):
    program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    assert program, "expected the program haproxy: tools/setup.sh --tests installs it"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout",
                    f"{folder}/key", "-out", f"{folder}/cert"], check=True, capture_output=True)
    pem = pathlib.Path(folder, "pem")
    pem.write_text(pathlib.Path(folder, "key").read_text() + pathlib.Path(folder, "cert").read_text())
    port = free_port()
    environment = {**os.environ, "FOURFOLD": url.removeprefix("http://"), "CERT": str(pem),
                   "BIND": f"127.0.0.1:{port}"}
    command = [program, "-f", str(DEPLOY / "haproxy.cfg")]
    checked = subprocess.run(command + ["-c"], env=environment, capture_output=True, text=True)
    assert checked.returncode == 0 and "WARNING" not in checked.stderr, checked.stderr
    context = ssl.create_default_context(cafile=f"{folder}/cert")
    proxy = subprocess.Popen(command + ["-db"], env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    try:
        at = f"https://localhost:{port}"
        body = {"prompt": "In the beginning", "max_tokens": 8, "temperature": 0}
        whole = None
        while whole is None:  # until it listens
            assert proxy.poll() is None, proxy.stdout.read()
            try:
                whole = json.loads(ask(at + "/v1/completions", body, context))
            except urllib.error.HTTPError as error:
                raise AssertionError(f"{error.code} {error.read()}") from error
            except urllib.error.URLError as error:
                assert isinstance(error.reason, ConnectionRefusedError), error
        text = ""
        events = ask(at + "/v1/completions", {**body, "stream": True}, context).split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-2:]
        for event in events[:-2]:
            text += json.loads(event.removeprefix("data: "))["choices"][0]["text"]
        assert text == whole["choices"][0]["text"]
        for path in ("/metrics", "/admin/replicas"):
            try:
                ask(at + path, context=context)
                raise AssertionError(f"{path} is open to the outside")
            except urllib.error.HTTPError as error:
                assert error.code == 404
    finally:
        proxy.kill()
        proxy.wait()
    print("ok HAProxy, its TLS and a stream through it")


def check_with_promtool(page):
    program = shutil.which("promtool")
    if not program:
        return print("skipped: promtool is not installed")
    subprocess.run([program, "check", "config", "--syntax-only", DEPLOY / "prometheus.yml"],
                   check=True, capture_output=True)
    found = subprocess.run([program, "check", "metrics"], input=page, capture_output=True, text=True)
    # vLLM's names have colons, and one of its histograms ends as counters do.
    words = [line for line in found.stderr.splitlines() if "should not contain ':'" not in line and
             not line.startswith("vllm:iteration_tokens_total")]
    assert found.returncode in (0, 3) and not words, words
    print("ok promtool")


def check_with_kubernetes_validate():
    program = shutil.which("kubernetes-validate")
    if not program:
        return print("skipped: kubernetes-validate is not installed")
    subprocess.run([program, "--strict", DEPLOY / "kubernetes.yaml"], check=True, capture_output=True)
    print("ok kubernetes-validate")


def main():
    binary = sys.argv[1]
    check_flags(binary)
    check_with_kubernetes_validate()
    subprocess.run(["bash", "-n", DEPLOY / "fourfold.slurm"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([binary, "serve", "tiny", "--port", "0", "--ranks", "threads"],
                                  stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://\S+", server.stdout.readline()).group()
            check_times(json.loads(ask(url + "/openapi.json"))["paths"])
            check_haproxy(url, folder)
            page = ask(url + "/metrics")
            check_dashboard(page)
            check_with_promtool(page)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
