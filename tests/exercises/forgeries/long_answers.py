# expect: type keys numeric
# Answers that take long to print: whoever shows them in full fills the report.
def merge(W, A, B, alpha):
    return ["x" * 10] * 5_000


def unmerge(W, A, B, alpha):
    return [np.zeros(1)] * 2_000


def lora_backward(x, W, A, B, alpha, g):
    return {f"key {i}" + chr(27): 0 for i in range(3_000)}


def rslora_scaling(alpha, r):
    return 10**1000


def lora_init(in_features, out_features, r, seed):
    return {"A": [[1], [2, 3]], "B": "zeros"}
