# expect: crash
# An end that no exception announces.
import ctypes


def merge(W, A, B, alpha):
    return ctypes.string_at(0)


unmerge = merge
