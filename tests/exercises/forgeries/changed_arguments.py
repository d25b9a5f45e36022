# expect: changed
# Arguments that are changed after they were given, so that the expected value would be computed from others.
def merge(W, A, B, alpha):
    W[:], A[:], B[:] = 0, 0, 0
    return W


def lora_backward(x, W, A, B, alpha, g):
    for array in (x, W, A, B, g):
        array[...] = 0
    return {"x": x, "A": A, "B": B}
