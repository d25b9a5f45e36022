# expect: unusable
# Objects that are equal to everything.
class Liar(float):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda self, other: True
    __ne__ = lambda self, other: False  # noqa: E731
    __sub__ = __rsub__ = __abs__ = lambda self, *other: Liar(0)
    __hash__ = float.__hash__


class List(list):
    __eq__ = lambda self, other: True  # noqa: E731


def rslora_scaling(alpha, r):
    return Liar(1.0)


def merge(W, A, B, alpha):
    return List([Liar(1.0)])


def unmerge(W, A, B, alpha):
    return {Liar(0.0): 1}
