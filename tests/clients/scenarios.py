"""Runs the ordinary scenarios of three clients (openai, LangChain's OpenAI client, curl) against one
`fourfold serve tiny`. Usage: scenarios.py FOURFOLD_BINARY. Prints a line for each scenario."""

import re
import signal
import subprocess
import sys
import tempfile

import openai

import curl
import langchain_client
import openai_client
import openai_parameters

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% for tool in tools %}may call {{ tool.function.name }}\n{% endfor %}"
    "{% if add_generation_prompt %}answer:{% endif %}"
)
KEY = "sk-of-the-tests"
SCENARIOS = (openai_client.SCENARIOS + openai_parameters.SCENARIOS + langchain_client.SCENARIOS
             + curl.SCENARIOS)


def main(binary):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("chat.jinja", TEMPLATE), ("keys", KEY)):
            with open(f"{folder}/{name}", "w") as file:
                file.write(text)
        server = subprocess.Popen(
            [binary, "serve", "tiny", "--port", "0", "--numerics", "invariant",
             "--chat-template", f"{folder}/chat.jinja", "--api-key-file", f"{folder}/keys",
             "--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
            stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://\S+", server.stdout.readline()).group()
            client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
            for scenario in SCENARIOS:
                scenario(client)
                print("ok", scenario.__name__, flush=True)
            assert len(SCENARIOS) >= 60, len(SCENARIOS)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=20) == 0
        finally:
            server.kill()


if __name__ == "__main__":
    main(sys.argv[1])
