"""The worked examples of the documents, one file for each document; importing this enters them all, in the documents' order."""

from tinypeft.claims.examples import article, glossary, lecture
from tinypeft.claims.examples.engine import EXAMPLES, Example, Mark, Step, known_example

__all__ = ["EXAMPLES", "Example", "Mark", "Step", "article", "glossary", "known_example", "lecture"]
