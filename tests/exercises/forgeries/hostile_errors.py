# expect: error
# Errors that are told as what they are not, and words that would move the cursor of whoever reads them.
def merge(W, A, B, alpha):
    line, main = border(), sys.modules["__main__"]
    main.answer = lambda *_: {"error": ["x"], "message": {"a": 1}, "where": 5}
    return W


def unmerge(W, A, B, alpha):
    raise ValueError(chr(27) + "[2J" + chr(0xD800) + chr(0x202E) + chr(10) + "9 passed" + "x" * 10**6)
