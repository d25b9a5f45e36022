"""Exercises for other people's systems. Results are made from the neutral report of run.py alone; machine.py does the grading.

    wheel.py         tinypeft itself as one file, for machines that are to install it
    machine.py       grading a submission there: in a sandbox, or with what else is possible
    gradescope.py    an autograder: setup.sh, run_autograder, results.json
    classroom50.py   an autograder.py for Classroom 50, and its result.json
    nbgrader.py      an assignment's notebook; nbgrader_preprocessor.py grades it without running it
"""
