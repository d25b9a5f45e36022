# expect: numeric
# NaN, which is neither smaller nor larger than any tolerance, and infinities.
def lora_init(in_features, out_features, r, seed):
    return {"A": np.full((r, in_features), np.nan), "B": np.zeros((out_features, r))}


def lora_backward(x, W, A, B, alpha, g):
    return {"x": x * np.nan, "A": A * np.inf, "B": B * np.nan}


def merge(W, A, B, alpha):
    return np.full_like(W, np.nan)


def unmerge(W, A, B, alpha):
    return np.full_like(W, np.inf, dtype=np.float32)


def rslora_scaling(alpha, r):
    return float("nan")
