"""What `fourfold serve tiny` answers at the highest temperature where it is constrained, judged by
python: JSON by jsonschema, texts by re. Usage: structured_output.py FOURFOLD_BINARY [CHOICES]. Every
schema gets CHOICES answers (default 6). Prints how many answers were complete and how many bytes."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import jsonschema

S = {"type": "string"}
I = {"type": "integer"}
SHORT = {"type": "string", "maxLength": 8}


def obj(properties, required=(), **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


SCHEMAS = [
    I, {"type": "number"}, {"type": "boolean"}, {"type": "null"}, SHORT, {"type": ["integer", "null"]},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "integer", "minimum": -7, "maximum": 1234},
    {"type": "integer", "exclusiveMinimum": 99, "maximum": 250},
    {"type": "integer", "maximum": -5, "minimum": -50000},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    {"type": "number", "minimum": 10},
    {"enum": ["red", "green", 3, None, True, {"a": [1]}, "é\n\""]},
    {"const": {"a": "b", "c": [1, 2.5, None]}},
    {"type": "string", "enum": ["a", "b", 1]},
    {"type": "string", "pattern": "^[a-z]{2,6}[0-9]+$"},
    {"type": "string", "pattern": "^.{0,4}(b\"c|\\\\d)$"},
    {"type": "string", "format": "date"}, {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"}, {"type": "string", "format": "email"},
    {"type": "array", "items": I, "maxItems": 4},
    {"type": "array", "items": SHORT, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [I, SHORT, {"type": "boolean"}], "items": False, "minItems": 1},
    {"type": "array", "prefixItems": [SHORT], "items": I, "maxItems": 3},
    {"anyOf": [SHORT, {"type": "array", "items": {"type": "null"}, "maxItems": 3}]},
    {"oneOf": [I, {"type": "boolean"}]},
    {"allOf": [{"type": "integer", "minimum": 3}], "title": "at least three"},
    obj({"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 120}}, ["name", "age"]),
    obj({"a": I, "b": SHORT, "c": {"type": "boolean"}}, ["b"]),
    obj({"a": I, "b": SHORT}),
    obj({"a": {"type": "boolean"}}, [], additionalProperties={"type": "null"}),
    obj({"a": I}, ["a"], additionalProperties=False),
    {"type": "object", "required": ["x"], "additionalProperties": I},
    obj({"deep": obj({"deeper": obj({"deepest": SHORT}, ["deepest"])}, ["deeper"])}, ["deep"]),
    obj({"kind": {"const": "circle"}, "r": {"type": "number", "minimum": 0, "maximum": 9}},
        ["kind", "r"]),
    {"anyOf": [obj({"kind": {"const": "a"}, "x": I}, ["kind"]),
               obj({"kind": {"const": "b"}, "y": SHORT}, ["kind", "y"])]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": obj(
        {"v": {"type": "integer", "minimum": 0, "maximum": 9},
         "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        ["v", "kids"])}},
    {"$ref": "#/definitions/list", "definitions": {"list": {"anyOf": [
        {"type": "null"}, obj({"next": {"$ref": "#/definitions/list"}}, ["next"])]}}},
    obj({"ä b": SHORT, "c\"d": I, "e\\f": {"type": "null"}}, ["ä b", "c\"d", "e\\f"]),
    obj({"id": {"type": "string", "format": "uuid"}, "when": {"type": "string", "format": "date"},
         "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
         "note": {"anyOf": [SHORT, {"type": "null"}], "default": None}}, ["id", "when", "tags"]),
]

REGEXES = [
    r"[0-9]{3}-[0-9]{4}", r"(ab|cd)+e?", r"[^a-z0-9\s]{1,5}", r"\d+(\.\d+)?", r"(a|b)*abb",
    r"[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){0,2}", r".{5,9}", r"\w+@\w+\.(com|org)",
    r"^(yes|no|maybe)$", r"[äöüß€]{2,4}x", r"\S{3} \S{3}", r"(x{2}){1,3}y*?z", r"\{\"a\": \d\}",
]


class Server:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary, "serve", "tiny", "--port", "0"],
                                        stdout=subprocess.PIPE, text=True)
        self.url = re.search(r"http://\S+", self.process.stdout.readline()).group()

    def complete(self, **fields):
        body = {"prompt": "In the beginning", "temperature": 2, **fields}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"]


def main(binary, choices=6):
    server = Server(binary)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    assert {"date", "time", "date-time", "uuid", "ipv4", "email"} <= set(checker.checkers)
    try:
        complete = 0
        size = 0
        unended = []
        for i, schema in enumerate(SCHEMAS + [{"type": "object"}]):
            form = {"guided_json": schema} if schema != {"type": "object"} else {
                "response_format": {"type": "json_object"}}
            ended = 0
            for choice in server.complete(n=choices, seed=i, max_tokens=400, **form):
                assert choice["finish_reason"] in ("stop", "length"), choice
                if choice["finish_reason"] == "length":
                    continue
                value = json.loads(choice["text"])
                jsonschema.validate(value, schema, jsonschema.Draft202012Validator,
                                    format_checker=checker)
                ended += 1
                size += len(choice["text"])
            unended += [] if ended > 0 else [schema]
            complete += ended
        # Texts without a limit to their length may go on and on.
        assert len(unended) <= 4, f"no answer to these came to its end: {unended}"
        for i, pattern in enumerate(REGEXES):
            for choice in server.complete(n=choices, seed=i, max_tokens=300, guided_regex=pattern):
                if choice["finish_reason"] == "stop":
                    assert re.fullmatch(pattern, choice["text"]), (pattern, choice["text"])
                    complete += 1
                    size += len(choice["text"])
        print(f"{len(SCHEMAS)} schemas and {len(REGEXES)} expressions: {complete} answers, "
              f"{size} characters, all valid")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
    finally:
        server.process.kill()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
