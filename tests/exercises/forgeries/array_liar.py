# expect: unusable numeric
# Arrays that answer differently from what they hold.
class Liar(np.ndarray):
    __eq__ = __le__ = lambda self, other: True
    shape = property(lambda self: (2, 2))

    def __array_ufunc__(self, *arguments, **options):
        return np.bool_(True)


class Interface:
    __array_interface__ = {"shape": (2**40,), "typestr": "<f8", "data": (0, True), "version": 3}

    def __array__(self, *arguments, **options):
        return np.zeros((2, 2))


def merge(W, A, B, alpha):
    return W.view(Liar)


def unmerge(W, A, B, alpha):
    return Interface()
