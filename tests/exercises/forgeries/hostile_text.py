# expect: crash
# JSON that takes far more memory and time than its text, or nests deeper than a parser may go.
import json
import struct


def told(text, number):
    message = struct.pack("<I", len(text)) + text
    border()["replies"].write(struct.pack("<I", len(message)) + message)


def merge(W, A, B, alpha):
    told(b'{"result": [' + b"[]," * 2_000_000 + b"[]]}", 0)
    return W


def unmerge(W, A, B, alpha):
    told(b'{"result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0)
    return W


def rslora_scaling(alpha, r):
    number = border()["request"]["number"]
    told(json.dumps({"number": number, "result": 0}).replace("0}", "[" * 60 + "]" * 60 + "}").encode(), number)
    return 0.0
