"""The grader of exercise 14: what is asked of adapter.zip. How it is evaluated is in tinypeft/grading/capstone.py."""

from __future__ import annotations

import math

from tinypeft.grading.capstone import BASE

BUDGET = 10_000  # numbers in the adapter's tensors, all of them
LEARNED, TARGET = 3.15, 3.05  # bits per character of Polish names; the base needs 3.71
FORGOTTEN = 0.25  # more bits per character of US names
NOTHING = 0.02  # bits that a trained adapter gains at least
BY_HEART = 0.3  # more bits gained on the validation names than on those of the train split


def test_files(adapter):
    """Two files that are whole, hold real numbers, and fit together and to the base."""
    described = adapter.described()
    adapter.require(not described["not_float"], f"the numbers in {', '.join(described['not_float'])} are whole ones or truth "
                    "values; an adapter's are real, of float32 say", "capstone.unfit")
    adapter.require(fits(adapter).base_kept, "switched off, it leaves another base behind", "capstone.base_changed")
    adapter.say(f"{described['method']}, whole, and fits the base.")


def test_base(adapter):
    base = adapter.described()["base"]
    adapter.require(base == BASE, f"it says that it was made for {base or 'a base without a name'}; this exercise's is {BASE}. "
                    "On other weights than its own an adapter means nothing", "capstone.wrong_base")
    fits(adapter)
    adapter.say(f"Made for {base}.")


def test_finite(adapter):
    broken = adapter.described()["not_finite"]
    adapter.require(not broken, f"{', '.join(broken)} has numbers that are nan or infinite: the training diverged. A lower "
                    "learning rate, or a longer warm-up, prevents it", "capstone.not_finite")
    fits(adapter)
    adapter.say("All numbers are finite.")


def test_budget(adapter):
    described = adapter.described()
    count = described["parameters"]
    adapter.require(count > 0, "there is no number in its tensors", "capstone.unfit")
    adapter.require(count <= BUDGET, f"{count:,} numbers in its tensors, {count - BUDGET:,} more than the {BUDGET:,} allowed. "
                    "All count: modules_to_save, and what could follow from a seed", "capstone.over_budget")
    fits(adapter)
    adapter.say(f"{described['method']}, {count:,} of at most {BUDGET:,} numbers.")


def test_learned(adapter):
    adapter.say(reached(adapter, LEARNED))


def test_remembered(adapter):
    old = adapter.measured().old
    answers(adapter, old.after)
    said = f"US names take {old.after:.3f} bits per character (the base {old.before:.3f}):"
    reached(adapter, LEARNED, f"{said} {old.rise:+.3f}. But only an adapter that has learned can forget. ")
    remembered(adapter, said)
    adapter.say(f"{said} {old.rise:+.3f}. At most {FORGOTTEN:+} is allowed.")


def test_target(adapter):
    said = reached(adapter, TARGET)
    count = adapter.described()["parameters"]
    adapter.require(count <= BUDGET, f"{said} But it counts within the budget only: {count:,} numbers, where {BUDGET:,} are "
                    "allowed", "capstone.over_budget")
    remembered(adapter, f"{said} But it counts only if US names are remembered:")
    adapter.say(said)


# ---- what several tests ask -----------------------------------------------------------------------------------------

def fits(adapter):
    """What was measured; or fail: what cannot be put into the base has no points for being small, finite, or well named."""
    return adapter.measured()


def reached(adapter, target, before=""):
    """Say how many bits a character of a Polish name takes, or fail if that is too many.

    Names that are harder for the base than the validation split's, by so many bits, may take as many more.
    """
    measured = adapter.measured()
    new, public, meant = measured.new, measured.public, measured.meant
    answers(adapter, new.after)
    target += max(0.0, new.before - public.before)
    names = f"{adapter.held_out} Polish names that are not shipped" if adapter.held_out else "Polish names"
    said = f"{names} take {new.after:.3f} bits per character (the base {new.before:.3f})."
    too_many = f"{before}{said} {new.after - target:.3f} too many: {target:.3f} are asked for."
    adapter.require(new.after <= target or public.rise > meant.rise - BY_HEART,
                    f"{too_many} The validation split's take {public.after:.3f}, the train split's {meant.after:.3f}: it knows "
                    "the former by heart", "capstone.by_heart")
    adapter.require(new.rise <= -NOTHING, f"{before}{said} It has learned nothing: was it trained before it was saved?",
                    "capstone.untrained")
    adapter.require(new.after <= target, too_many)
    return f"{said} {target:.3f} are asked for."


def remembered(adapter, before):
    rise = adapter.measured().old.rise
    adapter.require(rise <= FORGOTTEN, f"{before} {rise:+.3f}, where at most {FORGOTTEN:+} is allowed. An adapter that sees "
                    "Polish names only unlearns the others", "capstone.forgets")


def answers(adapter, bits):
    adapter.require(math.isfinite(bits), "with it, the model's answers are no finite numbers: what it adds is too large",
                    "capstone.not_finite")
