# expect: crash
# hangs
# Valid messages without end: whoever keeps them all has no memory left.
def merge(W, A, B, alpha):
    line, main = border(), sys.modules["__main__"]
    message = main.encode({"result": np.zeros(2**17), "number": line["request"]["number"]})
    while True:
        main.send(line["replies"], message)
