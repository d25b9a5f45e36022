"""The grader of exercise 14: what is asked of adapter.zip. How it is evaluated is in tinypeft/grading/capstone.py."""

from __future__ import annotations

import math

from tinypeft.grading.capstone import BASE

BUDGET = 10_000  # numbers in the adapter's tensors, all of them
LEARNED, TARGET = 3.2, 3.0  # bits per character of Polish names; the base needs 3.71
FORGOTTEN = 0.2  # more bits per character of US names
NOTHING = 0.02  # bits that a trained adapter gains at least
BY_HEART = 0.2  # more bits gained on the validation names than on names that nobody has


def test_files(adapter):
    """Two files that are whole, hold real numbers, and fit together and to the base."""
    described = adapter.described()
    adapter.require(not described["not_float"], f"the numbers in {', '.join(described['not_float'])} are whole ones or truth "
                    "values; an adapter's are real: float32, float16 or bfloat16", "capstone.unfit")
    adapter.require(adapter.measured().base_kept, "switched off, it leaves another base behind", "capstone.base_changed")
    adapter.say(f"{described['method']}, whole, and fits the base.")


def test_base(adapter):
    base = adapter.described()["base"]
    adapter.require(base == BASE, f"it says that it was made for {base or 'a base without a name'}; this exercise's is {BASE}. On "
                    "other weights than its own an adapter means nothing", "capstone.wrong_base")
    adapter.say(f"Made for {base}.")


def test_finite(adapter):
    broken = adapter.described()["not_finite"]
    adapter.require(not broken, f"{', '.join(broken)} has numbers that are nan or infinite: the training diverged. A lower "
                    "learning rate, or a longer warm-up, prevents it", "capstone.not_finite")
    adapter.say("All numbers are finite.")


def test_budget(adapter):
    described = adapter.described()
    count = described["parameters"]
    adapter.require(count > 0, "there is no number in its tensors", "capstone.unfit")
    adapter.require(count <= BUDGET, f"{count:,} numbers in its tensors, {count - BUDGET:,} more than the {BUDGET:,} allowed. All "
                    "count: modules_to_save, and what could follow from a seed", "capstone.over_budget")
    adapter.say(f"{described['method']}, {count:,} of at most {BUDGET:,} numbers.")


def test_learned(adapter):
    reach(adapter, LEARNED)


def test_remembered(adapter):
    learned(adapter)
    remember(adapter)


def test_target(adapter):
    count = adapter.described()["parameters"]
    adapter.require(count <= BUDGET, f"it counts within the budget only: {count:,} numbers, where {BUDGET:,} are allowed",
                    "capstone.over_budget")
    said = reach(adapter, TARGET)
    adapter.require(adapter.measured().old.rise <= FORGOTTEN, f"{said} But it counts only if US names are remembered",
                    "capstone.forgets")


# ---- what several tests ask -----------------------------------------------------------------------------------------

def reach(adapter, target):
    """Bits per character of Polish names. Names that are harder for the base by so many bits may take as many more."""
    new, public = adapter.measured().new, adapter.measured().public
    answers(adapter, new.after)
    target += new.before - public.before
    said = f"{new.after:.3f} bits per character of Polish names{' that nobody has' * adapter.held_out}, from {new.before:.3f}."
    adapter.require(new.rise <= -NOTHING, f"{said} It has learned nothing: was it trained before it was saved?",
                    "capstone.untrained")
    adapter.require(new.rise - public.rise <= BY_HEART, f"{said} Of the validation names, it takes {public.after:.3f}: it knows "
                    "those by heart, and Polish no better", "capstone.by_heart")
    adapter.require(new.after <= target, f"{said} {new.after - target:.3f} too many: {target:.3f} are asked for")
    adapter.say(said + f" At most {target:.3f} are asked for.")
    return said


def learned(adapter):
    """Only what has learned can forget."""
    measured = adapter.measured()
    answers(adapter, measured.new.after)
    adapter.require(measured.new.rise <= LEARNED - measured.public.before, f"only an adapter that has learned Polish can forget "
                    f"US names: {-measured.new.rise:.3f} bits gained, {measured.public.before - LEARNED:.3f} are asked for")


def remember(adapter):
    old = adapter.measured().old
    answers(adapter, old.after)
    said = f"US names cost {old.after:.3f} bits per character, {old.rise:+.3f}; {FORGOTTEN:+} is allowed."
    adapter.require(old.rise <= FORGOTTEN, f"{said} It has forgotten them: who sees Polish names only, unlearns the others",
                    "capstone.forgets")
    adapter.say(said)


def answers(adapter, bits):
    adapter.require(math.isfinite(bits), "with it, the model's answers are no finite numbers: what it adds is too large",
                    "capstone.not_finite")
