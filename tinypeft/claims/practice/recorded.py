"""What has been measured and takes too long to measure again for a question: the table of `tinypeft compare`, in README.

200 steps on Polish surnames, learning rates chosen on validation names, three seeds; bits per character, the mean of the
seeds and the least and the most of them.
"""

from __future__ import annotations

from dataclasses import dataclass

GAIN = "`tinypeft compare --intrinsic`"
LEARNED_BY_DIMENSION = {64: 0.23, 256: 0.48, 1024: 0.76, 4096: 0.900}  # d -> share of full fine-tuning's gain, three seeds
BASE_TARGET, BASE_KEPT = 3.633, 3.136  # bits per character of the untouched base, on Polish and on US surnames


@dataclass(frozen=True)
class Measured:
    """A method's row.

    Attributes:
        trained: parameters.
        target: bits per character on test names of the new task, (mean, least, most) of three seeds.
        kept: the same on names that the base was made for.
        kilobytes: of what is saved.
        merges: whether it can be folded into the base's weights.
    """

    method: str
    trained: int
    target: tuple[float, float, float]
    kept: tuple[float, float, float]
    kilobytes: int
    merges: bool


COMPARED = (
    Measured("full fine-tuning", 415232, (2.719, 2.712, 2.725), (4.332, 4.307, 4.357), 1668, True),
    Measured("rsLoRA", 55296, (2.782, 2.778, 2.786), (4.076, 4.063, 4.086), 229, True),
    Measured("LoRA+", 55296, (2.784, 2.777, 2.790), (4.054, 4.038, 4.084), 229, True),
    Measured("DoRA", 58880, (2.786, 2.781, 2.789), (4.116, 4.099, 4.134), 247, True),
    Measured("LoRA", 55296, (2.791, 2.785, 2.794), (4.090, 4.067, 4.107), 229, True),
    Measured("AdaLoRA", 83280, (2.805, 2.801, 2.807), (3.943, 3.920, 3.961), 229, True),
    Measured("VeRA", 10752, (2.813, 2.804, 2.818), (4.066, 4.047, 4.087), 50, True),
    Measured("parallel adapters", 37440, (2.815, 2.814, 2.818), (4.030, 4.007, 4.060), 152, False),
    Measured("Houlsby adapters", 10032, (2.901, 2.892, 2.914), (3.976, 3.956, 3.994), 44, False),
    Measured("Pfeiffer adapters", 5016, (2.926, 2.915, 2.942), (3.905, 3.882, 3.925), 22, False),
    Measured("BitFit", 3584, (3.014, 3.004, 3.020), (3.898, 3.883, 3.921), 17, True),
    Measured("norm tuning", 864, (3.021, 3.014, 3.032), (3.891, 3.868, 3.925), 5, True),
    Measured("prefix tuning", 3072, (3.040, 3.034, 3.045), (3.992, 3.950, 4.056), 12, False),
    Measured("IA3", 1408, (3.130, 3.095, 3.195), (3.931, 3.893, 3.960), 7, True),
    Measured("prompt tuning", 768, (3.397, 3.392, 3.406), (3.485, 3.479, 3.489), 3, False),
)
