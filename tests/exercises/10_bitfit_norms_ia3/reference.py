"""Exercise 10 solved."""


def trainable_names(names, method):
    found = []
    for name in names:
        *_, module, own = name.split(".")
        norm = module.startswith("ln_") or "norm" in module.lower()
        if own == "bias" if method == "bitfit" else norm:
            found.append(name)
    return sorted(found)


def ia3_forward(x, W, b, l, feedforward):
    if feedforward:
        return (l * x) @ W.T + b
    return l * (x @ W.T + b)


def ia3_vjp(x, W, b, l, feedforward, g):
    if feedforward:
        back = g @ W  # (..., in)
        return {"x": back * l, "l": (back * x).reshape(-1, len(l)).sum(axis=0)}
    y = x @ W.T + b
    return {"x": (g * l) @ W, "l": (g * y).reshape(-1, len(l)).sum(axis=0)}


def fold(W, b, l, feedforward):
    if feedforward:
        return {"W": W * l, "b": b}
    return {"W": l[:, None] * W, "b": l * b}


def ia3_parameters(layers, key_width, value_width, feedforward_width):
    return layers * (key_width + value_width + feedforward_width)
