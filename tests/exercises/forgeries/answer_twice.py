# expect: crash
# Two answers to one question: the second one would be that to the next.
def merge(W, A, B, alpha):
    line, main = border(), sys.modules["__main__"]
    main.send(line["replies"], main.encode({"result": W, "number": line["request"]["number"]}))
    return W
