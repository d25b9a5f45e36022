# expect: crash
# Arrays that are described as what they are not.
import json
import struct

def told(description):
    text = json.dumps({"number": border()["request"]["number"], "result": {"$array": description}}).encode()
    message = struct.pack("<I", len(text)) + text
    border()["replies"].write(struct.pack("<I", len(message)) + message)


def merge(W, A, B, alpha):
    told(["<f8", [2**60, 2**60]])


def unmerge(W, A, B, alpha):
    told(["|O", [1]])


def rslora_scaling(alpha, r):
    told(["<f8", [2**20, 2**20]])
