"""Grading: a learner's code is run in a process of its own, and judged in another that it cannot reach.

    exercise.py     an exercise as its folder describes it
    worker.py       runs the learner's functions; the only file of ours in their sight
    process.py      starts, times and ends it; confine.py puts it into a sandbox
    compare.py      received against expected; submission.py names the mistake; plugin.py is the pytest fixture
    run.py          the packaged grader in an interpreter of our own, and its report
    progress.py     a learner's folder, and what is remembered of it
    collect.py      a class: who handed in what, read by archive.py; batch.py grades all of them, marks.py adds them up
    capstone.py     an adapter that was handed in: what it holds, and how well it spells; evaluator.py finds out
    course.py       the graders, graded: bank.py and mutants.py are what they have to reject, direct.py is the quick way
    exports/        exercises and reports for Gradescope, nbgrader and Classroom 50
"""

PUBLIC_SEED = 0  # a learner's inputs are drawn from it
