# expect: unusable dtype type
# Numbers of kinds that were not asked for.
def merge(W, A, B, alpha):
    return (W + 2 * B @ A).astype(np.float16)


def unmerge(W, A, B, alpha):
    return W.astype(complex)


def rslora_scaling(alpha, r):
    return True


def count_parameters(shapes, r):
    return float(sum(r * (n_out + n_in) for n_out, n_in in shapes))


def lora_backward(x, W, A, B, alpha, g):
    return {"x": x.astype(object), "A": A.astype(str), "B": B.astype("M8[s]")}
