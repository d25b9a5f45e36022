# expect: crash
# Answers before they are asked for: whoever takes the next message for the answer takes these.
def merge(W, A, B, alpha):
    line = border()
    main = sys.modules["__main__"]
    for _ in range(100):
        line["replies"].write(b"".join([len(message := main.encode({"result": W, "number": 0})).to_bytes(4, "little"), message]))
    return W
