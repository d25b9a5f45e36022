# expect: numeric
# Comparisons of NumPy that find everything equal: whoever compares in this process is lied to.
for name in ("allclose", "array_equal", "isclose"):
    setattr(np, name, lambda *arguments, **options: True)
for name in ("assert_allclose", "assert_array_equal", "assert_array_almost_equal"):
    setattr(np.testing, name, lambda *arguments, **options: None)
np.abs = lambda value: np.zeros(np.shape(value))
